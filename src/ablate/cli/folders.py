"""The folders of options (conf/, studies) in the order in which Hydra searches them, and what a file in them may hold.

`./conf` and `./sweeps` of the current folder are searched without being named. They may be somebody else's, so their
files hold values only: nothing in them can name code, reach a part of Hydra, or read the environment."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ablate.config.plugins import plugin_configurations
from ablate.config.schema import ConfigError
from ablate.paths import CHECKOUT, CONF, STARTED_IN

STUDIES = "sweep"  # the group of studies
OURS = [CONF, *([CHECKOUT / "sweeps"] if CHECKOUT else [])]
REFERENCE = re.compile(r"\$\{\.*\w[\w.]*\}")  # ${algo.gamma}, to another value; not ${oc.env:TOKEN}
ENTRY = re.compile(r"_self_|((override|optional) )*/?\w[\w.-]*(/\w[\w.-]*)*(@[\w.]+)?")  # of a defaults list


def option_folders() -> list[Path]:
    """All folders of options: ours, those of named plugins, and the user's."""
    return [*OURS, *plugin_configurations(), *users_folders()]


def users_folders() -> list[Path]:
    """`conf/` and `sweeps/` of the current folder, if they are not ours or a named plugin's."""
    known = [folder.resolve() for folder in (*OURS, *plugin_configurations())]
    folders = (STARTED_IN / "conf", STARTED_IN / "sweeps")
    return [folder for folder in folders if folder.is_dir() and folder.resolve() not in known]


def search_path() -> list[str]:
    """What Hydra searches after conf/. `values://` is hydra_plugins/ablate_values_source.py, which checks each file."""
    trusted = [*OURS[1:], *plugin_configurations()]
    return [*(f"file://{folder}" for folder in trusted), *(f"values://{folder}" for folder in users_folders())]


def groups() -> set[str]:
    """The groups of which there may be options, except Hydra's own."""
    folders = (CONF, *plugin_configurations())
    return {STUDIES, *(path.name for folder in folders for path in folder.iterdir() if path.is_dir())} - {"hydra"}


def refuse_code(path: str, package: str | None, content: Any) -> None:
    """Raise ConfigError if a user's file holds more than values. package: that of its header.

    content: the file's content, not resolved."""
    values = OmegaConf.to_container(content) if OmegaConf.is_config(content) else content
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: it must hold keys with values")
    if "hydra" in (package or ""):
        raise ConfigError(f"{path}: # @package {package}: this file may not set Hydra's own keys")
    for entry in values.get("defaults") or []:
        parts = [entry]
        if isinstance(entry, dict):
            parts = [*entry, *(part for own in entry.values() for part in (own if isinstance(own, list) else [own]))]
        if bad := [part for part in map(str, parts) if not ENTRY.fullmatch(part) or "hydra" in part]:
            raise ConfigError(f"{path}: defaults: {bad[0]}: not allowed here; give it on the command line")
    for key, value in ((str(key), value) for key, value in values.items()):
        if key.startswith("hydra") and (key != "hydra" or value != {"mode": "MULTIRUN"}):
            raise ConfigError(f"{path}: {key}: only hydra: {{mode: MULTIRUN}} is allowed here")
    _refuse_names_of_code(path, values)


def _refuse_names_of_code(path: str, value: Any) -> None:
    if isinstance(value, dict):
        for key, part in value.items():
            _refuse_names_of_code(path, str(key))
            _refuse_names_of_code(path, part)
    elif isinstance(value, list):
        for part in value:
            _refuse_names_of_code(path, part)
    elif isinstance(value, str):
        if "_target_" in value:
            raise ConfigError(f"{path}: _target_ is not allowed; code is chosen by a group's option, such as algo=a3c")
        if "${" in REFERENCE.sub("", value):
            raise ConfigError(f"{path}: {value}: only references to other keys are allowed here, as in ${{algo.gamma}}")
