"""A run's folder as tables. Reads what a killed process left, and what a living one is still writing."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from ablate.config.schema import ConfigError
from ablate.records.schema import (
    CELL,
    EPISODES,
    EVALUATIONS,
    MANIFEST,
    SCHEMA_VERSION,
    STATUS,
    STUDY,
    UPDATES,
    cell_folder,
    columns_under,
)

# Columns not named here are float64. `horizon` is empty where an evaluation episode is not cut.
DTYPES: dict[str, str] = {
    **dict.fromkeys(("episode", "worker", "global_step", "episodic_length", "update", "evaluation"), "int64"),
    **dict.fromkeys(("terminated", "truncated"), "bool"),
    "horizon": "Int64",
    "protocol": "str",
}


# What a study.json must hold to be judged.
STUDY_KEYS = (
    "name", "question", "command", "arms", "seeds", "baseline", "metric", "metrics", "smallest_effect", "claims",
    "machine", "started",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What one run's folder says. The tables have the columns of `records.schema`, even without a row."""

    folder: Path
    manifest: dict[str, Any]
    status: dict[str, Any]  # empty if the run ended before it wrote one
    episodes: pd.DataFrame
    updates: pd.DataFrame
    evaluations: pd.DataFrame
    torn: int  # last lines that were cut short, and left out

    def setting(self, key: str) -> Any:
        """The value of a dotted key of the run's resolved configuration.

        Raises ConfigError if the manifest has no such key."""
        value: Any = self.manifest.get("config")
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                raise ConfigError(f"{self.folder / MANIFEST}: no {key} in its config")
            value = value[part]
        return value


def load_run(folder: Path) -> Run:
    """Read a run's folder.

    Raises ConfigError if it is not a run's or a file in it is damaged, OSError if one cannot be read."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder")
    if missing := [name for name in (MANIFEST, EPISODES) if not (folder / name).is_file()]:
        raise ConfigError(f"{folder}: not a run's folder; it has no {' and no '.join(missing)}")
    episodes, updates, evaluations = (_read_table(folder / name) for name in (EPISODES, UPDATES, EVALUATIONS))
    return Run(
        folder=folder,
        manifest=_read_object(folder / MANIFEST),
        status=_read_object(folder / STATUS) if (folder / STATUS).exists() else {},
        episodes=episodes[0],
        updates=updates[0],
        evaluations=evaluations[0],
        torn=episodes[1] + updates[1] + evaluations[1],
    )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: a JSON object is needed, not a {type(value).__name__}")
    return value


def _read_table(path: Path) -> tuple[pd.DataFrame, int]:
    """The table's whole rows, and how many torn lines (0 or 1, the last) were left out."""
    header, rows, torn = _whole_rows(path)
    try:
        return _parse(header + rows), torn
    except ValueError as error:  # pandas' ParserError is one
        raise ConfigError(f"{path}: damaged: {' '.join(str(error).split())}") from error


def _whole_rows(path: Path) -> tuple[bytes, bytes, int]:
    """The header's line, the whole rows' lines, and how many torn ones (0 or 1) follow; of a missing file: no rows."""
    content = path.read_bytes() if path.exists() else b""
    first = content.partition(b"\n")[0].decode(errors="replace")
    header = ",".join(columns_under(first, path.name)).encode() + b"\n"
    whole, newline, rest = content.rpartition(b"\n")  # a row without its newline is torn, or under way
    whole = whole + newline if newline else header
    if not whole.startswith(header):
        raise ConfigError(f"{path}: its header is {first!r}; {header[:-1].decode()!r} is needed")
    return header, whole[len(header) :], int(rest != b"")


def _parse(lines: bytes) -> pd.DataFrame:
    columns = lines.partition(b"\n")[0].decode().split(",")
    return pd.read_csv(io.BytesIO(lines), dtype={column: DTYPES.get(column, "float64") for column in columns})


@dataclass(frozen=True)
class Sweep:
    """What a sweep's folder says: all cells that are there, also half a sweep's.

    cells: a row for each arm and seed of the study: arm, seed, state (`missing` where nothing was started), reason,
    attempts, resumes, seconds.
    episodes, updates, evaluations: the cells' tables on top of each other, with columns arm and seed before theirs; of
    completed cells only. `updates`, the longest and the least used, is read when it is asked for."""

    folder: Path
    study: dict[str, Any]
    cells: pd.DataFrame
    episodes: pd.DataFrame
    evaluations: pd.DataFrame
    torn: int  # lines of these two tables that were cut short, and left out

    @cached_property
    def updates(self) -> pd.DataFrame:
        """Raises ConfigError if a file is damaged."""
        return _read_cells(self.folder, UPDATES, self.cells)[0]

    @property
    def arms(self) -> dict[str, str]:
        """The arms' labels by name, in the study's order."""
        return {name: arm["label"] or name for name, arm in self.study["arms"].items()}

    @cached_property
    def per_step(self) -> bool:
        """Whether scores are rewards per step: where no episode ends by itself, its length is not part of the score."""
        return not self.episodes["terminated"].any()

    @property
    def failures(self) -> pd.DataFrame:
        """Rows of `cells` that neither completed nor wait nor run."""
        return self.cells[~self.cells["state"].isin(["completed", "missing", "running"])]

    def only(self, arms: list[str]) -> Sweep:
        """The same sweep with some of its arms."""
        study = {**self.study, "arms": {name: self.study["arms"][name] for name in arms}}
        cells, episodes, evaluations = (
            table[table["arm"].isin(arms)].reset_index(drop=True)
            for table in (self.cells, self.episodes, self.evaluations)
        )
        return Sweep(self.folder, study, cells, episodes, evaluations, self.torn)


def load_sweep(folder: Path) -> Sweep:
    """Read a sweep's folder.

    Raises ConfigError if it is not a sweep's or a file in it is damaged."""
    if not (folder / STUDY).is_file():
        raise ConfigError(f"{folder}: not a sweep's folder; it has no {STUDY}")
    study = _read_object(folder / STUDY)
    if (version := study.get("schema_version")) != SCHEMA_VERSION:
        raise ConfigError(f"{folder / STUDY}: schema_version={version}; {SCHEMA_VERSION} is needed, as sweeps write it")
    if missing := [key for key in STUDY_KEYS if key not in study]:
        raise ConfigError(f"{folder / STUDY}: it has no {missing[0]}; move it away: the sweep's command writes it anew")
    cells = pd.DataFrame(
        {"arm": arm, "seed": seed, **read_cell(cell_folder(folder, arm, seed))}
        for arm in study["arms"]
        for seed in study["seeds"]
    )
    episodes, torn_episodes = _read_cells(folder, EPISODES, cells)
    evaluations, torn_evaluations = _read_cells(folder, EVALUATIONS, cells)
    return Sweep(folder, study, cells, episodes, evaluations, torn_episodes + torn_evaluations)


def read_cell(folder: Path) -> dict[str, Any]:
    """How a cell stands: state, reason, attempts, resumes, seconds of its attempts together.

    A file that is missing or damaged says nothing: one cell's does not keep the others from being seen."""
    cell, status, manifest = (_told(folder / name) for name in (CELL, STATUS, MANIFEST))
    attempts = [attempt for attempt in cell.get("attempts", []) if isinstance(attempt, dict)]
    state, reason = status.get("state", "missing"), status.get("reason", "")
    if state != "completed" and attempts and attempts[-1].get("outcome"):
        state, reason = attempts[-1]["outcome"], attempts[-1]["reason"]
    return {
        "state": state,
        "reason": reason,
        "attempts": len(attempts),
        "resumes": len(manifest.get("resumes", [])),
        "seconds": sum(attempt.get("seconds", 0.0) for attempt in attempts),
    }


def _told(path: Path) -> dict[str, Any]:
    try:
        return _read_object(path)
    except (OSError, ConfigError):
        return {}


def _read_cells(folder: Path, name: str, cells: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """One table of all completed cells, and how many torn lines were left out.

    Parsed in one go, which for a thousand cells is ten times as fast as one by one."""
    completed = cells[cells["state"] == "completed"]
    paths = [
        cell_folder(folder, arm, seed) / name for arm, seed in zip(completed["arm"], completed["seed"], strict=True)
    ]
    header, _, _ = _whole_rows(paths[0] if paths else Path(name))
    rows, torn = [], 0
    for path in paths:
        own_header, whole, cut = _whole_rows(path)
        if own_header != header:
            raise ConfigError(f"{path}: its columns are not those of {paths[0]}: arms of two algorithms")
        rows.append(whole)
        torn += cut
    lengths = [whole.count(b"\n") for whole in rows]
    try:
        table = _parse(header + b"".join(rows))
    except ValueError:
        for path in paths:
            _read_table(path)  # names the damaged one
        raise
    if len(table) != sum(lengths):  # empty lines, which are no rows
        lengths = [len(_read_table(path)[0]) for path in paths]
    table.insert(0, "arm", pd.Series(completed["arm"].repeat(lengths).to_numpy(), dtype="str"))
    table.insert(1, "seed", completed["seed"].repeat(lengths).to_numpy("int64"))
    return table, torn
