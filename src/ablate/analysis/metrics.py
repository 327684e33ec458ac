"""From a cell's curve to one number (its metric), and the curves of many cells on one grid.

A curve is a cell's score along x: one point per evaluation (the mean over its episodes), or one point per training
episode. The score's unit is the study's (`Sweep.per_step`): the reward per step, or the return.
All cells that are compared are read on one `Span` of x and, for evaluations, at the same points of it, so that an arm
which is evaluated more often has no advantage. Nothing is extrapolated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, assert_never

import numpy as np
import pandas as pd
from scipy import stats

from ablate.analysis import statistics
from ablate.analysis.load import Sweep
from ablate.analysis.normalisation import in_own_unit
from ablate.config.choices import Axis, Budget, Source, Statistic
from ablate.config.derived import never_terminates
from ablate.config.schema import ConfigError, MetricConfig
from ablate.records.schema import MOVING_AVERAGE_DECAY

POINTS = 100  # of a curve on a common grid, at most
PARTS = 10  # of a curve's x, whose means are compared to see a collapse
FALSE_COLLAPSES = 0.05  # of curves that are only evaluation noise, at most

Cell = tuple[str, int]  # arm, seed
Curve = tuple[np.ndarray, np.ndarray]  # x and score, (T,) each, sorted by x


def environments(sweep: Sweep) -> dict[str, Sweep]:
    """The sweep split by environment: scores of different environments have different units.

    The parts of a study with sweep.environments are studies of one environment in its own unit."""
    arms: dict[str, list[str]] = {}
    for name, arm in sweep.study.arms.items():
        arms.setdefault(arm.config["env"]["id"], []).append(name)
    if len(arms) == 1 and not sweep.study.crossed:
        return dict.fromkeys(arms, sweep)
    parts = {env: sweep.only(names) for env, names in arms.items()}
    if not sweep.study.crossed:
        return parts
    return {env: replace(part, study=in_own_unit(sweep.study, env)) for env, part in parts.items()}


def refuse_mixed(sweep: Sweep, source: Source = Source.evaluations) -> None:
    """Raise ConfigError if the scores of the arms cannot be compared.

    Reasons: the arms have different environments or environment settings (sticky actions), their evaluations have
    different horizons or protocols, or their training episodes have different time limits. If only the environments
    differ, each part of `environments` can be compared by itself."""
    envs = {name: arm.config["env"] for name, arm in sweep.study.arms.items()}
    _refuse("env.id", {arm: env["id"] for arm, env in envs.items()}, "their scores have different units")
    kwargs = {arm: json.dumps(env["kwargs"], sort_keys=True) for arm, env in envs.items()}
    _refuse("env.kwargs", kwargs, "these are different tasks")
    if source is Source.episodes:
        if not sweep.per_step:
            limits = {arm: str(env["max_ep_step"]) for arm, env in envs.items()}
            _refuse("env.max_ep_step", limits, "returns of episodes of different length; compare their evaluations")
        return
    for column, why in (
        ("horizon", "returns of different lengths; give all arms one evaluation.horizon"),
        ("protocol", "a policy's mode and its draws score differently; give all arms one evaluation.action"),
    ):
        values = sweep.evaluations.groupby("arm", sort=False)[column].unique()
        _refuse(f"evaluation {column}", {str(arm): ", ".join(map(str, v)) for arm, v in values.items()}, why)


def _refuse(key: str, values: dict[str, str], why: str) -> None:
    if len(set(values.values())) > 1:
        raise ConfigError(f"{key} differs: {'; '.join(f'{arm}: {value}' for arm, value in values.items())}: {why}")


def unit(metric: MetricConfig) -> str:
    """The unit of a metric's values: `score`, or the column of its x."""
    return str(metric.x) if metric.statistic in (Statistic.first_reach, Statistic.duration) else "score"


def counted_axis(metric: MetricConfig) -> Axis:
    """The axis of the metric's budget: its x. `duration` measures x, so its budget is counted in training episodes or
    in steps of evaluations."""
    if metric.statistic is not Statistic.duration:
        return metric.x
    return Axis.episode if metric.source is Source.episodes else Axis.global_step


def cell_curves(sweep: Sweep, source: Source, x: Axis) -> dict[Cell, Curve]:
    """Each completed cell's curve, sorted by x; cells without a row are left out.

    An evaluation's `episode` is the number of training episodes that had ended before its step. A training episode's
    `update` is interpolated between the two nearest recorded updates."""
    table = evaluation_scores(sweep) if source is Source.evaluations else episode_scores(sweep)
    cells = _cells(table)
    if x not in table:
        steps = {cell: table["global_step"].to_numpy()[rows] for cell, rows in cells.items()}
        placed = _episodes_by(sweep, steps) if x is Axis.episode else _updates_at(sweep, steps)
        table[x] = np.concatenate([*placed.values(), np.array([])])
    x_values, score = table[x].to_numpy(float), table["score"].to_numpy(float)
    curves_by_cell = {}
    for cell, rows in cells.items():
        order = np.argsort(x_values[rows], kind="stable")
        curves_by_cell[cell] = x_values[rows][order], score[rows][order]
    return curves_by_cell


def evaluation_scores(sweep: Sweep) -> pd.DataFrame:
    """One row per evaluation: arm, seed, evaluation, global_step, update, wall_time_s, score."""
    rows = sweep.evaluations
    score = rows["episodic_return"] / (rows["episodic_length"] if sweep.per_step else 1)
    # a diverged episode makes the whole evaluation non-finite instead of being left out
    groups = rows.assign(score=score).groupby(["arm", "seed", "evaluation"], sort=False)
    means = groups[["global_step", "update", "wall_time_s"]].max()
    means["score"] = groups["score"].mean(skipna=False)
    return means.reset_index()


def episode_scores(sweep: Sweep) -> pd.DataFrame:
    """One row per training episode: arm, seed, episode, global_step, wall_time_s, score."""
    score = "mean_step_reward" if sweep.per_step else "episodic_return"
    rows = sweep.episodes[["arm", "seed", "episode", "global_step", "wall_time_s", score]]
    return rows.rename(columns={score: "score"})


def _cells(table: pd.DataFrame) -> dict[Cell, slice]:
    """The rows of each cell; in the tables of a sweep they are contiguous."""
    arms, seeds = table["arm"].to_numpy(object), table["seed"].to_numpy()
    starts = np.flatnonzero(np.r_[True, (arms[1:] != arms[:-1]) | (seeds[1:] != seeds[:-1])][: len(table)])
    return {(arms[a], int(seeds[a])): slice(a, b) for a, b in zip(starts, [*starts[1:], len(table)], strict=False)}


def _episodes_by(sweep: Sweep, steps: dict[Cell, np.ndarray]) -> dict[Cell, np.ndarray]:
    """The number of training episodes of each cell that had ended by the given steps."""
    table, cells = sweep.episodes["global_step"].to_numpy(), _cells(sweep.episodes)
    ends = {cell: np.sort(table[cells.get(cell, slice(0))]) for cell in steps}
    return {cell: np.searchsorted(ends[cell], step, side="right") for cell, step in steps.items()}


def _updates_at(sweep: Sweep, steps: dict[Cell, np.ndarray]) -> dict[Cell, np.ndarray]:
    """Updates of each cell at the given steps, interpolated in updates.csv and evaluations.csv; (0, 0) is added."""
    known: dict[Cell, list[np.ndarray]] = {cell: [np.zeros((1, 2))] for cell in steps}
    for table in (sweep.updates, sweep.evaluations):
        pairs = table[["global_step", "update"]].to_numpy(float)
        for cell, rows in _cells(table).items():
            if cell in known:
                known[cell].append(pairs[rows])
    placed = {}
    for cell, step in steps.items():
        pairs = np.concatenate(known[cell])
        pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
        placed[cell] = np.interp(step, pairs[:, 0], pairs[:, 1])
    return placed


@dataclass(frozen=True)
class Span:
    """The range of x on which cells are compared, and the distance between its points.

    It starts where every cell has a row. It ends where the plan ends the shortest arm (`total_steps`, or `max_episodes`
    on the axis of episodes), or with the shortest cell if the plan does not say or a cell has no row up to there."""

    start: float
    end: float
    spacing: float  # of what is read at points: that of the cell with the fewest rows; 0 for our own training episodes
    latest: Cell  # the cell that begins last
    shortest: Cell | None  # the cell that sets the end; None: the plan does

    def points(self, end: float) -> np.ndarray:
        """The points (G,) from the start to this end, both included; the last distance may be shorter."""
        if self.spacing <= 0 or end <= self.start:
            return np.array([end])
        inside = np.arange(self.start, end - self.spacing / 4, self.spacing)
        return np.append(inside, end)


def span_of(sweep: Sweep, source: Source, x: Axis, by_cell: dict[Cell, Curve] | None = None) -> Span | None:
    """The span of all cells of the sweep, which has one environment; None if no cell has a row."""
    by_cell = cell_curves(sweep, source, x) if by_cell is None else by_cell
    if not by_cell:
        return None
    firsts = {cell: float(own[0]) for cell, (own, _) in by_cell.items()}
    lasts = {cell: float(own[-1]) for cell, (own, _) in by_cell.items()}
    latest = max(firsts, key=lambda cell: firsts[cell])
    shortest: Cell | None = min(lasts, key=lambda cell: lasts[cell])
    end = lasts[shortest]  # type: ignore[index]
    planned = [planned_end(arm.config, x) for arm in sweep.study.arms.values()]
    known = [value for value in planned if value is not None]
    if len(known) == len(planned) and min(known) <= end:
        end, shortest = min(known), None
    spacing = 0.0
    if sweep.read_at_points(source):
        # Several evaluations can share an episode: those distances of 0 are no spacing.
        gaps = [float(np.median(np.diff(np.unique(own)))) for own, _ in by_cell.values() if own[-1] > own[0]]
        spacing = max(gaps, default=0.0)
    return Span(firsts[latest], end, spacing, latest, shortest)


def planned_end(config: Mapping[str, Any], x: Axis) -> float | None:
    """Where the configuration ends a run on this axis; None if that depends on how the run goes."""
    env = config["env"]
    steps, episodes, length = config.get("total_steps"), config.get("max_episodes"), env.get("max_ep_step")
    if x is Axis.global_step:
        if episodes is None:
            return steps
        if not never_terminates(env["id"]) or length is None:
            return None
        return min(episodes * length, steps if steps is not None else np.inf)
    return episodes if x is Axis.episode and steps is None else None


def refuse_narrow(by_cell: dict[Cell, Curve], span: Span, metric: MetricConfig) -> None:
    """Raise ConfigError if a cell's first evaluation is so late that most of the window is not common to all cells."""
    cell, what = "/seed=".join(map(str, span.latest)), str(metric.source).removesuffix("s")
    if span.start > span.end:
        raise ConfigError(
            f"{metric.label}: the first {what} of {cell} is at {span.start:,.0f} ({metric.x}), after the equal "
            f"budget of {span.end:,.0f}; all arms must be evaluated equally often (evaluation.every_steps)"
        )
    low, high = (fraction * span.end for fraction in metric.window)
    first = max(low, min(float(x[0]) for x, _ in by_cell.values()))
    if high > low and span.start - first > (high - first) / 2:
        raise ConfigError(
            f"{metric.label}: the first {what} of {cell} is at {span.start:,.0f} ({metric.x}), others have one at "
            f"{first:,.0f}, so most of the window to {high:,.0f} is not common to all cells"
        )


def _equal_ends(sweep: Sweep, span: Span, ends: dict[Cell, float]) -> dict[Cell, float]:
    """The end of cells whose plan ends at the same step, if one of them lacks its last evaluation."""
    equal: dict[Cell, float] = {}
    plans = {arm: planned_end(config.config, Axis.global_step) for arm, config in sweep.study.arms.items()}
    for plan in {value for value in plans.values() if value is not None}:
        group = {cell: end for cell, end in ends.items() if plans[cell[0]] == plan}
        first, last = min(group.values(), default=0.0), max(group.values(), default=0.0)
        if last >= plan and last - first > span.spacing / 2:
            equal |= dict.fromkeys(group, first)
    return equal


def score_cells(sweep: Sweep, name: str) -> pd.DataFrame:
    """The metric of each completed cell: arm, seed, value, censored.

    The window [a, b] of a budget B has the points with a·B < x ≤ b·B (with a = 0 also x = 0), or the last point up
    to b·B if there are none. B is the end of the common `Span`, or each cell's own end. Evaluations are read at the
    points of the span, by linear interpolation, and so are the training episodes of other programs. `first_reach`
    searches the window for the score and is censored at the window's end, which is common to all cells. Training
    episodes reach a score with their moving average, because single episodes cross any score by chance. `duration` is
    the x at which the fraction b of the budget is done, counted on `counted_axis`.
    value: -inf (inf if smaller is better) for a diverged cell, NaN for a cell without a point up to b·B.
    Raises ConfigError if the metric cannot be computed, or the cells have no common span of evaluations."""
    metric = sweep.study.metric_config(name)
    counted = counted_axis(metric)
    by_cell = cell_curves(sweep, metric.source, counted)
    reported = cell_curves(sweep, metric.source, metric.x) if counted is not metric.x else by_cell
    span = span_of(sweep, metric.source, counted, by_cell)
    rows = []
    if span:
        common = metric.budget is Budget.equal or metric.statistic is Statistic.first_reach
        at_points = sweep.read_at_points(metric.source) and metric.statistic is not Statistic.duration
        if at_points and common:
            refuse_narrow(by_cell, span, metric)
        ends = {cell: span.end if common else float(x[-1]) for cell, (x, _) in by_cell.items()}
        if not common and metric.source is Source.evaluations and counted is Axis.global_step:
            ends |= _equal_ends(sweep, span, ends)
        for cell, (x, score) in by_cell.items():
            if at_points:
                points = span.points(ends[cell])
                x, score = points, _interpolated(points, x, score)
            decay = decay_for(len(score)) if at_points else MOVING_AVERAGE_DECAY
            rows.append((*cell, *_measure(metric, x, score, reported[cell][0], span.start, ends[cell], decay)))
    table = pd.DataFrame(rows, columns=["arm", "seed", "value", "censored"])
    return table.astype({"arm": "str", "seed": "int64", "value": "float64", "censored": "bool"})


def _interpolated(points: np.ndarray, x: np.ndarray, score: np.ndarray) -> np.ndarray:
    """The score at these points, NaN also where it was not finite since the point before."""
    values = np.interp(points, x, score)
    after = np.searchsorted(points, x[~np.isfinite(score)])
    values[after[after < len(points)]] = np.nan
    return values


def _measure(
    metric: MetricConfig,
    x: np.ndarray,
    score: np.ndarray,
    reported: np.ndarray,
    start: float,
    end: float,
    decay: float,
) -> tuple[float, bool]:
    """The metric of one curve, and whether it is censored. reported (T,): the metric's x at the end of each row.

    start: where the curves of all cells have begun. decay: of the moving average of training episodes."""
    low, high = (fraction * end for fraction in metric.window)
    if metric.statistic is Statistic.duration:
        return float(reported[np.searchsorted(x, high)]), False  # the row that completes the fraction
    before = int(np.searchsorted(x, high, side="right"))  # rows up to the window's end
    first = min(int(np.searchsorted(x, low, side="right")), max(before - 1, 0))
    if low == 0 and before and x[0] == 0:
        first = 0  # the evaluation before the first step belongs to a window from the beginning
    if metric.statistic is Statistic.first_reach:
        assert metric.score is not None
        reached = moving_average(score, decay) if metric.source is Source.episodes else score
        return statistics.first_reach(x[first:before], reached[first:before], metric.score, high)
    if before == 0:
        return np.nan, False
    if not np.isfinite(score[first:before]).all():
        return np.inf if metric.smaller_is_better else -np.inf, False
    match metric.statistic:
        case Statistic.auc:  # over the whole window: interpolation between two rows is not extrapolation
            points = np.clip(np.r_[low, x[first:before], high], max(low, min(start, high)), None)
            finite = np.isfinite(score)  # outside the window, where the curve may have diverged
            return statistics.auc(points, np.interp(points, x[finite], score[finite])), False
        case Statistic.std:
            return statistics.spread(score[first:before]), False
        case Statistic.mean:
            return statistics.mean(score[first:before]), False
        case Statistic.median:
            return statistics.median(score[first:before]), False
        case Statistic.min:
            return float(score[first:before].min()), False
        case Statistic.max:
            return float(score[first:before].max()), False
        case Statistic.last:
            return float(score[before - 1]), False
        case unknown:
            assert_never(unknown)


def noise_share(sweep: Sweep, name: str) -> float:
    """The share of the variance between an arm's seeds that is evaluation noise, from 0 to 1, pooled over the arms.

    The episodes of each evaluation are divided in two halves, which give each cell two values a and b. Both have the
    same parameters, so var(a - b) / 4 is the variance that playing so few episodes adds to a cell's value.
    NaN if that cannot be told: one episode per evaluation, one cell per arm, training episodes, times, or a statistic
    that is not linear in the scores."""
    metric = sweep.study.metric_config(name)
    linear = metric.statistic in (Statistic.mean, Statistic.auc, Statistic.last)
    if metric.source is not Source.evaluations or not linear:
        return np.nan
    rows = sweep.evaluations
    place = rows.groupby(["arm", "seed", "evaluation"]).cumcount()
    size = rows.groupby(["arm", "seed", "evaluation"])["episode"].transform("size")
    halves = [rows[(place < size // 2 * 2) & (place % 2 == half)] for half in (0, 1)]
    if min(map(len, halves)) == 0:
        return np.nan
    a, b = (score_cells(replace(sweep, evaluations=half), name).set_index(["arm", "seed"])["value"] for half in halves)
    # The halves of an odd number of episodes leave one out, and so have more noise than all.
    played = (size // 2 * 2 / size)[place == 0].mean()
    noise = played * ((a - b) ** 2 / 4).replace(np.inf, np.nan).groupby("arm").mean()
    whole = score_cells(sweep, name).replace([np.inf, -np.inf], np.nan).groupby("arm")["value"]
    freedom, between = whole.count() - 1, whole.var()
    arms = [arm for arm in between.index if between[arm] > 0 and np.isfinite(noise.get(arm, np.nan))]
    total = sum(freedom[arm] * between[arm] for arm in arms)
    return min(1.0, float(sum(freedom[arm] * noise[arm] for arm in arms) / total)) if total else np.nan


def collapsed_cells(
    sweep: Sweep, source: Source, smallest_gain: float = 0.0, smaller_is_better: bool = False
) -> dict[Cell, bool]:
    """Whether each completed cell has `collapsed`, on its curve against environment steps up to its own end.

    smaller_is_better: of the score."""
    by_cell = cell_curves(sweep, source, Axis.global_step)
    variances = _evaluation_noise(sweep) if source is Source.evaluations else {}
    sign = -1 if smaller_is_better else 1
    return {
        cell: collapsed(x, sign * score, variances.get(cell, np.full(len(x), np.nan)), smallest_gain)
        for cell, (x, score) in by_cell.items()
    }


def _evaluation_noise(sweep: Sweep) -> dict[Cell, np.ndarray]:
    """The variance (T,) of each evaluation's mean score, from the spread of its episodes; NaN for a single episode."""
    rows = sweep.evaluations
    score = rows["episodic_return"] / (rows["episodic_length"] if sweep.per_step else 1)
    groups = score.groupby([rows["arm"], rows["seed"], rows["evaluation"]], sort=False)
    steps = rows.groupby(["arm", "seed", "evaluation"], sort=False)["global_step"].max()
    table = pd.DataFrame({"step": steps, "variance": groups.var() / groups.count()}).reset_index()
    table = table.sort_values(["arm", "seed", "step"], kind="stable", ignore_index=True)
    variances = table["variance"].to_numpy()
    return {cell: variances[rows] for cell, rows in _cells(table).items()}


def collapsed(x: np.ndarray, score: np.ndarray, variance: np.ndarray, smallest_gain: float = 0.0) -> bool:
    """Whether a curve (T,) ends below half of its gain, start + ½ (best - start), and noise does not explain it.

    x is cut into PARTS of equal length, so that more evaluations make the parts more exact, not their maximum higher.
    Start, best and end are means of parts. best - end must exceed what `variance` (T,), the noise of each score,
    gives by chance: Student's t at FALSE_COLLAPSES, divided over the parts that may be the best (Bonferroni). Without
    variances, they are estimated from the differences of neighbours. Half of the best would be wrong: returns may be
    negative, and half of -1 is better than -1. A gain of at most `smallest_gain` cannot be lost. A curve with a
    non-finite end has collapsed."""
    if len(score) and not np.isfinite(score[-1]):
        return True
    finite = np.isfinite(score)
    x, score, variance = x[finite], score[finite], variance[finite]
    if len(score) < 2 or x[-1] == x[0]:
        return False
    if not np.isfinite(variance).all():
        if len(score) < 3:
            return False
        variance = np.full(len(score), np.mean(np.diff(score) ** 2) / 2)
    variance = np.maximum(variance, np.median(variance))  # few episodes may be alike by chance
    part = np.minimum((x - x[0]) / (x[-1] - x[0]) * PARTS, PARTS - 1).astype(int)
    _, part, count = np.unique(part, return_inverse=True, return_counts=True)
    means, errors = np.bincount(part, score) / count, np.bincount(part, variance) / count**2
    start, end, best = means[0], means[-1], int(np.argmax(means))
    gain, loss = means[best] - start, means[best] - end
    bound = stats.t.ppf(1 - FALSE_COLLAPSES / max(1, len(means) - 1), len(score)) * np.sqrt(errors[best] + errors[-1])
    return bool(gain > smallest_gain and loss > gain / 2 and loss > bound)


def moving_average(score: np.ndarray, decay: float = MOVING_AVERAGE_DECAY) -> np.ndarray:
    """The moving average of episodes (T,): the first value, then decay·old + (1 - decay)·new. episodes.csv has 0.99."""
    return pd.Series(score).ewm(alpha=1 - decay, adjust=False).mean().to_numpy()


def decay_for(episodes: int) -> float:
    """The decay of a figure's moving average: its window 1 / (1 - decay) is a 20th of the episodes, from 5 to 100.

    With 0.99 (a window of 100), the average of a short run hardly leaves its first value."""
    return 1 - 1 / min(100, max(5, episodes // 20))


def curves(sweep: Sweep, source: Source, x: Axis, budget: Budget = Budget.equal) -> pd.DataFrame:
    """The cells' curves on the points of their common span: arm, seed, x, score.

    With budget=own, each arm has its own span. Evaluations are read at the points of the span, interpolated between
    neighbours. For training episodes, a point is the mean over the bin that ends at x, or the previous value if no
    episode ended in the bin."""
    by_cell = cell_curves(sweep, source, x)
    arms = list(dict.fromkeys(arm for arm, _ in by_cell))
    parts = []
    for group in [arms] if budget is Budget.equal else [[arm] for arm in arms]:
        of_group = {cell: curve for cell, curve in by_cell.items() if cell[0] in group}
        if span := span_of(sweep.only(group) if budget is Budget.own else sweep, source, x, of_group):
            parts += _on_grid(of_group, source, span)
    if not parts:
        return pd.DataFrame({"arm": pd.Series(dtype="str"), "seed": pd.Series(dtype="int64"), "x": [], "score": []})
    return pd.concat(parts, ignore_index=True)


def _on_grid(by_cell: dict[Cell, Curve], source: Source, span: Span) -> list[pd.DataFrame]:
    by_cell = {cell: (x, score) for cell, (x, score) in by_cell.items() if x[0] <= span.end}
    if source is Source.evaluations:
        grid = span.points(span.end)  # between two evaluations, a curve that is looked at more often has more to show
        if len(grid) > POINTS:
            grid = np.linspace(grid[0], span.end, POINTS)
        on_grid = {cell: np.interp(grid, x, score) for cell, (x, score) in by_cell.items()}
    else:
        bins = min(POINTS, *(int(np.searchsorted(x, span.end, side="right")) for x, _ in by_cell.values()))
        grid = np.linspace(0, span.end, bins + 1)[1:]
        # The first bin in which every cell has begun.
        first = max(int(np.searchsorted(grid, x[0])) for x, _ in by_cell.values())
        on_grid = {cell: _binned(x, score, grid)[first:] for cell, (x, score) in by_cell.items()}
        grid = grid[first:]
    return [
        pd.DataFrame({"arm": arm, "seed": seed, "x": grid, "score": score}) for (arm, seed), score in on_grid.items()
    ]


def _binned(x: np.ndarray, score: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """The mean score of each bin that ends at a grid point (G,), or of the last non-empty bin; NaN before the first."""
    bins = np.searchsorted(grid, x)
    inside = bins < len(grid)
    count = np.bincount(bins[inside], minlength=len(grid))
    total = np.bincount(bins[inside], score[inside], minlength=len(grid))
    filled = np.maximum.accumulate(np.where(count > 0, np.arange(len(grid)), -1))
    return np.where(filled >= 0, total[filled] / np.maximum(count[filled], 1), np.nan)
