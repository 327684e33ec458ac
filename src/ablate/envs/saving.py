"""Saving and restoring gymnasium's classic control environments in mid-episode: a run can be resumed exactly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.classic_control import (
    AcrobotEnv,
    CartPoleEnv,
    Continuous_MountainCarEnv,
    MountainCarEnv,
    PendulumEnv,
)
from gymnasium.wrappers import FlattenObservation, OrderEnforcing, TimeLimit

from ablate import seeding

# All that these keep between two steps is `state`, the random stream and the time limit's count.
STATELESS = (TimeLimit, OrderEnforcing, FlattenObservation)  # TimeLimit's count is saved
SAVEABLE = (PendulumEnv, CartPoleEnv, AcrobotEnv, MountainCarEnv, Continuous_MountainCarEnv)


def save(env: gymnasium.Env) -> dict[str, Any] | None:
    """The environment's state as JSON values, or None for an environment whose state cannot be saved."""
    inner = env.unwrapped
    if type(inner) not in SAVEABLE or any(type(wrapper) not in STATELESS for wrapper in _wrappers(env)):
        return None
    state = np.asarray(inner.state)  # type: ignore[attr-defined]
    return {
        "state": state.tolist(),
        "dtype": str(state.dtype),
        "random": seeding.state_of(inner.np_random),
        "elapsed_steps": [w._elapsed_steps for w in _time_limits(env)],
    }


def restore(env: gymnasium.Env, saved: dict[str, Any]) -> None:
    """Put the environment back to where `save` found it."""
    env.reset()
    inner = env.unwrapped
    inner.state = np.array(saved["state"], saved["dtype"])  # type: ignore[attr-defined]
    seeding.restore(inner.np_random, saved["random"])
    for wrapper, elapsed in zip(_time_limits(env), saved["elapsed_steps"], strict=True):
        wrapper._elapsed_steps = elapsed


def _time_limits(env: gymnasium.Env) -> list[TimeLimit]:
    return [wrapper for wrapper in _wrappers(env) if isinstance(wrapper, TimeLimit)]


def _wrappers(env: gymnasium.Env) -> Iterator[gymnasium.Wrapper]:
    while isinstance(env, gymnasium.Wrapper):
        yield env
        env = env.env
