"""Kernel environments: one module per environment, with plain functions that Numba can compile.

Such a module defines:
- IDS: its ids in gymnasium's registry. So that a run can be saved in mid-episode, gymnasium's class must keep the same
  numbers in its attribute `state`, and nothing else between two steps except its random generator.
- STATE_SIZE: numbers in the state.
- RESET_DRAWS: uniform random numbers that a reset uses, in the order in which gymnasium draws them.
- Parameters: a NamedTuple of the supported arguments of gymnasium.make, with their defaults.
- reset(env, state, uniforms), step(env, state, action), observe(env, state, observation): see dynamics.py. The
  arguments must have these names.

Modules in this folder are found automatically. A module elsewhere must end with the line
`register_environment(sys.modules[__name__])`. This file must not import Numba, because the parent process uses it."""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

ENVIRONMENTS: dict[str, ModuleType] = {}  # by gymnasium's id


def register_environment(module: ModuleType) -> None:
    """Let kernels simulate the environments of `module.IDS`.

    If the module is outside this package, its kernels are compiled again when its file changes. Only this one file is
    watched, not the user's other files from which it imports functions."""
    # Numba tells NamedTuples apart by the names of class and fields only.
    module.Parameters.__name__ = f"{module.__name__}.Parameters"
    if not module.__name__.startswith(f"{__name__}."):
        assert module.__file__ is not None
        source = module.__name__.encode() + Path(module.__file__).read_bytes()
        module.Parameters.source_digest = hashlib.sha256(source).hexdigest()[:12]  # see kernel_cache.py
    ENVIRONMENTS.update(dict.fromkeys(module.IDS, module))


def find_environment(env_id: str) -> ModuleType | None:
    """The kernel environment of an id, or None if there is none.

    For an id with a module (`my_module:MyEnv-v0`), this imports the module, as gymnasium.make does."""
    module, _, name = env_id.rpartition(":")
    if module:
        importlib.import_module(module)
    return ENVIRONMENTS.get(name)


for _module in pkgutil.iter_modules(__path__):
    register_environment(importlib.import_module(f"{__name__}.{_module.name}"))
