"""Environments of gymnasium's registry with vectors as observations; see `kind.EnvKind`."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from math import isfinite
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from ablate import seeding
from ablate.config.plugins import refuse_unknown_environment, text_of
from ablate.config.schema import ConfigError, EnvConfig
from ablate.config.validation import suggest
from ablate.envs import saving
from ablate.envs.checked import Checked, check_interface, is_gymnasiums_own, two_episodes
from ablate.envs.kind import EnvKind, RawInterface
from ablate.envs.placeholders import keys_with_placeholders, numbered
from ablate.parallel.closing import close_at_end, close_now
from ablate.parallel.descendants import ending_descendants
from ablate.types import ActionSpec, EnvSpec

LONG_S = 5.0  # an environment that takes longer for two short episodes is not tried twice


class GymnasiumKind(EnvKind):
    """Observations are flattened to (size,), images are refused. `env.kwargs` are arguments of gymnasium.make."""

    def spec(self, env: EnvConfig) -> EnvSpec:
        if _is_registered_by_gymnasium(env.id):
            for key in keys_with_placeholders(env):
                raise ConfigError(
                    f"env.kwargs.{key}={env.kwargs[key]}: the arguments of {env.id} are its task, the same for all "
                    "workers; a placeholder is for what tells programs apart, such as a port"
                )
            return self._spec(env)
        with ending_descendants(), seeding.keeping_libraries():
            return self._spec(env)

    def _spec(self, env: EnvConfig) -> EnvSpec:
        began, first = time.monotonic(), None
        made = self.make(env, None, training=True)
        try:
            observation, action = made.observation_space, made.action_space
            if not isinstance(observation, spaces.Box):
                raise ConfigError(f"env.id={env.id}: its observation is {observation}; a Box is needed")
            if isinstance(action, spaces.Discrete):
                spec = ActionSpec(n=int(action.n), start=int(action.start))
            elif isinstance(action, spaces.Box) and len(action.shape) == 1 and np.issubdtype(action.dtype, np.floating):
                low, high = tuple(action.low.tolist()), tuple(action.high.tolist())
                spec = ActionSpec(low=low, high=high, dtype=str(action.dtype))
            else:
                raise ConfigError(f"env.id={env.id}: its action is {action}; a Discrete or a flat Box is needed")
            limit = made.spec.max_episode_steps if made.spec else None
            notes = [*_space_notes(env.id, observation, spec)]
            if not is_gymnasiums_own(made):
                notes += check_interface(env.id, made)
                first = two_episodes(made)
        finally:
            close_now(made.close)  # before it is made again: both may want the same port
        if first is not None and time.monotonic() - began < LONG_S:
            notes += self._repetition_notes(env, first)
        return EnvSpec(observation.shape, spec, limit, _type_for_networks(observation), tuple(notes))

    def _repetition_notes(self, env: EnvConfig, first: list[Any]) -> Iterator[str]:
        """Make the environment again and repeat its first steps. first: what they gave before.

        Raises ConfigError if they depend on a placeholder of env.kwargs."""
        try:
            repeatable = _same(first, self._first_steps(env))
        except ConfigError as error:
            yield f"{error} (when it was made a second time)"
            return
        if not repeatable:
            yield (
                f"env.id={env.id}: it is not reproducible; two episodes with the same seed and actions differ, "
                "so the same command gives other rows"
            )
        elif (keys := keys_with_placeholders(env)) and not _same(first, self._first_steps(numbered(env, 1))):
            raise ConfigError(
                f"env.kwargs.{keys[0]}={env.kwargs[keys[0]]}: a placeholder changes the task: the same seed and "
                "actions give something else; it may only tell programs apart, such as a port"
            )

    def _first_steps(self, env: EnvConfig) -> list[Any]:
        """What `two_episodes` gives of a new environment, after the check."""
        made = self.make(env, None, training=True)
        try:
            list(check_interface(env.id, made))
            return two_episodes(made)
        finally:
            close_now(made.close)

    def make(self, env: EnvConfig, max_ep_step: int | None, training: bool, **kwargs: Any) -> gymnasium.Env:
        refuse_unknown_environment(env.id)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # gymnasium warns of old versions; the user chose the id
                made = gymnasium.make(
                    env.id,
                    max_episode_steps=max_ep_step or env.max_ep_step,
                    disable_env_checker=True,
                    **{**numbered(env, 0).kwargs, **kwargs},
                )
        except SystemExit as error:
            raise ConfigError(f"env.id={env.id}: its constructor ends the program, sys.exit({error.code})") from error
        except Exception as error:  # whatever the environment's own constructor may raise
            message = " ".join(text_of(error).split()).partition(" Did you mean")[0].rstrip(".")
            hint = _hint(env.id) if isinstance(error, gymnasium.error.UnregisteredEnv) else ""
            raise ConfigError(f"env.id={env.id}: {message}{hint}") from error
        for name in ("observation_space", "action_space"):
            if not isinstance(getattr(made.unwrapped, name, None), spaces.Space):
                close_now(made.close)
                raise ConfigError(f"env.id={env.id}: its {name} is no space of gymnasium.spaces")
        close_at_end(made.close)
        if not is_gymnasiums_own(made):
            made = Checked(made)
        try:
            return self.wrapped(made, env)
        except ConfigError:
            close_now(made.close)
            raise

    def wrapped(self, made: gymnasium.Env, env: EnvConfig) -> gymnasium.Env:
        """The environment with observations as a network takes them. Raises ConfigError for those that it does not."""
        space = made.observation_space
        if is_image(space):
            raise ConfigError(f"env.id={env.id}: its observations are images, shape {space.shape}; use env=images")
        if isinstance(space, spaces.Box) and len(space.shape) != 1:
            return gymnasium.wrappers.FlattenObservation(made)
        return made

    def save(self, made: gymnasium.Env) -> dict[str, Any] | None:
        return saving.save(made)

    def restore(self, made: gymnasium.Env, saved: dict[str, Any]) -> None:
        saving.restore(made, saved)

    def raw_interface(self, env: EnvConfig, spec: EnvSpec) -> RawInterface:
        return _Vectors(spec)


def is_image(space: spaces.Space) -> bool:
    """Whether observations are images: (height, width, channels) of bytes, grey, RGB or RGBA."""
    return (
        isinstance(space, spaces.Box)
        and space.dtype == np.uint8
        and len(space.shape) == 3
        and space.shape[2] in (1, 3, 4)
    )


def _type_for_networks(observation: spaces.Box) -> str:
    """Images stay bytes, in (frames, height, width). All else becomes float32."""
    return "uint8" if len(observation.shape) == 3 else "float32"


def _same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(map(np.array_equal, one, other))


def _is_registered_by_gymnasium(env_id: str) -> bool:
    """Whether it is one of gymnasium's own environments, which start no programs."""
    registered = gymnasium.registry.get(env_id)
    return registered is not None and str(registered.entry_point).startswith("gymnasium.")


def _space_notes(env_id: str, observation: spaces.Box, action: ActionSpec) -> Iterator[str]:
    """What a user should know of the spaces."""
    if observation.dtype == np.uint8 and len(observation.shape) == 1:
        yield (
            f"env.id={env_id}: its observations are bytes, shape {observation.shape}, which the network takes "
            "unscaled, as numbers from 0 to 255; a wrapper that divides them by 255 learns better"
        )
    if open_ended := sum(
        not (isfinite(low) and isfinite(high)) for low, high in zip(action.low, action.high, strict=True)
    ):
        yield (
            f"env.id={env_id}: {open_ended} of {len(action.low)} dimensions of its action lack a bound; model.mu_scale "
            "is for these, the others take their scale from their bounds"
        )


def _hint(env_id: str) -> str:
    from ablate.envs.games import looks_like_a_game  # imports ale-py, which only games need

    if looks_like_a_game(env_id):
        return f"; a game is played by env=atari env.id={env_id}"
    return suggest(env_id, sorted(gymnasium.registry))


class _Vectors:
    """Gymnasium's observations, of any shape with the right number of elements."""

    def __init__(self, spec: EnvSpec) -> None:
        self._shape, self._size = spec.observation_shape, spec.observation_size

    def preprocess(self, observation: np.ndarray) -> np.ndarray:
        vector = np.asarray(observation, np.float32)
        if vector.size != self._size:
            raise ValueError(f"an observation of {self._size} numbers is needed, not of shape {np.shape(observation)}")
        return vector.reshape(self._shape)

    def action(self, action: Any) -> Any:
        return action

    def reset(self) -> None:
        """Nothing is remembered."""
