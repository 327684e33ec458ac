"""The files of a run's or cell's folder as types: manifest.json, status.json, cell.json, and the rows that tables need.

The only module that reads them. What does not fit is a ConfigError of one line with the path and the reason."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ablate.config.schema import ConfigError
from ablate.records.files import misfit, read_file, read_object, write_json
from ablate.records.schema import CELL, EPISODES, EVALUATIONS, MANIFEST, STATUS, UPDATES, EndState, State
from ablate.types import Counters

Total = Annotated[int, Field(ge=0)]
Number = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Totals:
    """`Counters` in a file."""

    updates: Total
    steps: Total
    episodes: Total


@dataclass(frozen=True)
class Resume:
    """A resume: `since`, called `from` in the file, counts what was done before it. changed: key -> before, after."""

    since: Totals = Field(alias="from")
    changed: dict[str, tuple[Any, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """What is read of a manifest.json. config: the resolved configuration."""

    config: dict[str, Any]
    resumes: list[Resume] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    git: dict[str, Any] | None = None
    machine: dict[str, Any] = field(default_factory=dict)
    python: str | None = None
    versions: dict[str, Any] = field(default_factory=dict)
    schema_version: Literal[1] = 1


@dataclass(frozen=True)
class Status:
    """A status.json. evaluations: None in files that were written before it was recorded."""

    state: State
    reason: str = ""
    updates: Total = 0
    steps: Total = 0
    episodes: Total = 0
    evaluations: Total | None = None
    pid: int = 0
    tables: dict[str, str] = field(default_factory=dict)  # the SHA-256 of each when the run completed

    @property
    def counters(self) -> Counters:
        return Counters(self.updates, self.steps, self.episodes)


@dataclass(frozen=True)
class Attempt:
    """An attempt at a cell. outcome: None while it runs, and if it was killed together with its sweep."""

    started: str = ""
    host: str = ""
    outcome: EndState | None = None
    reason: str = ""
    seconds: float = 0.0
    max_rss_mb: float = 0.0


@dataclass(frozen=True)
class CellFile:
    """A cell.json."""

    attempts: list[Attempt]


def read_manifest(folder: Path) -> Manifest:
    """Read a run's manifest. Raises ConfigError, also if there is none."""
    if (manifest := read_object(folder / MANIFEST, Manifest)) is None:
        raise ConfigError(f"{folder}: not a run's folder; it has no {MANIFEST}")
    return manifest


def read_status(folder: Path) -> Status | None:
    """The status of a run; None if there is no status.json. Raises ConfigError if it is damaged."""
    return read_object(folder / STATUS, Status)


def read_attempts(folder: Path) -> list[Attempt]:
    """The attempts in a cell.json, none if there is no such file. Raises ConfigError if it is damaged."""
    cell = read_object(folder / CELL, CellFile)
    return cell.attempts if cell else []


def write_attempts(folder: Path, attempts: list[Attempt]) -> None:
    """Raises OSError if the file cannot be written."""
    write_json(folder / CELL, asdict(CellFile(attempts)))


class Rows(NamedTuple):
    """The numbers that must be in the first column of a table, and how many rows each has."""

    numbers: range
    each: int


@dataclass
class _Evaluation:
    episodes: Number


@dataclass
class _Settings:
    """The keys of a configuration that decide how many rows there are."""

    log_interval: Number
    evaluation: _Evaluation


def needed_rows(folder: Path, manifest: Manifest, counters: Counters, evaluations: int | None) -> dict[str, Rows]:
    """The rows that a run with these totals must have, by file. evaluations: their number, None if it is not known.

    Raises ConfigError if the manifest's configuration does not say it."""
    try:
        settings = TypeAdapter(_Settings).validate_python(manifest.config)
    except ValidationError as error:
        raise ConfigError(f"{folder / MANIFEST}: damaged: in its config {misfit(error)}") from error
    since = manifest.resumes[-1].since.updates if manifest.resumes else 0  # before it, log_interval may have differed
    every = settings.log_interval
    return {
        EPISODES: Rows(range(1, counters.episodes + 1), 1),
        UPDATES: Rows(range(since // every * every + every, counters.updates + 1, every), 1),
        EVALUATIONS: Rows(range(1, (evaluations or 0) + 1), settings.evaluation.episodes),
    }


def refuse_changed_tables(folder: Path, manifest: Manifest, status: Status) -> dict[str, str]:
    """Raise ConfigError if a table is not what a completed run wrote. Returns the SHA-256 of each table.

    If the status has no digest of the table, it may have no fewer rows. Unlike a resume this parses only their first
    numbers: a sweep may have a thousand cells."""
    digests = {}
    for name, (numbers, each) in needed_rows(folder, manifest, status.counters, status.evaluations).items():
        if (content := read_file(folder / name)) is None:
            raise ConfigError(f"{folder / name}: damaged: the run has completed, but there is no such file")
        digests[name], digest = hashlib.sha256(content).hexdigest(), status.tables.get(name)
        if digest == digests[name]:
            continue
        least, rows = len(numbers) * each, max(0, content.count(b"\n") - 1)
        if rows < least or (least and _largest_number(content) < numbers[-1]):
            raise ConfigError(f"{folder / name}: damaged: the run has completed with {least} rows, but here are {rows}")
        if digest is not None:
            raise ConfigError(
                f"{folder / name}: damaged: it has changed since the run completed, by its SHA-256 in {STATUS}; put "
                "the run's own file back"
            )
    return digests


def _largest_number(content: bytes) -> int:
    """The largest number in the first column of the whole lines, -1 if there is none: racing workers' rows may swap."""
    firsts = [line.partition(b",")[0] for line in content[: content.rfind(b"\n") + 1].splitlines()]
    return max((int(first) for first in firsts if first.isdigit()), default=-1)
