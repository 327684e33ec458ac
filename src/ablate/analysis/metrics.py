"""From a cell's curve to one number (its metric), and the curves of many cells on one grid.

A curve is a cell's score along x: one point per evaluation (the mean over its episodes), or one point per training
episode. The score is the reward per step, or the return if episodes can terminate (`Sweep.per_step`).
Nothing is extrapolated: no cell is read beyond its own end, or beyond the equal budget if the metric uses it.
"""

from __future__ import annotations

import json
from typing import assert_never

import numpy as np
import pandas as pd

from ablate.analysis import statistics
from ablate.analysis.load import Sweep
from ablate.config.choices import Axis, Budget, Source, Statistic
from ablate.config.schema import ConfigError, MetricConfig
from ablate.records.schema import MOVING_AVERAGE_DECAY

POINTS = 100  # of a curve on a common grid, at most

Cell = tuple[str, int]  # arm, seed
Curve = tuple[np.ndarray, np.ndarray]  # x and score, (T,) each, sorted by x


def environments(sweep: Sweep) -> dict[str, Sweep]:
    """The sweep split by environment: scores of different environments have different units."""
    arms: dict[str, list[str]] = {}
    for name, arm in sweep.study.arms.items():
        arms.setdefault(arm.config["env"]["id"], []).append(name)
    return {env: sweep.only(names) for env, names in arms.items()} if len(arms) > 1 else dict.fromkeys(arms, sweep)


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


def score_label(sweep: Sweep) -> str:
    """The name of the score, for axes and headings."""
    return "average reward per step" if sweep.per_step else "episodic return"


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
    table = _evaluations(sweep) if source is Source.evaluations else _episodes(sweep)
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


def _evaluations(sweep: Sweep) -> pd.DataFrame:
    """One row per evaluation: arm, seed, global_step, update, wall_time_s, score."""
    rows = sweep.evaluations
    score = rows["episodic_return"] / (rows["episodic_length"] if sweep.per_step else 1)
    # a diverged episode makes the whole evaluation non-finite instead of being left out
    groups = rows.assign(score=score).groupby(["arm", "seed", "evaluation"], sort=False)
    means = groups[["global_step", "update", "wall_time_s"]].max()
    means["score"] = groups["score"].mean(skipna=False)
    return means.reset_index()


def _episodes(sweep: Sweep) -> pd.DataFrame:
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


def budget(sweep: Sweep, source: Source, x: Axis) -> dict[str, float]:
    """The x at which each arm's shortest completed cell ends. The equal budget is the smallest of them.

    Arms without a row are left out."""
    return _ends(cell_curves(sweep, source, x))


def shortest_cell(sweep: Sweep, source: Source, x: Axis) -> Cell | None:
    """The cell whose end is the equal budget; None if no cell has a row."""
    by_cell = cell_curves(sweep, source, x)
    return min(by_cell, key=lambda cell: by_cell[cell][0][-1], default=None)


def _ends(by_cell: dict[Cell, Curve]) -> dict[str, float]:
    ends: dict[str, float] = {}
    for (arm, _), (x, _) in by_cell.items():
        ends[arm] = min(ends.get(arm, np.inf), float(x[-1]))
    return ends


def score_cells(sweep: Sweep, name: str) -> pd.DataFrame:
    """The metric of each completed cell: arm, seed, value, censored.

    The window [a, b] of a budget B has the rows with a·B < x ≤ b·B, or the last row up to b·B if there are none. B is
    the equal budget (the end of the shortest cell of all) or each cell's own end. `first_reach` searches the window for
    the score and is censored at the window's end. With budget=own, B is then the end of the arm's shortest cell, so
    that all cells of an arm are censored at the same x. Training episodes reach a score with their moving average,
    because single episodes cross any score by chance. `duration` is the x at which the fraction b of the budget is
    done, counted on `counted_axis`.
    value: -inf (inf if smaller is better) for a diverged cell, NaN for a cell without a row up to b·B."""
    metric = sweep.study.metric_config(name)
    counted = counted_axis(metric)
    by_cell = cell_curves(sweep, metric.source, counted)
    reported = cell_curves(sweep, metric.source, metric.x) if counted is not metric.x else by_cell
    ends = _ends(by_cell)
    rows = []
    for cell, (x, score) in by_cell.items():
        if metric.budget is Budget.equal:
            end = min(ends.values())
        else:
            end = ends[cell[0]] if metric.statistic is Statistic.first_reach else float(x[-1])
        rows.append((*cell, *_measure(metric, x, score, reported[cell][0], end)))
    table = pd.DataFrame(rows, columns=["arm", "seed", "value", "censored"])
    return table.astype({"arm": "str", "seed": "int64", "value": "float64", "censored": "bool"})


def _measure(
    metric: MetricConfig, x: np.ndarray, score: np.ndarray, reported: np.ndarray, end: float
) -> tuple[float, bool]:
    """The metric of one curve, and whether it is censored. reported (T,): the metric's x at the end of each row."""
    low, high = (fraction * end for fraction in metric.window)
    if metric.statistic is Statistic.duration:
        return float(reported[np.searchsorted(x, high)]), False  # the row that completes the fraction
    before = int(np.searchsorted(x, high, side="right"))  # rows up to the window's end
    first = min(int(np.searchsorted(x, low, side="right")), max(before - 1, 0))
    if metric.statistic is Statistic.first_reach:
        assert metric.score is not None
        reached = moving_average(score) if metric.source is Source.episodes else score
        return statistics.first_reach(x[first:before], reached[first:before], metric.score, high)
    if before == 0:
        return np.nan, False
    if not np.isfinite(score[first:before]).all():
        return np.inf if metric.smaller_is_better else -np.inf, False
    match metric.statistic:
        case Statistic.auc:  # over the whole window: interpolation between two rows is not extrapolation
            points = np.clip(np.r_[low, x[first:before], high], max(low, x[0]), None)
            return statistics.auc(points, np.interp(points, x, score)), False
        case Statistic.std:
            return statistics.spread(score[first:before]), False
        case Statistic.mean:
            return statistics.mean(score[first:before]), False
        case unknown:
            assert_never(unknown)


def moving_average(score: np.ndarray) -> np.ndarray:
    """The moving average of episodes (T,) as in episodes.csv: the first value, then 0.99·old + 0.01·new."""
    return pd.Series(score).ewm(alpha=1 - MOVING_AVERAGE_DECAY, adjust=False).mean().to_numpy()


def curves(sweep: Sweep, source: Source, x: Axis, budget: Budget = Budget.equal) -> pd.DataFrame:
    """The cells' curves on a common grid up to the equal budget: arm, seed, x, score.

    With budget=own, each arm has its own grid, up to the end of its shortest cell. Evaluations are interpolated between
    neighbours, from where every cell has one. For training episodes, a point is the mean over the bin that ends at
    x, or the previous value if no episode ended in the bin."""
    by_cell = cell_curves(sweep, source, x)
    arms = list(dict.fromkeys(arm for arm, _ in by_cell))
    parts = []
    for group in [arms] if budget is Budget.equal else [[arm] for arm in arms]:
        of_group = {cell: curve for cell, curve in by_cell.items() if cell[0] in group}
        if of_group:
            parts += _on_grid(of_group, source)
    if not parts:
        return pd.DataFrame({"arm": pd.Series(dtype="str"), "seed": pd.Series(dtype="int64"), "x": [], "score": []})
    return pd.concat(parts, ignore_index=True)


def _on_grid(by_cell: dict[Cell, Curve], source: Source) -> list[pd.DataFrame]:
    end = min(x[-1] for x, _ in by_cell.values())
    by_cell = {cell: (x, score) for cell, (x, score) in by_cell.items() if x[0] <= end}
    if source is Source.evaluations:
        start = max(x[0] for x, _ in by_cell.values())
        grid = np.linspace(start, end, POINTS) if start < end else np.array([end])
        on_grid = {cell: np.interp(grid, x, score) for cell, (x, score) in by_cell.items()}
    else:
        bins = min(POINTS, *(int(np.searchsorted(x, end, side="right")) for x, _ in by_cell.values()))
        grid = np.linspace(0, end, bins + 1)[1:]
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
