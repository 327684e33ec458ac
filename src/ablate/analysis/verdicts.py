"""The verdict on a claim: an inequality between two arms' values of a metric."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ablate.analysis import statistics
from ablate.analysis.load import Sweep
from ablate.analysis.metrics import unit
from ablate.analysis.statistics import MIN_SEEDS, Interval
from ablate.config.schema import ClaimConfig

SUPPORTED, CONTRADICTED, INCONCLUSIVE = "supported", "contradicted", "inconclusive"
NOT_TESTABLE = "not testable here"

Values = dict[tuple[str, str], pd.DataFrame]  # by metric and arm: value and censored of each cell
Refusals = dict[tuple[str, str], str]  # by metric and arm: why its values cannot be compared


@dataclass(frozen=True)
class Verdict:
    """The verdict on one claim."""

    id: str
    words: str
    metric: str
    inequality: str  # <arm> <, > or ~ <arm>, between the metric's values
    verdict: str  # supported, contradicted, inconclusive, or not testable here
    effect: float  # mean of the first arm minus the second; Cliff's δ if cells diverged, as the reason then says
    low: float
    high: float
    n: str  # seeds of both arms: "30, 30"
    seeds_needed: int | None  # per arm, for an interval of at most ± the study's smallest_effect
    reason: str  # a sentence


def judge(sweep: Sweep, values: Values, refusals: Refusals, claim: ClaimConfig) -> Verdict:
    """The verdict on one of the study's claims."""
    left, relation, right = claim.inequality.split()
    a, b, censored_a, censored_b = comparable(values, claim.metric, left, right)
    finite_a, finite_b = a[np.isfinite(a)], b[np.isfinite(b)]
    effect = statistics.difference(finite_a, finite_b)
    what = "difference of the means"
    if len(finite_a) + len(finite_b) < len(a) + len(b):
        # A mean over the remaining cells would favour the arm whose cells diverged.
        effect = statistics.cliffs_delta(a, b)
        what = f"Cliff's δ (cells diverged, {len(a) - len(finite_a)} and {len(b) - len(finite_b)}: they rank last)"
    elif censored_a.any() or censored_b.any():
        what = (
            f"difference of the restricted means ({censored_a.sum()} and {censored_b.sum()} cells had not reached the "
            "score by the end)"
        )
    smallest_effect = _smallest_effect(sweep, claim.metric)
    if obstacle := _obstacle(sweep, refusals, claim, left, right):
        verdict, reason = NOT_TESTABLE, obstacle
    elif min(len(a), len(b)) < MIN_SEEDS or np.isnan(effect.low):
        verdict, reason = INCONCLUSIVE, f"n too small for an interval: at least {MIN_SEEDS} seeds per arm are needed"
    elif censored_a.all() and censored_b.all():
        verdict, reason = INCONCLUSIVE, "no cell of either arm reached the score"
    elif relation == "~" and smallest_effect is None:
        verdict, reason = INCONCLUSIVE, "a claim of equality needs sweep.smallest_effect in this metric's unit"
    elif relation == "~" and what.startswith("Cliff"):
        verdict, reason = INCONCLUSIVE, f"a claim of equality is about means, and there is only {what}"
    else:
        verdict, reason = _decide(effect, relation, None if what.startswith("Cliff") else smallest_effect, what)
    needed = statistics.seeds_needed(finite_a, finite_b, smallest_effect) if smallest_effect else None
    n = f"{len(a)}, {len(b)}"
    return Verdict(claim.id, claim.words, claim.metric, claim.inequality, verdict, *effect, n, needed, reason)


def _decide(effect: Interval, relation: str, smallest_effect: float | None, what: str) -> tuple[str, str]:
    """Verdict and reason, from where the interval is: on one side of 0, across 0, or within ± smallest_effect."""
    interval = f"the interval of the {what}, {number(effect.low)} to {number(effect.high)},"
    small = smallest_effect is not None and max(-effect.low, effect.high) < smallest_effect
    if relation == "~":
        assert smallest_effect is not None
        if small:
            return SUPPORTED, f"{interval} is within ±{smallest_effect:g}"
        if max(effect.low, -effect.high) > smallest_effect:
            return CONTRADICTED, f"{interval} is outside ±{smallest_effect:g}"
        return INCONCLUSIVE, f"{interval} crosses a limit of ±{smallest_effect:g}"
    if effect.low <= 0 <= effect.high:
        return INCONCLUSIVE, f"{interval} contains 0"
    side = "below" if effect.high < 0 else "above"
    slight = f", but within ±{smallest_effect:g}: the difference is too small to matter" if small else ""
    return SUPPORTED if (side == "below") == (relation == "<") else CONTRADICTED, f"{interval} is {side} 0{slight}"


def _obstacle(sweep: Sweep, refusals: Refusals, claim: ClaimConfig, left: str, right: str) -> str:
    """Why this sweep cannot test the claim; empty if it can."""
    for arm in (left, right):
        if arm not in sweep.arms:
            return f"the study has no arm {arm}"
        if (claim.metric, arm) in refusals:
            return refusals[claim.metric, arm]
    if claim.metric not in sweep.study.metrics:
        return f"the study has no metric {claim.metric}"
    ids = [sweep.study.arms[arm].config["env"]["id"] for arm in (left, right)]
    if ids[0] != ids[1]:
        return f"scores of {ids[0]} and {ids[1]} have different units"
    if claim.real_time and (why := untimed(sweep, left) or untimed(sweep, right)):
        return f"it is about real time, and {why}"
    return ""


def _smallest_effect(sweep: Sweep, metric: str) -> float | None:
    """The study's smallest_effect, if this metric has the unit of the primary metric."""
    study = sweep.study
    if metric not in study.metrics or study.metric not in study.metrics:
        return None
    same_unit = unit(study.metrics[metric]) == unit(study.metrics[study.metric])
    return study.smallest_effect if same_unit else None


def number(value: float) -> str:
    """Four significant digits, or all digits of a large whole number; a dash for NaN."""
    if np.isnan(value):
        return "-"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e12 else f"{value:.4g}"


def workers(sweep: Sweep, arm: str) -> int:
    """The arm's number of workers: the number of CPUs if the configuration gives none."""
    return sweep.study.arms[arm].config["workers"] or sweep.study.provenance.cpus


def take_turns(sweep: Sweep, arm: str) -> bool:
    """Whether the arm's workers took turns in one process."""
    return sweep.study.arms[arm].config["schedule"] == "interleaved" and workers(sweep, arm) > 1


def untimed(sweep: Sweep, arm: str) -> str:
    """Why the arm's seconds are not those of processes that ran in parallel; empty if they are.

    An interleaved run with a single worker loses no time by taking turns, so its seconds are valid."""
    cpus, count = sweep.study.provenance.cpus, workers(sweep, arm)
    if take_turns(sweep, arm):
        return f"the workers of {arm} took turns (schedule=interleaved)"
    if sweep.study.arms[arm].config["schedule"] == "interleaved":
        return ""
    if count > cpus:
        return f"{arm} had {count} workers on {cpus} CPUs"
    return f"the processes of {arm} shared one CPU" if cpus < 2 else ""


def of_arm(values: Values, metric: str, arm: str) -> tuple[np.ndarray, np.ndarray]:
    """An arm's values (n,), and which of them are censored; cells without a value are left out."""
    if (metric, arm) not in values:
        return np.empty(0), np.empty(0, bool)
    rows = values[metric, arm]
    rows = rows[rows["value"].notna()]
    return rows["value"].to_numpy(), rows["censored"].to_numpy()


def comparable(
    values: Values, metric: str, left: str, right: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two arms' values, and which are censored. If they are censored at different x, both are at the smaller x."""
    a, censored_a = of_arm(values, metric, left)
    b, censored_b = of_arm(values, metric, right)
    if censored_a.any() or censored_b.any():
        end = min([*a[censored_a], *b[censored_b]])
        censored_a, censored_b = censored_a | (a > end), censored_b | (b > end)
        a, b = np.minimum(a, end), np.minimum(b, end)
    return a, b, censored_a, censored_b
