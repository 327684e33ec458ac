"""Atari games as a kind of environment; see `kind.EnvKind`.

The parent process imports this module. So OpenCV and the emulator are imported only in the functions that need them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np

from ablate.config.choices import Preprocessing
from ablate.config.schema import AtariConfig, ConfigError, EnvConfig
from ablate.envs.kind import EnvKind, RawInterface, SideBySide
from ablate.envs.reference_scores import reference_scores
from ablate.types import ActionSpec, EnvSpec

# (channels, height, width) and type of the observations.
OBSERVATIONS = {
    Preprocessing.report_42: ((1, 42, 42), "float32"),
    Preprocessing.report_80: ((1, 80, 80), "float32"),
    Preprocessing.report_180: ((4, 180, 160), "uint8"),
    Preprocessing.nature_84: ((4, 84, 84), "uint8"),
    Preprocessing.normalised_84: ((4, 84, 84), "float32"),
}
GAME_FRAMES = 108_000  # half an hour of play, after which gymnasium truncates a game


class AtariKind(EnvKind):
    """Games of ale-py."""

    def fitted(self, env: EnvConfig, image_shape: tuple[int, int, int] | None) -> EnvConfig:
        """`env` with the preprocessing that the network needs. Raises ConfigError if another was chosen."""
        assert isinstance(env, AtariConfig)
        if image_shape is None:
            raise ConfigError(f"env.id={env.id}: its observations are images; choose a model that takes images")
        wanted, chosen = list(image_shape), env.preprocessing
        fitting = [p for p in Preprocessing if list(shape_of(p)) == wanted]
        if not fitting:
            shapes = ", ".join(f"{p} {list(shape_of(p))}" for p in Preprocessing)
            raise ConfigError(f"model.input={wanted}: no preprocessing gives this shape (there are: {shapes})")
        if chosen is not None and chosen not in fitting:
            raise ConfigError(
                f"preprocessing={chosen}: it gives {list(shape_of(chosen))}, but the model takes {wanted}; "
                f"use preprocessing={fitting[0]}, or a model whose model.input is {list(shape_of(chosen))}"
            )
        return replace(env, preprocessing=chosen or fitting[0])

    def spec(self, env: EnvConfig) -> EnvSpec:
        from ablate.envs.games import FIRE, actions_of, emulator, registered

        assert isinstance(env, AtariConfig)
        rom = registered(env.id).rom
        fewest, most = env.frame_skip
        if fewest > most:
            raise ConfigError(
                f"env.frame_skip=[{fewest},{most}]: the fewest frames per step come first; use [{most},{fewest}]"
            )
        if env.kwargs:
            raise ConfigError(f"env.kwargs={env.kwargs}: a game takes no further arguments; use the other keys of env")
        ale = emulator(rom, env.mode, env.difficulty)
        has_fire = FIRE in [action.value for action in ale.getMinimalActionSet()]
        if has_fire and not (env.fire_action or env.fire_on_reset or env.full_action_space):
            raise ConfigError(
                "env.fire_action=false: with env.fire_on_reset=false, FIRE would never be pressed in "
                f"{rom}; set one of them to true"
            )
        if env.threads:
            _refuse_threads(env, has_fire)
        assert env.preprocessing is not None, "see `fitted`"
        shape, dtype = OBSERVATIONS[env.preprocessing]
        return EnvSpec(shape, ActionSpec(n=len(actions_of(env, ale))), time_limit(env), dtype)

    def make(self, env: EnvConfig, max_ep_step: int | None, training: bool, **kwargs: Any) -> gymnasium.Env:
        from ablate.envs.atari import AtariGame

        assert isinstance(env, AtariConfig)
        return AtariGame(env, max_ep_step or time_limit(env), training, **kwargs)

    def make_side_by_side(self, env: EnvConfig, count: int) -> SideBySide:
        assert isinstance(env, AtariConfig)
        if not env.threads:
            return super().make_side_by_side(env, count)
        from ablate.envs.atari_threads import AtariThreads

        return AtariThreads(env, count, time_limit(env))

    def outcome(self, reward: float, terminated: bool, truncated: bool, info: dict[str, Any]) -> tuple[float, bool]:
        return info["raw_reward"], info["game_over"]

    def save(self, made: gymnasium.Env) -> dict[str, Any] | None:
        state: dict[str, Any] = made.get_wrapper_attr("save")()
        return state

    def restore(self, made: gymnasium.Env, saved: dict[str, Any]) -> None:
        made.get_wrapper_attr("restore")(saved)

    def raw_interface(self, env: EnvConfig, spec: EnvSpec) -> RawInterface:
        assert isinstance(env, AtariConfig)
        return _Screens(env)

    def reference_scores(self, env: EnvConfig) -> tuple[float, float] | None:
        assert isinstance(env, AtariConfig)
        is_variant = (env.mode, env.difficulty) != (None, None)
        return None if is_variant else reference_scores(env.id)


def shape_of(preprocessing: Preprocessing) -> tuple[int, int, int]:
    """(channels, height, width) of its observations."""
    return OBSERVATIONS[preprocessing][0]


def time_limit(env: AtariConfig) -> int:
    """Steps after which a game is truncated: env.max_ep_step, or half an hour of play at the mean frame skip."""
    return env.max_ep_step or 2 * GAME_FRAMES // sum(env.frame_skip)


def _refuse_threads(env: AtariConfig, has_fire: bool) -> None:
    """Raise ConfigError for what ale-py's vector environment lacks."""
    lacking = {
        f"env.preprocessing={env.preprocessing}": (env.preprocessing != Preprocessing.nature_84, "nature_84"),
        f"env.frame_skip={[*env.frame_skip]}": (env.frame_skip[0] != env.frame_skip[1], "[4,4]"),
        f"env.fire_on_reset={str(env.fire_on_reset).lower()}": (env.fire_on_reset and has_fire, "false"),
        f"env.fire_action={str(env.fire_action).lower()}": (not env.fire_action, "true"),
        f"env.fill_steps={env.fill_steps}": (env.fill_steps > 0, "0"),
        f"env.mode={env.mode}": (env.mode is not None, "null"),
        f"env.difficulty={env.difficulty}": (env.difficulty is not None, "null"),
    }
    for given, (is_lacking, right) in lacking.items():
        if is_lacking:
            raise ConfigError(
                f"{given}: threaded games (env.threads={env.threads}) do not support this; "
                f"use {right}, or env.threads=0"
            )


class _Screens:
    """From a game's screens to observations, which may be stacks, and from the policy's actions to the game's own."""

    def __init__(self, env: AtariConfig) -> None:
        from ablate.envs.games import actions_of, emulator, registered
        from ablate.envs.preprocessing import Preprocessor, pipeline_of

        assert env.preprocessing is not None
        rom = registered(env.id).rom
        self._preprocessor = Preprocessor(pipeline_of(env.preprocessing, rom))
        self._actions: list[int] | None = None  # for each action of the policy, its index in the game's own set
        if not env.fire_action:
            ale = emulator(rom)
            game_actions = actions_of(replace(env, fire_action=True), ale)
            self._actions = [game_actions.index(action) for action in actions_of(env, ale)]

    def preprocess(self, observation: np.ndarray) -> np.ndarray:
        return self._preprocessor.from_rgb(np.asarray(observation))

    def action(self, action: Any) -> Any:
        return action if self._actions is None else self._actions[int(action)]

    def reset(self) -> None:
        self._preprocessor.reset()
