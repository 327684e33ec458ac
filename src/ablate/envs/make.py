"""Environments from the configuration: gymnasium's registry and wrappers, and one clear line for what does not fit."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from ablate.config import ConfigError, EnvConfig, suggest
from ablate.types import ActionSpec, EnvSpec


def make_env(env: EnvConfig, max_ep_step: int | None = None, **kwargs: Any) -> gymnasium.Env:
    """The environment of the configuration, its observations flattened to (observation_size,).

    max_ep_step: another limit than env.max_ep_step (an evaluation's horizon). kwargs: further ones of gymnasium.make.
    Raises ConfigError if there is no such environment or it cannot be made."""
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
        message = " ".join(str(error).split()).partition(" Did you mean")[0]
        unknown = isinstance(error, gymnasium.error.UnregisteredEnv)
        hint = suggest(env.id, sorted(gymnasium.registry)) if unknown else ""
        raise ConfigError(f"env.id={env.id}: {message}{hint}") from error
    if isinstance(made.observation_space, spaces.Box) and len(made.observation_space.shape) != 1:
        made = gymnasium.wrappers.FlattenObservation(made)
    return made


def spec_of(env_config: EnvConfig) -> EnvSpec:
    """What the environment takes and gives. Raises ConfigError for spaces that A3C has no network for."""
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
