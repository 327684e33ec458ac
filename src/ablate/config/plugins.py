"""The user's own modules, which register algorithms, networks or kernels: `plugins=[module]`.

A module is imported only if the command line names it. A configuration from a file (a run's folder, a study, a preset)
may come from somebody else, so it is refused if it names a module that the command line does not name."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ablate.config.schema import ConfigError

_IMPORTED: dict[str, Path] = {}  # module -> its folder


def import_plugins(modules: Sequence[str]) -> None:
    """Import the modules from the current folder or from Python's path. Raises ConfigError."""
    for module in modules:
        try:
            file = importlib.import_module(module).__file__
        except Exception as error:  # the module's code may raise anything
            message = " ".join(str(error).split())
            raise ConfigError(f"plugins=[{module}]: cannot be imported ({type(error).__name__}: {message})") from error
        _IMPORTED[module] = Path(file or ".").resolve().parent


def refuse_unknown_plugins(modules: Iterable[Any]) -> None:
    """Raise ConfigError if a configuration names a module that the command line does not name."""
    names = [str(module) for module in modules]
    if not _IMPORTED.keys() >= set(names):
        value = ",".join(names)
        raise ConfigError(
            f"plugins=[{value}]: this run needs code from a plugin; add plugins=[{value}] if you trust it"
        )


def plugin_configurations() -> list[Path]:
    """The folders `conf/` next to the imported modules. Hydra searches them in addition to our conf/."""
    return [folder / "conf" for folder in dict.fromkeys(_IMPORTED.values()) if (folder / "conf").is_dir()]
