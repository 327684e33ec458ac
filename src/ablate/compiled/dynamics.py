"""Environments inside kernels: `reset`, `step` and `observe` choose the environment by the type of its parameters.

To Numba each environment's `Parameters` is a type of its own, so the choice is made when a kernel is compiled."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
from numba.core import types
from numba.extending import overload

from ablate.compiled.envs import ENVIRONMENTS
from ablate.compiled.jit import OPTIONS


def reset(env: Any, state: np.ndarray, uniforms: np.ndarray) -> None:
    """A new episode's state (S,) float64 from numbers uniform in [0, 1), RESET_DRAWS of them."""
    _module(type(env)).reset(env, state, uniforms)


def step(env: Any, state: np.ndarray, action: np.ndarray) -> tuple[float, bool]:
    """One step, in place; action (A,) as the policy drew it, a discrete one as its index. (reward, terminated)."""
    return _module(type(env)).step(env, state, action)


def observe(env: Any, state: np.ndarray, observation: np.ndarray) -> None:
    """Write the observation (O,) of a state."""
    _module(type(env)).observe(env, state, observation)


def _module(parameters: type) -> ModuleType:
    return next(module for module in ENVIRONMENTS.values() if module.Parameters is parameters)


def _implements(function: Any, options: Any) -> None:
    """In a kernel, a call of `function` is a call of the same name's in the environment's own file."""

    def choose(env: Any, state: Any, other: Any) -> Any:
        known = isinstance(env, types.NamedTuple | types.NamedUniTuple)
        return getattr(_module(env.instance_class), function.__name__) if known else None

    overload(function, jit_options=options, strict=False)(choose)


_implements(reset, {**OPTIONS, "fastmath": False})  # a fused multiply-add would miss gymnasium's state by one bit
_implements(step, OPTIONS)
_implements(observe, OPTIONS)
