"""Modules of the user's own, which register algorithms, networks or kernels: `plugins=[module]`.

A module is imported only if the user names it. A folder that was received from somebody else may name modules too: its
configuration is refused until the user repeats `plugins=`."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ablate.config.schema import ConfigError

_IMPORTED: dict[str, Path] = {}  # module -> its folder


def import_plugins(modules: Sequence[str]) -> None:
    """Import the modules, from the current folder or wherever Python finds them. Raises ConfigError."""
    for module in modules:
        try:
            file = importlib.import_module(module).__file__
        except Exception as error:  # whatever the module may raise
            message = " ".join(str(error).split())
            raise ConfigError(f"plugins=[{module}]: cannot be imported ({type(error).__name__}: {message})") from error
        _IMPORTED[module] = Path(file or ".").resolve().parent


def refuse_unknown_plugins(values: dict[str, Any]) -> None:
    """Raise ConfigError if a stored configuration names a module that the user has not named."""
    modules = [str(module) for module in values.get("plugins") or []]
    if any(module not in _IMPORTED for module in modules):
        names = ",".join(modules)
        raise ConfigError(f"plugins=[{names}]: this run needs code of its own; add plugins=[{names}] if you trust it")


def plugin_configurations() -> list[Path]:
    """The folders `conf/` next to the imported modules, which Hydra searches too."""
    return [folder / "conf" for folder in dict.fromkeys(_IMPORTED.values()) if (folder / "conf").is_dir()]
