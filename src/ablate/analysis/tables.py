"""The tables of a sweep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ablate.analysis import statistics
from ablate.analysis.load import Sweep
from ablate.analysis.metrics import collapsed_cells, environments, unit
from ablate.analysis.normalisation import normalised
from ablate.analysis.scores import Values, comparable, failures_of, of_arm, workers, worst_score
from ablate.analysis.sensitivity import Sensitivity
from ablate.analysis.statistics import Interval
from ablate.analysis.verdicts import Verdict
from ablate.config.choices import Statistic


@dataclass(frozen=True)
class Summary:
    """The content of the tables, verdict.md and the report. Intervals are 95 %, and NaN with fewer than 5 seeds.

    scores: metric, arm, seed, value, censored (see `metrics.score_cells`).
    arms: metric, arm, label, n, n_planned, n_failed, failed (why, in words), n_missing, n_censored, mean, mean_low,
    mean_high, median, median_low, median_high, iqm, iqm_low, iqm_high, spread, and if seeds failed mean_worst with _low
    and _high. n counts seeds that have a score. Mean and spread leave out failed and diverged seeds, mean_worst counts
    them at the worst score (`scores.worst_score`); in median and IQM they are worse than all others.
    comparisons: metric, arm, baseline, n, n_failed, n_baseline, n_baseline_failed; arm against baseline: difference,
    difference_worst (if seeds failed), ratio (of means), probability_of_improvement (of a better value), cliffs_delta
    (of a higher value), each with _low and _high; welch_p, welch_p_holm, permutation_p, permutation_p_holm, corrected
    over the arms of a metric.
    speed_ups: metric, arm, baseline, workers, n, n_censored, n_baseline, n_baseline_censored, speed_up, low, high,
    logrank_p.
    stability: arm, collapsed, n, spread.
    With sweep.environments, on normalised scores (see `normalisation`), by the arms' names without their environment:
    over_environments: metric, arm, label, environments, n, iqm, mean and rank (see `statistics.mean_ranks`), each with
    _low and _high. Failed seeds count in IQM and rank as worse than all others; the mean leaves them out.
    in_environments: metric, environment, arm, label, n, mean, mean_low, mean_high.
    improvements: metric, arm, baseline, probability_of_improvement with _low and _high.
    Arms of different environments are not compared with each other."""

    sweep: Sweep
    scores: pd.DataFrame
    arms: pd.DataFrame
    comparisons: pd.DataFrame
    speed_ups: pd.DataFrame
    stability: pd.DataFrame
    over_environments: pd.DataFrame
    in_environments: pd.DataFrame
    improvements: pd.DataFrame
    verdicts: list[Verdict]
    sensitivity: Sensitivity | None  # of a factorial or a random design
    notes: list[str]
    caveats: list[str]  # what stands next to the verdicts


def arms(sweep: Sweep, values: Values, shown: list[tuple[str, str]]) -> pd.DataFrame:
    """One row per metric and arm in `shown`."""
    states = sweep.cells.groupby("arm")["state"]
    planned = states.count()
    missing = states.agg(lambda s: s.isin(["missing", "running", "interrupted"]).sum())
    rows = []
    for metric, arm in shown:
        value, censored = of_arm(values, metric, arm)
        finite, worst = value[np.isfinite(value)], worst_score(sweep, values, metric, arm)
        kinds = failures_of(sweep, values, metric, arm)
        rows.append({
            "metric": metric, "arm": arm, "label": sweep.arms[arm], "n": len(finite), "n_planned": planned[arm],
            "n_failed": kinds.total(), "failed": ", ".join(f"{count} {kind}" for kind, count in kinds.items()),
            "n_missing": missing[arm], "n_censored": censored.sum(),
            **_columns("mean", statistics.interval(finite, statistics.mean)),
            **_columns("mean_worst", _with_worst(statistics.interval, (value,), worst, statistics.mean)),
            **_columns("median", statistics.interval(value, statistics.median)),
            **_columns("iqm", statistics.interval(value, statistics.iqm)),
            "spread": statistics.spread(finite),
        })  # fmt: skip
    return pd.DataFrame(rows)


def comparisons(sweep: Sweep, values: Values, pairs: list[tuple[str, str, str]]) -> pd.DataFrame:
    """One row per metric, arm and baseline in `pairs`."""
    rows = []
    for metric, arm, baseline in pairs:
        a, b, _, _ = comparable(values, metric, arm, baseline)
        finite_a, finite_b = a[np.isfinite(a)], b[np.isfinite(b)]
        sign = -1 if sweep.study.metrics[metric].smaller_is_better else 1
        worst = worst_score(sweep, values, metric, arm)
        rows.append({
            "metric": metric, "arm": arm, "baseline": baseline, "n": len(finite_a), "n_failed": len(a) - len(finite_a),
            "n_baseline": len(finite_b), "n_baseline_failed": len(b) - len(finite_b),
            **_columns("difference", statistics.difference(finite_a, finite_b)),
            **_columns("difference_worst", _with_worst(statistics.difference, (a, b), worst)),
            **_columns("ratio", _ratio(finite_a, finite_b)),
            **_columns("probability_of_improvement", statistics.probability_of_improvement(sign * a, sign * b)),
            **_columns("cliffs_delta", statistics.cliffs_delta(a, b)),
            "welch_p": statistics.welch_p(finite_a, finite_b),
            "welch_p_holm": np.nan,
            "permutation_p": statistics.permutation_p(finite_a, finite_b),
            "permutation_p_holm": np.nan,
        })  # fmt: skip
    table = pd.DataFrame(rows)
    for p in ("welch_p", "permutation_p") if rows else ():
        families = table.groupby(["metric", "baseline"], sort=False)[p]  # the tests that one table shows
        table[f"{p}_holm"] = families.transform(lambda column: statistics.holm(column.to_numpy()))
    return table


def _with_worst(
    estimate: Callable[..., Interval], arms: tuple[np.ndarray, ...], worst: float, *arguments: Any
) -> Interval:
    """The estimate with this score for failed seeds; NaN if none failed, or if no seed has a score."""
    if np.isnan(worst) or not any(np.isinf(scores).any() for scores in arms):
        return Interval(np.nan, np.nan, np.nan)
    return estimate(*(np.where(np.isinf(scores), worst, scores) for scores in arms), *arguments)


def _ratio(a: np.ndarray, b: np.ndarray) -> Interval:
    """The ratio of the means if all scores are positive: only then is it so many times as much."""
    positive = len(a) and len(b) and min(a.min(), b.min()) > 0
    return statistics.ratio(a, b) if positive else Interval(np.nan, np.nan, np.nan)


def speed_ups(sweep: Sweep, values: Values, pairs: list[tuple[str, str, str]]) -> pd.DataFrame:
    """How much faster than the baseline an arm reaches the score: the ratio of the restricted means of x.

    See Table 2 of Mnih et al. 2016, whose arms are numbers of threads. NaN if no cell of an arm reaches the score."""
    rows = []
    for metric, arm, baseline in pairs:
        if sweep.study.metrics[metric].statistic is not Statistic.first_reach:
            continue
        a, b, censored_a, censored_b = comparable(values, metric, arm, baseline)
        # A failed cell did not reach the score.
        worst = worst_score(sweep, values, metric, arm)
        censored_a, censored_b = censored_a | np.isinf(a), censored_b | np.isinf(b)
        a, b = np.where(np.isinf(a), worst, a), np.where(np.isinf(b), worst, b)
        reached = not censored_a.all() and not censored_b.all()
        speed_up = statistics.ratio(b, a) if reached else Interval(np.nan, np.nan, np.nan)
        rows.append({
            "metric": metric, "arm": arm, "baseline": baseline, "workers": workers(sweep, arm),
            "n": len(a), "n_censored": censored_a.sum(), "n_baseline": len(b), "n_baseline_censored": censored_b.sum(),
            **_columns("speed_up", speed_up), "logrank_p": _logrank_p(a, censored_a, b, censored_b),
        })  # fmt: skip
    return pd.DataFrame(rows).rename(columns={"speed_up_low": "low", "speed_up_high": "high"})


def _logrank_p(a: np.ndarray, censored_a: np.ndarray, b: np.ndarray, censored_b: np.ndarray) -> float:
    """Two-sided p of the log-rank test of equal times to the score; NaN if all are the same.

    Unlike the restricted means it uses only the order of the times, and it has most power if one arm reaches the score
    at a multiple of the other's rate at any time (Mantel 1966)."""
    if min(len(a), len(b)) < statistics.MIN_SEEDS or np.ptp(np.r_[a, b]) == 0:
        return np.nan
    first, second = (stats.CensoredData(x[~c], right=x[c]) for x, c in ((a, censored_a), (b, censored_b)))
    return float(stats.logrank(first, second).pvalue)


def stability(sweep: Sweep, values: Values) -> pd.DataFrame:
    """How many cells of each arm have collapsed, on the curves of the primary metric's source up to their own ends."""
    primary = sweep.study.metric_config(sweep.study.metric)
    by_arm: dict[str, list[bool]] = {arm: [] for arm in sweep.arms}
    for part in environments(sweep).values():
        is_score = unit(primary) == "score"
        smallest_gain = (part.study.smallest_effect or 0.0) if is_score else 0.0
        smaller = is_score and primary.statistic is not Statistic.std and bool(primary.smaller_is_better)
        for (arm, _), has_collapsed in collapsed_cells(part, primary.source, smallest_gain, smaller).items():
            by_arm[arm].append(has_collapsed)
    rows = []
    for arm, collapsed in by_arm.items():
        value, _ = of_arm(values, sweep.study.metric, arm)
        spread = statistics.spread(value[np.isfinite(value)])
        rows.append({"arm": arm, "collapsed": sum(collapsed), "n": len(collapsed), "spread": spread})
    return pd.DataFrame(rows)


def strata_of(sweep: Sweep, values: Values, metric: str) -> dict[str, dict[str, np.ndarray]]:
    """The normalised scores of each arm by environment, higher is better. Arms that lack an environment are left out.

    Empty if the study has no sweep.environments, or the metric no normalised scores."""
    study = sweep.study
    scores = normalised(study, values, metric)
    sign = -1 if study.metrics[metric].smaller_is_better else 1
    return {
        arm: {environment: sign * of_arm(scores, metric, names[environment])[0] for environment in study.environments}
        for arm, names in study.crossed.items()
        if all((metric, names.get(environment)) in scores for environment in study.environments)
    }


def _label(sweep: Sweep, arm: str) -> str:
    """What is shown of an arm of several environments."""
    return next(own.label or arm for own in sweep.study.arms.values() if own.arm == arm)


def over_environments(sweep: Sweep, values: Values) -> pd.DataFrame:
    """One row per metric and arm of a study with sweep.environments."""
    rows = []
    for metric in sweep.study.metrics:
        strata = strata_of(sweep, values, metric)
        sign = -1 if sweep.study.metrics[metric].smaller_is_better else 1
        ranks = statistics.mean_ranks([[*own.values()] for own in strata.values()]) if strata else []
        for (arm, own), rank in zip(strata.items(), ranks, strict=True):
            scores = [sign * score for score in own.values()]
            rows.append({
                "metric": metric, "arm": arm, "label": _label(sweep, arm), "environments": len(own),
                "n": sum(int(np.isfinite(score).sum()) for score in scores),
                **_columns("iqm", statistics.interval(scores, statistics.iqm)),
                **_columns("mean", statistics.mean_of_means([score[np.isfinite(score)] for score in scores])),
                **_columns("rank", rank),
            })  # fmt: skip
    return pd.DataFrame(rows)


def in_environments(sweep: Sweep, values: Values) -> pd.DataFrame:
    """One row per metric, environment and arm of a study with sweep.environments."""
    rows = []
    for metric, config in sweep.study.metrics.items():
        sign = -1 if config.smaller_is_better else 1
        for arm, own in strata_of(sweep, values, metric).items():
            for environment, scores in own.items():
                finite = sign * scores[np.isfinite(scores)]
                rows.append({
                    "metric": metric, "environment": environment, "arm": sweep.study.crossed[arm][environment],
                    "label": _label(sweep, arm), "n": len(finite),
                    **_columns("mean", statistics.interval(finite, statistics.mean)),
                })  # fmt: skip
    return pd.DataFrame(rows)


def improvements(sweep: Sweep, values: Values) -> pd.DataFrame:
    """How probable it is that a run of an arm is better than one of the baseline, on average over the environments."""
    rows = []
    baseline = sweep.study.arms[sweep.study.baseline].arm
    for metric in sweep.study.metrics:
        strata = strata_of(sweep, values, metric)
        for arm in strata if baseline in strata else ():
            if arm != baseline:
                a, b = ([*strata[name].values()] for name in (arm, baseline))
                better = statistics.probability_of_improvement(a, b)
                rows.append({"metric": metric, "arm": arm, "baseline": baseline, "label": _label(sweep, arm),
                             **_columns("probability_of_improvement", better)})  # fmt: skip
    return pd.DataFrame(rows)


def _columns(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
