"""What all figures of a sweep share: their list, their style, their labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import EngFormatter, MaxNLocator, StrMethodFormatter
from scipy import stats

from ablate.analysis.figures import COLOURS, figure_size, fitted, set_title
from ablate.analysis.load import Sweep
from ablate.analysis.metrics import unit
from ablate.analysis.statistics import CONFIDENCE, MIN_SEEDS
from ablate.config.choices import Axis, Source

MARKERS = 40  # evaluations in one curve whose points are still told apart
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (6, 1.5, 1.5, 1.5)))  # with the colours: arms differ in grey as well
LABELS = {Source.episodes: "training", Source.evaluations: "evaluation"}
IDEAL = "ideal_parallel_time"
X_LABELS = {
    Axis.global_step: "environment steps",
    Axis.update: "updates",
    Axis.episode: "episodes",
    Axis.wall_time_s: "wall time [s]",
    IDEAL: "ideal parallel time [environment steps / workers]",
}
UNITS = {**X_LABELS, Axis.wall_time_s: "s of wall time"}
X_NAMES = {**X_LABELS, Axis.wall_time_s: "wall time", IDEAL: "ideal parallel time"}


@dataclass(frozen=True)
class Drawing:
    """A figure of the report: its heading, its tab, and the function that draws it."""

    name: str  # file name without suffix
    group: str
    tab: str
    draw: Callable[[], Figure]  # raises ConfigError with the reason if its arms cannot be compared


def metric_unit(sweep: Sweep, metric: str) -> str:
    """The unit of a metric's values."""
    name = unit(sweep.study.metrics[metric])
    return sweep.score_name if name == "score" else UNITS[Axis(name)]


def new_figure(
    rows: int, columns: int, size: tuple[float, float], one_x: bool = True, one_y: bool = True
) -> tuple[Figure, list[Axes]]:
    """A figure and its panels, which share the axes that are not switched off."""
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, wspace=0.03)
    figure = Figure(figsize=figure_size(*size), layout=layout)
    return figure, list(figure.subplots(rows, columns, sharex=one_x, sharey=one_y, squeeze=False).flat)


def look_of(sweep: Sweep, arm: str) -> tuple[tuple[float, float, float], object]:
    """The arm's colour and dashes, the same in every figure."""
    index = list(sweep.arms).index(arm)
    return COLOURS[index % len(COLOURS)], DASHES[index % len(DASHES)]


def add_legend(figure: Figure, ax: Axes, title: str = "") -> None:
    """One legend below all panels, with each label once."""
    handles = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    if old := ax.get_legend():
        old.remove()
    if handles:
        width = 0.08 * (max(map(len, handles)) + 8)  # approximate width of an entry in inches
        columns = min(3, len(handles), max(1, int(figure.get_figwidth() / width)))
        figure.legend(
            handles.values(),
            handles,
            title=fitted(figure, title, 0.9),
            loc="outside lower center",
            ncols=columns,
            frameon=False,
        )


def add_title(figure: Figure, sweep: Sweep, caveat: str = "") -> None:
    set_title(figure, sweep.study.question or sweep.study.name)
    if caveat:
        figure.axes[0].set_title(fitted(figure, caveat, 0.8), fontsize="small", color="#b00020")
    sns.despine(fig=figure)


def source_label(sweep: Sweep, source: Source) -> str:
    return f"{LABELS[source]}: {sweep.score_name}"


def seeds_of(points: pd.DataFrame, arm: str, label: str) -> tuple[pd.DataFrame, str]:
    """The curves of an arm's seeds that did not diverge, one per row, and the arm's label with their number."""
    seeds = points[points["arm"] == arm].pivot(index="seed", columns="x", values="score")
    sound = seeds.iloc[np.flatnonzero(np.isfinite(seeds.to_numpy()).all(axis=1))]
    diverged = f", {len(seeds) - len(sound)} diverged" if len(sound) < len(seeds) else ""
    return sound, f"{label}  (n = {len(sound)}{diverged})"


def draw_arm(
    ax: Axes, sweep: Sweep, arm: str, seeds: pd.DataFrame, label: str, measured: bool, possible: tuple[float, float]
) -> None:
    """The mean of an arm's curves, with its band.

    measured: every point was measured, and has a marker. possible: smallest and largest score of any seed in the
    figure, at which bands end: an interval from few seeds may go beyond what the task can give."""
    colour, dash = look_of(sweep, arm)
    if seeds.empty:  # in the legend only
        ax.plot([], [], color=colour, linestyle=dash, label=label)
        return
    grid, scores = seeds.columns.to_numpy(), seeds.to_numpy()
    alone = len(grid) == 1  # a line of one point is invisible
    sns.lineplot(x=grid, y=scores.mean(axis=0), errorbar=None, ax=ax, color=colour, linestyle=dash, linewidth=2,
                 marker="o" if measured or alone else None, markersize=4, label=label)  # fmt: skip
    band = np.clip(mean_band(scores), *possible)
    if len(scores) >= MIN_SEEDS and alone:
        ax.vlines(grid, *band, color=colour, alpha=0.4, linewidth=4)
    elif len(scores) >= MIN_SEEDS:
        ax.fill_between(grid, *band, color=colour, alpha=0.2, linewidth=0)


def mean_band(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds (T,), (T,) of the pointwise 95 % confidence interval of the mean of curves (N, T), with Student's t."""
    n = len(scores)
    if n < MIN_SEEDS:
        nothing = np.full(scores.shape[1], np.nan)
        return nothing, nothing
    middle, error = scores.mean(0), np.std(scores, axis=0, ddof=1) / np.sqrt(n)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * error
    return middle - half, middle + half


def finish_x(ax: Axes, shared: bool = True) -> None:
    """Let the axis run from 0 to the last point: 0, 200k, 400k. shared: by all panels of the figure."""
    panels = ax.figure.axes if shared else [ax]
    # A panel without data has infinite limits.
    end = max((panel.dataLim.xmax for panel in panels if np.isfinite(panel.dataLim.xmax)), default=1)
    ax.set_xlim(0, end * 1.03)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_formatter(EngFormatter(sep="") if end >= 10_000 else StrMethodFormatter("{x:,g}"))
