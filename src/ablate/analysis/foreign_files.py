"""Files of runs that other programs made: monitor.csv of stable-baselines3, event files, and CSV files.

Each gives the rows of runs: step, score, time (seconds since the run's start, or NaN), sorted by step."""

from __future__ import annotations

import io
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ablate.config.choices import RunFormat
from ablate.config.judged import ColumnsConfig
from ablate.config.schema import LARGEST_SEED, ConfigError
from ablate.config.validation import suggest
from ablate.records.files import read_file

TAGS = ("charts/episodic_return", "rollout/ep_rew_mean")  # CleanRL's, and stable-baselines3's, of training
WORDS = {
    RunFormat.monitor: "monitor.csv",
    RunFormat.tensorboard: "tfevents",
    RunFormat.csv: ".csv",
}  # in names of files
MOST_NAMES = 8  # of tags or columns in a message


@dataclass(frozen=True)
class Rows:
    """The rows of one run; none if it ended before the first."""

    table: pd.DataFrame  # step, score, time
    env: str = ""  # the environment's id, if the file has it
    tag: str = ""  # of event files: the one that was read
    tags: tuple[str, ...] = ()  # of event files: all
    torn: int = 0  # last lines that were cut short and are left out


def format_of(path: Path, given: RunFormat | None) -> RunFormat | None:
    """The format of a run's folder or file, by its names; None if there is no such file."""
    names = [path.name] if path.is_file() else [file.name for file in path.iterdir() if file.is_file()]
    kinds = [RunFormat.monitor, RunFormat.tensorboard, *([RunFormat.csv] if path.is_file() else [])]
    there = [kind for kind in kinds if any(WORDS[kind] in name for name in names)]
    return given if given in there else there[0] if there and given is None else None


def read_monitors(path: Path) -> Rows:
    """monitor.csv, or all such files of a folder: a run has one per environment.

    As in stable-baselines3's `load_results`, the rows of several environments are put in the order of their times. The
    step of a row is the sum of all lengths up to it (`ts2xy`)."""
    tables, envs, starts, torn = [], [], [], 0
    for file in [path] if path.is_file() else sorted(p for p in path.iterdir() if p.name.endswith("monitor.csv")):
        lines, is_torn = _whole_lines(file)
        torn += is_torn
        first, _, rows = lines.partition(b"\n")
        if not first:
            continue
        try:
            facts = json.loads(first.removeprefix(b"#"))
            starts.append(float(facts["t_start"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{file}: no monitor.csv: its first line must be #{{JSON}} with t_start") from error
        envs += [str(facts["env_id"])] if facts.get("env_id") not in (None, "None") else []
        table = _numbers(file, _table(file, rows, ["r", "l", "t"]), {"score": "r", "length": "l", "time": "t"})
        tables.append(table.assign(time=table["time"] + starts[-1]))
    if len(set(envs)) > 1:
        raise ConfigError(f"{path}: its files are of different environments: {', '.join(sorted(set(envs)))}")
    if not tables:
        return Rows(_NOTHING, torn=torn)
    merged = pd.concat(tables, ignore_index=True).sort_values("time", kind="stable", ignore_index=True)
    table = pd.DataFrame(
        {"step": merged["length"].cumsum(), "score": merged["score"], "time": merged["time"] - min(starts)}
    )
    return Rows(_sorted(path, table), env=envs[0] if envs else "", torn=torn)


def read_events(path: Path, tag: str | None) -> Rows:
    """The scalars of one tag in the event files of a folder, or in one such file. tag=None: the first of TAGS.

    A tag that is not there gives no rows: `Rows.tags` says which there are."""
    from tensorboard.backend.event_processing import event_accumulator, tag_types
    from tensorboard.util.tensor_util import make_ndarray

    logging.getLogger("tensorboard").setLevel(logging.CRITICAL)  # a file that was cut short is read up to there
    accumulator = event_accumulator.EventAccumulator(
        str(path), size_guidance={tag_types.SCALARS: 0, tag_types.TENSORS: 0, tag_types.IMAGES: 1, tag_types.AUDIO: 1}
    )
    try:
        accumulator.Reload()
    except Exception as error:  # whatever tensorboard meets in a stranger's file
        raise ConfigError(f"{path}: tensorboard cannot read it ({' '.join(str(error).split())[:100]})") from error
    names = accumulator.Tags()
    tags = tuple(sorted({*names[tag_types.SCALARS], *names[tag_types.TENSORS]}))
    chosen = tag or next((name for name in TAGS if name in tags), "")
    if chosen in names[tag_types.SCALARS]:
        rows = [(event.step, event.value, event.wall_time) for event in accumulator.Scalars(chosen)]
    elif chosen in names[tag_types.TENSORS]:  # what TensorFlow 2 writes
        events = [(event, make_ndarray(event.tensor_proto)) for event in accumulator.Tensors(chosen)]
        try:
            rows = [(event.step, float(value.item()), event.wall_time) for event, value in events]
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{path}: the tag {chosen} is no scalar") from error
    else:
        return Rows(_NOTHING, tags=tags)
    table = pd.DataFrame(rows, columns=["step", "score", "time"]).astype(float)
    begun = accumulator.FirstEventTimestamp()
    return Rows(_sorted(path, table.assign(time=table["time"] - begun)), tag=chosen, tags=tags)


def read_csv(path: Path, columns: ColumnsConfig) -> tuple[dict[tuple[str, int | None], Rows], int]:
    """The runs of a CSV file by arm and seed ("" and None without such a column), and how many rows have no score.

    An empty score was not logged, and its row is left out; `nan` is a score that is not finite."""
    content, torn = _whole_lines(path, complete=True)
    named = {name: column for name, column in vars(columns).items() if isinstance(column, str)}
    text = _table(path, content, list(named.values()))
    blank = text[columns.score].isna()
    text = text[~blank]
    table = _numbers(path, text, {name: named[name] for name in ("step", "score", "time", "seed") if name in named})
    if "time" not in table:
        table["time"] = np.nan
    table["arm"] = text[columns.arm].str.strip() if columns.arm else ""
    if columns.arm and (empty := table["arm"].isna()).any():
        raise ConfigError(f"{path}: row {_row(text, empty)}: column {columns.arm} is empty")
    if columns.seed:
        whole = table["seed"].between(0, min(LARGEST_SEED, 2**53)) & (table["seed"] % 1 == 0)
        if not whole.all():
            row, value = _row(text, ~whole), text[columns.seed][~whole].iloc[0]
            raise ConfigError(f"{path}: row {row}: column {columns.seed}={value}: a seed is a whole number from 0")
    runs = {}
    for _, rows in table.groupby(["arm", "seed"] if columns.seed else "arm", sort=False):
        arm, seed = str(rows["arm"].iloc[0]), int(rows["seed"].iloc[0]) if columns.seed else None
        runs[arm, seed] = Rows(_sorted(path, rows[["step", "score", "time"]]), torn=torn)
    return runs, int(blank.sum())


_NOTHING = pd.DataFrame({"step": [], "score": [], "time": []}, dtype=float)


def missing_tag(path: str, tag: str | None, tags: tuple[str, ...]) -> str:
    """Why no rows were read of event files, with the tags that there are."""
    wanted = f"no tag {tag}" if tag else f"none of the tags {', '.join(TAGS)}; give sweep.runs.tag"
    near = suggest(tag, list(tags)) if tag else ""
    shown = sorted(tags, key=lambda name: (not any(word in name for word in ("ret", "rew", "score")), name))
    more = f" and {len(tags) - MOST_NAMES} more" if len(tags) > MOST_NAMES else ""
    return f"{path}: {wanted}{near} (there are: {', '.join(shown[:MOST_NAMES])}{more})"


def _whole_lines(path: Path, complete: bool = False) -> tuple[bytes, int]:
    """The content up to its last newline, and whether a part of a line follows, which a killed program left.

    complete: the last line may lack its newline, because an editor or a spreadsheet wrote the file."""
    content = read_file(path) or b""
    if complete:
        return content, 0
    whole, newline, rest = content.rpartition(b"\n")
    return whole + newline, int(rest != b"")


def _table(path: Path, content: bytes, needed: list[str]) -> pd.DataFrame:
    """The needed columns as text; an empty cell is NaN. Raises ConfigError if one is missing."""
    if not content.strip():
        raise ConfigError(f"{path}: it is empty")
    try:
        table = pd.read_csv(
            io.BytesIO(content), dtype=str, keep_default_na=False, na_values=[""], skipinitialspace=True,
            encoding="utf-8-sig", index_col=False,
        )  # fmt: skip
    except (ValueError, UnicodeDecodeError) as error:  # pandas' ParserError is a ValueError
        raise ConfigError(f"{path}: no CSV that can be read ({' '.join(str(error).split())})") from error
    there = [str(name) for name in table.columns]
    for name in needed:
        if name not in there:
            more = f" and {len(there) - MOST_NAMES} more" if len(there) > MOST_NAMES else ""
            listed = f"{', '.join(there[:MOST_NAMES])}{more}"
            raise ConfigError(f"{path}: no column {name}{suggest(name, there)} (there are: {listed})")
    return table[needed]


def _numbers(path: Path, text: pd.DataFrame, columns: dict[str, str]) -> pd.DataFrame:
    """These columns as numbers, by new name. Raises ConfigError with the first line that is no number."""
    numbers = {}
    for name, column in columns.items():
        values = pd.to_numeric(text[column], errors="coerce").astype(float)
        words = text[column].str.strip().str.lower()
        wrong = values.isna() & ~words.isin(["nan", "+nan", "-nan"])
        if name != "score":
            wrong |= ~np.isfinite(values)
        if name == "length":
            wrong |= ~(values > 0)
        if wrong.any():
            value = text[column][wrong].iloc[0]
            what = "an episode's length, above 0," if name == "length" else "a number"
            shown = "nothing" if pd.isna(value) else repr(str(value)[:40])
            raise ConfigError(f"{path}: row {_row(text, wrong)}: column {column} has {shown}; {what} is needed")
        numbers[name] = values
    return pd.DataFrame(numbers)


def _row(text: pd.DataFrame, wrong: pd.Series) -> int:
    """The number of the first such row below the names of the columns, from 1."""
    return int(np.asarray(text.index)[wrong.to_numpy(bool)][0]) + 1  # rows without a score count, too


def _sorted(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    if (table["step"] < 0).any():
        raise ConfigError(f"{path}: step {table['step'].min():g}: steps are counted from 0")
    return table.sort_values("step", kind="stable", ignore_index=True)
