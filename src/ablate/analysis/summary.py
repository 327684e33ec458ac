"""A sweep's tables and its verdict on each claim."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from ablate.analysis.load import Sweep


@dataclass(frozen=True)
class Verdict:
    """What the sweep says about one claim."""

    id: str
    words: str
    metric: str
    inequality: str  # arm < | > | ~ arm, of the metric's values
    verdict: str  # supported, contradicted, inconclusive, not testable here
    effect: float  # first arm minus second, in the metric's unit
    low: float
    high: float
    n: str  # of both arms: "30, 30"
    seeds_needed: int | None  # an arm, for the interval's half-width to pass under the study's smallest_effect
    reason: str  # a sentence


@dataclass(frozen=True)
class Summary:
    """All that tables, verdict.md and the report say. Intervals are 95 %; NaN under 5 seeds.

    scores: metric, arm, seed, value, censored.
    arms: metric, arm, label, n, n_planned, n_failed, n_missing, n_diverged, n_censored, mean, mean_low, mean_high,
    median, median_low, median_high, iqm, iqm_low, iqm_high, spread.
    comparisons: metric, arm, baseline, n, n_baseline, and of arm against baseline: difference, ratio,
    probability_of_improvement, cliffs_delta, each with _low and _high; welch_p, welch_p_holm, permutation_p,
    permutation_p_holm.
    speed_ups: metric, arm, baseline, workers, n, n_censored, n_baseline, n_baseline_censored, speed_up, low, high.
    stability: arm, collapsed, n, spread."""

    sweep: Sweep
    scores: pd.DataFrame
    arms: pd.DataFrame
    comparisons: pd.DataFrame
    speed_ups: pd.DataFrame
    stability: pd.DataFrame
    verdicts: list[Verdict]
    notes: list[str]


def summarise(sweep: Sweep) -> Summary:
    """Every metric of the study, arm by arm and against the baseline, and the claims' verdicts."""
    raise NotImplementedError


def write_tables(summary: Summary) -> None:
    """Write summary.csv, verdict.md and export.npz into the sweep's folder."""
    raise NotImplementedError
