"""Environments with compiled dynamics: each module here is one, plain functions that Numba can compile.

IDS: gymnasium's names for it. STATE_SIZE: numbers in its state, and uniform draws of a reset. Parameters: the arguments
of gymnasium.make that it knows. `reset`, `step`, `observe`: see dynamics.py. No import of Numba: the parent looks here too."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

_MODULES = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
ENVIRONMENTS: dict[str, ModuleType] = {env_id: module for module in _MODULES for env_id in module.IDS}
