"""What a sweep says about a claim: an inequality between two arms' values of a metric."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ablate.analysis import statistics
from ablate.analysis.load import Sweep
from ablate.analysis.metrics import metric_config, unit
from ablate.analysis.statistics import MIN_SEEDS, Interval

SUPPORTED, CONTRADICTED, INCONCLUSIVE = "supported", "contradicted", "inconclusive"
NOT_TESTABLE = "not testable here"

Values = dict[tuple[str, str], pd.DataFrame]  # by metric and arm: value, censored of each cell
Refusals = dict[tuple[str, str], str]  # by metric and arm: why its values would be no comparison


@dataclass(frozen=True)
class Verdict:
    """What the sweep says about one claim."""

    id: str
    words: str
    metric: str
    inequality: str  # arm < | > | ~ arm, of the metric's values
    verdict: str  # supported, contradicted, inconclusive, not testable here
    effect: float  # first arm minus second: of the means; Cliff's δ where cells diverged, as the reason then says
    low: float
    high: float
    n: str  # of both arms: "30, 30"
    seeds_needed: int | None  # an arm, for the interval's half-width to pass under the study's smallest_effect
    reason: str  # a sentence


def judge(sweep: Sweep, values: Values, refusals: Refusals, claim: dict[str, Any]) -> Verdict:
    """The verdict on one of the study's claims."""
    metric, inequality = claim["metric"], claim["inequality"]
    left, relation, right = inequality.split()
    a, b, censored_a, censored_b = comparable(values, metric, left, right)
    finite_a, finite_b = a[np.isfinite(a)], b[np.isfinite(b)]
    effect = statistics.difference(finite_a, finite_b)
    what = "difference of the means"
    if len(finite_a) + len(finite_b) < len(a) + len(b):
        # a mean over the cells that survived would favour the arm that diverges
        effect = statistics.cliffs_delta(a, b)
        what = f"Cliff's δ (cells diverged, {len(a) - len(finite_a)} and {len(b) - len(finite_b)}: they rank last)"
    elif censored_a.any() or censored_b.any():
        what = (
            f"difference of the restricted means ({censored_a.sum()} and {censored_b.sum()} cells had not reached the "
            "score by the end)"
        )
    smallest_effect = _smallest_effect(sweep, metric)
    if obstacle := _obstacle(sweep, refusals, claim, left, right):
        verdict, reason = NOT_TESTABLE, obstacle
    elif min(len(a), len(b)) < MIN_SEEDS or np.isnan(effect.low):
        verdict, reason = INCONCLUSIVE, f"n too small for an interval: at least {MIN_SEEDS} seeds an arm are needed"
    elif censored_a.all() and censored_b.all():
        verdict, reason = INCONCLUSIVE, "no cell of either arm reached the score"
    elif relation == "~" and smallest_effect is None:
        verdict, reason = INCONCLUSIVE, "likeness needs a sweep.smallest_effect in this metric's unit"
    elif relation == "~" and what.startswith("Cliff"):
        verdict, reason = INCONCLUSIVE, f"likeness is about means, and there is only {what}"
    else:
        verdict, reason = _place(effect, relation, None if what.startswith("Cliff") else smallest_effect, what)
    needed = statistics.seeds_needed(finite_a, finite_b, smallest_effect) if smallest_effect else None
    n = f"{len(a)}, {len(b)}"
    return Verdict(claim["id"], claim["words"], metric, inequality, verdict, *effect, n, needed, reason)


def _place(effect: Interval, relation: str, smallest_effect: float | None, what: str) -> tuple[str, str]:
    """Where the interval lies: on the claimed side of 0 (or within ± smallest_effect), on the other, or across."""
    interval = f"the interval of the {what}, {number(effect.low)} to {number(effect.high)},"
    small = smallest_effect is not None and max(-effect.low, effect.high) < smallest_effect
    if relation == "~":
        assert smallest_effect is not None
        if small:
            return SUPPORTED, f"{interval} lies within ±{smallest_effect:g}"
        if max(effect.low, -effect.high) > smallest_effect:
            return CONTRADICTED, f"{interval} lies outside ±{smallest_effect:g}"
        return INCONCLUSIVE, f"{interval} crosses a border of ±{smallest_effect:g}"
    if effect.low <= 0 <= effect.high:
        return INCONCLUSIVE, f"{interval} holds 0"
    side = "below" if effect.high < 0 else "above"
    slight = f", yet within ±{smallest_effect:g}: a difference too small to matter" if small else ""
    return SUPPORTED if (side == "below") == (relation == "<") else CONTRADICTED, f"{interval} lies {side} 0{slight}"


def _obstacle(sweep: Sweep, refusals: Refusals, claim: dict[str, Any], left: str, right: str) -> str:
    """Why this sweep cannot say anything about the claim; empty if it can."""
    for arm in (left, right):
        if arm not in sweep.arms:
            return f"the study has no arm {arm}"
        if (claim["metric"], arm) in refusals:
            return refusals[claim["metric"], arm]
    if claim["metric"] not in sweep.study["metrics"]:
        return f"the study has no metric {claim['metric']}"
    ids = [sweep.study["arms"][arm]["config"]["env"]["id"] for arm in (left, right)]
    if ids[0] != ids[1]:
        return f"scores of {ids[0]} and {ids[1]} have different units"
    if claim["real_time"] and (why := untimed(sweep, left) or untimed(sweep, right)):
        return f"it is about real time, and {why}"
    return ""


def _smallest_effect(sweep: Sweep, metric: str) -> float | None:
    """The study's smallest_effect, which is in the primary metric's unit, where this metric has the same."""
    known = sweep.study["metrics"]
    if metric not in known or sweep.study["metric"] not in known:
        return None
    same = unit(metric_config(sweep, metric)) == unit(metric_config(sweep, sweep.study["metric"]))
    return sweep.study["smallest_effect"] if same else None


def number(value: float) -> str:
    """Four significant digits, all of a large whole number; a dash where there is none."""
    if np.isnan(value):
        return "-"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e12 else f"{value:.4g}"


def workers(sweep: Sweep, arm: str) -> int:
    """The arm's number of workers: where it gave none, the machine's CPUs."""
    return sweep.study["arms"][arm]["config"]["workers"] or sweep.study["machine"]["cpus"]


def untimed(sweep: Sweep, arm: str) -> str:
    """Why the arm's seconds say nothing about workers side by side; empty if they do.

    DQN's say what they should: its one learner takes the same steps in either schedule."""
    config, cpus = sweep.study["arms"][arm]["config"], sweep.study["machine"]["cpus"]
    schedule = config["schedule"]
    if config["algo"]["name"] == "dqn":
        return f"{arm} had an actor and a learner on one CPU" if schedule == "async" and cpus < 2 else ""
    if schedule != "async":
        return f"the workers of {arm} took turns (schedule={schedule})"
    count = workers(sweep, arm)
    return f"{arm} had {count} workers on {cpus} CPUs" if count > cpus else ""


def of_arm(values: Values, metric: str, arm: str) -> tuple[np.ndarray, np.ndarray]:
    """An arm's values (n,) and which are censored; cells without a value are left out."""
    if (metric, arm) not in values:
        return np.empty(0), np.empty(0, bool)
    rows = values[metric, arm]
    there = rows["value"].notna()
    return rows.loc[there, "value"].to_numpy(), rows.loc[there, "censored"].to_numpy()


def comparable(
    values: Values, metric: str, left: str, right: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two arms' values and which are censored; where one is censored before the other, both are at that x."""
    a, censored_a = of_arm(values, metric, left)
    b, censored_b = of_arm(values, metric, right)
    if censored_a.any() or censored_b.any():
        end = min([*a[censored_a], *b[censored_b]])
        censored_a, censored_b = censored_a | (a > end), censored_b | (b > end)
        a, b = np.minimum(a, end), np.minimum(b, end)
    return a, b, censored_a, censored_b
