"""The figures of a study with sweep.environments: what all environments say together, for the primary metric."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ablate.analysis.design_figures import draw_effects
from ablate.analysis.figure_parts import (
    DASHES,
    LABELS,
    MARKERS,
    X_LABELS,
    Drawing,
    add_legend,
    add_title,
    draw_arm,
    finish_x,
    new_figure,
    seeds_of,
)
from ablate.analysis.figures import COLOURS, fitted, panel_columns, style
from ablate.analysis.metrics import curves, environments, refuse_mixed
from ablate.analysis.scores import values_by_arm
from ablate.analysis.statistics import MIN_SEEDS, performance_profile, probability_of_improvement
from ablate.analysis.tables import Summary, strata_of
from ablate.config.choices import Axis, Source
from ablate.config.schema import ConfigError

GROUP = "Over all environments"
THRESHOLDS = 200  # of a performance profile


def environment_drawings(summary: Summary) -> list[Drawing]:
    """The figures over all environments; none if the arms have environments of their own."""
    if not summary.sweep.study.crossed:
        return []
    listed = [
        Drawing("environments_curves", GROUP, "learning curves", partial(draw_curves_by_environment, summary)),
        Drawing("environments_scores", GROUP, "IQM, mean and rank", partial(draw_scores_over, summary)),
        Drawing("environments_profiles", GROUP, "performance profiles", partial(draw_profiles, summary)),
        Drawing("environments_improvement", GROUP, "P(better)", partial(draw_improvement, summary)),
    ]
    if summary.sweep.study.design is not None:
        listed.append(Drawing("environments_effects", GROUP, "effects", partial(draw_effects, summary)))
    return listed


def draw_curves_by_environment(summary: Summary) -> Figure:
    """One panel per environment: the evaluations of each arm against environment steps, mean and 95 % interval.

    Raises ConfigError if no environment has a curve yet."""
    sweep = summary.sweep
    parts = environments(sweep)
    columns = panel_columns(len(parts))
    rows = -(-len(parts) // columns)
    drawn = False
    with style():
        figure, panels = new_figure(rows, columns, (4.6 * columns, 3.6 * rows + 0.8), one_x=False, one_y=False)
        for ax in panels[len(parts) :]:
            ax.remove()
        for ax, (env, part) in zip(panels, parts.items(), strict=False):
            ax.set_title(env, fontsize="medium")
            ax.set_xlabel(X_LABELS[Axis.global_step])
            ax.set_ylabel(f"{LABELS[Source.evaluations]}: {part.score_name}")
            try:
                refuse_mixed(part)
            except ConfigError:
                ax.text(0.5, 0.5, "its arms were evaluated differently", transform=ax.transAxes, ha="center")
                continue
            points = curves(part, Source.evaluations, Axis.global_step)
            if points["x"].nunique() < 2:
                continue
            possible = float(points["score"].min()), float(points["score"].max())
            for arm, label in part.arms.items():
                seeds, _ = seeds_of(points, arm, label)
                draw_arm(ax, part, arm, seeds, label, points["x"].nunique() <= MARKERS, possible)
            if legend := ax.get_legend():
                legend.remove()
            finish_x(ax, shared=False)
            drawn = True
        if not drawn:
            raise ConfigError(f"{sweep.folder.name}: no curve of evaluations of a completed cell yet")
        add_legend(figure, panels[0], f"mean of the seeds and its 95 % confidence interval (from {MIN_SEEDS} seeds on)")
        add_title(figure, sweep)
    return figure


def draw_scores_over(summary: Summary) -> Figure:
    """IQM, mean and mean rank of the normalised scores of each arm, with 95 % intervals.

    Raises ConfigError if there are no normalised scores yet."""
    rows = _rows(summary, summary.over_environments)
    with style():
        figure, panels = new_figure(1, 3, (11, 1.9 + 0.5 * len(rows)), one_x=False)
        for ax, (name, label) in zip(panels, (("iqm", "IQM"), ("mean", "mean"), ("rank", "mean rank")), strict=True):
            for y, row in enumerate(rows.to_dict("records")):
                _interval(ax, row, name, y, _place(summary, row["arm"]))
            ax.set_title(label, fontsize="medium")
            ax.set_xlabel("1 is the best" if name == "rank" else "normalised score")
            ax.margins(x=0.15)
        names = [fitted(figure, f"{row['label']}\nn = {row['n']}", 0.25) for _, row in rows.iterrows()]
        panels[0].set_yticks(range(len(rows)), names)
        panels[0].set_ylim(len(rows) - 0.5, -0.5)
        add_title(figure, summary.sweep)
    return figure


def draw_profiles(summary: Summary) -> Figure:
    """The share of an arm's runs above each normalised score, averaged over environments, with its pointwise interval.

    An arm whose line is above another's at every score is better at every level (Agarwal et al. 2021). Raises
    ConfigError if there are no normalised scores yet."""
    study = summary.sweep.study
    rows = _rows(summary, summary.over_environments)
    strata = strata_of(summary.sweep, values_by_arm(summary.scores), study.metric)
    pooled = np.concatenate([scores for own in strata.values() for scores in own.values()])
    finite = pooled[np.isfinite(pooled)]
    thresholds = np.linspace(finite.min() - 0.02 * np.ptp(finite) - 1e-9, finite.max(), THRESHOLDS)
    with style():
        figure, (ax,) = new_figure(1, 1, (8.5, 5.2))
        for row in rows.to_dict("records"):
            place = _place(summary, row["arm"])
            colour, dash = COLOURS[place % len(COLOURS)], DASHES[place % len(DASHES)]
            above, low, high = performance_profile([*strata[row["arm"]].values()], thresholds)
            ax.plot(
                thresholds, above, color=colour, linestyle=dash, linewidth=2, label=f"{row['label']}  (n = {row['n']})"
            )
            ax.fill_between(thresholds, low, high, color=colour, alpha=0.2, linewidth=0)
        negative = " (the sign is changed: smaller is better)" * bool(study.metrics[study.metric].smaller_is_better)
        ax.set_xlabel(f"normalised score τ{negative}, {study.metrics[study.metric].label}")
        ax.set_ylabel("share of runs above τ,\nmean over environments")
        ax.set_ylim(-0.02, 1.02)
        add_legend(figure, ax, "with pointwise 95 % intervals, stratified bootstrap")
        add_title(figure, summary.sweep)
    return figure


def draw_improvement(summary: Summary) -> Figure:
    """How probable it is that a run of an arm is better than one of the baseline: over all environments, and in each.

    Raises ConfigError if there are no normalised scores yet, or only one arm has them."""
    sweep = summary.sweep
    rows = _rows(summary, summary.improvements)
    strata = strata_of(sweep, values_by_arm(summary.scores), sweep.study.metric)
    names = [*sweep.study.environments]
    height = len(names) + 1.6  # of an arm's block
    with style():
        figure, (ax,) = new_figure(1, 1, (8.5, 1.6 + 0.34 * height * len(rows)))
        ax.axvline(0.5, color="0.3", linewidth=1, linestyle="--")
        ticks: dict[float, str] = {}
        for place, row in enumerate(rows.to_dict("records")):
            top = place * height
            _interval(ax, row, "probability_of_improvement", top, _place(summary, row["arm"]))
            ticks[top] = f"{row['label']}, all"
            for offset, name in enumerate(names, 1):
                one = probability_of_improvement(strata[row["arm"]][name], strata[row["baseline"]][name])
                own = {"p": one.value, "p_low": one.low, "p_high": one.high}
                _interval(ax, own, "p", top + offset, _place(summary, row["arm"]), small=True)
                ticks[top + offset] = name
        ax.set_yticks([*ticks], [*ticks.values()])
        ax.set_ylim(height * len(rows) - 0.8, -0.7)
        ax.set_xlim(-0.02, 1.02)
        labels = _rows(summary, summary.over_environments).set_index("arm")["label"]
        baseline = labels[rows["baseline"].iloc[0]]
        ax.set_xlabel(f"P(a run is better than one of {baseline}), {sweep.study.metrics[sweep.study.metric].label}")
        add_title(figure, sweep)
        ax.set_title("95 % intervals; ½: as often better as worse", fontsize="small")
    return figure


def _rows(summary: Summary, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the primary metric. Raises ConfigError if there are none."""
    metric = summary.sweep.study.metric
    rows = table[table["metric"] == metric] if len(table) else table
    if rows.empty:
        raise ConfigError(
            f"{summary.sweep.folder.name}: {metric} has no normalised scores, or not of two arms in every environment"
        )
    return rows


def _place(summary: Summary, arm: str) -> int:
    """The place of an arm among those of the study, which decides its colour."""
    return [*summary.sweep.study.crossed].index(arm)


def _interval(ax: Axes, row: Mapping[Any, Any], name: str, y: float, place: int, small: bool = False) -> None:
    """A value as a marker with its interval."""
    value, low, high = (row[key] for key in (name, f"{name}_low", f"{name}_high"))
    error = [[value - low], [high - value]]
    ax.errorbar(value, y, xerr=error if np.isfinite(error).all() else None, color=COLOURS[place % len(COLOURS)],
                marker="o" if small else "D", markersize=4 if small else 7, linewidth=1 if small else 2.5,
                capsize=0 if small else 4, alpha=0.75 if small else 1)  # fmt: skip
