"""A cell's curve as one number, and many cells' curves on one grid.

A curve is what a cell's table says of its score along x: one point an evaluation (the mean over its episodes), or one a
training episode. The score is the reward per step, or the return where episodes end by themselves (`Sweep.per_step`).
Nothing is extrapolated: no cell is read beyond its own end, none that is compared at an equal budget beyond that.
"""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

from ablate.analysis import statistics
from ablate.analysis.load import Sweep
from ablate.config.choices import Axis, Budget, Source, Statistic
from ablate.config.schema import ConfigError, MetricConfig

SMOOTHING = 0.01  # weight of a new episode in the report's moving average, 0.99·old + 0.01·new
POINTS = 100  # of a curve on a common grid, at most

Cell = tuple[str, int]  # arm, seed
Curve = tuple[np.ndarray, np.ndarray]  # x and score, (T,) each, by rising x


def environments(sweep: Sweep) -> dict[str, Sweep]:
    """The sweep's arms by environment, each part a sweep: scores of different environments have different units."""
    arms: dict[str, list[str]] = {}
    for arm, described in sweep.study["arms"].items():
        arms.setdefault(described["config"]["env"]["id"], []).append(arm)
    return {env: sweep.only(names) for env, names in arms.items()} if len(arms) > 1 else dict.fromkeys(arms, sweep)


def refuse_mixed(sweep: Sweep, source: Source = Source.evaluations) -> None:
    """Raise ConfigError where scores of several arms are no comparison.

    That is: other environments, other settings of one (sticky actions), evaluations of another horizon or protocol,
    training returns of episodes of another length. Where only environments differ, take `environments` one by one."""
    configs = {arm: described["config"] for arm, described in sweep.study["arms"].items()}
    envs = {arm: config["env"] for arm, config in configs.items()}
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
        found = sweep.evaluations.groupby("arm", sort=False)[column].unique()
        _refuse(f"evaluation {column}", {str(arm): ", ".join(map(str, v)) for arm, v in found.items()}, why)


def _refuse(key: str, values: dict[str, str], why: str) -> None:
    if len(set(values.values())) > 1:
        raise ConfigError(f"{key} differs: {'; '.join(f'{arm}: {value}' for arm, value in values.items())}: {why}")


def metric_config(sweep: Sweep, name: str) -> MetricConfig:
    """The study's metric of this name. Raises ConfigError if there is none or it lacks what it needs."""
    metrics = sweep.study["metrics"]
    if name not in metrics:
        raise ConfigError(f"metric={name}: the study has no such metric, only {', '.join(metrics)}")
    metric = MetricConfig(**metrics[name])
    low, high = metric.window
    if low > high:
        raise ConfigError(f"sweep.metrics.{name}.window=[{low}, {high}]: its end comes before its start")
    if metric.statistic is Statistic.first_reach and metric.score is None:
        raise ConfigError(f"sweep.metrics.{name}.score=null: first_reach needs the score to be reached")
    return metric


def score_label(sweep: Sweep) -> str:
    """What a score is, for axes and headings."""
    return "average reward per step" if sweep.per_step else "episodic return"


def unit(metric: MetricConfig) -> str:
    """What a metric's values are counted in: `score`, or the column of its x."""
    return str(metric.x) if metric.statistic in (Statistic.first_reach, Statistic.duration) else "score"


def counted_axis(metric: MetricConfig) -> Axis:
    """What the metric's budget is counted on: its x; for `duration`, which asks for x, the episodes (of training) or
    steps (of evaluations) that are to be done."""
    if metric.statistic is not Statistic.duration:
        return metric.x
    return Axis.episode if metric.source is Source.episodes else Axis.global_step


def cell_curves(sweep: Sweep, source: Source, x: Axis) -> dict[Cell, Curve]:
    """Each completed cell's curve, by rising x; cells without a row are left out.

    An evaluation's `episode` is the number of training episodes that had ended by its step. A training episode's
    `update` lies on the line between the two nearest updates that are known with their steps."""
    table = _evaluations(sweep) if source is Source.evaluations else _episodes(sweep)
    cells = _cells(table)
    if x not in table:
        steps = {cell: table["global_step"].to_numpy()[rows] for cell, rows in cells.items()}
        placed = _episodes_by(sweep, steps) if x is Axis.episode else _updates_at(sweep, steps)
        table[x] = np.concatenate([*placed.values(), np.array([])])
    along, score = table[x].to_numpy(float), table["score"].to_numpy(float)
    found = {}
    for cell, rows in cells.items():
        order = np.argsort(along[rows], kind="stable")
        found[cell] = along[rows][order], score[rows][order]
    return found


def _evaluations(sweep: Sweep) -> pd.DataFrame:
    """One row an evaluation: arm, seed, global_step, update, wall_time_s, score."""
    rows = sweep.evaluations
    score = rows["episodic_return"] / (rows["episodic_length"] if sweep.per_step else 1)
    # a diverged episode makes its evaluation non-finite, not one episode shorter
    groups = rows.assign(score=score).groupby(["arm", "seed", "evaluation"], sort=False)
    means = groups[["global_step", "update", "wall_time_s"]].max()
    means["score"] = groups["score"].mean(skipna=False)
    return means.reset_index()


def _episodes(sweep: Sweep) -> pd.DataFrame:
    """One row a training episode: arm, seed, episode, global_step, wall_time_s, score."""
    score = "mean_step_reward" if sweep.per_step else "episodic_return"
    rows = sweep.episodes[["arm", "seed", "episode", "global_step", "wall_time_s", score]]
    return rows.rename(columns={score: "score"})


def _cells(table: pd.DataFrame) -> dict[Cell, slice]:
    """Where each cell's rows are; they stand together in the tables of a sweep."""
    arms, seeds = table["arm"].to_numpy(object), table["seed"].to_numpy()
    starts = np.flatnonzero(np.r_[True, (arms[1:] != arms[:-1]) | (seeds[1:] != seeds[:-1])][: len(table)])
    return {(arms[a], int(seeds[a])): slice(a, b) for a, b in zip(starts, [*starts[1:], len(table)], strict=False)}


def _episodes_by(sweep: Sweep, steps: dict[Cell, np.ndarray]) -> dict[Cell, np.ndarray]:
    """Training episodes of each cell that had ended by the given steps."""
    table, cells = sweep.episodes["global_step"].to_numpy(), _cells(sweep.episodes)
    ends = {cell: np.sort(table[cells.get(cell, slice(0))]) for cell in steps}
    return {cell: np.searchsorted(ends[cell], at, side="right") for cell, at in steps.items()}


def _updates_at(sweep: Sweep, steps: dict[Cell, np.ndarray]) -> dict[Cell, np.ndarray]:
    """Updates of each cell at the given steps: between rows of updates.csv and evaluations.csv, from (0, 0)."""
    known: dict[Cell, list[np.ndarray]] = {cell: [np.zeros((1, 2))] for cell in steps}
    for table in (sweep.updates, sweep.evaluations):
        pairs = table[["global_step", "update"]].to_numpy(float)
        for cell, rows in _cells(table).items():
            if cell in known:
                known[cell].append(pairs[rows])
    placed = {}
    for cell, at in steps.items():
        pairs = np.concatenate(known[cell])
        pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
        placed[cell] = np.interp(at, pairs[:, 0], pairs[:, 1])
    return placed


def budget(sweep: Sweep, source: Source, x: Axis) -> dict[str, float]:
    """Where on x each arm's shortest completed cell ends; the equal budget is the smallest of them.

    Arms without a row are left out."""
    return _ends(cell_curves(sweep, source, x))


def shortest_cell(sweep: Sweep, source: Source, x: Axis) -> Cell | None:
    """The cell whose end is the equal budget; None where none has a row."""
    found = cell_curves(sweep, source, x)
    return min(found, key=lambda cell: found[cell][0][-1], default=None)


def _ends(found: dict[Cell, Curve]) -> dict[str, float]:
    ends: dict[str, float] = {}
    for (arm, _), (x, _) in found.items():
        ends[arm] = min(ends.get(arm, np.inf), float(x[-1]))
    return ends


def score_cells(sweep: Sweep, name: str) -> pd.DataFrame:
    """The metric of each completed cell: arm, seed, value, censored.

    The window [a, b] of a budget B holds the rows with a·B < x ≤ b·B; where there are none, the last up to b·B. B is
    the equal budget (the end of the shortest cell of all) or each cell's own end. `first_reach` looks for the score
    within the window and is censored at its end; with budget=own that is the arm's shortest cell's, so that an arm's
    cells are alike. Training episodes reach a score by their moving average: single ones cross any line by chance.
    `duration` is x where the fraction b of the budget is done, counted on `counted_axis`.
    value: -inf (inf where smaller is better) for a cell that diverged, NaN for one without a row up to b·B."""
    metric = metric_config(sweep, name)
    counted = counted_axis(metric)
    found = cell_curves(sweep, metric.source, counted)
    reported = cell_curves(sweep, metric.source, metric.x) if counted is not metric.x else found
    ends = _ends(found)
    rows = []
    for cell, (x, score) in found.items():
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
    """The metric of one curve, and whether it is censored. reported (T,): the metric's x where the k-th row is done."""
    low, high = (fraction * end for fraction in metric.window)
    if metric.statistic is Statistic.duration:
        return float(reported[np.searchsorted(x, high)]), False  # of the row that completes the fraction
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
    if metric.statistic is Statistic.auc:  # from end to end of the window: values between two rows are no extrapolation
        at = np.clip(np.r_[low, x[first:before], high], max(low, x[0]), None)
        return statistics.auc(at, np.interp(at, x, score)), False
    if metric.statistic is Statistic.std:
        return statistics.spread(score[first:before]), False
    return statistics.mean(score[first:before]), False


def moving_average(score: np.ndarray) -> np.ndarray:
    """The report's moving average of episodes (T,): the first value, then 0.99·old + 0.01·new."""
    return pd.Series(score).ewm(alpha=SMOOTHING, adjust=False).mean().to_numpy()


def curves(sweep: Sweep, source: Source, x: Axis, budget: Budget = Budget.equal) -> pd.DataFrame:
    """The cells' curves on a grid that all share, up to the equal budget: arm, seed, x, score.

    With budget=own each arm has a grid of its own, to its shortest cell's end. Evaluations are interpolated between
    neighbours, from where every cell has one; of training episodes each point is the mean over a bin that ends at x, or
    the value before where no episode ended in a bin."""
    found = cell_curves(sweep, source, x)
    arms = list(dict.fromkeys(arm for arm, _ in found))
    parts = []
    for together in [arms] if budget is Budget.equal else [[arm] for arm in arms]:
        of_these = {cell: curve for cell, curve in found.items() if cell[0] in together}
        if of_these:
            parts += _on_grid(of_these, source)
    if not parts:
        return pd.DataFrame({"arm": pd.Series(dtype="str"), "seed": pd.Series(dtype="int64"), "x": [], "score": []})
    return pd.concat(parts, ignore_index=True)


def _on_grid(found: dict[Cell, Curve], source: Source) -> list[pd.DataFrame]:
    end = min(x[-1] for x, _ in found.values())
    found = {cell: (x, score) for cell, (x, score) in found.items() if x[0] <= end}
    if source is Source.evaluations:
        start = max(x[0] for x, _ in found.values())
        grid = np.linspace(start, end, POINTS) if start < end else np.array([end])
        on_grid = {cell: np.interp(grid, x, score) for cell, (x, score) in found.items()}
    else:
        bins = min(POINTS, *(int(np.searchsorted(x, end, side="right")) for x, _ in found.values()))
        grid = np.linspace(0, end, bins + 1)[1:]
        first = max(int(np.searchsorted(grid, x[0])) for x, _ in found.values())  # bin where every cell has begun
        on_grid = {cell: _binned(x, score, grid)[first:] for cell, (x, score) in found.items()}
        grid = grid[first:]
    return [
        pd.DataFrame({"arm": arm, "seed": seed, "x": grid, "score": score}) for (arm, seed), score in on_grid.items()
    ]


def _binned(x: np.ndarray, score: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Mean of the scores in each bin that ends at a grid point (G,), or the bin's before; NaN before the first."""
    bins = np.searchsorted(grid, x)
    inside = bins < len(grid)
    count = np.bincount(bins[inside], minlength=len(grid))
    total = np.bincount(bins[inside], score[inside], minlength=len(grid))
    filled = np.maximum.accumulate(np.where(count > 0, np.arange(len(grid)), -1))
    return np.where(filled >= 0, total[filled] / np.maximum(count[filled], 1), np.nan)
