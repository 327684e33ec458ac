"""The comments in conf/ that say what each key and option means, for docs/configuration.md and --help."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from ablate.paths import CONF

COMMENT = re.compile(r"^(?P<indent> *)(?P<key>[\w.-]+):(?P<value>.*?)(?:(?:^| )# (?P<comment>.*))?$")
CONTINUED = re.compile(r"^ {8,}# (.*)$")


class Key(NamedTuple):
    """A key of an option's file."""

    value: Any
    comment: str


def keys_of(path: Path) -> dict[str, Key]:
    """The keys of a YAML file with their values, and with the comments behind them; nested keys are dotted.

    The keys of a base file in the same folder (an entry of `defaults`) come first."""
    content: Any = OmegaConf.to_container(OmegaConf.load(path))
    keys: dict[str, Key] = {}
    for entry in content.pop("defaults", []):
        if isinstance(entry, str) and (base := path.parent / f"{entry}.yaml").is_file():
            keys |= keys_of(base)
    for key, comment in _comments(path):
        value: Any = content
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        comment = comment or (keys[key].comment if key in keys else "")
        keys[key] = Key(value, comment)
    return keys


def _comments(path: Path) -> Iterator[tuple[str, str]]:
    """(dotted key, comment) of each key that has a line of its own, except in the defaults list."""
    above: list[tuple[int, str]] = []  # indentation and name of the keys above the current line
    key, comment = "", ""
    for line in path.read_text().splitlines():
        if key and (more := CONTINUED.match(line)):
            comment += f" {more[1]}"
            continue
        if not line.strip() or line.lstrip().startswith(("#", "-")):
            continue
        if key:
            yield key, comment
        match = COMMENT.match(line)
        assert match, f"{path}: {line}"
        indent = len(match["indent"])
        above = [*((i, name) for i, name in above if i < indent), (indent, match["key"])]
        key, comment = ".".join(name for _, name in above), (match["comment"] or "").strip()
        if above[0][1] == "defaults":
            key = ""
    if key:
        yield key, comment


def header(path: Path) -> str:
    """The comment at the top of an option's file."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line[2:])
    assert lines, f"{path}: a comment at its top must say what the option is"
    return " ".join(lines)


def defaults() -> dict[str, tuple[str, str]]:
    """Each group's default option and its meaning, from the defaults list of conf/config.yaml."""
    listed = re.findall(r"^  - (?:optional )?(\w+): (.+?) +# (.+)$", (CONF / "config.yaml").read_text(), re.MULTILINE)
    return {group: ("" if option.startswith("$") else option, meaning) for group, option, meaning in listed}
