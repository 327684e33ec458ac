"""What is kept of a sweep whose cells are deleted: a few small files, from which its figures can be drawn again."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ablate.analysis.load import DTYPES, Sweep, SweepWithoutUpdates, load_sweep
from ablate.analysis.metrics import environments, episode_scores, evaluation_scores
from ablate.analysis.summary import SEEDS, summarise
from ablate.analysis.tables import Summary
from ablate.config.choices import Axis, Source
from ablate.config.schema import ConfigError
from ablate.records.files import read_file, replace_atomically
from ablate.records.schema import STUDY, VERDICTS
from ablate.records.study_file import read_study

CURVES = "curves.npz"
COPIED = (STUDY, SEEDS, "summary.csv", VERDICTS)
CELLS = ("arm", "seed", "state", "reason")  # columns that are kept of `Sweep.cells`


@dataclass(frozen=True)
class KeptSweep(SweepWithoutUpdates):
    """A sweep of which only CURVES is there. An evaluation has one row, whose `episodic_return` is its score."""

    @property
    def sources(self) -> list[Source]:
        tables = {Source.evaluations: self.evaluations, Source.episodes: self.episodes}
        return [source for source, table in tables.items() if len(table)]

    @property
    def axes(self) -> list[Axis]:
        return [Axis.global_step]


def keep(folder: Path, into: Path, episodes: bool = False) -> None:
    """Copy the small files of a sweep's folder, and write CURVES next to them.

    episodes: whether training episodes are kept too, of which there are many; their scores are rounded to float32.
    Raises ConfigError if a file is missing, OSError if one cannot be written."""
    sweep = load_sweep(folder)
    into.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        if (content := read_file(folder / name)) is None:
            raise ConfigError(f"{folder}: it has no {name}; python src/plot.py {folder} writes it")
        replace_atomically(into / name, content)
    tables = {"cells": sweep.cells[[*CELLS]], "evaluations": _evaluations(sweep)}
    if episodes:
        tables["episodes"] = _episodes(sweep)
    arrays = {
        f"{name}.{column}": values.to_numpy("U") if values.dtype == "str" else values.to_numpy()
        for name, table in tables.items()
        for column, values in table.items()
    }
    curves = io.BytesIO()
    np.savez_compressed(curves, **arrays)  # type: ignore[arg-type]
    replace_atomically(into / CURVES, curves.getvalue())


def _evaluations(sweep: Sweep) -> pd.DataFrame:
    """One row per evaluation: arm, seed, evaluation, global_step, score, horizon, protocol."""
    by = ["arm", "seed", "evaluation"]
    parts = []
    for part in environments(sweep).values():
        limits = part.evaluations.groupby(by, sort=False)[["horizon", "protocol"]].first()
        scores = evaluation_scores(part)[[*by, "global_step", "score"]].join(limits.astype({"horizon": "float64"}), by)
        parts.append(scores)
    return pd.concat(parts, ignore_index=True)


def _episodes(sweep: Sweep) -> pd.DataFrame:
    """One row per training episode: arm, seed, episode, global_step, score."""
    parts = [episode_scores(part).drop(columns="wall_time_s") for part in environments(sweep).values()]
    return pd.concat(parts, ignore_index=True).astype({"score": "float32"})


def load_kept(folder: Path) -> Summary:
    """The summary of a kept sweep. Its metrics are those in SEEDS; without CURVES, it has no curve.

    Raises ConfigError if a file is missing or damaged."""
    study = read_study(folder)
    if (content := read_file(folder / SEEDS)) is None:
        raise ConfigError(f"{folder}: it has no {SEEDS}")
    scores = pd.read_csv(io.BytesIO(content))
    arrays = _arrays(folder / CURVES)

    cells = _table(arrays, "cells", CELLS)
    if cells.empty:
        cells = scores[["arm", "seed"]].drop_duplicates(ignore_index=True).assign(state="completed", reason="")
    cells = cells.assign(note="", attempts=1, resumes=0, seconds=0.0, code="", machine="", versions="")
    evaluations = _table(
        arrays, "evaluations", ("arm", "seed", "evaluation", "global_step", "horizon", "protocol", "score")
    )
    evaluations = evaluations.rename(columns={"score": "episodic_return"})
    evaluations = evaluations.assign(update=0, wall_time_s=np.nan, episode=1, episodic_length=1)
    episodes = _table(arrays, "episodes", ("arm", "seed", "episode", "global_step", "score"))
    score = episodes.pop("score").astype("float64")
    episodes = episodes.assign(episodic_return=score, mean_step_reward=score, wall_time_s=np.nan, terminated=False)
    return summarise(KeptSweep(folder, study, cells, episodes, evaluations, torn=0), scores)


def _table(arrays: dict[str, np.ndarray], name: str, columns: tuple[str, ...]) -> pd.DataFrame:
    """The table of this name in CURVES, without rows if it was not kept."""
    table = pd.DataFrame({column: arrays.get(f"{name}.{column}", np.empty(0)) for column in columns})
    return table.astype({"arm": "str", "seed": "int64", **{c: kind for c, kind in DTYPES.items() if c in columns}})


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if (content := read_file(path)) is None:
        return {}
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            return dict(file)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path}: damaged: {' '.join(str(error).split())}") from error
