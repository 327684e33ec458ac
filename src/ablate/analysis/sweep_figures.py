"""Figures of a sweep, drawn from its tables alone. `drawings` lists them all; each has a function of its own."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import EngFormatter, MaxNLocator, StrMethodFormatter

from ablate.analysis.figures import COLOURS, DPI, STYLE
from ablate.analysis.load import Sweep
from ablate.analysis.metrics import (
    Curve,
    cell_curves,
    curves,
    environments,
    metric_config,
    moving_average,
    refuse_mixed,
    score_label,
    unit,
)
from ablate.analysis.statistics import CONFIDENCE, MIN_SEEDS, RESAMPLES, SEED, SMALL, interval, mean
from ablate.analysis.tables import Summary
from ablate.analysis.verdicts import untimed, workers
from ablate.config.choices import Axis, Source
from ablate.config.schema import ConfigError
from ablate.records.files import replace_atomically

POINTS = 300  # of one seed's line: more are not told apart on paper
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (6, 1.5, 1.5, 1.5)))  # with the colours: arms differ in grey, too
WORDS = {Source.episodes: "training", Source.evaluations: "evaluation"}
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
    """A figure of the report: under which heading and tab it stands, and how it is drawn."""

    name: str  # of its files
    group: str
    tab: str
    draw: Callable[[], Figure]  # raises ConfigError, with the reason, where it would mix what cannot be compared


def drawings(summary: Summary) -> list[Drawing]:
    """Every figure of the sweep, in the report's order: of each environment by itself, whose scores have one unit."""
    parts = environments(summary.sweep)
    if len(parts) == 1:
        return _drawings(summary)
    listed = []
    for env, part in parts.items():
        slug = re.sub(r"[^a-z0-9]+", "_", env.lower()).strip("_")
        listed += [
            replace(drawing, name=f"{drawing.name}_{slug}", group=f"{env}: {drawing.group}")
            for drawing in _drawings(replace(summary, sweep=part))
        ]
    return listed


def _drawings(summary: Summary) -> list[Drawing]:
    sweep = summary.sweep
    listed = [
        Drawing(f"arms_{WORDS[source]}", "Arms side by side", WORDS[source], partial(draw_arms, sweep, source))
        for source in (Source.episodes, Source.evaluations)
    ]
    for source in (Source.evaluations, Source.episodes):
        listed += [
            Drawing(f"curves_{WORDS[source]}_{x}", f"Learning curves, {WORDS[source]}", X_NAMES[x],
                    partial(draw_curves, sweep, source, x))
            for x in axes(sweep)
        ]  # fmt: skip
    listed += [
        Drawing(f"scores_{name}", "Every seed's score", metric["label"], partial(draw_scores, summary, name))
        for name, metric in sweep.study["metrics"].items()
    ]
    if any(arm["config"]["algo"]["name"] == "a3c" for arm in sweep.study["arms"].values()):  # DQN has none
        listed.append(Drawing("staleness", "Staleness", "by arm", partial(draw_staleness, sweep)))
    return listed


def write_figures(summary: Summary) -> Iterator[tuple[Drawing, bytes | ConfigError]]:
    """Draw all into the sweep's figures/, PNG and PDF. Yields each with its PNG, or with why there is none."""
    folder = summary.sweep.folder / "figures"
    folder.mkdir(exist_ok=True)
    for drawing in drawings(summary):
        try:
            yield drawing, save(drawing.draw(), folder / drawing.name)
        except ConfigError as refusal:
            for suffix in (".png", ".pdf"):
                (folder / (drawing.name + suffix)).unlink(missing_ok=True)  # an earlier one would contradict the reason
            yield drawing, refusal


def save(figure: Figure, path: Path) -> bytes:
    """Write `path`.png and `path`.pdf; each is whole or not there. Returns the PNG."""
    written = {}
    for kind, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):  # the same bytes every time
        buffer = io.BytesIO()
        with mpl.rc_context(STYLE):
            figure.savefig(buffer, format=kind, dpi=DPI, metadata=metadata)
        figure.set_layout_engine("none")  # the second keeps the layout of the first, which is most of the work
        written[kind] = buffer.getvalue()
        replace_atomically(path.with_name(f"{path.name}.{kind}"), written[kind])
    return written["png"]


def axes(sweep: Sweep) -> list[Axis | str]:
    """What curves are drawn against. Ideal parallel time: where all arms' workers take turns in one process."""
    configs = [arm["config"] for arm in sweep.study["arms"].values()]
    turns = all(config["schedule"] == "interleaved" and config["algo"]["name"] == "a3c" for config in configs)
    return [*Axis, *([IDEAL] if turns else [])]


def draw_curves(sweep: Sweep, source: Source, x: Axis | str) -> Figure:
    """Mean over seeds and its 95 % confidence interval, up to the equal budget: the shortest arm's end.

    Ideal parallel time is steps / workers: what W workers would take that run at full speed side by side.
    Raises ConfigError where arms were evaluated differently, or nothing is there yet."""
    refuse_mixed(sweep, source)
    timed, column = (_with_ideal_time(sweep), Axis.wall_time_s) if x == IDEAL else (sweep, Axis(x))
    points = curves(timed, source, column)
    if points.empty:
        raise ConfigError(f"{sweep.folder.name}: no row of {WORDS[source]} of a completed cell yet")
    if all(len(at) < 2 for at, _ in cell_curves(sweep, source, Axis.global_step).values()):
        raise ConfigError(f"{sweep.folder.name}: one {WORDS[source]} a cell is no curve; see evaluation.every_steps")
    with mpl.rc_context(STYLE):
        figure, (ax,) = _figure(1, 1, (8.5, 5.2))
        for arm, label in sweep.arms.items():
            seeds = points[points["arm"] == arm].pivot(index="seed", columns="x", values="score")
            sound = seeds[np.isfinite(seeds).all(axis=1)]
            diverged = f", {len(seeds) - len(sound)} diverged" if len(sound) < len(seeds) else ""
            label = f"{label}  (n = {len(sound)}{diverged})"
            colour, dash = _look(sweep, arm)
            if sound.empty:  # in the legend only
                ax.plot([], [], color=colour, linestyle=dash, label=label)
                continue
            grid, scores = sound.columns.to_numpy(), sound.to_numpy()
            sns.lineplot(x=grid, y=scores.mean(axis=0), errorbar=None, ax=ax, color=colour, linestyle=dash, linewidth=2,
                         marker="o" if len(scores) < MIN_SEEDS else None, markersize=4, markevery=0.04,
                         label=label)  # fmt: skip
            if len(scores) >= MIN_SEEDS:
                ax.fill_between(grid, *mean_band(scores), color=colour, alpha=0.2, linewidth=0)
        ax.set_ylabel(_score_label(sweep, source))
        ax.set_xlabel(X_LABELS[x])
        _finish_x(ax)
        band = f" and its 95 % confidence interval (from {MIN_SEEDS} seeds on)" if ax.collections else ""
        _legend(figure, ax, f"mean of the seeds{band}")
        _title(figure, sweep, _wall_time_caveat(sweep) if x == Axis.wall_time_s else "")
    return figure


def mean_band(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds (T,), (T,) of the pointwise 95 % confidence interval of the mean of curves (N, T).

    `statistics.interval` of each point; from SMALL curves on all points share the resamples, which is much faster."""
    n = len(scores)
    if n < SMALL:
        intervals = [interval(point, mean) for point in scores.T]
        return np.array([i.low for i in intervals]), np.array([i.high for i in intervals])
    low, high = np.quantile(_resamples(n) @ scores, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return low, high


@lru_cache(maxsize=4)
def _resamples(n: int) -> np.ndarray:
    """The weight of each of n curves in each bootstrap resample, (RESAMPLES, n)."""
    return np.random.default_rng(SEED).multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n


def draw_arms(sweep: Sweep, source: Source = Source.episodes, x: Axis | None = None) -> Figure:
    """A panel an arm, as the report shows them: every seed as a thin line, their mean thick.

    Training: the moving average (0.99 · old + 0.01 · new) of the average reward per step against episodes (S1), or of
    the return where episodes end by themselves. Evaluation: an evaluation's mean against environment steps.
    Raises ConfigError where arms were evaluated differently, or nothing is there yet."""
    x = x or (Axis.episode if source is Source.episodes else Axis.global_step)
    refuse_mixed(sweep, source)
    lines = cell_curves(sweep, source, x)
    if not lines:
        raise ConfigError(f"{sweep.folder.name}: no row of {WORDS[source]} of a completed cell yet")
    if source is Source.episodes:
        lines = {cell: (at, moving_average(score)) for cell, (at, score) in lines.items()}
    arms = list(sweep.arms)
    columns = min(len(arms), 3)
    rows = -(-len(arms) // columns)
    with mpl.rc_context(STYLE):
        figure, panels = _figure(rows, columns, (4.2 * columns, 3.4 * rows + 0.6))
        for ax in panels[max(0, len(arms) - columns) : len(arms)]:  # the lowest of each column
            ax.tick_params(labelbottom=True)
            ax.set_xlabel(X_LABELS[x])
        panels[0].plot([], [], color="0.6", linewidth=0.9, label="a seed")
        for ax, arm in zip(panels, arms, strict=False):
            colour, _ = _look(sweep, arm)
            seeds = [curve for (name, _), curve in lines.items() if name == arm]
            thin = [np.column_stack(curve)[_thinned(len(curve[0]))] for curve in seeds]
            ax.add_collection(LineCollection(thin, colors=[colour], linewidths=0.7, alpha=0.45, rasterized=True))
            lone = "o" if all(len(x) == 1 for x, _ in seeds) else None  # a line of one point is not seen
            ax.plot(*_mean_line(seeds), color="0.1", linewidth=2, marker=lone, label="mean of the seeds")
            ax.set_title(textwrap.fill(f"{sweep.arms[arm]}  (n = {len(seeds)})", 38), fontsize="medium")
            ax.autoscale_view()
        _finish_x(panels[0])
        for ax in panels[len(arms) :]:
            ax.set_visible(False)
        for ax in panels[::columns]:
            ax.set_ylabel(_score_label(sweep, source) + ",\nmoving average" * (source is Source.episodes))
        _legend(figure, panels[0])
        _title(figure, sweep)
    return figure


def draw_scores(summary: Summary, metric: str) -> Figure:
    """A dot a seed, and each arm's mean with its 95 % confidence interval, of one of the study's metrics.

    Open triangles: cells that ended before they reached the metric's score; where they ended, not a value.
    Raises ConfigError where arms were evaluated differently, or nothing is there yet."""
    sweep = summary.sweep
    described = metric_config(sweep, metric)
    refuse_mixed(sweep, described.source)
    scores = summary.scores[(summary.scores["metric"] == metric) & summary.scores["arm"].isin(list(sweep.arms))]
    if not np.isfinite(scores["value"]).any():
        raise ConfigError(f"{sweep.folder.name}: no value of {metric} of a completed cell yet")
    of_arms = summary.arms[summary.arms["metric"] == metric]
    rows = {row["arm"]: row for _, row in of_arms.iterrows()}
    with mpl.rc_context(STYLE):
        figure, (ax,) = _figure(1, 1, (8.5, 1.5 + 0.85 * len(sweep.arms)))
        for y, arm in enumerate(sweep.arms):
            own = scores[(scores["arm"] == arm) & np.isfinite(scores["value"])]
            censored = own["censored"].astype(bool)
            scatter = (own["seed"] * 0.618034 % 1 - 0.5) * 0.34  # the golden ratio keeps neighbours apart
            colour, _ = _look(sweep, arm)
            ax.scatter(own["value"][~censored], y + scatter[~censored], s=26, color=colour, alpha=0.65, linewidth=0)
            ax.scatter(own["value"][censored], y + scatter[censored], s=34, marker=">", facecolor="none",
                       edgecolor=colour)  # fmt: skip
            row = rows[arm]
            if np.isfinite(row["mean"]):
                reach = [[row["mean"] - row["mean_low"]], [row["mean_high"] - row["mean"]]]
                ax.errorbar(row["mean"], y + 0.32, xerr=reach if np.isfinite(reach).all() else None, color="0.1",
                            marker="D", markersize=6, linewidth=2, capsize=4, label="mean, 95 % CI")  # fmt: skip
        ax.scatter([], [], s=26, color="0.5", label="a seed")
        if scores["censored"].any():
            ax.scatter([], [], s=34, marker=">", facecolor="none", edgecolor="0.4", label="not reached by then")
        ax.set_yticks(range(len(sweep.arms)), [_with_n(label, rows[arm]) for arm, label in sweep.arms.items()])
        ax.set_ylim(len(sweep.arms) - 0.45, -0.45)
        ax.set_xlabel(f"{described.label} [{metric_unit(sweep, metric)}]")
        if unit(described) != "score":
            _finish_x(ax)
        _legend(figure, ax)
        _title(figure, sweep, _wall_time_caveat(sweep) if unit(described) == Axis.wall_time_s else "")
    return figure


def draw_staleness(sweep: Sweep) -> Figure:
    """A row an arm: how many global updates others made between a worker's pull and its push, as share of the updates.

    A worker that did not get the CPU for a while may be a thousand updates late: what is above the 99th percentile of
    every arm is not drawn; each title has the arm's largest.
    Raises ConfigError if no completed cell has recorded an update."""
    if sweep.updates.empty:
        raise ConfigError(f"{sweep.folder.name}: no update of a completed cell yet")
    staleness = sweep.updates.groupby("arm")["staleness"]
    shares = {arm: own.value_counts(normalize=True) for arm, own in staleness}
    widest = int(np.ceil(staleness.quantile(0.99).max())) + 1
    edges = np.arange(0, widest + (step := max(1, widest // 60)), step) - 0.5
    with mpl.rc_context(STYLE):
        figure, panels = _figure(len(sweep.arms), 1, (8.5, 1.2 * len(sweep.arms) + 1.2))
        for ax, (arm, label) in zip(panels, sweep.arms.items(), strict=True):
            own = sweep.updates[sweep.updates["arm"] == arm]
            title = f"{label}   W = {workers(sweep, arm)}   n = {own['seed'].nunique()}"
            if len(own):
                colour, _ = _look(sweep, arm)
                ax.hist(shares[arm].index, edges.tolist(), weights=shares[arm], color=colour, linewidth=0.5)
                ax.axvline(own["staleness"].mean(), color="0.1", linewidth=1.5, linestyle=":")
                title += f"   mean {own['staleness'].mean():.3g}   largest {own['staleness'].max():.0f}"
            ax.set_title(title, fontsize="small", loc="left")
            ax.set(ylabel="share", xlim=(-0.6, widest - 0.4))
        panels[-1].xaxis.set_major_locator(MaxNLocator(10, integer=True))
        panels[-1].set_xlabel("staleness [global updates by others between pull and push]")
        _title(figure, sweep)
    return figure


def metric_unit(sweep: Sweep, metric: str) -> str:
    """The unit of a metric's values."""
    counted = unit(metric_config(sweep, metric))
    return score_label(sweep) if counted == "score" else UNITS[Axis(counted)]


def _with_ideal_time(sweep: Sweep) -> Sweep:
    """The sweep as if W workers had taken turns in no time: its clock counts steps / workers."""

    def timed(table: pd.DataFrame) -> pd.DataFrame:
        crew = table["arm"].map({arm: workers(sweep, arm) for arm in sweep.arms})
        return table.assign(wall_time_s=table["global_step"] / crew)

    return replace(sweep, episodes=timed(sweep.episodes), evaluations=timed(sweep.evaluations))


def _wall_time_caveat(sweep: Sweep) -> str:
    """Why seconds are not those of workers side by side; empty if they are."""
    reasons = [reason for arm in sweep.arms if (reason := untimed(sweep, arm))]
    if not reasons:
        return ""
    if IDEAL in axes(sweep):
        return "One process, in which the workers took turns: NOT the time of workers side by side"
    more = f", and {len(reasons) - 1} more arms" if len(reasons) > 1 else ""
    return f"NOT VALID as time of workers side by side: {reasons[0]}{more}"


def _mean_line(seeds: list[Curve]) -> Curve:
    """The mean over an arm's seeds, from where the last of them begins to where the first ends."""
    if not seeds:
        return np.array([]), np.array([])
    grid = np.linspace(max(x[0] for x, _ in seeds), min(x[-1] for x, _ in seeds), POINTS)
    return grid, np.mean([np.interp(grid, x, score) for x, score in seeds], axis=0)


def _thinned(n: int) -> np.ndarray:
    """Up to POINTS of n row numbers, evenly spread, with the first and the last."""
    return np.linspace(0, n - 1, min(n, POINTS)).astype(int)


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, wspace=0.03)
    figure = Figure(figsize=size, layout=layout)
    return figure, list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)


def _look(sweep: Sweep, arm: str) -> tuple[tuple[float, float, float], object]:
    """The arm's colour and dashes, the same in every figure."""
    place = list(sweep.arms).index(arm)
    return COLOURS[place % len(COLOURS)], DASHES[place % len(DASHES)]


def _score_label(sweep: Sweep, source: Source) -> str:
    return f"{WORDS[source]}: {score_label(sweep)}"


def _with_n(label: str, row: pd.Series) -> str:
    planned = f" of {row['n_planned']}" if row["n"] != row["n_planned"] else ""
    parts = [f"n = {row['n']}{planned}"]
    parts += [f"{row[f'n_{what}']} {what}" for what in ("diverged", "censored") if row[f"n_{what}"]]
    return f"{label}\n" + ", ".join(parts)


def _finish_x(ax: Axes) -> None:
    """The axis from 0 to the last point: 0, 200k, 400k."""
    # The panels share the axis. One without data has infinite limits.
    end = max((panel.dataLim.xmax for panel in ax.figure.axes if np.isfinite(panel.dataLim.xmax)), default=1)
    ax.set_xlim(0, end * 1.03)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_formatter(EngFormatter(sep="") if end >= 10_000 else StrMethodFormatter("{x:,g}"))


def _legend(figure: Figure, ax: Axes, title: str = "") -> None:
    """One legend under all panels, each label once."""
    handles = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    if old := ax.get_legend():
        old.remove()
    if handles:
        width = 0.08 * (max(map(len, handles)) + 8)  # of an entry, in inches, about
        columns = min(3, len(handles), max(1, int(figure.get_figwidth() / width)))
        figure.legend(handles.values(), handles, title=title, loc="outside lower center", ncols=columns, frameon=False)


def _title(figure: Figure, sweep: Sweep, caveat: str = "") -> None:
    figure.suptitle(sweep.study["question"] or sweep.study["name"], fontsize="medium")
    if caveat:
        figure.axes[0].set_title(caveat, fontsize="small", color="#b00020")
    sns.despine(fig=figure)
