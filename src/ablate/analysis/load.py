"""The folders of runs and sweeps as tables. The writing process may have been killed, or may still be running."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from ablate.config.choices import Axis, ScoreUnit, Source, Until
from ablate.config.schema import ConfigError
from ablate.config.serial import differing_key, differing_keys
from ablate.records.files import is_file, read_file
from ablate.records.run_files import (
    Attempt,
    Manifest,
    Status,
    read_attempts,
    read_manifest,
    read_status,
    refuse_changed_tables,
)
from ablate.records.schema import EPISODES, EVALUATIONS, MANIFEST, UPDATES, cell_folder, columns_of
from ablate.records.study_file import StudyFile, read_study

# Columns not named here are float64. `horizon` is empty in tables from before evaluations had a limit.
DTYPES: dict[str, str] = {
    **dict.fromkeys(("episode", "worker", "global_step", "episodic_length", "update", "evaluation"), "int64"),
    **dict.fromkeys(("terminated", "truncated"), "bool"),
    "horizon": "Int64",
    "protocol": "str",
}


@dataclass(frozen=True)
class Run:
    """The content of one run's folder. A table without rows still has its columns."""

    folder: Path
    manifest: Manifest
    status: Status | None  # None if the run ended before it wrote one
    episodes: pd.DataFrame
    updates: pd.DataFrame
    evaluations: pd.DataFrame
    torn: int  # number of last lines that were cut short and are left out

    def setting(self, key: str) -> Any:
        """The value of a dotted key of the run's resolved configuration.

        Raises ConfigError if the manifest has no such key."""
        value: Any = self.manifest.config
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                raise ConfigError(f"{self.folder / MANIFEST}: no {key} in its config")
            value = value[part]
        return value


def load_run(folder: Path | str) -> Run:
    """Read a run's folder.

    Raises ConfigError if it is not a run's folder, or if a file in it is damaged or cannot be read."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder")
    if missing := [name for name in (MANIFEST, EPISODES) if not is_file(folder / name)]:
        raise ConfigError(f"{folder}: not a run's folder; it has no {' and no '.join(missing)}")
    episodes, updates, evaluations = (_read_table(folder / name) for name in (EPISODES, UPDATES, EVALUATIONS))
    manifest, status = read_manifest(folder), read_status(folder)
    if status is not None and status.tables:  # else it has not completed, or was made before tables had digests
        refuse_changed_tables(folder, manifest, status)
    return Run(
        folder=folder,
        manifest=manifest,
        status=status,
        episodes=episodes[0],
        updates=updates[0],
        evaluations=evaluations[0],
        torn=episodes[1] + updates[1] + evaluations[1],
    )


def _read_table(path: Path) -> tuple[pd.DataFrame, int]:
    """The table's complete rows, and the number of torn lines that were left out (0 or 1, the last)."""
    header, rows, torn = _whole_rows(path)
    try:
        table = _parse(header + rows)
    except ValueError as error:  # pandas' ParserError is a ValueError
        raise ConfigError(f"{path}: damaged: {' '.join(str(error).split())}") from error
    if len(table) != (lines := sum(bool(line.strip()) for line in rows.split(b"\n"))):
        raise ConfigError(f"{path}: damaged: its {lines} lines are {len(table)} rows, because of a quote")
    return table, torn


def _whole_rows(path: Path) -> tuple[bytes, bytes, int]:
    """The header line, the complete rows, and the number of torn lines (0 or 1). A missing file has no rows."""
    content = read_file(path) or b""
    whole, newline, rest = content.rpartition(b"\n")  # a row without its newline is torn, or still being written
    torn = int(rest != b"")
    if not newline:
        return _line(columns_of(path.name, "")), b"", torn
    first, _, _ = whole.partition(b"\n")
    given = first.decode(errors="replace")
    header = _line(columns_of(path.name, given))
    if first + b"\n" != header:
        raise ConfigError(f"{path}: its header is {given!r}; {header[:-1].decode()!r} is needed")
    return header, (whole + newline)[len(header) :], torn


def _line(columns: tuple[str, ...]) -> bytes:
    return ",".join(columns).encode() + b"\n"


def _parse(lines: bytes) -> pd.DataFrame:
    columns = lines.partition(b"\n")[0].decode().split(",")
    return pd.read_csv(io.BytesIO(lines), dtype={column: DTYPES.get(column, "float64") for column in columns})


@dataclass(frozen=True)
class Sweep:
    """The content of a sweep's folder, which may be unfinished.

    cells: one row per arm and seed of the study: arm, seed, and what `read_cell` says.
    episodes, updates, evaluations: the tables of all completed cells in one, with two more columns, arm and seed.
    `updates`, the longest and least used table, is read on first use."""

    folder: Path
    study: StudyFile
    cells: pd.DataFrame
    episodes: pd.DataFrame
    evaluations: pd.DataFrame
    torn: int  # lines of these two tables that were cut short and are left out
    foreign = False  # whether another program made the runs: see `foreign.ForeignSweep`

    def read_at_points(self, source: Source) -> bool:
        """Whether all cells are read at the same x. Rows of another program may be logged more or less often."""
        return source is Source.evaluations or self.foreign

    @property
    def caveats(self) -> Sequence[str]:
        """What limits every verdict, because of who made the runs."""
        return ()

    @property
    def remarks(self) -> Sequence[str]:
        """What a reader must know of the runs' files."""
        return ()

    @property
    def sources(self) -> list[Source]:
        """The tables that there are."""
        return list(Source)

    @property
    def axes(self) -> list[Axis]:
        """The axes of curves that there are."""
        return list(Axis)

    @property
    def score_name(self) -> str:
        """The name of the score, for axes and headings; with that of each environment if they differ."""
        ids: dict[ScoreUnit, list[str]] = {}
        for env in dict.fromkeys(arm.config["env"]["id"] for arm in self.study.arms.values()):
            ids.setdefault(self.study.score_unit(env), []).append(env)
        if len(ids) == 1:
            return next(iter(ids)).words
        return " and ".join(f"{unit.words} in {', '.join(envs)}" for unit, envs in ids.items())

    @cached_property
    def updates(self) -> pd.DataFrame:
        """The rows of damaged files are left out, with a warning.

        Raises ConfigError if the arms' algorithms write different columns."""
        table, _, damaged = _read_cells(self.folder, UPDATES, self.cells)
        for reason in damaged.values():
            warnings.warn(f"{reason}; its rows are left out", stacklevel=2)
        return table

    @cached_property
    def has_staleness(self) -> bool:
        """Whether an arm's algorithm records how stale its updates are. Reads one header per arm at most."""
        return any("staleness" in columns_of(UPDATES, header) for header in self._update_headers())

    def _update_headers(self) -> Iterator[str]:
        for _, cells in self.cells.groupby("arm", sort=False):
            for path in _paths(self.folder, UPDATES, cells[cells["state"] == "completed"])[:1]:
                with path.open(errors="replace") as file:
                    yield file.readline().rstrip("\n")

    @property
    def arms(self) -> dict[str, str]:
        """The arms' labels by name, in the study's order."""
        return self.study.labels

    @property
    def per_step(self) -> bool:
        """Whether scores are rewards per step in all environments, else returns. The study says it, not the data."""
        units = {self.study.score_unit(arm.config["env"]["id"]) for arm in self.study.arms.values()}
        return units == {ScoreUnit.reward_per_step}

    @property
    def failures(self) -> pd.DataFrame:
        """The rows of cells that have ended without completing."""
        return self.cells[~self.cells["state"].isin(["completed", "missing", "running"])]

    def only(self, arms: list[str]) -> Sweep:
        """The same sweep with only these arms, in this order."""
        study = replace(self.study, arms={name: self.study.arms[name] for name in arms})
        cells, episodes, evaluations = (
            table[table["arm"].isin(arms)].reset_index(drop=True)
            for table in (self.cells, self.episodes, self.evaluations)
        )
        return replace(self, study=study, cells=cells, episodes=episodes, evaluations=evaluations)


@dataclass(frozen=True)
class SweepWithoutUpdates(Sweep):
    """A sweep whose updates are not known."""

    @property
    def updates(self) -> pd.DataFrame:
        return pd.DataFrame()

    @property
    def has_staleness(self) -> bool:
        return False


def load_sweep(folder: Path | str) -> Sweep:
    """Read a sweep's folder. A cell with damaged files is left out: its state is `damaged`, its reason says why.

    Raises ConfigError if it is not a sweep's folder."""
    folder = Path(folder)
    study = read_study(folder)
    cells = pd.DataFrame(
        {"arm": name, "seed": seed, **read_cell(cell_folder(folder, name, seed), arm.config, seed)}
        for name, arm in study.arms.items()
        for seed in study.seeds
    )
    cells = _asked_for(cells, study)
    damaged: dict[int, str] | None = None
    while damaged is None or damaged:
        episodes, torn_episodes, damaged = _read_cells(folder, EPISODES, cells)
        if not damaged:
            evaluations, torn_evaluations, damaged = _read_cells(folder, EVALUATIONS, cells)
        for index, reason in damaged.items():
            cells.loc[index, ["state", "reason"]] = ["damaged", reason]
    return Sweep(folder, study, cells, episodes, evaluations, torn_episodes + torn_evaluations)


def _asked_for(cells: pd.DataFrame, study: StudyFile) -> pd.DataFrame:
    """The cells without those of blocks that were never started: a study until=decided may not need them."""
    if study.until is not Until.decided or cells.empty:
        return cells
    place = cells["seed"].map({seed: place for place, seed in enumerate(study.seeds)})
    started = place.where(cells["state"] != "missing").groupby(cells["arm"]).max().fillna(0)
    blocks = cells["arm"].map(started) // study.block + 1
    return cells[place < blocks * study.block].reset_index(drop=True)


def read_cell(folder: Path, config: dict[str, Any], seed: int) -> dict[str, Any]:
    """The state of a cell: state, reason, attempts, resumes, the seconds of all attempts, and what made its
    numbers, each in words: code, machine, versions.

    state: that of its status, or of its last attempt if it has not completed; `missing` if it was never started;
    `damaged` if its status or manifest does not fit, if it is another arm's or seed's, or if it has completed and its
    tables are not what it wrote. reason: in words. config, seed: the cell's, by the study.
    note: that its cell.json is damaged, which holds no result."""
    state, reason, note, resumes, attempts = "missing", "", "", 0, list[Attempt]()
    manifest: Manifest | None = None
    try:
        attempts = read_attempts(folder)
    except ConfigError as error:
        note = str(error)
    try:
        if (status := read_status(folder)) is not None:
            state, reason = status.state, status.reason
        if state != "completed" and attempts and (outcome := attempts[-1].outcome):
            state, reason = outcome, attempts[-1].reason
        if state == "completed" or is_file(folder / MANIFEST):
            manifest = read_manifest(folder)
            resumes = len(manifest.resumes)
            if status is not None and status.state == "completed":
                refuse_changed_tables(folder, manifest, status)
            _refuse_other_cell(folder / MANIFEST, manifest.config, {**config, "seed": seed})
    except ConfigError as error:
        state, reason = "damaged", str(error)
    return {
        "state": state,
        "reason": reason,
        "note": note,
        "attempts": len(attempts),
        "resumes": resumes,
        "seconds": sum(attempt.seconds for attempt in attempts),
        **_origin(manifest),
    }


def _refuse_other_cell(path: Path, ours: dict[str, Any], needed: dict[str, Any]) -> None:
    """Raise ConfigError if a manifest's configuration is not the one that the study has for this cell."""
    if key := differing_key(ours, needed):
        here, there = ("not set" if value is None else value for value in differing_keys(ours, needed)[key])
        raise ConfigError(
            f"{path}: it is of another cell: {key} is {here} here, {there} in the study; put the cell's own folder back"
        )


def _origin(manifest: Manifest | None) -> dict[str, str]:
    """The code, the machine and the versions of a manifest, in words; empty if it does not have them."""
    if manifest is None:
        return dict.fromkeys(("code", "machine", "versions"), "")
    git, machine = manifest.git or {}, manifest.machine
    changes = f" with uncommitted changes {git.get('diff_hash', '')}".rstrip() if git.get("dirty") else ""
    versions = {"python": manifest.python, **manifest.versions}
    return {
        "code": f"{str(git['commit'])[:10]}{changes}" if git.get("commit") else "",
        "machine": ", ".join(str(machine[key]) for key in ("cpu", "cpu_features") if machine.get(key)),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
    }


def _paths(folder: Path, name: str, cells: pd.DataFrame) -> list[Path]:
    """The file of this name of each cell."""
    return [cell_folder(folder, arm, seed) / name for arm, seed in zip(cells["arm"], cells["seed"], strict=True)]


def _read_cells(folder: Path, name: str, cells: pd.DataFrame) -> tuple[pd.DataFrame, int, dict[int, str]]:
    """One table of all completed cells, the number of torn lines that were left out, and the damaged cells.

    damaged: the reason by the cell's index; their rows are left out. All rows are parsed together: for a thousand cells
    that is ten times as fast as one file at a time."""
    completed = cells[cells["state"] == "completed"]
    paths = dict(zip(completed.index, _paths(folder, name, completed), strict=True))
    damaged: dict[int, str] = {}
    files = {}
    for index, path in paths.items():
        try:
            files[index] = _whole_rows(path)
        except ConfigError as error:
            damaged[index] = str(error)
    header = next((header for header, _, _ in files.values()), _line(columns_of(name, "")))
    for index, (own_header, _, _) in files.items():
        if own_header != header:
            first = paths[next(iter(files))]
            raise ConfigError(f"{paths[index]}: its columns differ from those of {first}: the arms' algorithms differ")
    lengths = {index: rows.count(b"\n") for index, (_, rows, _) in files.items()}
    try:
        table = _parse(header + b"".join(rows for _, rows, _ in files.values()))
    except ValueError:
        table = pd.DataFrame()
    if len(table) != sum(lengths.values()):  # empty lines, which are not rows, or a file that cannot be parsed
        tables = []
        for index in list(files):
            try:
                tables.append(_read_table(paths[index])[0])
                lengths[index] = len(tables[-1])
            except ConfigError as error:
                damaged[index] = str(error)
                del files[index], lengths[index]
        table = pd.concat([_parse(header), *tables], ignore_index=True)
    at = completed.loc[list(files)]
    counts = list(lengths.values())
    table.insert(0, "arm", pd.Series(at["arm"].repeat(counts).to_numpy(), dtype="str"))
    table.insert(1, "seed", at["seed"].repeat(counts).to_numpy("int64"))
    return table, sum(torn for _, _, torn in files.values()), damaged
