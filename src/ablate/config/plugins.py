"""The user's own modules: `plugins=[module]` adds algorithms, networks, kernels; `env.id=module:Name-v0` environments.

One rule for both: a module is imported only if the command line names it. A configuration from a file (a run's folder,
a study, a preset) may come from somebody else, so it is refused if it names a module that the command line does not."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ablate.config.schema import ConfigError

_NAMED: dict[str, None] = {}  # the modules that the user has named, in this order
_IMPORTED: dict[str, Path] = {}  # plugin -> its folder


def name_modules(modules: Iterable[str]) -> None:
    """Allow the import of these modules, from Python's path or from the current folder.

    Until a module is named, nothing is imported from the current folder, which may be somebody else's."""
    for module in modules:
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        _NAMED[module] = None


def named_modules() -> list[str]:
    """The modules that the user has named. The processes of a run may import the same ones."""
    return list(_NAMED)


def import_plugins(modules: Sequence[str]) -> None:
    """Import the modules from the current folder or from Python's path. Raises ConfigError."""
    name_modules(modules)
    for module in modules:
        try:
            file = importlib.import_module(module).__file__
        except (Exception, SystemExit) as error:  # the module's code may raise anything
            message = " ".join(text_of(error).split())
            raise ConfigError(f"plugins=[{module}]: cannot be imported ({type(error).__name__}: {message})") from error
        _IMPORTED[module] = Path(file or ".").resolve().parent


def text_of(error: BaseException) -> str:
    """The text of an exception of the user's code, which may fail to make it."""
    try:
        return str(error)
    except Exception as failure:
        return f"its text cannot be made ({type(failure).__name__})"


def modules_of_ids(text: str) -> list[str]:
    """The modules in an env.id=module:Name-v0, or in several ids."""
    return re.findall(r"([\w.]+):", text)


def refuse_unknown_plugins(modules: Iterable[Any]) -> None:
    """Raise ConfigError if a configuration names a plugin that the command line does not name."""
    names = [str(module) for module in modules]
    if not _IMPORTED.keys() >= set(names):
        value = ",".join(names)
        raise ConfigError(
            f"plugins=[{value}]: this run needs code from a plugin; add plugins=[{value}] if you trust it"
        )


def refuse_unknown_environment(env_id: str) -> None:
    """Raise ConfigError if an id names a module that the command line does not name. Call it before an import."""
    module = env_id.rpartition(":")[0]
    if module and module not in _NAMED:
        value = ",".join([*_NAMED, module])
        raise ConfigError(f"env.id={env_id}: it imports code from {module}; add plugins=[{value}] if you trust it")


def plugin_configurations() -> list[Path]:
    """The folders `conf/` next to the imported modules. Hydra searches them in addition to our conf/."""
    return [folder / "conf" for folder in dict.fromkeys(_IMPORTED.values()) if (folder / "conf").is_dir()]
