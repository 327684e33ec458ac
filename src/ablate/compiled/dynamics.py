"""Environments inside kernels: `reset`, `step` and `observe` choose the environment by the type of its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ablate.compiled.envs import ENVIRONMENTS
from ablate.compiled.jit import implements


def reset(env: Any, state: np.ndarray, uniforms: np.ndarray) -> None:
    """A new episode's state (S,) float64 from numbers uniform in [0, 1), RESET_DRAWS of them."""
    raise NotImplementedError


def step(env: Any, state: np.ndarray, action: np.ndarray) -> tuple[float, bool]:
    """One step, in place; action (A,) as the policy drew it, a discrete one as its index. (reward, terminated)."""
    raise NotImplementedError


def observe(env: Any, state: np.ndarray, observation: np.ndarray) -> None:
    """Write the observation (O,) of a state."""
    raise NotImplementedError


def reset_draws(env: Any) -> int:
    """How many uniform numbers a reset takes."""
    raise NotImplementedError


def _constant(value: int) -> Callable[[Any], int]:
    return lambda env: value


for module in set(ENVIRONMENTS.values()):
    # a fused multiply-add would miss gymnasium's first state by one bit
    implements(reset, module.Parameters, fastmath=False)(module.reset)
    implements(step, module.Parameters)(module.step)
    implements(observe, module.Parameters)(module.observe)
    implements(reset_draws, module.Parameters)(_constant(module.RESET_DRAWS))
