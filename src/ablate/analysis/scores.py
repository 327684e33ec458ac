"""The values that are compared: one per metric, arm and seed, and what stands for a seed that failed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd

from ablate.analysis.load import Sweep
from ablate.analysis.metrics import unit
from ablate.analysis.normalisation import in_own_unit
from ablate.config.choices import Statistic
from ablate.records.study_file import StudyFile

Values = dict[tuple[str, str], pd.DataFrame]  # by metric and arm: seed, value and censored of each cell that has ended
Refusals = dict[tuple[str, str], str]  # by metric and arm: why its values cannot be compared


def values_by_arm(scores: pd.DataFrame) -> Values:
    """The rows of each metric and arm. scores: see `tables.Summary`."""
    return {(str(m), str(a)): rows for (m, a), rows in scores.groupby(["metric", "arm"], sort=False)}


def by_seed(values: Values, metric: str, arm: str) -> pd.DataFrame:
    """value and censored by seed; cells without a value are left out."""
    if (metric, arm) not in values:
        return pd.DataFrame({"value": np.empty(0), "censored": np.empty(0, bool)}, index=np.empty(0, int))
    rows = values[metric, arm]
    return rows[rows["value"].notna()].set_index("seed")[["value", "censored"]]


def of_arm(values: Values, metric: str, arm: str) -> tuple[np.ndarray, np.ndarray]:
    """An arm's values (n,), and which of them are censored; cells without a value are left out."""
    rows = by_seed(values, metric, arm)
    return rows["value"].to_numpy(), rows["censored"].to_numpy(bool)


def comparable(
    values: Values, metric: str, left: str, right: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two arms' values, and which are censored. If they are censored at different x, both are at the smaller x."""
    a, b = on_one_horizon([by_seed(values, metric, left), by_seed(values, metric, right)])
    return a["value"].to_numpy(), b["value"].to_numpy(), a["censored"].to_numpy(bool), b["censored"].to_numpy(bool)


def on_one_horizon(tables: list[pd.DataFrame]) -> list[pd.DataFrame]:
    """If values are censored at different x, all are at the smallest x. Failed cells stay infinite."""
    ends = [end for table in tables for end in table["value"][table["censored"]]]
    if not ends:
        return tables
    end = min(ends)

    def cut(rows: pd.DataFrame) -> pd.DataFrame:
        late = (rows["value"] > end) & np.isfinite(rows["value"])
        return rows.assign(value=rows["value"].mask(late, end), censored=rows["censored"] | late)

    return [cut(table) for table in tables]


def worst_score(sweep: Sweep, values: Values, metric: str, arm: str) -> float:
    """The score with which a failed seed of an arm counts in a mean. NaN if there is none.

    It is the study's floor, else the worst that was observed in the arms of the environment."""
    return worst_of(in_own_unit(sweep.study, sweep.study.arms[arm].config["env"]["id"]), values, metric, arm)


def worst_of(study: StudyFile, values: Values, metric: str, arm: str) -> float:
    """As `worst_score`, for values in the unit of the study's floor."""
    config = study.metrics[metric]
    of_scores = unit(config) == unit(study.metrics[study.metric]) == "score" and config.statistic is not Statistic.std
    if study.floor is not None and of_scores:
        return study.floor
    env = study.arms[arm].config["env"]["id"]
    arms = [name for name, other in study.arms.items() if other.config["env"]["id"] == env]
    scores = np.concatenate([by_seed(values, metric, name)["value"].to_numpy(float) for name in arms])
    scores = scores[np.isfinite(scores)]
    if len(scores) == 0:
        return np.nan
    return float(scores.max() if config.smaller_is_better else scores.min())


def count_of(sweep: Sweep, arm: str, scores: pd.Series, seeds: list[int]) -> str:
    """How many of these seeds have a score, and what became of the others."""
    seeds = sweep.study.seeds_of(arm, seeds)
    scored = int(np.isfinite(scores.reindex(seeds)).sum())
    if scored == len(seeds):
        return str(scored)
    kinds = _failures(sweep, arm, scores, seeds)
    left = len(seeds) - scored - kinds.total()
    words = [f"{count} {kind}" for kind, count in kinds.items()] + [f"{left} without a score"] * (left > 0)
    return f"{scored} of {len(seeds)} ({', '.join(words)})"


def failures_of(sweep: Sweep, values: Values, metric: str, arm: str) -> Counter[str]:
    """How many of an arm's seeds failed, or diverged in this metric, by kind."""
    return _failures(sweep, arm, by_seed(values, metric, arm)["value"], sweep.study.seeds)


def _failures(sweep: Sweep, arm: str, scores: pd.Series, seeds: list[int]) -> Counter[str]:
    cells = sweep.cells[(sweep.cells["arm"] == arm) & sweep.cells["seed"].isin(seeds)]
    diverged = set(scores.index[np.isinf(scores)])
    kinds: Counter[str] = Counter()
    for seed, state, reason in zip(cells["seed"], cells["state"], cells["reason"], strict=True):
        if state == "failed":
            kinds[_kind(str(reason))] += 1
        elif seed in diverged:
            kinds["diverged"] += 1
    return kinds


def _kind(reason: str) -> str:
    """Why a cell failed, in a word, from the reason in its cell.json."""
    known = {
        "diverged": "diverged", "hangs": "hung", "stopped after": "timed out", "lost": "lost",
        "ended at step": "ended early", "ended before its first score": "ended early",
        "no score up to": "without a score",
    }  # fmt: skip
    return next((kind for text, kind in known.items() if text in reason), "crashed")


def with_failures(sweep: Sweep, scores: pd.DataFrame) -> pd.DataFrame:
    """The metrics of all cells (metric, arm, seed, value, censored) with rows of failed cells: infinitely bad."""
    failed = sweep.cells[sweep.cells["state"] == "failed"]
    rows = [
        {"metric": metric, "arm": cell.arm, "seed": cell.seed, "censored": False,
         "value": np.inf if sweep.study.metrics[metric].smaller_is_better else -np.inf}
        for metric in scores["metric"].unique() for cell in failed.itertuples()
    ]  # fmt: skip
    return pd.concat([scores, pd.DataFrame(rows).astype(scores.dtypes)], ignore_index=True) if rows else scores


def workers(sweep: Sweep, arm: str) -> int:
    """The arm's number of workers: the number of CPUs if the configuration gives none."""
    return sweep.study.arms[arm].config["workers"] or sweep.study.provenance.cpus


def take_turns(sweep: Sweep, arm: str) -> bool:
    """Whether the arm's workers took turns in one process."""
    return sweep.study.arms[arm].config["schedule"] == "interleaved" and workers(sweep, arm) > 1


def untimed(sweep: Sweep, arm: str) -> str:
    """Why the arm's seconds are not those of processes that ran in parallel; empty if they are.

    An interleaved run with a single worker loses no time by taking turns, so its seconds are valid."""
    if sweep.foreign:
        return f"what else ran next to {arm} is not known"
    cpus, count = sweep.study.provenance.cpus, workers(sweep, arm)
    if take_turns(sweep, arm):
        return f"the workers of {arm} took turns (schedule=interleaved)"
    if sweep.study.arms[arm].config["schedule"] == "interleaved":
        return ""
    if count > cpus:
        return f"{arm} had {count} workers on {cpus} CPUs"
    return f"the processes of {arm} shared one CPU" if cpus < 2 else ""
