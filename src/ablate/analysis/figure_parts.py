"""What all figures of a sweep share: their list, their look, their labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from ablate.analysis.figures import COLOURS, figure_size, fitted, set_title
from ablate.analysis.load import Sweep
from ablate.analysis.metrics import score_label, unit
from ablate.config.choices import Axis, Source

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
    return score_label(sweep) if name == "score" else UNITS[Axis(name)]


def new_figure(rows: int, columns: int, size: tuple[float, float], one_x: bool = True) -> tuple[Figure, list[Axes]]:
    """A figure and its panels, which share the y-axis and, if `one_x`, the x-axis."""
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, wspace=0.03)
    figure = Figure(figsize=figure_size(*size), layout=layout)
    return figure, list(figure.subplots(rows, columns, sharex=one_x, sharey=True, squeeze=False).flat)


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
