"""The figures of one run, drawn only from its files."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator, StrMethodFormatter
from scipy import stats

from ablate.analysis.load import Run
from ablate.analysis.metrics import decay_for, moving_average
from ablate.analysis.published import draw_published
from ablate.config.choices import ScoreUnit
from ablate.config.derived import default_score_unit

DPI = 150
MAX_POINTS = 4000  # episodes drawn as points; more would overlap and take longer
COLOURS = sns.color_palette("colorblind")  # safe for colour-blind readers
STYLE = {
    **sns.axes_style("whitegrid"),
    **sns.plotting_context("notebook"),
    "axes.edgecolor": "0.6",
    "grid.color": "0.9",
    "agg.path.chunksize": 20_000,  # Agg cannot draw a line of many points in one piece
    "text.parse_math": False,  # labels are shown as they are written: `$5 to $10` is no formula
    "pdf.fonttype": 42,  # TrueType: journals refuse matplotlib's default, Type 3
}
MM_PER_INCH = 25.4


@dataclass(frozen=True)
class Paper:
    """The size of figures for a page. None: the size for a screen."""

    width_mm: float | None = None
    font_size: float | None = None  # points


_SCREEN = Paper()
_PAPER: ContextVar[Paper] = ContextVar("paper", default=_SCREEN)


@contextmanager
def printed_on(paper: Paper) -> Iterator[None]:
    """Figures that are drawn inside have this size."""
    token = _PAPER.set(paper)
    try:
        yield
    finally:
        _PAPER.reset(token)


def style() -> AbstractContextManager[None]:
    """The rc parameters of every figure, for the time that it is drawn."""
    size = _PAPER.get().font_size
    fonts: dict[Any, Any] = {} if size is None else sns.plotting_context("notebook", font_scale=size / 12)
    return mpl.rc_context({**STYLE, **fonts})


def figure_size(width: float, height: float) -> tuple[float, float]:
    """Inches. width, height: for a screen. On paper the height shrinks less than the width, so that text still fits."""
    on_paper = _PAPER.get().width_mm
    if on_paper is None:
        return width, height
    scale = on_paper / MM_PER_INCH / width
    return scale * width, min(height, max(scale, 0.6) * height)


def panel_columns(count: int) -> int:
    """How many of these panels stand side by side: at most 3, on paper at least 55 mm each."""
    width_mm = _PAPER.get().width_mm
    return min(count, 3 if width_mm is None else max(1, int(width_mm / 55)))


def fitted(figure: Figure, text: str, share: float = 1.0) -> str:
    """The text in lines that fit into this share of the figure's width."""
    letter = 0.5 * float(mpl.rcParams["font.size"]) / 72  # the mean width of a letter in inches, about
    longest = max(20, int(share * figure.get_figwidth() / letter))
    return "\n".join(textwrap.fill(line, longest) for line in text.split("\n"))


def set_title(figure: Figure, text: str) -> None:
    """A title in lines that fit into the figure's width."""
    figure.suptitle(fitted(figure, text), fontsize="medium")


def learning_curve(run: Run, path: Path) -> None:
    """Write the run's learning curve as a PNG, atomically; creates its folder.

    Raises ConfigError if the manifest lacks a value for the title, OSError if the file cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with style():
            draw_learning_curve(run).savefig(temporary, format="png", dpi=DPI)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def draw_learning_curve(run: Run) -> Figure:
    """Average reward per step of each episode and its moving average, against episodes and environment steps.

    If episodes can terminate, their length is part of the score; then the episodic return is drawn instead. That
    follows from the environment, not from the data.
    The right panel also shows the evaluations: mean and 95 % confidence interval over an evaluation's episodes, and
    for games the published scores that its steps reach."""
    with style():
        layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, wspace=0.03)
        figure = Figure(figsize=figure_size(11, 4.8), layout=layout)
        panels = figure.subplots(3 - panel_columns(2), panel_columns(2), sharey=True)
        left, right = panels.flat
        env_id = run.setting("env.id")
        unit = default_score_unit(env_id)
        per_step = unit is ScoreUnit.reward_per_step
        scores = pd.DataFrame(
            {
                "episode": run.episodes["episode"],
                "global_step": run.episodes["global_step"],
                "score": run.episodes["mean_step_reward" if per_step else "episodic_return"],
            }
        )
        scores["moving_average"] = moving_average(scores["score"].to_numpy(float), decay_for(len(scores)))
        evaluations = evaluation_means(run.evaluations, per_step)
        _episodes(left, scores, "episode")
        _episodes(right, scores, "global_step")
        _evaluations(right, evaluations)
        published = [] if per_step else draw_published(right, run.manifest.config)
        left.set(xlabel="episode", ylabel=unit.words)
        right.set(xlabel="environment steps")
        for ax in (left, right):
            finish_x(ax)
        if limits := _y_limits(scores["score"], evaluations):
            low, high = limits
            left.set_ylim(min([low, *published]), max([high, *(1.03 * score for score in published)]))
        handles, labels = right.get_legend_handles_labels()
        if handles:
            columns = _columns(figure, labels, 4)
            legend = figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
            for handle in legend.legend_handles:
                if isinstance(handle, Line2D) and handle.get_label() == "episode":
                    handle.set(markersize=5, alpha=0.7)  # a single point of the panels' size is hard to see
        else:
            left.set_yticks([])
        set_title(figure, title(run))
        sns.despine(fig=figure)
        return figure


def _columns(figure: Figure, labels: Sequence[str], most: int) -> int:
    """In how many columns, at most `most`, a legend with these labels is no wider than the figure."""

    def inches(columns: int) -> float:  # each column is as wide as its longest label
        return sum(0.095 * len(max(column, key=len)) + 0.8 for column in np.array_split(labels, columns))

    return next((n for n in range(min(most, len(labels)), 1, -1) if inches(n) <= figure.get_figwidth()), 1)


def title(run: Run) -> str:
    """The run's settings in one line: A3C · Pendulum-v1 · 4 workers · async · manual · seed 1."""
    if run.manifest.config.get("replay"):  # one learner, so the replay is named instead
        experience = f"{run.setting('replay.name')} replay"
    else:
        workers = run.setting("workers") or run.manifest.machine.get("cpus")  # null: one per CPU
        experience = "one worker per CPU" if workers is None else f"{workers} worker{'s' * (workers != 1)}"
    parts = (
        str(run.setting("algo.name")).upper(), run.setting("env.id"), experience, run.setting("schedule"),
        run.setting("backend"), f"seed {run.setting('seed')}",
    )  # fmt: skip
    return " · ".join(map(str, parts))


def evaluation_means(evaluations: pd.DataFrame, per_step: bool = True) -> pd.DataFrame:
    """One row per evaluation: global_step, mean and half_width of its episodes' reward per step (or return).

    half_width: of the mean's 95 % confidence interval (Student's t); NaN for a single episode."""
    scores = evaluations["episodic_return"] / (evaluations["episodic_length"] if per_step else 1)
    groups = scores.groupby(evaluations["evaluation"])
    count = groups.count()
    half_width = stats.t.ppf(0.975, count - 1) * groups.std() / np.sqrt(count)
    steps = evaluations.groupby("evaluation")["global_step"].max()
    means = pd.DataFrame({"global_step": steps, "mean": groups.mean(), "half_width": half_width})
    return means[np.isfinite(means["mean"])]


def _episodes(ax: Axes, scores: pd.DataFrame, x: str) -> None:
    if scores.empty:
        return
    few = len(scores) <= MAX_POINTS // 10
    drawn = scores.iloc[_one_per_stretch(len(scores))]
    ax.plot(drawn[x], drawn["score"], linestyle="none", marker="o", markersize=4 if few else 2.5,
            markeredgewidth=0, color=COLOURS[0], alpha=0.5 if few else 0.35, label="episode")  # fmt: skip
    ax.plot(scores[x], scores["moving_average"], color=COLOURS[0], linewidth=2.2,
            marker="o" if len(scores) == 1 else None, label="moving average")  # fmt: skip


def _evaluations(ax: Axes, evaluations: pd.DataFrame) -> None:
    if evaluations.empty:
        return
    step, mean, half_width = evaluations["global_step"], evaluations["mean"], evaluations["half_width"]
    ax.plot(step, mean, color=COLOURS[1], linewidth=1.6, marker="D", markersize=5, markeredgecolor="white",
            label="evaluation")  # fmt: skip
    band: dict[str, Any] = {"color": COLOURS[1], "alpha": 0.25, "label": "95 % confidence interval"}
    if half_width.isna().all():
        return
    if len(evaluations) == 1:  # a band would have no width
        ax.vlines(step, mean - half_width, mean + half_width, linewidth=5, **band)
    else:
        ax.fill_between(step, mean - half_width, mean + half_width, linewidth=0, **band)


def finish_x(ax: Axes, nothing: str = "no finished episode yet") -> None:
    """Let the axis run from 0 to the last point, with integer ticks: 0, 200k, 400k. nothing: said if there is none."""
    end = ax.dataLim.xmax
    if not np.isfinite(end):  # no finite value was drawn
        ax.set_xticks([])
        ax.text(0.5, 0.5, nothing, transform=ax.transAxes, ha="center", va="center", color="0.4")
        return
    ax.set_xlim(0, end * 1.02)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.xaxis.set_major_formatter(EngFormatter(sep="") if end >= 10_000 else StrMethodFormatter("{x:,.0f}"))


def _one_per_stretch(n: int) -> np.ndarray:
    """Up to MAX_POINTS of n row numbers, one from each of MAX_POINTS equal stretches.

    Each is drawn at random from its stretch, because a fixed stride could always select the same worker."""
    if n <= MAX_POINTS:
        return np.arange(n)
    stretches = np.arange(MAX_POINTS) + np.random.default_rng(0).random(MAX_POINTS)
    return (stretches * (n / MAX_POINTS)).astype(int)


def _y_limits(rewards: pd.Series, evaluations: pd.DataFrame) -> tuple[float, float] | None:
    """Limits that contain all ordinary values. None without values, or if all values are equal.

    An outlier is far from its neighbours in time, so the steep start of a long run is not an outlier. If outliers are
    frequent (rare successes, for example), they belong to the task, and nothing is cut off."""
    rewards = rewards[np.isfinite(rewards)]
    window = rewards.rolling(101, center=True, min_periods=1)
    low, high = window.quantile(0.05), window.quantile(0.95)
    ordinary = rewards.between(low - 1.5 * (high - low), high + 1.5 * (high - low))
    if (~ordinary).sum() <= max(1, len(rewards) // 200):
        rewards = rewards[ordinary]
    shown = np.concatenate([rewards, evaluations["mean"]])
    if shown.size == 0 or shown.min() == shown.max():
        return None
    # The interval of two episodes may be huge. An interval that is wider than all other values is cut off.
    narrow = evaluations[evaluations["half_width"] <= shown.max() - shown.min()]
    shown = np.concatenate([shown, narrow["mean"] - narrow["half_width"], narrow["mean"] + narrow["half_width"]])
    margin = 0.05 * (shown.max() - shown.min())
    return float(shown.min() - margin), float(shown.max() + margin)
