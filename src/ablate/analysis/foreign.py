"""Runs of other programs as a sweep, so that tables, verdicts and figures are made of them as of our own.

The rows of all runs are read at common steps (`Sweep.read_at_points`): a run that was logged more often has no
advantage."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablate.analysis.foreign_files import Rows, format_of, missing_tag, read_csv, read_events, read_monitors
from ablate.analysis.load import SweepWithoutUpdates
from ablate.analysis.statistics import MIN_SEEDS
from ablate.config.choices import Axis, RunFormat, ScoreUnit, Source
from ablate.config.judged import COUNTED, JudgedConfig
from ablate.config.schema import LARGEST_SEED, ConfigError
from ablate.config.validation import suggest
from ablate.records.study_file import Provenance, StudyArm, StudyFile

SEED_IN_PATH = (r"seed[=_-]?(\d+)", r"__(\d+)__\d+(?=/|$)")  # of many programs, and of CleanRL
COMPLETE = 0.9  # share of total_steps from which a run counts as complete: its last episode may have been cut
LIKE = 0.9  # without total_steps, the shortest run must have this share of the longest one's steps
MOST_PATHS = 6  # in a message


@dataclass(frozen=True)
class ForeignSweep(SweepWithoutUpdates):
    """Runs of other programs. Their tables have only the columns that there are."""

    source: Source
    score: str  # the name of the score
    has_times: bool
    said: list[str]  # of these runs: what limits verdicts, then what a reader must know
    foreign = True

    @property
    def caveats(self) -> list[str]:
        return self.said[:1]

    @property
    def remarks(self) -> list[str]:
        return self.said[1:]

    @property
    def sources(self) -> list[Source]:
        return [self.source]

    @property
    def axes(self) -> list[Axis]:
        by_row = [Axis.episode] if self.source is Source.episodes else []
        return [Axis.global_step, *by_row, *([Axis.wall_time_s] if self.has_times else [])]

    @property
    def score_name(self) -> str:
        return self.score


@dataclass(frozen=True)
class _Run:
    arm: str
    place: str  # its path, for messages
    rows: Rows
    seed: int | None = None
    unread: str = ""  # why there are no rows


def load_foreign(
    config: JudgedConfig, seeds: list[int] | None, runs: Path, out: Path, name: str, provenance: Provenance
) -> ForeignSweep:
    """Read the runs that the study's arms name. runs: their folder, or a CSV file. out: the folder of the report.

    seeds: those that were planned; None: those that there are. A run that ended before COMPLETE of total_steps, or
    before its first row, has failed. Raises ConfigError in one line for what cannot be read or compared."""
    if not runs.exists():
        raise ConfigError(f"--runs {runs}: no such folder or file")
    found, blank = _found(config, runs)
    _refuse_unread(config, found)
    found, counted = _with_seeds(config, found)
    remarks = list(_remarks(config, found, counted, blank))
    if seeds is not None:
        planned = [run for run in found if run.seed in seeds]
        if left := [f"{run.arm}/seed={run.seed}" for run in found if run.seed not in seeds]:
            remarks.append(f"runs that are not of sweep.seeds and are left out: {_listed(left)}")
        found = planned
    env = _environment(config, found)
    cells, tables = [], []
    for run in found:
        table, cut = _up_to(run.rows.table, config.total_steps)
        state, reason = _state(run, table, config.total_steps)
        seconds = float(table["time"].iloc[-1]) if len(table) else np.nan
        cells.append(_cell(run.arm, run.seed or 0, state, reason, seconds))
        if cut:
            remarks.append(f"{run.arm}/seed={run.seed}: {cut} rows after total_steps are left out")
        if state == "completed":
            tables.append(_as_rows(table, run, config.runs.source))
    absent = [(arm, seed) for arm in config.arms for seed in seeds or []]
    there = {(run.arm, run.seed) for run in found}
    cells += [_cell(arm, seed, "missing", "", np.nan) for arm, seed in absent if (arm, seed) not in there]
    if not tables:
        ended = next((cell for cell in cells if cell["state"] != "missing"), None)
        why = f"{ended['arm']}/seed={ended['seed']} has {ended['state']} ({ended['reason']})" if ended else ""
        why = why or f"none has one of sweep.seeds={config.seeds}"
        raise ConfigError(f"--runs {runs}: no run has completed: {why}")
    if config.total_steps is None:
        _refuse_unequal(found)
    rows = pd.concat(tables, ignore_index=True)
    source = config.runs.source or Source.episodes
    nothing = rows.iloc[:0]
    order = {arm: place for place, arm in enumerate(config.arms)}
    table = pd.DataFrame(cells)
    table = table.iloc[np.lexsort((table["seed"], table["arm"].map(order)))].reset_index(drop=True)
    sweep = ForeignSweep(
        folder=out,
        study=_study(config, table, seeds, env, name, provenance),
        cells=table,
        episodes=rows if source is Source.episodes else nothing,
        evaluations=rows if source is Source.evaluations else nothing,
        torn=sum(run.rows.torn for run in found),
        source=source,
        score=config.runs.score,
        has_times=bool(rows["wall_time_s"].notna().all()),
        said=remarks,
    )
    for metric_name, metric in config.metrics.items():
        if metric.x not in sweep.axes:
            axes = ", ".join(sweep.axes)
            raise ConfigError(f"sweep.metrics.{metric_name}.x={metric.x}: these rows do not have it; one of {axes}")
    return sweep


def _found(config: JudgedConfig, runs: Path) -> tuple[list[_Run], int]:
    """The runs of all arms, and how many rows of CSV files have no score."""
    columns = config.runs.columns
    if runs.is_file() and (columns is None or (columns.arm is None and len(config.arms) > 1)):
        raise ConfigError(
            f"sweep.runs.columns: {runs.name} needs the names of its columns: {{arm: ..., seed: ..., step: ..., "
            "score: ...}"
        )
    if config.runs.columns is not None and config.runs.columns.arm:
        return _found_in_tables(config, runs)
    found, blank = [], 0
    for arm, own in config.arms.items():
        patterns = [own.runs] if isinstance(own.runs, str) else own.runs or []
        if not patterns and not runs.is_file():
            raise ConfigError(f"sweep.arms.{arm}.runs: it is missing: a pattern of the runs' paths, such as {arm}*")
        paths = [runs] if runs.is_file() else _matches(arm, patterns, runs)
        for path in paths:
            parts, left_out = _read(arm, path, _shown(path, runs), config)
            found += parts
            blank += left_out
    _refuse_shared(found)
    return found, blank


def _found_in_tables(config: JudgedConfig, runs: Path) -> tuple[list[_Run], int]:
    """The runs of CSV files that say in a column which arm a row is of."""
    columns = config.runs.columns
    assert columns is not None
    files = [runs] if runs.is_file() else sorted(runs.glob("*.csv"))
    if not files:
        raise ConfigError(f"--runs {runs}: no *.csv in it, but sweep.runs.columns.arm={columns.arm} needs one")
    by_value: dict[str, str] = {}
    for arm, own in config.arms.items():
        for value in [own.runs] if isinstance(own.runs, str) else own.runs or [arm]:
            if value in by_value:
                raise ConfigError(f"sweep.arms.{arm}.runs={value}: it is also an arm's runs: {by_value[value]}")
            by_value[value] = arm
    found, blank, values = [], 0, list[str]()
    for file in files:
        tables, left_out = read_csv(file, columns)
        blank += left_out
        values += [value for value, _ in tables]
        found += [
            _Run(by_value[value], _shown(file, runs), rows, seed)
            for (value, seed), rows in tables.items()
            if value in by_value
        ]
    for value, arm in by_value.items():
        if value not in values:
            there = list(dict.fromkeys(values))
            raise ConfigError(
                f"sweep.arms.{arm}: column {columns.arm} has no {value}{suggest(value, there)} (there are: "
                f"{_listed(there)}); name its value as runs: <value>"
            )
    return found, blank


def _matches(arm: str, patterns: list[str], runs: Path) -> list[Path]:
    """The paths that match, in natural order. Raises ConfigError if a pattern matches nothing."""
    paths: list[Path] = []
    for pattern in patterns:
        if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
            raise ConfigError(f"sweep.arms.{arm}.runs={pattern}: a pattern starts in the folder of --runs")
        try:
            matched = [path for path in runs.glob(pattern.rstrip("/")) if not path.name.startswith(".")]
        except (ValueError, IndexError, NotImplementedError) as error:
            raise ConfigError(f"sweep.arms.{arm}.runs={pattern}: no pattern of paths, such as {arm}_*") from error
        if not matched:
            there = _listed([path.name for path in _natural(list(runs.iterdir())) if not path.name.startswith(".")])
            raise ConfigError(f"sweep.arms.{arm}.runs={pattern}: nothing in {runs} matches (there are: {there})")
        paths += [path for path in matched if path not in paths]
    return _natural(paths)


def _natural(paths: list[Path]) -> list[Path]:
    """In the order of their names, with numbers by their size."""
    return sorted(paths, key=lambda path: [(not part.isdigit(), int(part) if part.isdigit() else 0, part)
                                           for part in re.split(r"(\d+)", str(path))])  # fmt: skip


def _read(arm: str, path: Path, place: str, config: JudgedConfig) -> tuple[list[_Run], int]:
    """The run in a folder or a file, or the runs in a CSV file with a column of seeds."""
    kind = format_of(path, config.runs.format or (RunFormat.tensorboard if config.runs.tag else None))
    if kind is RunFormat.tensorboard:
        rows = read_events(path, config.runs.tag)
        unread = missing_tag(place, config.runs.tag, rows.tags) if not rows.tag and rows.tags else ""
        return [_Run(arm, place, rows, unread=unread)], 0
    if kind is RunFormat.monitor:
        return [_Run(arm, place, read_monitors(path))], 0
    if kind is RunFormat.csv and config.runs.columns is not None:
        tables, blank = read_csv(path, config.runs.columns)
        return [_Run(arm, place, rows, seed) for (_, seed), rows in tables.items()], blank
    if kind is RunFormat.csv:
        raise ConfigError(f"sweep.runs.columns: {place} needs the names of its columns: {{step: ..., score: ...}}")
    wanted = {None: "monitor.csv or event file", RunFormat.csv: "CSV file; a pattern must match the files themselves"}
    kind_given = config.runs.format or (RunFormat.tensorboard if config.runs.tag else None)
    what = wanted.get(kind_given, "monitor.csv" if kind_given is RunFormat.monitor else "event file")
    raise ConfigError(f"sweep.arms.{arm}.runs: {place} has no {what}")


def _refuse_shared(found: list[_Run]) -> None:
    """Raise ConfigError if two arms have the same run: it would be compared with itself."""
    arms: dict[str, str] = {}
    for run in found:
        if (other := arms.setdefault(run.place, run.arm)) != run.arm:
            raise ConfigError(f"sweep.arms.{run.arm}.runs: {run.place} is also a run of the arm {other}")


def _refuse_unread(config: JudgedConfig, found: list[_Run]) -> None:
    """Raise ConfigError if no run of an arm has a row, or if runs have rows of different tags."""
    for arm in config.arms:
        own = [run for run in found if run.arm == arm]
        if all(run.rows.table.empty for run in own):
            reason = next((run.unread for run in own if run.unread), "")
            raise ConfigError(reason or f"sweep.arms.{arm}.runs: no run has a row: {_listed([r.place for r in own])}")
    tags = {run.rows.tag: run for run in reversed(found) if run.rows.tag}
    if len(tags) > 1:
        listed = "; ".join(f"{run.place}: {tag}" for tag, run in tags.items())
        raise ConfigError(f"sweep.runs.tag: the runs have different ones ({listed}); give one that all have")


def _with_seeds(config: JudgedConfig, found: list[_Run]) -> tuple[list[_Run], bool]:
    """The runs with their seeds, from a column or from their paths, and whether they had to be counted."""
    patterns = SEED_IN_PATH if config.runs.seed in (None, COUNTED) else (config.runs.seed,)
    for pattern in patterns:
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ConfigError(f"sweep.runs.seed={pattern}: no regular expression ({error})") from error
        if groups != 1:
            raise ConfigError(f"sweep.runs.seed={pattern}: it needs one group, as in seed(\\d+)")
    places = [run.place for run in found]
    given: list[int | None] = [run.seed for run in found]
    if all(seed is None for seed in given) and config.runs.seed != COUNTED:
        for pattern in patterns:
            given = [_last_number(pattern, place) for place in places]
            if any(seed is not None for seed in given):
                break
    if any(seed is not None for seed in given) and None in given:
        raise ConfigError(
            f"{places[given.index(None)]}: no seed in its path, but others have one; give sweep.runs.seed, a regular "
            f"expression with one group, or sweep.runs.seed: {COUNTED}"
        )
    if config.runs.seed not in (None, COUNTED) and None in given:
        raise ConfigError(f"sweep.runs.seed={config.runs.seed}: it is not found in {places[0]}")
    if counted := None in given:
        numbers = {arm: itertools.count(1) for arm in config.arms}
        given = [next(numbers[run.arm]) for run in found]
    seen: dict[tuple[str, int | None], str] = {}
    for run, seed in zip(found, given, strict=True):
        if seed is not None and seed > LARGEST_SEED:
            raise ConfigError(f"{run.place}: seed {seed}: a seed is a whole number from 0 to {LARGEST_SEED}")
        if other := seen.get((run.arm, seed)):
            raise ConfigError(
                f"sweep.arms.{run.arm}.runs: {other} and {run.place} both have seed {seed}; give sweep.runs.seed, or "
                f"a narrower pattern (sweep.runs.seed: {COUNTED} takes both)"
            )
        seen[run.arm, seed] = run.place
    return [replace(run, seed=seed) for run, seed in zip(found, given, strict=True)], counted


def _last_number(pattern: str, text: str) -> int | None:
    matches = re.findall(pattern, text)
    try:
        return int(matches[-1]) if matches else None
    except ValueError as error:
        raise ConfigError(f"sweep.runs.seed={pattern}: in {text} it gives {matches[-1]}, no number") from error


def _environment(config: JudgedConfig, found: list[_Run]) -> str:
    """The id of the environment. Raises ConfigError if the runs' files name several."""
    ids: dict[str, _Run] = {}
    for run in found:
        if run.rows.env:
            ids.setdefault(run.rows.env, run)
    if config.env:
        ids.setdefault(config.env, found[0])
    if len(ids) > 1:
        (one, first), (other, second) = list(ids.items())[:2]
        where = f"{first.place} is of {one}, " + (
            f"sweep.env={config.env}" if other == config.env else f"{second.place} of {other}"
        )
        raise ConfigError(f"{where}: scores of different environments have different units")
    return next(iter(ids), "")


def _up_to(table: pd.DataFrame, total_steps: int | None) -> tuple[pd.DataFrame, int]:
    """The rows up to total_steps, and how many come after it."""
    if total_steps is None:
        return table, 0
    inside = table["step"] <= total_steps
    return table[inside].reset_index(drop=True), int((~inside).sum())


def _state(run: _Run, table: pd.DataFrame, total_steps: int | None) -> tuple[str, str]:
    """Whether a run has completed, and else why it counts as failed. table: its rows up to total_steps."""
    if run.rows.table.empty:
        return "failed", f"ended before its first score{f' ({run.unread})' if run.unread else f' ({run.place})'}"
    if table.empty:
        return "failed", f"no score up to step {total_steps:,} ({run.place})"
    last = float(run.rows.table["step"].iloc[-1])
    if total_steps is not None and last < COMPLETE * total_steps:
        return "failed", f"ended at step {last:,.0f} of {total_steps:,} ({run.place})"
    return "completed", ""


def _refuse_unequal(found: list[_Run]) -> None:
    """Raise ConfigError if a run is much shorter than another: whether it failed is not known."""
    lasts = {run.rows.table["step"].iloc[-1]: run for run in found if len(run.rows.table)}
    shortest, longest = min(lasts), max(lasts)
    if shortest < LIKE * longest:
        raise ConfigError(
            f"{lasts[shortest].place} ends at step {shortest:,.0f}, {lasts[longest].place} at {longest:,.0f}; give "
            "sweep.total_steps: a run that ends earlier counts as failed, and later rows are left out"
        )


def _as_rows(table: pd.DataFrame, run: _Run, source: Source | None) -> pd.DataFrame:
    """The rows of a run with the columns of our own tables. Evaluation episodes at the same step are one evaluation."""
    evaluation = table["step"].rank(method="dense").astype(int)
    rows = np.arange(1, len(table) + 1)
    return pd.DataFrame({
        "arm": pd.Series([run.arm] * len(table), dtype="str"), "seed": run.seed, "global_step": table["step"],
        "wall_time_s": table["time"], "episodic_return": table["score"], "episodic_length": np.nan,
        "mean_step_reward": np.nan, "update": 0, "evaluation": evaluation, "horizon": 0, "protocol": "",
        "episode": table.groupby(evaluation).cumcount() + 1 if source is Source.evaluations else rows,
    })  # fmt: skip


def _cell(arm: str, seed: int, state: str, reason: str, seconds: float) -> dict[str, Any]:
    return {"arm": arm, "seed": seed, "state": state, "reason": reason, "note": "", "attempts": int(state != "missing"),
            "resumes": 0, "seconds": seconds, "code": "", "machine": "", "versions": ""}  # fmt: skip


def _study(
    config: JudgedConfig, cells: pd.DataFrame, seeds: list[int] | None, env: str, name: str, provenance: Provenance
) -> StudyFile:
    own = {arm: sorted(map(int, rows["seed"])) for arm, rows in cells.groupby("arm")}
    values: dict[str, Any] = {
        "algo": {"name": ""}, "env": {"id": env, "kwargs": {}, "max_ep_step": None}, "workers": 1,
        "schedule": "unknown", "max_episodes": None, "total_steps": config.total_steps,
    }  # fmt: skip
    arms = {}
    for arm, given in config.arms.items():
        patterns = [given.runs] if isinstance(given.runs, str) else given.runs or [arm]
        arms[arm] = StudyArm(
            label=given.label,
            overrides=[f"runs={pattern}" for pattern in patterns],
            identity="",
            config=values,
            seeds=None if seeds is not None else own[arm],
        )
    return StudyFile(
        name=name, question=config.question, baseline=config.baseline or next(iter(arms)), metric=config.metric,
        metrics=config.metrics, smallest_effect=config.smallest_effect, claims=config.claims, arms=arms,
        seeds=sorted({seed for listed in own.values() for seed in listed}), provenance=provenance, floor=config.floor,
        score_units={env: ScoreUnit.episodic_return}, figures=config.figures,
    )  # fmt: skip


def _remarks(config: JudgedConfig, found: list[_Run], counted: bool, blank: int) -> Iterator[str]:
    """What a reader must know of these runs."""
    tags = {run.rows.tag for run in found if run.rows.tag}
    of_tag = f", by the tag {next(iter(tags))}" if tags else ""
    if config.runs.source is Source.episodes:
        means = "means over the last training episodes" if "ep_rew_mean" in of_tag else "those of training episodes"
        yield (
            f"the scores are {means}, as the programs of these runs logged them{of_tag}: exploration is part of them, "
            "and no frozen policy was evaluated"
        )
    else:
        yield f"the scores are evaluations as the programs of these runs logged them{of_tag}: how is not known here"
    yield "other programs made these runs: their code, versions, machines and settings were not compared"
    few = {arm: count for arm in config.arms if (count := sum(run.arm == arm for run in found)) < MIN_SEEDS}
    if few:
        listed = ", ".join(f"{arm} ({count})" for arm, count in few.items())
        yield f"arms with fewer than {MIN_SEEDS} runs have no intervals, and no claim about them is decided: {listed}"
    if counted:
        yield "the runs of each arm are numbered in the order of their names: their seeds are not known"
    if blank:
        yield f"rows of CSV files without a score, which are left out: {blank}"


def _shown(path: Path, runs: Path) -> str:
    return path.name if path == runs else str(path.relative_to(runs))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MOST_PATHS} more" if len(names) > MOST_PATHS else ""
    return f"{', '.join(names[:MOST_PATHS])}{more}" or "nothing"
