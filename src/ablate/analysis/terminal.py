"""The results of a sweep in a few lines of a terminal: the primary metric of each arm, and the verdicts."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from ablate.analysis.markdown import title, with_interval
from ablate.analysis.tables import Summary

LONGEST_LABEL = 40  # characters of an arm's label


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
    for verdict in summary.verdicts:
        effect = with_interval(verdict.effect, verdict.low, verdict.high)
        effect = "" if pd.isna(verdict.effect) else f", {effect} in {verdict.metric}"
        yield f"{verdict.id:9} {title(verdict)}: {verdict.words} ({verdict.inequality}{effect})"


def _shortened(label: str) -> str:
    label = " ".join(label.split())
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"
