"""Generate docs/configuration.md from the schema and the comments in conf/:  make docs

The schema gives types and ranges, the YAML files give values and meanings. A key without a comment is an error."""

from __future__ import annotations

import re
import subprocess
from dataclasses import fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import annotated_types
from pydantic.fields import FieldInfo

import ablate.algos  # noqa: F401  # registers the algorithms' classes
from ablate.cli.key_comments import Key, defaults, header, keys_of
from ablate.config.schema import (
    LARGEST,
    LARGEST_SEED,
    SCHEMAS,
    Config,
    EvaluationConfig,
    LoggerConfig,
    SweepConfig,
)
from ablate.paths import CONF, ROOT

PAGE = ROOT / "docs/configuration.md"
STUDIES = ROOT / "sweeps/sweep"
CLASSES: dict[str, dict[str, type]] = {**SCHEMAS, "evaluation": {"": EvaluationConfig}, "logger": {"": LoggerConfig}}

INTRODUCTION = """\
# Configuration

*This page is generated from `src/ablate/config/schema.py`, the algorithms' `spec.py` and the comments in `conf/`. Do
not edit it: change the comment or the schema, then run `make docs`.*

A configuration is composed by [Hydra](https://hydra.cc) from groups (`algo=dqn` chooses an option) and keys
(`algo.gamma=0.99` sets a value). `python src/run.py --help` lists both; `python src/run.py <arguments> --cfg job`
prints the configuration that a command composes. A wrong key, type or value ends the program before anything is
trained, with one line and exit code 2.

Shell completion: `eval "$(python src/run.py -sc install=bash)"` (or `install=fish`).
"""
HYDRA_ROWS = """\
| `hydra/launcher` | `local` | `local` `basic` `slurm` `ray` | where the cells of a sweep run: side by side on this \
machine, one after the other, or on a [cluster](cluster.md) |
| `hydra/sweeper` | `ablate` | `ablate` `basic` | what turns the arguments of a sweep into runs |
"""
LAUNCHER = """\
### `hydra/launcher`

Keys of `hydra/launcher=slurm` and `hydra/launcher=ray`, written as `hydra.launcher.<key>`. [Clusters](cluster.md)
explains how to use them.
"""


def options(folder: Path) -> list[Path]:
    """The YAML files of a group that git tracks: a user may have added more. All of them outside a repository."""
    listed = subprocess.run(["git", "-C", str(folder), "ls-files", "*.yaml"], capture_output=True, text=True)
    names = listed.stdout.split() if listed.returncode == 0 else [path.name for path in folder.glob("*.yaml")]
    return [folder / name for name in sorted(names)]


def allowed(hint: Any) -> str:
    """The values that a type of the schema allows, in words."""
    if get_origin(hint) is Annotated:
        kind, *notes = get_args(hint)
        return _in_range(
            kind, [part for note in notes for part in (note.metadata if isinstance(note, FieldInfo) else [note])]
        )
    if get_origin(hint) in (Union, UnionType):
        parts = [allowed(part) for part in get_args(hint) if part is not NoneType]
        return f"{' or '.join(parts)}, or `null`" if NoneType in get_args(hint) else " or ".join(parts)
    if get_origin(hint) is tuple:
        return f"{len(get_args(hint))} of: {allowed(get_args(hint)[0])}"
    if get_origin(hint) is list:
        inner = get_args(hint)[0]
        return "list" if is_dataclass(inner) or inner is str else f"list of: {allowed(inner)}"
    if get_origin(hint) is dict or hint is Any or is_dataclass(hint):
        return "see its meaning"
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return ", ".join(f"`{member}`" for member in hint)
    return {bool: "`true`, `false`", int: "whole number", float: "number", str: "text"}[hint]


def _in_range(kind: Any, notes: list[Any]) -> str:
    """A number with its bounds, or text with its pattern."""
    low = high = ""
    for note in notes:
        match note:
            case annotated_types.Ge(ge=bound):
                low = f"at least {_number(bound)}"
            case annotated_types.Gt(gt=bound):
                low = f"above {_number(bound)}"
            case annotated_types.Le(le=bound):
                high = f"at most {_number(bound)}"
            case annotated_types.Lt(lt=bound):
                high = f"below {_number(bound)}"
    return ", ".join(part for part in (allowed(kind), low, high) if part)


def _number(bound: Any) -> str:
    return {LARGEST: "10¹⁵", LARGEST_SEED: "2⁶³ - 1"}.get(bound, f"{bound:,}".replace(",", " "))


def shown(value: Any) -> str:
    """A value as in a YAML file; of a dictionary, its keys."""
    if isinstance(value, dict) and value:
        return ", ".join(f"`{key}`" for key in value)
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "; ".join(", ".join(f"{key} {part}" for key, part in layer.items()) for layer in value)
    if value == "???":
        return "required"
    if value is None or value == "":
        return "`null`" if value is None else '`""`'
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def escaped(comment: str) -> str:
    """A comment as Markdown in a table."""
    return comment.replace("<", "&lt;").replace("|", "\\|")


def table(schema: type, files: dict[str, dict[str, Key]], prefix: str) -> list[str]:
    """A table of a schema's keys. files: the keys of each option, by the option's name.

    A default that differs between options is shown for each. Raises AssertionError for a key without a meaning."""
    rows = ["| key | default | values | meaning |", "|---|---|---|---|"]
    hints = get_type_hints(schema, include_extras=True)
    for name in (field.name for field in fields(schema)):
        given = {option: keys[name] for option, keys in files.items() if name in keys}
        if not given:
            continue  # set by the option itself: `name`
        comment = next((key.comment for key in given.values() if key.comment), "")
        assert comment, f"{prefix}{name}: no comment in conf/ says what it means"
        by_value: dict[str, list[str]] = {}
        for option, key in given.items():
            by_value.setdefault(shown(key.value), []).append(option)
        value = next(iter(by_value)) if len(by_value) == 1 else _by_option(by_value)
        if not is_dataclass(hints[name]):
            rows.append(f"| `{prefix}{name}` | {value} | {allowed(hints[name])} | {escaped(comment)} |")
            continue
        rows.append(f"| `{prefix}{name}` | | its keys | {escaped(comment)} |")
        inner = {
            option: {key.removeprefix(f"{name}."): own for key, own in keys.items() if key.startswith(f"{name}.")}
            for option, keys in files.items()
        }
        rows += table(hints[name], inner, f"{prefix}{name}.")[2:]
    return rows


def _by_option(by_value: dict[str, list[str]]) -> str:
    return "<br>".join(f"{value} ({', '.join(names)})" for value, names in by_value.items())


def page() -> str:
    """The whole page."""
    known = defaults()
    groups = [group for group in known if (CONF / group).is_dir()]
    overview = ["## Groups", "", "| group | default | options | what it decides |", "|---|---|---|---|"]
    for group in [*groups, "sweep"]:
        folder = STUDIES if group == "sweep" else CONF / group
        option, meaning = known[group]
        names = " ".join(f"`{path.stem}`" for path in options(folder))
        overview.append(
            f"| `{group}` | {f'`{option}`' if option else 'follows from the others'} | {names} | {meaning} |"
        )
    parts = ["\n".join(overview) + "\n" + HYDRA_ROWS, "## Keys without a group\n"]
    top = keys_of(CONF / "config.yaml")
    parts.append(
        "\n".join(table(Config, {"": {key: value for key, value in top.items() if key not in (*CLASSES, "sweep")}}, ""))
        + "\n"
    )
    parts.append("## Keys of a study\n\n[Sweeps](sweeps.md) explains studies.\n")
    study = {key.removeprefix("sweep."): value for key, value in top.items() if key.startswith("sweep.")}
    parts.append("\n".join(table(SweepConfig, {"": study}, "sweep.")) + "\n")
    parts.append("## Options and keys of each group\n")
    for group in groups:
        parts.append(f"### `{group}`\n")
        files = {path.stem: keys_of(path) for path in options(CONF / group)}
        parts.append("\n".join(f"- `{path.stem}`: {escaped(header(path))}" for path in options(CONF / group)) + "\n")
        for name, schema in CLASSES.get(group, {}).items():
            own = {
                option: keys
                for option, keys in files.items()
                if not name or _schema(CONF / group / f"{option}.yaml") == name
            }
            if own:
                title = f"Keys of {', '.join(f'`{group}={option}`' for option in own)}:\n\n"
                parts.append(title + "\n".join(table(schema, own, f"{group}.")) + "\n")
    parts.append(LAUNCHER)
    for path in options(CONF / "hydra/launcher"):
        rows = ["| key | default | meaning |", "|---|---|---|"]
        rows += [
            f"| `{key}` | {shown(own.value)} | {escaped(own.comment)} |"
            for key, own in keys_of(path).items()
            if own.comment
        ]
        parts.append(f"`{path.stem}`: {escaped(header(path))}\n\n" + "\n".join(rows) + "\n")
    return INTRODUCTION + "\n" + "\n".join(parts)


def _schema(path: Path) -> str:
    """The name of the schema of an option's file, which may be that of the file on which it is based."""
    text = path.read_text()
    if named := re.search(r"/schema/\w+/(\w+)@_here_", text):
        return named[1]
    base = re.search(r"^  - (\w+)$", text, re.MULTILINE)
    assert base, f"{path}: no schema in its defaults list"
    return _schema(path.with_name(f"{base[1]}.yaml"))


if __name__ == "__main__":
    PAGE.write_text(page())
    print(PAGE)
