"""Save and restore environments of gymnasium's registry in mid-episode, so that a run can be resumed exactly.

This works for every environment with a kernel: all that it keeps between two steps is its attribute `state`, its random
generator and the time limit's count of steps (see compiled/envs). Other environments may have hidden state."""

from __future__ import annotations

from collections.abc import Iterator
from pkgutil import resolve_name
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import FlattenObservation, OrderEnforcing, TimeLimit

from ablate import seeding
from ablate.compiled.envs import ENVIRONMENTS
from ablate.envs.checked import Checked

WRAPPERS = (Checked, TimeLimit, OrderEnforcing, FlattenObservation)  # only TimeLimit has a state


def save(env: gymnasium.Env) -> dict[str, Any] | None:
    """The environment's state as JSON values, or None if it may keep more than can be saved."""
    inner = env.unwrapped
    state = getattr(inner, "state", None)
    if state is None or not _has_kernel(inner) or any(type(wrapper) not in WRAPPERS for wrapper in _wrappers(env)):
        return None
    elapsed_steps = [wrapper._elapsed_steps for wrapper in _time_limits(env)]
    return saved_state(state, inner.np_random, elapsed_steps)


def saved_state(state: Any, rng: np.random.Generator, elapsed_steps: list[Any]) -> dict[str, Any]:
    """What `save` returns. elapsed_steps: steps of the current episode, one number per TimeLimit wrapper."""
    state = np.asarray(state)
    return {
        "state": state.tolist(),
        "dtype": str(state.dtype),
        "random": seeding.state_of(rng),
        "elapsed_steps": elapsed_steps,
    }


def restore(env: gymnasium.Env, saved: dict[str, Any]) -> None:
    """Set the environment to a state from `save`."""
    env.reset()
    inner = env.unwrapped
    inner.state = np.array(saved["state"], saved["dtype"])  # type: ignore[attr-defined]
    seeding.restore(inner.np_random, saved["random"])
    for wrapper, elapsed in zip(_time_limits(env), saved["elapsed_steps"], strict=True):
        wrapper._elapsed_steps = elapsed


def _has_kernel(inner: gymnasium.Env) -> bool:
    """Whether the environment is of the class that an id with a kernel is registered with, and not of a subclass."""
    specs = [gymnasium.registry[env_id] for env_id in ENVIRONMENTS if env_id in gymnasium.registry]
    points = [spec.entry_point for spec in specs if spec.entry_point is not None]
    return type(inner) in [resolve_name(point) if isinstance(point, str) else point for point in points]


def _time_limits(env: gymnasium.Env) -> list[TimeLimit]:
    return [wrapper for wrapper in _wrappers(env) if isinstance(wrapper, TimeLimit)]


def _wrappers(env: gymnasium.Env) -> Iterator[gymnasium.Wrapper]:
    while isinstance(env, gymnasium.Wrapper):
        yield env
        env = env.env
