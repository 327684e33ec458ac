"""The results of a run or a sweep in a few lines of a terminal."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from ablate.analysis.figures import evaluation_means
from ablate.analysis.load import Run
from ablate.analysis.markdown import title, with_interval
from ablate.analysis.tables import Summary
from ablate.analysis.verdicts import number
from ablate.config.choices import ScoreUnit
from ablate.config.derived import default_score_unit

LONGEST_LABEL = 40  # characters of an arm's label
LONGEST_INEQUALITY = 90


def run_lines(run: Run) -> Iterator[str]:
    """The score of the last tenth of the training episodes, and of the last and the best evaluation."""
    unit = default_score_unit(run.setting("env.id"))
    per_step = unit is ScoreUnit.reward_per_step
    score = run.episodes["mean_step_reward" if per_step else "episodic_return"]
    if len(score):
        tenth = score.tail(max(1, len(score) // 10))
        yield f"  training    {unit.words} {number(tenth.mean())}, mean of the last {len(tenth)} episodes"
    means = evaluation_means(run.evaluations, per_step)
    if len(means):
        last, best = means.iloc[-1], means.sort_values("mean", kind="stable").iloc[-1]
        interval = "" if pd.isna(last["half_width"]) else f" ± {number(last['half_width'])} (95 %)"
        at = f"step {last['global_step']:.0f}"
        line = f"  evaluation  {unit.words} {number(last['mean'])}{interval} at {at}"
        yield line if len(means) == 1 else f"{line}; best {number(best['mean'])} at step {best['global_step']:.0f}"


def result_lines(summary: Summary) -> Iterator[str]:
    """A table of the arms, with 95 % intervals that are not corrected for their number, then a line per verdict."""
    study = summary.sweep.study
    rows = [["arm", study.metrics[study.metric].label, "n"]]
    own = summary.arms[summary.arms["metric"] == study.metric]
    for _, arm in own.iterrows():
        value = with_interval(arm["mean"], arm["mean_low"], arm["mean_high"]) if pd.notna(arm["mean"]) else "-"
        count = str(arm["n"]) + f", {arm['failed']}" * bool(arm["failed"])
        rows.append([_shortened(str(arm["label"] or arm["arm"])), value, count])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for head, row in enumerate(rows):
        cells = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield f"{'results   ' if head == 0 else ' ' * 10}{cells}".rstrip()
    if not study.claims and study.search is None:
        yield "verdict   none: the study makes no claim (sweep.claims)"
    for verdict in summary.verdicts:
        effect = with_interval(verdict.effect, verdict.low, verdict.high)
        effect = "" if pd.isna(verdict.effect) else f"; difference {effect} in {verdict.metric}"
        inequality = _shortened(verdict.inequality, LONGEST_INEQUALITY)
        yield f"{verdict.id:9} {title(verdict)}: {verdict.words} ({inequality}{effect})"


def _shortened(label: str, longest: int = LONGEST_LABEL) -> str:
    label = " ".join(label.split())
    return label if len(label) <= longest else label[: longest - 1] + "…"
