"""The figures of a sweep, drawn only from its tables. `drawings` lists them all; each has its own function."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from ablate.analysis.design_figures import design_drawings
from ablate.analysis.environment_figures import environment_drawings
from ablate.analysis.figure_parts import (
    IDEAL,
    LABELS,
    MARKERS,
    X_LABELS,
    X_NAMES,
    Drawing,
    add_legend,
    add_title,
    draw_arm,
    finish_x,
    look_of,
    metric_unit,
    new_figure,
    seeds_of,
    source_label,
)
from ablate.analysis.figures import COLOURS, DPI, fitted, panel_columns, style
from ablate.analysis.load import Sweep
from ablate.analysis.metrics import (
    Curve,
    cell_curves,
    curves,
    decay_for,
    environments,
    moving_average,
    refuse_mixed,
    unit,
)
from ablate.analysis.published import draw_published
from ablate.analysis.scores import take_turns, untimed, workers
from ablate.analysis.statistics import MIN_SEEDS
from ablate.analysis.tables import Summary
from ablate.analysis.tuning_figures import sensitivity_drawings
from ablate.config.choices import Axis, Budget, Source
from ablate.config.schema import ConfigError
from ablate.records.files import replace_atomically

MOST_CURVES = 24  # arms of which curves are drawn: more show nothing, and take minutes
MOST_TOGETHER = 4  # curves in one panel; with more arms, each has a panel of its own: bands cover each other
POINTS = 300  # of one seed's line: more cannot be distinguished on paper
FIGURES = "figures"
KINDS = ("arms", "curves", "design", "environments", "scores", "search", "sensitivity", "staleness")  # by first words
PAPER = "paper"  # a sweep's folder of figures for a paper


def drawings(summary: Summary) -> list[Drawing]:
    """Every figure of the sweep, in the report's order. Each environment has its own: their units differ."""
    parts = environments(summary.sweep)
    if len(parts) == 1 and not summary.sweep.study.crossed:
        return sensitivity_drawings(summary) + _drawings(summary)
    crowded = len(summary.sweep.study.crossed) > MOST_CURVES
    listed = ([] if crowded else environment_drawings(summary)) + sensitivity_drawings(summary)
    for env, part in parts.items():
        slug = re.sub(r"[^a-z0-9]+", "_", env.lower()).strip("_")
        listed += [
            replace(drawing, name=f"{drawing.name}_{slug}", group=f"{env}: {drawing.group}")
            for drawing in _drawings(replace(summary, sweep=part))
        ]
    return listed


def _drawings(summary: Summary) -> list[Drawing]:
    sweep = summary.sweep
    listed = design_drawings(summary)
    if len(sweep.arms) > MOST_CURVES:
        return listed
    listed += [
        Drawing(f"arms_{LABELS[source]}", "Arms side by side", LABELS[source], partial(draw_arms, sweep, source))
        for source in (Source.episodes, Source.evaluations)
        if source in sweep.sources
    ]
    for source in (source for source in (Source.evaluations, Source.episodes) if source in sweep.sources):
        listed += [
            Drawing(f"curves_{LABELS[source]}_{x}", f"Learning curves, {LABELS[source]}", X_NAMES[x],
                    partial(draw_curves, sweep, source, x))
            for x in axes(sweep)
        ]  # fmt: skip
    listed += [
        Drawing(f"scores_{name}", "Every seed's score", metric.label, partial(draw_scores, summary, name))
        for name, metric in sorted(sweep.study.metrics.items(), key=lambda item: item[0] != sweep.study.metric)
    ]
    if sweep.has_staleness:
        listed.append(Drawing("staleness", "Staleness", "by arm", partial(draw_staleness, sweep)))
    return listed


def write_figures(summary: Summary, place: str = FIGURES) -> Iterator[tuple[Drawing, bytes | ConfigError]]:
    """Draw all figures into a folder of the sweep's, PNG and PDF. Yields each with its PNG, or the reason for none.

    Figures in FIGURES that the study no longer has, of a metric that was renamed for example, are deleted."""
    folder = summary.sweep.folder / place
    folder.mkdir(exist_ok=True)
    listed = drawings(summary)
    if place == FIGURES:
        names = {drawing.name for drawing in listed}
        for path in folder.iterdir():
            if path.suffix in (".png", ".pdf") and path.stem.split("_")[0] in KINDS and path.stem not in names:
                path.unlink()
    for drawing in listed:
        try:
            images = rendered(drawing)
        except ConfigError as refusal:
            for suffix in (".png", ".pdf"):  # an earlier figure would contradict the reason
                (folder / (drawing.name + suffix)).unlink(missing_ok=True)
            yield drawing, refusal
            continue
        for kind, content in images.items():
            replace_atomically(folder / f"{drawing.name}.{kind}", content)
        yield drawing, images["png"]


def rendered(drawing: Drawing) -> dict[str, bytes]:
    """The figure as PNG and PDF. Raises ConfigError with the reason if it cannot be drawn, whatever that is.

    Values that matplotlib cannot draw must not cost the rest of the report."""
    try:
        figure = drawing.draw()
        if not shows_data(figure):
            raise ConfigError(
                f"{drawing.name}: no value can be drawn: none is finite, or no range is common to the seeds"
            )
        return encode(figure)
    except ConfigError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ConfigError(f"{drawing.name}: matplotlib cannot draw these values ({reason})") from error


def shows_data(figure: Figure) -> bool:
    """Whether a value can be seen: a point with a marker, a line between two points, a bar or an area."""

    def finite(points: Any) -> int:
        return int(np.isfinite(np.asarray(points, float).reshape(-1, 2)).all(axis=1).sum())

    for ax in (ax for ax in figure.axes if ax.get_visible()):
        marked = [line.get_marker() not in (None, "None", "") for line in ax.lines]
        if any(finite(line.get_xydata()) > 1 - mark for line, mark in zip(ax.lines, marked, strict=True)):
            return True
        for collection in ax.collections:
            dots = isinstance(collection, PathCollection)
            if any(
                finite(part)
                for part in ([collection.get_offsets()] if dots else [p.vertices for p in collection.get_paths()])
            ):
                return True
        if any(patch.get_height() > 0 for patch in ax.patches if isinstance(patch, Rectangle)):
            return True
    return False


def encode(figure: Figure) -> dict[str, bytes]:
    """The figure as PNG and PDF."""
    written = {}
    # No dates and no versions, so that equal figures have equal bytes.
    for kind, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
        buffer = io.BytesIO()
        with style():
            figure.savefig(buffer, format=kind, dpi=DPI, metadata=metadata)
        figure.set_layout_engine("none")  # the PDF reuses the layout of the PNG, which takes most of the time
        written[kind] = buffer.getvalue()
    return written


def axes(sweep: Sweep) -> list[Axis | str]:
    """The axes that curves are drawn against, with ideal parallel time if workers take turns and no arm ran async."""
    interleaved = all(arm.config["schedule"] == "interleaved" for arm in sweep.study.arms.values())
    turns = any(take_turns(sweep, arm) for arm in sweep.arms)
    return [*sweep.axes, *([IDEAL] if interleaved and turns else [])]


def draw_curves(sweep: Sweep, source: Source, x: Axis | str) -> Figure:
    """The mean over seeds and its 95 % confidence interval, up to the equal budget.

    If an arm has less than two points on the range that is common to all arms, each arm has its own range, and the
    figure says so. Ideal parallel time is steps / workers: the time of W workers that run in parallel at full speed.
    Raises ConfigError if arms were evaluated differently, or there is no data yet."""
    refuse_mixed(sweep, source)
    timed, column = (_with_ideal_time(sweep), Axis.wall_time_s) if x == IDEAL else (sweep, Axis(x))
    points, caveat = curves(timed, source, column), ""
    widths = points.groupby("arm")["x"].nunique()
    if any(widths.get(arm, 0) < 2 for arm, _ in cell_curves(timed, source, column)):
        points = curves(timed, source, column, Budget.own)
        caveat = "the arms have no range in common: each is drawn up to its own end"
    if points.empty:
        raise ConfigError(f"{sweep.folder.name}: no row of {LABELS[source]} of a completed cell yet")
    if all(len(steps) < 2 for steps, _ in cell_curves(sweep, source, Axis.global_step).values()):
        raise ConfigError(
            f"{sweep.folder.name}: one {LABELS[source]} per cell gives no curve; see evaluation.every_steps"
        )
    drawn = {arm: seeds_of(points, arm, label) for arm, label in sweep.arms.items()}
    # All cells are evaluated at the same steps. On another axis, a curve is read between its evaluations.
    measured = source is Source.evaluations and x == Axis.global_step and points["x"].nunique() <= MARKERS
    possible = float(points["score"].min()), float(points["score"].max())
    configs = [arm.config for arm in sweep.study.arms.values()]
    one_task = len({(config["env"]["id"], config["algo"]["name"]) for config in configs}) == 1
    untrue = _wall_time_caveat(sweep) if x == Axis.wall_time_s else ""
    with style():
        if facets := len(drawn) > MOST_TOGETHER:
            figure, panels = _facets(sweep, drawn, measured, possible)
        else:
            figure, panels = new_figure(1, 1, (8.5, 5.2))
            for arm in drawn:
                draw_arm(panels[0], sweep, arm, *drawn[arm], measured, possible)
        if x == Axis.global_step and one_task and not sweep.per_step:
            draw_published(panels[0], configs[0])
        if facets:
            figure.supylabel(source_label(sweep, source), fontsize="medium")
        else:
            panels[0].set_ylabel(source_label(sweep, source))
        for ax in panels:
            ax.set_xlabel(X_LABELS[x])
            ax.label_outer()
        finish_x(panels[0])
        band = f" and its 95 % confidence interval (from {MIN_SEEDS} seeds on)" if panels[0].collections else ""
        add_legend(figure, panels[0], "" if facets else f"mean of the seeds{band}")
        add_title(figure, sweep, "\n".join(filter(None, (untrue, caveat))))
    return figure


def _facets(
    sweep: Sweep, drawn: dict[str, tuple[pd.DataFrame, str]], measured: bool, possible: tuple[float, float]
) -> tuple[Figure, list[Axes]]:
    """One panel per arm: its curve in colour, the baseline in black, all others in grey."""
    columns = panel_columns(len(drawn))
    rows = -(-len(drawn) // columns)
    figure, panels = new_figure(rows, columns, (4.2 * columns, 3.2 * rows + 0.6))
    for ax in panels[len(drawn) :]:
        ax.remove()
    panels = panels[: len(drawn)]
    baseline = sweep.study.baseline
    for ax, (arm, (seeds, label)) in zip(panels, drawn.items(), strict=True):
        for other, (curves_of_other, _) in drawn.items():
            if other not in (arm, baseline) and len(curves_of_other):
                ax.plot(curves_of_other.columns, curves_of_other.mean(), color="0.8", linewidth=1, zorder=1)
        if arm != baseline and baseline in drawn and len(drawn[baseline][0]):
            of_baseline = drawn[baseline][0]
            ax.plot(of_baseline.columns, of_baseline.mean(), color="0.1", linewidth=1.3, linestyle=":", zorder=2)
        draw_arm(ax, sweep, arm, seeds, label, measured, possible)
        if legend := ax.get_legend():
            legend.remove()
        ax.set_title(textwrap.fill(label, 38), fontsize="medium")
    for ax in panels[-columns:]:
        ax.tick_params(labelbottom=True)
    first = panels[0]
    for line in first.lines:
        line.set_label("_")
    first.plot(
        [], [], color="0.1", linewidth=1.3, linestyle=":", label=f"the baseline, {sweep.arms.get(baseline, baseline)}"
    )
    first.plot([], [], color="0.8", linewidth=1, label="other arms")
    first.plot(
        [],
        [],
        color=COLOURS[0],
        linewidth=2,
        label=f"the panel's arm: mean, 95 % confidence interval (from {MIN_SEEDS} seeds on)",
    )
    return figure, panels


def draw_arms(sweep: Sweep, source: Source = Source.episodes, x: Axis | None = None) -> Figure:
    """One panel per arm, as in source report S1: every seed as a thin line, their mean as a thick one.

    Training: the moving average (see `decay_for`) of the average reward per step against episodes, or of the
    return if episodes can terminate. Evaluation: the mean of each evaluation against environment steps, against which
    all runs of other programs are drawn.
    Raises ConfigError if arms were evaluated differently, or there is no data yet."""
    x = x or (Axis.episode if source is Source.episodes and not sweep.foreign else Axis.global_step)
    refuse_mixed(sweep, source)
    lines = cell_curves(sweep, source, x)
    if not lines:
        raise ConfigError(f"{sweep.folder.name}: no row of {LABELS[source]} of a completed cell yet")
    if source is Source.episodes:
        decay = decay_for(min(len(score) for _, score in lines.values()))
        lines = {cell: (episode, moving_average(score, decay)) for cell, (episode, score) in lines.items()}
    arms = list(sweep.arms)
    columns = panel_columns(len(arms))
    rows = -(-len(arms) // columns)
    with style():
        figure, panels = new_figure(rows, columns, (4.2 * columns, 3.4 * rows + 0.6))
        for ax in panels[max(0, len(arms) - columns) : len(arms)]:  # the lowest panel of each column
            ax.tick_params(labelbottom=True)
            ax.set_xlabel(X_LABELS[x])
        panels[0].plot([], [], color="0.6", linewidth=0.9, label="one seed")
        for ax, arm in zip(panels, arms, strict=False):
            colour, _ = look_of(sweep, arm)
            seeds = [curve for (name, _), curve in lines.items() if name == arm]
            thin = [np.column_stack(curve)[_thinned(len(curve[0]))] for curve in seeds]
            ax.add_collection(LineCollection(thin, colors=[colour], linewidths=0.7, alpha=0.45, rasterized=True))
            marker = "o" if all(len(x) == 1 for x, _ in seeds) else None  # a line of one point is invisible
            ax.plot(*_mean_line(seeds), color="0.1", linewidth=2, marker=marker, label="mean of the seeds")
            ax.set_title(textwrap.fill(f"{sweep.arms[arm]}  (n = {len(seeds)})", 38), fontsize="medium")
            ax.autoscale_view()
            if not seeds:
                ax.text(0.5, 0.5, f"no {LABELS[source]} of a completed cell", transform=ax.transAxes, ha="center",
                        va="center", color="0.4")  # fmt: skip
        finish_x(panels[0])
        for ax in panels[len(arms) :]:
            ax.set_visible(False)
        for ax in panels[::columns]:
            ax.set_ylabel(source_label(sweep, source) + ",\nmoving average" * (source is Source.episodes))
        add_legend(figure, panels[0])
        add_title(figure, sweep)
    return figure


def draw_scores(summary: Summary, metric: str) -> Figure:
    """One dot per seed, and each arm's mean with its 95 % confidence interval, for one of the study's metrics.

    Open triangles: cells that ended without reaching the metric's score. They show where the cell ended, not a value.
    Raises ConfigError if arms were evaluated differently, or there is no data yet."""
    sweep = summary.sweep
    config = sweep.study.metric_config(metric)
    refuse_mixed(sweep, config.source)
    scores = summary.scores[(summary.scores["metric"] == metric) & summary.scores["arm"].isin(list(sweep.arms))]
    if not np.isfinite(scores["value"]).any():
        raise ConfigError(f"{sweep.folder.name}: no value of {metric} of a completed cell yet")
    of_arms = summary.arms[summary.arms["metric"] == metric]
    rows = {row["arm"]: row for _, row in of_arms.iterrows()}
    with style():
        figure, (ax,) = new_figure(1, 1, (8.5, 1.5 + 0.85 * len(sweep.arms)))
        for y, arm in enumerate(sweep.arms):
            own = scores[(scores["arm"] == arm) & np.isfinite(scores["value"])]
            censored = own["censored"].astype(bool)
            scatter = (own["seed"] * 0.618034 % 1 - 0.5) * 0.34  # the golden ratio separates neighbouring seeds
            colour, _ = look_of(sweep, arm)
            ax.scatter(own["value"][~censored], y + scatter[~censored], s=26, color=colour, alpha=0.65, linewidth=0)
            ax.scatter(own["value"][censored], y + scatter[censored], s=34, marker=">", facecolor="none",
                       edgecolor=colour)  # fmt: skip
            row = rows[arm]
            if np.isfinite(row["mean"]):
                error = [[row["mean"] - row["mean_low"]], [row["mean_high"] - row["mean"]]]
                ax.errorbar(row["mean"], y + 0.32, xerr=error if np.isfinite(error).all() else None, color="0.1",
                            marker="D", markersize=6, linewidth=2, capsize=4, label="mean, 95 % CI")  # fmt: skip
        ax.scatter([], [], s=26, color="0.5", label="one seed")
        if scores["censored"].any():
            ax.scatter([], [], s=34, marker=">", facecolor="none", edgecolor="0.4", label="score not reached")
        ax.set_yticks(
            range(len(sweep.arms)),
            [fitted(figure, _with_n(label, rows[arm]), 0.35) for arm, label in sweep.arms.items()],
        )
        ax.set_ylim(len(sweep.arms) - 0.45, -0.45)
        ax.set_xlabel(fitted(figure, f"{config.label} [{metric_unit(sweep, metric)}]", 0.55))
        if unit(config) != "score":
            finish_x(ax)
        add_legend(figure, ax)
        add_title(figure, sweep, _wall_time_caveat(sweep) if unit(config) == Axis.wall_time_s else "")
    return figure


def draw_staleness(sweep: Sweep) -> Figure:
    """One row per arm: the global updates by others between a worker's pull and its push, as a share of the updates.

    A worker that had to wait for a CPU may be a thousand updates late. The axis ends at the largest of the arms' 99th
    percentiles; each title gives the arm's largest value.
    Raises ConfigError if no completed cell has recorded an update."""
    if sweep.updates.empty:
        raise ConfigError(f"{sweep.folder.name}: no update of a completed cell yet")
    staleness = sweep.updates.groupby("arm")["staleness"]
    shares = {arm: own.value_counts(normalize=True) for arm, own in staleness}
    widest = int(np.ceil(staleness.quantile(0.99).max())) + 1
    edges = np.arange(0, widest + (step := max(1, widest // 60)), step) - 0.5
    with style():
        figure, panels = new_figure(len(sweep.arms), 1, (8.5, 1.2 * len(sweep.arms) + 1.2))
        for ax, (arm, label) in zip(panels, sweep.arms.items(), strict=True):
            own = sweep.updates[sweep.updates["arm"] == arm]
            title = f"{label}   W = {workers(sweep, arm)}   n = {own['seed'].nunique()}"
            if len(own):
                colour, _ = look_of(sweep, arm)
                ax.hist(shares[arm].index, edges.tolist(), weights=shares[arm], color=colour, linewidth=0.5)
                ax.axvline(own["staleness"].mean(), color="0.1", linewidth=1.5, linestyle=":")
                title += f"   mean {own['staleness'].mean():.3g}   largest {own['staleness'].max():.0f}"
            ax.set_title(fitted(figure, title), fontsize="small", loc="left")
            ax.set(ylabel="share", xlim=(-0.6, widest - 0.4))
        panels[-1].xaxis.set_major_locator(MaxNLocator(10, integer=True))
        panels[-1].set_xlabel("staleness [global updates by others between pull and push]")
        add_title(figure, sweep)
    return figure


def _with_ideal_time(sweep: Sweep) -> Sweep:
    """The sweep with its wall time replaced by steps / workers."""

    def timed(table: pd.DataFrame) -> pd.DataFrame:
        count = table["arm"].map({arm: workers(sweep, arm) for arm in sweep.arms})
        return table.assign(wall_time_s=table["global_step"] / count)

    return replace(sweep, episodes=timed(sweep.episodes), evaluations=timed(sweep.evaluations))


def _wall_time_caveat(sweep: Sweep) -> str:
    """A warning if the seconds are not those of parallel workers; else empty."""
    reasons = [reason for arm in sweep.arms if (reason := untimed(sweep, arm))]
    if not reasons or sweep.foreign:
        return "as the runs' programs logged it" if reasons else ""
    if IDEAL in axes(sweep):
        return "The workers took turns in one process: NOT the time of parallel workers"
    more = f", and {len(reasons) - 1} more arms" if len(reasons) > 1 else ""
    return f"NOT VALID as time of parallel workers: {reasons[0]}{more}"


def _mean_line(seeds: list[Curve]) -> Curve:
    """The mean over an arm's seeds, on the interval that all their curves cover; empty if there is none."""
    start, end = max((x[0] for x, _ in seeds), default=1.0), min((x[-1] for x, _ in seeds), default=0.0)
    if start > end:
        return np.array([]), np.array([])
    grid = np.linspace(start, end, POINTS)
    return grid, np.mean([np.interp(grid, x, score) for x, score in seeds], axis=0)


def _thinned(n: int) -> np.ndarray:
    """Up to POINTS of n row numbers, evenly spaced, with the first and the last."""
    return np.linspace(0, n - 1, min(n, POINTS)).astype(int)


def _with_n(label: str, row: pd.Series) -> str:
    planned = f" of {row['n_planned']}" if row["n"] != row["n_planned"] else ""
    parts = [f"n = {row['n']}{planned}"]
    parts += [row["failed"]] if row["failed"] else []
    parts += [f"{row['n_censored']} censored"] if row["n_censored"] else []
    return f"{label}\n" + ", ".join(parts)
