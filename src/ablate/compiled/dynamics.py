"""Environments inside kernels: `reset`, `step` and `observe` choose the environment by the type of its parameters."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from ablate.compiled.envs import ENVIRONMENTS
from ablate.compiled.jit import implements


def reset(env: Any, state: np.ndarray, uniforms: np.ndarray) -> None:
    """Write the first state (S,) float64 of an episode, from RESET_DRAWS numbers uniform in [0, 1)."""
    raise NotImplementedError


def step(env: Any, state: np.ndarray, action: np.ndarray) -> tuple[float, bool]:
    """Advance the state (S,) in place by one step. Returns (reward, terminated).

    action: (A,) as the policy chose it, a discrete action as its index."""
    raise NotImplementedError


def observe(env: Any, state: np.ndarray, observation: np.ndarray) -> None:
    """Write the observation (O,) of a state (S,)."""
    raise NotImplementedError


def reset_draws(env: Any) -> int:
    """How many uniform numbers a reset uses."""
    raise NotImplementedError


_added: set[ModuleType] = set()


def add(module: ModuleType) -> None:
    """Let kernels call the functions of this environment."""
    if module in _added:
        return
    _added.add(module)
    # without fastmath: with a fused multiply-add, the first state could differ from gymnasium's in one bit
    implements(reset, module.Parameters, fastmath=False)(module.reset)
    implements(step, module.Parameters)(module.step)
    implements(observe, module.Parameters)(module.observe)
    implements(reset_draws, module.Parameters)(_constant(module.RESET_DRAWS))


def _constant(value: int) -> Callable[[Any], int]:
    return lambda env: value


for _module in ENVIRONMENTS.values():
    add(_module)
