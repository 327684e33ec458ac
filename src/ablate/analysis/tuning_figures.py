"""The figures of a search and of a study of sensitivity: trial after trial, what tuning gains, all settings."""

from __future__ import annotations

from functools import partial

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from ablate.analysis.figure_parts import Drawing, add_legend, add_title, metric_unit, new_figure
from ablate.analysis.figures import COLOURS, style
from ablate.analysis.sensitivity import CHOOSES_THE_TASK, NEAR, Sensitivity
from ablate.analysis.tables import Summary
from ablate.config.choices import DesignKind
from ablate.config.schema import ConfigError

MARKERS = "osD^vP*Xh<>"


def sensitivity_drawings(summary: Summary) -> list[Drawing]:
    """The figures of a study that has a sensitivity, for all of its environments together."""
    if summary.sensitivity is None:
        return []
    listed = [Drawing("sensitivity_settings", "Sensitivity", "settings", partial(draw_settings, summary))]
    if summary.sensitivity.subsets:
        listed.insert(0, Drawing("sensitivity", "Sensitivity", "tuned keys", partial(draw_dimension, summary)))
    if summary.sweep.study.design is DesignKind.random:
        listed.append(Drawing("sensitivity_ranges", "Sensitivity", "by key", partial(draw_ranges, summary)))
    return listed


def _of(summary: Summary) -> Sensitivity:
    if summary.sensitivity is None:
        raise ConfigError("no sensitivity could be computed; see the notes")
    return summary.sensitivity


def draw_search(summary: Summary) -> Figure:
    """The mean and the single seeds of the primary metric for each trial in order, the best so far, and the default.

    Raises ConfigError if no trial has a score."""
    sweep, study = summary.sweep, summary.sweep.study
    rows = summary.scores[(summary.scores["metric"] == study.metric) & np.isfinite(summary.scores["value"])]
    trials = [arm for arm in sweep.arms if arm != study.baseline]
    means = rows.groupby("arm")["value"].mean().reindex(trials).to_numpy()
    if not np.isfinite(means).any():
        raise ConfigError(f"{sweep.folder.name}: no value of {study.metric} of a completed trial yet")
    best = np.fmin if study.metrics[study.metric].smaller_is_better else np.fmax
    with style():
        figure, (ax,) = new_figure(1, 1, (9.0, 4.8))
        seeds = rows[rows["arm"].isin(trials)]
        ax.plot([trials.index(arm) for arm in seeds["arm"]], seeds["value"], linestyle="none", marker=".", color="0.7",
                label="a tuning seed")  # fmt: skip
        ax.plot(range(len(trials)), means, linestyle="none", marker="o", color=COLOURS[0], label="mean of the trial")
        ax.plot(range(len(trials)), best.accumulate(means), color=COLOURS[0], drawstyle="steps-post",
                label="best so far")  # fmt: skip
        ax.axhline(
            rows.loc[rows["arm"] == study.baseline, "value"].mean(), color="0.3", linestyle="--", label="default"
        )
        ax.set_xlabel("trial; failed seeds are left out here, and count in the search")
        ax.set_ylabel(f"{study.metrics[study.metric].label}\n[{metric_unit(sweep, study.metric)}]")
        add_legend(figure, ax)
        add_title(figure, sweep)
    return figure


def draw_settings(summary: Summary) -> Figure:
    """The normalised score of every setting in every environment, sorted by the mean over environments."""
    own = _of(summary)
    order = np.argsort(own.table.mean(0), kind="stable")
    with style():
        figure, (ax,) = new_figure(1, 1, (8.5, 1.9 + 0.24 * len(order)))
        for e, env in enumerate(own.environments):
            colour = COLOURS[e % len(COLOURS)]
            ax.plot(own.table[e, order], range(len(order)), linestyle="none", marker=MARKERS[e % len(MARKERS)],
                    color=colour, label=env)  # fmt: skip
            best = int(own.table[e].argmax())
            ax.plot(own.table[e, best], list(order).index(best), linestyle="none", marker="o", markersize=12,
                    markerfacecolor="none", color=colour)  # fmt: skip
        ax.plot(own.table.mean(0)[order], range(len(order)), color="0.3", label="mean")
        ax.axhline(list(order).index(own.reference), color="0.6", linestyle=":", linewidth=1)
        ax.set_yticks(range(len(order)), [own.labels[h] for h in order], fontsize="x-small")
        ax.set_xlabel("normalised score\n(0 and 1: the 5th and 95th percentile of all runs in the environment)")
        ax.set_title("a ring: the best of its environment; dotted line: the reference", fontsize="small")
        add_legend(figure, ax)
        add_title(figure, summary.sweep)
    return figure


def draw_dimension(summary: Summary) -> Figure:
    """What is reached if so many keys are tuned in each environment, and the 95 % that count as near the best.

    Raises ConfigError if the settings are not all combinations of their values."""
    own, factors = _of(summary), summary.sweep.study.factors
    if not own.subsets:
        raise ConfigError("the effective dimension needs all combinations of the settings: sweep.design=factorial")
    with style():
        figure, (ax,) = new_figure(1, 1, (7.5, 4.6))
        ax.plot([len(s.keys) for s in own.subsets], [s.performance for s in own.subsets], linestyle="none", marker="o",
                color="0.6", label="each choice of keys")  # fmt: skip
        best = own.best_of_size
        ax.plot([len(s.keys) for s in best], [s.performance for s in best], marker="D", color=COLOURS[0],
                label="the best choice")  # fmt: skip
        for subset in best[1:-1]:
            ax.annotate(" + ".join(factors[key] for key in subset.keys), (len(subset.keys), subset.performance),
                        (0, 8), textcoords="offset points", ha="center", fontsize="small")  # fmt: skip
        ax.axhline(NEAR * own.best, color=COLOURS[3], linestyle="--", linewidth=1, label="95 % of the best")
        ax.set_xticks(range(len(best)))
        ax.margins(y=0.15)
        ax.set_xlabel("keys that are tuned in each environment; the others are as in the reference")
        ax.set_ylabel("normalised score,\nmean over environments")
        add_legend(figure, ax)
        add_title(figure, summary.sweep)
    return figure


def draw_ranges(summary: Summary) -> Figure:
    """The normalised score of each drawn setting against the value of each key, a panel per key."""
    own, study = _of(summary), summary.sweep.study
    keys = [key for key in study.factors if key not in CHOOSES_THE_TASK]
    arms = {", ".join(f"{study.factors[k]}={arm.levels[k]}" for k in keys): arm.levels for arm in study.arms.values()}
    with style():
        figure, panels = new_figure(1, len(keys), (4.0 * len(keys) + 0.6, 4.2), one_x=False)
        for ax, key in zip(panels, keys, strict=True):
            texts = [arms[label][key] for label in own.labels]
            try:
                x = np.array(texts, float)
                if x.min() > 0 and x.max() / x.min() > 20:
                    ax.set_xscale("log")
                    ax.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
                    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
                    ax.xaxis.set_minor_formatter(NullFormatter())
            except ValueError:
                names = sorted(set(texts))
                x = np.array([names.index(text) for text in texts], float)
                ax.set_xticks(range(len(names)), names)
            for e, env in enumerate(own.environments):
                ax.plot(x, own.table[e], linestyle="none", marker=MARKERS[e % len(MARKERS)],
                        color=COLOURS[e % len(COLOURS)], label=env)  # fmt: skip
            ax.set_xlabel(study.factors[key])
        panels[0].set_ylabel("normalised score")
        add_legend(figure, panels[0])
        add_title(figure, summary.sweep)
    return figure
