"""Environments from the configuration: gymnasium's registry and wrappers, and one clear line for what does not fit."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from ablate.config.choices import Preprocessing
from ablate.config.schema import AtariConfig, ConfigError, EnvConfig
from ablate.config.validation import suggest
from ablate.types import ActionSpec, EnvSpec

# (channels, height, width) and type of the observations; here, as the parent process does without OpenCV.
OBSERVATIONS = {
    Preprocessing.report_42: ((1, 42, 42), "float32"),
    Preprocessing.report_80: ((1, 80, 80), "float32"),
    Preprocessing.report_180: ((4, 180, 160), "uint8"),
    Preprocessing.nature_84: ((4, 84, 84), "uint8"),
}
GAME_FRAMES = 108_000  # half an hour of play, after which gymnasium cuts a game


def shape_of(preprocessing: Preprocessing) -> tuple[int, int, int]:
    """(channels, height, width) of its observations."""
    return OBSERVATIONS[preprocessing][0]


def make_env(env: EnvConfig, max_ep_step: int | None = None, training: bool = True, **kwargs: Any) -> gymnasium.Env:
    """The environment of the configuration; observations (size,), flattened, or of games (channels, height, width).

    max_ep_step: another limit than env.max_ep_step (an evaluation's horizon). training: games as learning sees them;
    else whole games with raw rewards. kwargs: further ones of gymnasium.make (of games: render_mode).
    Raises ConfigError if there is no such environment or it cannot be made."""
    if isinstance(env, AtariConfig):
        from ablate.envs.atari import AtariGame  # imports OpenCV, which only processes that play need

        return AtariGame(env, max_ep_step or time_limit(env), training, **kwargs)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # gymnasium warns of old versions; the id was chosen on purpose
            made = gymnasium.make(
                env.id,
                max_episode_steps=max_ep_step or env.max_ep_step,
                disable_env_checker=True,
                **{**env.kwargs, **kwargs},
            )
    except Exception as error:  # whatever the environment's own constructor may raise
        message = " ".join(str(error).split()).partition(" Did you mean")[0].rstrip(".")
        unknown = isinstance(error, gymnasium.error.UnregisteredEnv)
        hint = _hint(env.id) if unknown else ""
        raise ConfigError(f"env.id={env.id}: {message}{hint}") from error
    if isinstance(made.observation_space, spaces.Box) and len(made.observation_space.shape) != 1:
        made = gymnasium.wrappers.FlattenObservation(made)
    return made


def _hint(env_id: str) -> str:
    from ablate.envs.games import looks_like_a_game  # imports ale-py, which only games need

    if looks_like_a_game(env_id):
        return f"; a game is played by env=atari env.id={env_id}"
    return suggest(env_id, sorted(gymnasium.registry))


def spec_of(env_config: EnvConfig) -> EnvSpec:
    """What the environment takes and gives. Raises ConfigError for spaces that A3C has no network for."""
    if isinstance(env_config, AtariConfig):
        return _spec_of_game(env_config)
    env = make_env(env_config)
    try:
        observation, action = env.observation_space, env.action_space
        if not isinstance(observation, spaces.Box):
            raise ConfigError(f"env.id={env_config.id}: its observation is {observation}; a Box is needed")
        if isinstance(action, spaces.Discrete):
            spec = ActionSpec(n=int(action.n), start=int(action.start))
        elif isinstance(action, spaces.Box) and len(action.shape) == 1 and np.issubdtype(action.dtype, np.floating):
            spec = ActionSpec(low=tuple(action.low.tolist()), high=tuple(action.high.tolist()))
        else:
            raise ConfigError(f"env.id={env_config.id}: its action is {action}; a Discrete or a flat Box is needed")
        limit = env.spec.max_episode_steps if env.spec else None
        return EnvSpec((int(np.prod(observation.shape)),), spec, limit)
    finally:
        env.close()


def time_limit(env: AtariConfig) -> int:
    """Steps after which a game is cut: env.max_ep_step, or half an hour of play at the mean frame skip."""
    return env.max_ep_step or 2 * GAME_FRAMES // sum(env.frame_skip)


def _spec_of_game(env: AtariConfig) -> EnvSpec:
    from ablate.envs.games import FIRE, actions_of, emulator, registered

    rom = registered(env.id).rom
    fewest, most = env.frame_skip
    if fewest > most:
        raise ConfigError(f"env.frame_skip=[{fewest},{most}]: fewest and most frames a step; use [{most},{fewest}]")
    if env.kwargs:
        raise ConfigError(f"env.kwargs={env.kwargs}: a game takes no further arguments; its switches are keys of env")
    ale = emulator(rom, env.mode, env.difficulty)
    fires = FIRE in [action.value for action in ale.getMinimalActionSet()]
    if fires and not (env.fire_action or env.fire_on_reset or env.full_action_space):
        raise ConfigError(
            f"env.fire_action=false: with env.fire_on_reset=false FIRE would never be pressed in {rom}; use one of them"
        )
    assert env.preprocessing is not None, "resolved before an environment is asked for"
    if env.threads:
        _refuse_threads(env, fires)
    shape, dtype = OBSERVATIONS[env.preprocessing]
    return EnvSpec(shape, ActionSpec(n=len(actions_of(env, ale))), time_limit(env), dtype)


def _refuse_threads(env: AtariConfig, fires: bool) -> None:
    """Raise ConfigError for what ale-py's vector environment does not have."""
    lacking = {
        f"env.preprocessing={env.preprocessing}": (env.preprocessing != Preprocessing.nature_84, "nature_84"),
        f"env.frame_skip={[*env.frame_skip]}": (env.frame_skip[0] != env.frame_skip[1], "[4,4]"),
        f"env.fire_on_reset={str(env.fire_on_reset).lower()}": (env.fire_on_reset and fires, "false"),
        f"env.fire_action={str(env.fire_action).lower()}": (not env.fire_action, "true"),
        f"env.fill_steps={env.fill_steps}": (env.fill_steps > 0, "0"),
        f"env.mode={env.mode}": (env.mode is not None, "null"),
        f"env.difficulty={env.difficulty}": (env.difficulty is not None, "null"),
    }
    for given, (is_lacking, right) in lacking.items():
        if is_lacking:
            raise ConfigError(f"{given}: env.threads={env.threads} does not have it; use {right}, or env.threads=0")
