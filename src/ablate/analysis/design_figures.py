"""The figures of a design: effects, a heat map of two factors, interactions, and the steps of a path."""

from __future__ import annotations

import itertools
import textwrap
from functools import partial

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ablate.analysis import decisions
from ablate.analysis.cases import groups_of, smallest_effect
from ablate.analysis.decisions import Outcome, Part
from ablate.analysis.figure_parts import DASHES, Drawing, add_legend, add_title, metric_unit, new_figure
from ablate.analysis.figures import COLOURS, panel_columns, style
from ablate.analysis.load import Sweep
from ablate.analysis.statistics import CONFIDENCE, MIN_SEEDS, Interval
from ablate.analysis.tables import Summary
from ablate.analysis.tuning_figures import draw_search
from ablate.analysis.verdicts import NOT_TESTABLE, WORDS, Verdict, number
from ablate.config.choices import DesignKind
from ablate.config.inequality import parse
from ablate.config.schema import ConfigError

MOST_PANELS = 10  # of interactions
# Colour and marker of an effect by its verdict: they differ in grey as well.
MARKS = {
    WORDS[Outcome.supported]: (COLOURS[2], "o"),
    WORDS[Outcome.contradicted]: (COLOURS[3], "X"),
    WORDS[Outcome.no_difference]: ("0.45", "s"),
    WORDS[Outcome.undecided]: (COLOURS[0], "d"),
}
EFFECTS = {
    DesignKind.leave_one_out: "all factors minus all but this one: what it adds to the others",
    DesignKind.add_one_in: "this factor alone minus none",
    DesignKind.one_at_a_time: "this value minus the baseline",
    DesignKind.factorial: "this value minus its baseline, on average over the others; ×: what two do beyond their sum",
    DesignKind.path: "this step minus the one before",
}


def design_drawings(summary: Summary) -> list[Drawing]:
    """The figures of the study's factors, for its primary metric; none if it has no factors."""
    study = summary.sweep.study
    levels = levels_of(summary.sweep)
    listed = []
    if study.has_trials:
        listed.append(Drawing("search", "Search", "trials", partial(draw_search, summary)))
    if study.design not in (None, DesignKind.random) and study.claims:  # not an environment that has no claim
        listed.append(Drawing("design_effects", "Design", "effects", partial(draw_effects, summary)))
    if study.design is DesignKind.path:
        listed.append(Drawing("design_path", "Design", "path", partial(draw_path, summary)))
    if study.search is None and study.design in (None, DesignKind.factorial) and len(levels) > 1:
        if len(levels) == 2:
            listed.append(Drawing("design_heat_map", "Design", "heat map", partial(draw_heat_map, summary)))
        listed.append(Drawing("design_interactions", "Design", "interactions", partial(draw_interactions, summary)))
    return listed


def levels_of(sweep: Sweep) -> dict[str, list[str]]:
    """The values of each factor that has several, by key; numbers are sorted, other values in the study's order."""
    arms = [arm.levels for arm in sweep.study.arms.values()]
    by_key = {}
    for key in sweep.study.factors:
        values = list(dict.fromkeys(levels[key] for levels in arms if key in levels))
        if len(values) > 1:
            by_key[key] = sorted(values, key=float) if all(map(_is_number, values)) else values
    return by_key


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _arms_at(sweep: Sweep, fixed: dict[str, str]) -> list[str]:
    """The arms with these values."""
    return [name for name, arm in sweep.study.arms.items() if fixed.items() <= arm.levels.items()]


def mean_over(summary: Summary, arms: list[str]) -> Interval:
    """The mean of the arms' means of the primary metric, with its 95 % interval; failed seeds are left out.

    NaN without arms; no interval with fewer than MIN_SEEDS seeds."""
    metric = summary.sweep.study.metric
    if len(arms) == 1:
        rows = summary.arms[(summary.arms["metric"] == metric) & (summary.arms["arm"] == arms[0])]
        return Interval(*rows[["mean", "mean_low", "mean_high"]].iloc[0]) if len(rows) else _nothing()
    scores = summary.scores[(summary.scores["metric"] == metric) & np.isfinite(summary.scores["value"])]
    table = scores[scores["arm"].isin(arms)].pivot(index="seed", columns="arm", values="value")
    if not arms or set(table) != set(arms):
        return _nothing()
    weights = dict.fromkeys(arms, 1 / len(arms))
    parts = [
        Part(tuple(weights[arm] for arm in group), tuple(table[group].dropna().to_numpy(float).T))
        for group in groups_of(summary.sweep, weights)
    ]
    if min(part.seeds for part in parts) < MIN_SEEDS:
        return Interval(float(table.mean().mean()), np.nan, np.nan)
    effects = decisions.contrast(parts)
    half = float(decisions.half_width(effects.error, effects.freedom, 1 - CONFIDENCE))
    return Interval(float(effects.value), float(effects.value) - half, float(effects.value) + half)


def _nothing() -> Interval:
    return Interval(np.nan, np.nan, np.nan)


def _verdicts(summary: Summary) -> list[Verdict]:
    """The verdicts on the primary metric that have an effect, of claims on arms of this sweep.

    With sweep.environments, those of claims about all environments."""
    study = summary.sweep.study
    listed = [v for v in summary.verdicts if v.metric == study.metric and v.verdict != NOT_TESTABLE]
    own = set(study.crossed or summary.sweep.arms)
    return [v for v in listed if np.isfinite(v.effect) and set(parse(v.inequality).arms) <= own]


def draw_effects(summary: Summary) -> Figure:
    """The effect of each claim on the primary metric with the interval of its verdict, sorted (a forest plot).

    Raises ConfigError if there is no effect yet."""
    sweep, study = summary.sweep, summary.sweep.study
    verdicts = sorted(_verdicts(summary), key=lambda verdict: -verdict.effect)
    if not verdicts:
        raise ConfigError(f"{sweep.folder.name}: no effect on {study.metric} can be computed yet")
    with style():
        figure, (ax,) = new_figure(1, 1, (10, 1.9 + 0.42 * len(verdicts)))
        if margin := smallest_effect(sweep, study.metric, list(study.crossed or sweep.arms)):
            ax.axvspan(-margin, margin, color="0.5", alpha=0.15, linewidth=0, label="smaller than smallest_effect")
        ax.axvline(0, color="0.3", linewidth=1, linestyle="--")
        for y, verdict in enumerate(verdicts):
            _effect(ax, verdict, verdict.effect, y, horizontal=True)
        ax.set_yticks(range(len(verdicts)), [textwrap.fill(verdict.id, 40) for verdict in verdicts])
        ax.set_ylim(len(verdicts) - 0.4, -0.6)
        values = ax.secondary_yaxis("right")
        values.set_yticks(range(len(verdicts)), [f"{_words(verdict)}  n = {verdict.n}" for verdict in verdicts])
        values.tick_params(length=0, labelsize="small")
        ax.set_xlabel(f"effect on {_axis_label(sweep)}")
        ax.set_title(EFFECTS[study.design] if study.design else "", fontsize="small")
        add_legend(figure, ax, "intervals of the verdicts: all claims share an error of 5 %")
        add_title(figure, sweep)
        values.spines["right"].set_visible(False)
    return figure


def _axis_label(sweep: Sweep) -> str:
    """The primary metric, its unit and its direction."""
    metric = sweep.study.metrics[sweep.study.metric]
    better = "smaller" if metric.smaller_is_better else "larger"
    unit = "normalised score" if sweep.study.crossed else metric_unit(sweep, sweep.study.metric)
    return f"{metric.label}\n[{unit}; {better} is better]"


def _words(verdict: Verdict) -> str:
    """The effect and its interval."""
    if np.isnan(verdict.low):
        return number(verdict.effect)
    return f"{number(verdict.effect)} [{number(verdict.low)}, {number(verdict.high)}]"


def _effect(ax: Axes, verdict: Verdict, at: float, place: float, horizontal: bool) -> None:
    """A verdict's effect as a marker at a value, with the interval around it."""
    colour, marker = MARKS[verdict.verdict]
    error = [[verdict.effect - verdict.low], [verdict.high - verdict.effect]]
    bar = error if np.isfinite(error).all() else None
    x, y = (at, place) if horizontal else (place, at)
    ax.errorbar(x, y, xerr=bar if horizontal else None, yerr=None if horizontal else bar, color=colour, marker=marker,
                markersize=7, linewidth=2, capsize=3, linestyle="none", label=verdict.verdict)  # fmt: skip


def draw_heat_map(summary: Summary) -> Figure:
    """The primary metric's mean for each combination of two factors, with its 95 % interval and number of seeds.

    Raises ConfigError if no combination has a value yet."""
    sweep, study = summary.sweep, summary.sweep.study
    (row_key, rows), (column_key, columns) = levels_of(sweep).items()
    means = np.full((len(rows), len(columns)), np.nan)
    texts = {}
    counts = summary.arms[summary.arms["metric"] == study.metric].set_index("arm")["n"]
    for (i, row), (j, column) in itertools.product(enumerate(rows), enumerate(columns)):
        for arm in _arms_at(sweep, {row_key: row, column_key: column})[:1]:
            own = mean_over(summary, [arm])
            means[i, j] = own.value
            interval = "" if np.isnan(own.low) else f"\n[{number(own.low)}, {number(own.high)}]"
            texts[i, j] = f"{number(own.value)}{interval}\nn = {counts.get(arm, 0)}"
    if not np.isfinite(means).any():
        raise ConfigError(f"{sweep.folder.name}: no value of {study.metric} of a completed cell yet")
    metric = study.metrics[study.metric]
    with style(), mpl.rc_context({"axes.grid": False}):
        figure, (ax,) = new_figure(1, 1, (2.5 + 1.7 * len(columns), 1.8 + 0.95 * len(rows)))
        mesh = ax.pcolormesh(means, cmap="viridis_r" if metric.smaller_is_better else "viridis", edgecolors="white",
                             linewidth=2)  # fmt: skip
        for (i, j), text in texts.items():
            red, green, blue, _ = mesh.cmap(mesh.norm(means[i, j])) if np.isfinite(means[i, j]) else (1, 1, 1, 1)
            dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5  # its brightness
            ax.text(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize="small", color="w" if dark else "0.1")
        ax.set_xticks(np.arange(len(columns)) + 0.5, columns)
        ax.set_yticks(np.arange(len(rows)) + 0.5, rows)
        ax.set(xlabel=study.factors[column_key], ylabel=study.factors[row_key])
        ax.tick_params(length=0)
        figure.colorbar(mesh, ax=ax, label=_axis_label(sweep))
        add_title(figure, sweep)
        ax.set_title("mean and its 95 % confidence interval", fontsize="small")
    return figure


def draw_interactions(summary: Summary) -> Figure:
    """A panel per pair of factors: the primary metric against the first one's values, one line per value of the other.

    Each point is a mean over the values of all other factors, with its 95 % interval. Parallel lines: no interaction.
    Raises ConfigError if no point has a value yet."""
    sweep, study = summary.sweep, summary.sweep.study
    levels = levels_of(sweep)
    pairs = list(itertools.combinations(levels, 2))[:MOST_PANELS]
    metric = study.metrics[study.metric]
    columns = panel_columns(len(pairs))
    rows = -(-len(pairs) // columns)
    drawn = False
    with style():
        figure, panels = new_figure(rows, columns, (4.6 * columns + 0.6, 3.9 * rows + 0.4), one_x=False)
        for ax, (key, other) in zip(panels, pairs, strict=False):
            for j, level in enumerate(levels[other]):
                points = [mean_over(summary, _arms_at(sweep, {key: own, other: level})) for own in levels[key]]
                value, low, high = np.array(points, float).T
                drawn = drawn or bool(np.isfinite(value).any())
                x = np.arange(len(value)) + 0.06 * (j - (len(levels[other]) - 1) / 2)  # intervals side by side
                errors = np.nan_to_num([value - low, high - value])
                ax.errorbar(x, value, yerr=errors, color=COLOURS[j % len(COLOURS)], linestyle=DASHES[j % len(DASHES)],
                            marker="o", capsize=3, label=level)  # fmt: skip
            ax.set_xticks(range(len(levels[key])), levels[key])
            ax.set_xlabel(study.factors[key])
            ax.legend(title=study.factors[other], fontsize="small", title_fontsize="small", ncols=4, frameon=False,
                      loc="lower center", bbox_to_anchor=(0.5, 1.0))  # fmt: skip
        for ax in panels[len(pairs) :]:
            ax.remove()
        for ax in panels[::columns]:
            ax.set_ylabel(f"{metric.label}\n[{metric_unit(sweep, study.metric)}]")
        over = ", averaged over the other factors" if len(levels) > 2 else ""
        add_title(figure, sweep)
        figure.supxlabel(
            f"means with 95 % confidence intervals{over}; parallel lines: no interaction", fontsize="small"
        )
    if not drawn:
        raise ConfigError(f"{sweep.folder.name}: no value of {study.metric} of a completed cell yet")
    return figure


def draw_path(summary: Summary) -> Figure:
    """The primary metric's mean along a path as a staircase; on each step its effect, with the verdict's interval.

    Raises ConfigError if an arm has no value yet."""
    sweep, study = summary.sweep, summary.sweep.study
    arms = list(sweep.arms)
    means = [mean_over(summary, [arm]) for arm in arms]
    heights = np.array([own.value for own in means])
    if not np.isfinite(heights).any():
        raise ConfigError(f"{sweep.folder.name}: no value of {study.metric} of a completed cell yet")
    steps = {tuple(parse(verdict.inequality).arms): verdict for verdict in _verdicts(summary)}
    with style():
        figure, (ax,) = new_figure(1, 1, (2.2 + 1.7 * len(arms), 5.4))
        edges = np.arange(len(arms) + 1) - 0.5
        ax.stairs(heights, edges, baseline=None, color="0.25", linewidth=2, label="mean of the arm")
        for x, own in enumerate(means):
            if np.isfinite(own.low):
                ax.errorbar(x, own.value, yerr=[[own.value - own.low], [own.high - own.value]], color="0.6", capsize=3,
                            marker="o", markersize=4, linestyle="none", label="its 95 % interval")  # fmt: skip
        for x, (before, arm) in enumerate(itertools.pairwise(arms)):
            verdict = steps.get((arm, before))
            if verdict and np.isfinite(heights[x]):
                _effect(ax, verdict, heights[x] + verdict.effect, x + 0.5, horizontal=False)
                top = heights[x] + (verdict.effect if np.isnan(verdict.high) else verdict.high)
                ax.annotate(_words(verdict).replace(" [", "\n["), (x + 0.5, top), (0, 5), textcoords="offset points",
                            ha="center", va="bottom", fontsize="small")  # fmt: skip
        ax.set_xticks(range(len(arms)), [textwrap.fill(label, 18) for label in sweep.arms.values()])
        ax.margins(y=0.16)
        ax.set_ylabel(_axis_label(sweep))
        add_legend(figure, ax, "on each step: its effect, with the interval of the verdict")
        add_title(figure, sweep)
    return figure
