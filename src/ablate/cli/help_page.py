"""The text of --help: the groups that a user chooses from, and the keys of the composed configuration."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ablate.cli.folders import option_folders
from ablate.cli.key_comments import defaults, keys_of
from ablate.paths import CONF

WIDTH, LEFT = 120, 40  # characters of a line, and of its first column
INTERNAL = ("algo_env", "algo_env_model", "algo_env_optimizer")  # these options follow from others


def help_text(config: DictConfig, option_file: Callable[[str, str], Path | None]) -> str:
    """config: what the command composes, with Hydra's own part. option_file: the YAML file of an option of a group."""
    choices, top = config.hydra.runtime.choices, keys_of(CONF / "config.yaml")
    lines = ["== Groups: group=option ==", *_groups(choices), "", "== Keys: key=value, with the options above =="]
    for key in (str(key) for key in config if key not in ("hydra", "sweep")):
        if key in top:
            lines += _row(f"{key}={_text(config[key])}", top[key].comment)
        elif file := option_file(key, str(choices.get(key))):
            for name, own in keys_of(file).items():
                if "." not in name:
                    lines += _row(f"{key}.{name}={_text(config[key][name])}", own.comment)
    lines += ["", "== Keys of a sweep =="]
    for name, own in top.items():
        if name.startswith("sweep.") and name.count(".") == 1:
            lines += _row(f"{name}={_text(own.value)}", own.comment)
    return "\n".join(lines).replace("$", "$$")  # Hydra replaces names behind a $


def _groups(choices: Any) -> Iterator[str]:
    for group, (_, meaning) in defaults().items():
        if group not in INTERNAL:
            files = (path for folder in option_folders() for path in (folder / group).glob("*.yaml"))
            options = ", ".join(sorted({path.stem for path in files}))
            chosen = choices.get(group)
            yield from _row(f"{group}={chosen}" if chosen else group, f"{meaning}: {options}")


def _text(value: Any) -> str:
    """A value as it is typed."""
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value)
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _row(left: str, right: str) -> Iterator[str]:
    """Two columns, of which the right one is wrapped. A long left side has a line of its own."""
    if len(left) >= LEFT:
        yield textwrap.shorten(left, WIDTH, placeholder=" ...")
        left = ""
    for number, part in enumerate(textwrap.wrap(right, WIDTH - LEFT) or [""] * bool(left)):
        yield f"{'' if number else left:{LEFT}}{part}".rstrip()
