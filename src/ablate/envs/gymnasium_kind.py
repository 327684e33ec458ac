"""Environments of gymnasium's registry with vectors as observations; see `kind.EnvKind`."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from ablate.config.schema import ConfigError, EnvConfig
from ablate.config.validation import suggest
from ablate.envs import saving
from ablate.envs.kind import EnvKind, RawInterface
from ablate.types import ActionSpec, EnvSpec


class GymnasiumKind(EnvKind):
    """Observations are flattened to (size,). `env.kwargs` are arguments of gymnasium.make."""

    def spec(self, env: EnvConfig) -> EnvSpec:
        made = self.make(env, None, training=True)
        try:
            observation, action = made.observation_space, made.action_space
            if not isinstance(observation, spaces.Box):
                raise ConfigError(f"env.id={env.id}: its observation is {observation}; a Box is needed")
            if isinstance(action, spaces.Discrete):
                spec = ActionSpec(n=int(action.n), start=int(action.start))
            elif isinstance(action, spaces.Box) and len(action.shape) == 1 and np.issubdtype(action.dtype, np.floating):
                spec = ActionSpec(low=tuple(action.low.tolist()), high=tuple(action.high.tolist()))
            else:
                raise ConfigError(f"env.id={env.id}: its action is {action}; a Discrete or a flat Box is needed")
            limit = made.spec.max_episode_steps if made.spec else None
            return EnvSpec((int(np.prod(observation.shape)),), spec, limit)
        finally:
            made.close()

    def make(self, env: EnvConfig, max_ep_step: int | None, training: bool, **kwargs: Any) -> gymnasium.Env:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # gymnasium warns of old versions; the user chose the id
                made = gymnasium.make(
                    env.id,
                    max_episode_steps=max_ep_step or env.max_ep_step,
                    disable_env_checker=True,
                    **{**env.kwargs, **kwargs},
                )
        except SystemExit as error:
            raise ConfigError(f"env.id={env.id}: its constructor ends the program, sys.exit({error.code})") from error
        except Exception as error:  # whatever the environment's own constructor may raise
            message = " ".join(str(error).split()).partition(" Did you mean")[0].rstrip(".")
            hint = _hint(env.id) if isinstance(error, gymnasium.error.UnregisteredEnv) else ""
            raise ConfigError(f"env.id={env.id}: {message}{hint}") from error
        if isinstance(made.observation_space, spaces.Box) and len(made.observation_space.shape) != 1:
            made = gymnasium.wrappers.FlattenObservation(made)
        return made

    def save(self, made: gymnasium.Env) -> dict[str, Any] | None:
        return saving.save(made)

    def restore(self, made: gymnasium.Env, saved: dict[str, Any]) -> None:
        saving.restore(made, saved)

    def raw_interface(self, env: EnvConfig, spec: EnvSpec) -> RawInterface:
        return _Vectors(spec)


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
