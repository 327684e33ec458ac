"""Environments with compiled dynamics: each module here is one, plain functions that Numba can compile.

IDS: gymnasium's names for it. STATE_SIZE: numbers in its state. RESET_DRAWS: uniform numbers that a reset consumes, in
gymnasium's order. Parameters: what it knows of gymnasium.make's arguments. `reset`, `step`, `observe`: see dynamics.py.
No import of Numba: the parent looks here too."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

_MODULES = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
for _module in _MODULES:  # Numba's dispatcher tells named tuples apart by the names of class and fields, nothing else
    _module.Parameters.__name__ = f"{_module.__name__}.Parameters"
ENVIRONMENTS: dict[str, ModuleType] = {env_id: module for module in _MODULES for env_id in module.IDS}
