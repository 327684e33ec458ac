"""The report of a sweep: one self-contained HTML page, made only from the sweep's files."""

from __future__ import annotations

import base64
import json
import math
import os
import re
import shlex
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pandas as pd

from ablate.analysis import markdown
from ablate.analysis.cases import smallest_effect
from ablate.analysis.figure_parts import Drawing, metric_unit
from ablate.analysis.figures import DPI, Paper, printed_on
from ablate.analysis.load import Sweep
from ablate.analysis.normalisation import is_over_environments, words_of
from ablate.analysis.scores import workers
from ablate.analysis.summary import write_tables
from ablate.analysis.sweep_figures import PAPER, write_figures
from ablate.analysis.tables import Summary
from ablate.analysis.verdicts import Verdict
from ablate.config.choices import Budget
from ablate.config.inequality import parse
from ablate.config.schema import ConfigError
from ablate.config.serial import flat
from ablate.records.files import replace_atomically
from ablate.records.schema import CELL_LOG, REPORT, cell_folder

LOG_LINES = 25
LOGS = 20  # failures whose log is shown; a page with a thousand logs would not open
LOG_BYTES = 16_384  # read from the end of a log: a run that prints without end must not fill the page
HEADINGS = {
    "n_planned": "planned", "n_failed": "failed", "failed": "why", "n_missing": "missing",
    "n_baseline_failed": "failed, baseline", "mean_worst": "mean, failed at the worst score",
    "difference_worst": "difference, failed at the worst score",
    "n_censored": "censored", "n_baseline": "n baseline", "n_baseline_censored": "censored, baseline", "iqm": "IQM",
    "probability_of_improvement": "P(better)", "cliffs_delta": "Cliff's δ", "welch_p": "Welch p",
    "welch_p_holm": "Welch p, Holm", "permutation_p": "permutation p", "permutation_p_holm": "permutation p, Holm",
    "speed_up": "speed-up", "logrank_p": "log-rank p",
}  # fmt: skip
SYMBOLS = {"supported": "✓", "contradicted": "✗", "no relevant difference": "≈", "undecided": "?",
           "not testable here": "–"}  # fmt: skip


class Entry(NamedTuple):
    """An entry of a table: its text, and the key for sorting its column."""

    text: str
    key: str | float


class Table(NamedTuple):
    headings: list[str]
    rows: list[list[Entry]]


def write_report(summary: Summary) -> list[Path]:
    """Write a sweep's tables, figures and report.html into its folder. Returns the paths of report and figures.

    If the study gives `figures.width_mm`, its figures of that size are written to the folder's PAPER as well.
    Raises OSError if a file cannot be written."""
    folder = summary.sweep.folder
    write_tables(summary)
    figures = list(write_figures(summary))
    paper = summary.sweep.study.figures
    if paper.width_mm is not None:
        with printed_on(Paper(paper.width_mm, paper.font_size)):
            for _ in write_figures(summary, PAPER):
                pass
    path = folder / REPORT
    page = render(summary, figures).replace(f"{folder}/", "")  # who reads a shared report has no such folder
    replace_atomically(path, page.encode())
    drawn = [drawing.name for drawing, png in figures if isinstance(png, bytes)]
    return [path, *(folder / "figures" / f"{name}.png" for name in drawn)]


@cache
def environment() -> jinja2.Environment:
    """How templates become pages."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("ablate.analysis", "."),
        autoescape=True,  # labels, logs and reasons may contain any text
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(summary: Summary, figures: list[tuple[Drawing, bytes | ConfigError]]) -> str:
    """The HTML page. figures: PNGs, or the reasons why there are none."""
    sweep, own = summary.sweep, summary.sensitivity
    over = f"{markdown.OVER_ENVIRONMENTS} {words_of(sweep.study)}." if sweep.study.crossed else ""
    return environment().get_template("report.html.jinja").render(
        study=sweep.study,
        summary=summary,
        symbols=SYMBOLS,
        claims=[{"verdict": v, "title": markdown.title(v), "unit": effect_unit(summary.sweep, v),
                 "marks": interval_marks(summary, v),
                 "needed": markdown.needed(v)} for v in summary.verdicts],
        search_words=markdown.search_words(sweep.study),
        sensitivity_words=markdown.sensitivity_words(summary),
        sensitivity_table=own and table(markdown.sensitivity_table(own, sweep.study)),
        uncorrected=markdown.UNCORRECTED,
        methods="\n".join(filter(None, (markdown.METHODS, over))),
        tables=tables(summary),
        figures=grouped(figures),
        states=states(sweep),
        failures=failures(sweep),
        metrics=metrics(sweep),
        workers={arm: workers(sweep, arm) for arm in sweep.arms},
        differences=differences(sweep),
        command=shlex.join(["python", *sweep.study.provenance.command]),
        config=json.dumps(sweep.study.arms[sweep.study.baseline].config, indent=2, ensure_ascii=False),
        number=number,
    )  # fmt: skip


def tables(summary: Summary) -> dict[str, dict[str, Table]]:
    """The tables by heading, then by tab (a metric's label)."""
    metrics = summary.sweep.study.metrics
    times = Counter(metric.label for metric in metrics.values())
    labels = {name: m.label if times[m.label] == 1 else f"{m.label} ({name})" for name, m in metrics.items()}
    primary = summary.sweep.study.metric
    order = sorted(labels, key=lambda name: name != primary)  # the primary metric first
    by_heading: dict[str, dict[str, Table]] = {}
    for heading, frame in (
        ("Over all environments, normalised", _over_environments(summary)),
        ("Arms", summary.arms),
        ("Against the baseline", summary.comparisons),
        ("Speed-up over the baseline", summary.speed_ups),
    ):
        frame = _with_labels(frame, summary.sweep)
        if "baseline" in frame and frame["baseline"].nunique() == 1:  # two environments have two baselines
            heading += f", {frame['baseline'].iloc[0]}"
            frame = frame.drop(columns="baseline")
        for name in order if len(frame) else []:
            part = _without_empty_counts(frame[frame["metric"] == name].drop(columns="metric"))
            if len(part):
                tab = labels[name] + " (primary)" * (name == primary)
                by_heading.setdefault(heading, {})[tab] = table(part)
    if len(summary.stability):
        by_heading["Late in training"] = {"collapse": table(_with_labels(summary.stability, summary.sweep))}
    return by_heading


def _over_environments(summary: Summary) -> pd.DataFrame:
    """One row per metric and arm: what all environments say together, then the normalised mean in each."""
    frame = summary.over_environments
    if frame.empty:
        return frame
    if len(summary.improvements):
        better = summary.improvements.drop(columns=["baseline", "label"])
        frame = frame.merge(better, how="left", on=["metric", "arm"])
    arms = summary.sweep.study.arms
    for environment, own in summary.in_environments.groupby("environment", sort=False):
        means = own.assign(arm=own["arm"].map(lambda name: arms[name].arm))[
            ["metric", "arm", "mean", "mean_low", "mean_high"]
        ]
        means = means.rename(columns={name: str(name).replace("mean", f"mean in {environment}") for name in means})
        frame = frame.merge(means, how="left", on=["metric", "arm"])
    return frame.assign(arm=frame["label"]).drop(columns="label")


def table(frame: pd.DataFrame) -> Table:
    """A data frame for display: <x>, <x>_low and <x>_high become one column, `x [low, high]`, sorted by x."""
    columns = []
    for name in map(str, frame.columns):
        if name in ("low", "high") or name.endswith(("_low", "_high")):
            continue
        bounds = [name + "_low", name + "_high"] if name + "_low" in frame else []
        if name == "speed_up":
            bounds = ["low", "high"]
        columns.append((name, bounds))
    headings = [HEADINGS.get(name, name.replace("_", " ")) + " [95 % CI]" * bool(bounds) for name, bounds in columns]
    rows = []
    for _, row in frame.iterrows():
        entries = []
        for name, bounds in columns:
            text = number(row[name])
            if bounds and all(pd.notna(row[bound]) for bound in bounds):
                text += f" [{number(row[bounds[0]])}, {number(row[bounds[1]])}]"
            key = row[name] if isinstance(row[name], str) else float(row[name])
            entries.append(Entry(text, key))
        rows.append(entries)
    return Table(headings, rows)


def number(value: Any) -> str:
    """A number in the format of verdict.md; text is unchanged."""
    if isinstance(value, str):
        return value
    return "–" if pd.isna(value) else markdown.number(value).replace("-", "−")


def effect_unit(sweep: Sweep, verdict: Verdict) -> str:
    """The unit of a verdict's effect: its metric's unit."""
    study = sweep.study
    if verdict.metric not in study.metrics:
        return "no such metric"
    arms = parse(verdict.inequality).arms
    if study.crossed and math.isfinite(verdict.effect) and is_over_environments(study, arms):
        return "normalised score"
    own = [arm for arm in arms if arm in study.arms]
    return metric_unit(sweep.only(own) if own else sweep, verdict.metric)


def interval_marks(summary: Summary, verdict: Verdict) -> dict[str, float] | None:
    """Positions in % of a line: a verdict's low, high and effect, zero, and ± the smallest effect that matters.

    None if there is no interval."""
    low, high, effect = verdict.low, verdict.high, verdict.effect
    if not all(map(math.isfinite, (low, high, effect))):
        return None
    smallest = smallest_effect(summary.sweep, verdict.metric, parse(verdict.inequality).arms)
    shown = [low, high, 0.0] + ([-smallest, smallest] if smallest else [])
    start, width = min(shown), max(shown) - min(shown) or 1.0

    def position(value: float) -> float:
        return round(4 + 92 * (value - start) / width, 2)

    marks = {"low": position(low), "high": position(high), "effect": position(effect), "zero": position(0.0)}
    return {**marks, "worse": position(-smallest), "better": position(smallest)} if smallest else marks


def grouped(figures: list[tuple[Drawing, bytes | ConfigError]]) -> dict[str, list[dict[str, Any]]]:
    """The tabs by heading; a tab has an inline image, or the reason why there is none."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for drawing, png in figures:
        shown: dict[str, Any] = (
            {"image": "data:image/png;base64," + base64.b64encode(png).decode(), "width": css_width(png)}
            if isinstance(png, bytes)
            else {"reason": str(png)}
        )
        groups.setdefault(drawing.group, []).append({"tab": drawing.tab, "name": drawing.name, **shown})
    return groups


def css_width(png: bytes) -> int:
    """An image's width in CSS pixels (96 per inch), so that the text of all figures has the same size."""
    return int.from_bytes(png[16:20], "big") * 96 // DPI


def states(sweep: Sweep) -> dict[str, list[dict[str, Any]]]:
    """Seed and state of the cells, by arm."""
    return {
        str(arm): [{"seed": row["seed"], "state": row["state"]} for _, row in cells.iterrows()]
        for arm, cells in sweep.cells.groupby("arm", sort=False)
    }


def failures(sweep: Sweep) -> list[dict[str, Any]]:
    """Cells that have ended without completing: the reason, the path of the log, and its end.

    The path is empty if another program made the runs."""
    rows: list[dict[str, Any]] = []
    for _, row in sweep.failures.iterrows():
        path = cell_folder(sweep.folder, row["arm"], row["seed"]) / CELL_LOG
        log = log_tail(path) if len(rows) < LOGS else ""
        shown = {"path": "" if sweep.foreign else path, "log": log}
        rows.append({**{str(key): value for key, value in row.items()}, **shown})
    return rows


def log_tail(path: Path) -> str:
    """The last lines of a log, without terminal colours; empty if there is no log."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_BYTES), os.SEEK_SET)
        text = file.read().decode(errors="replace")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n")
    lines = [line for line in text.splitlines() if line.strip()]
    return "\n".join("".join(c for c in line if c.isprintable() or c == "\t") for line in lines[-LOG_LINES:])


def metrics(sweep: Sweep) -> Table:
    """How each metric is computed from a cell's curve."""
    rows = []
    for name, metric in sweep.study.metrics.items():
        low, high = metric.window
        window = "the end" if low == high == 1 else f"{low:.0%} to {high:.0%}"
        budget = "the equal budget" if metric.budget is Budget.equal else "the cell's own end"
        score = "" if metric.score is None else f" {number(metric.score)}"
        better = "smaller" if metric.smaller_is_better else "larger"
        entries = (
            name, metric.label, f"{metric.statistic}{score}", str(metric.source), str(metric.x), window, budget,
            metric_unit(sweep, name), better,
        )  # fmt: skip
        rows.append([Entry(text, text) for text in entries])
    headings = ["metric", "label", "statistic", "of", "against", "window", "up to", "unit", "better"]
    return Table(headings, rows)


def differences(sweep: Sweep) -> Table:
    """Dotted keys of the resolved configuration in which the arms differ."""
    configs = [flat(arm.config) for arm in sweep.study.arms.values()]
    keys = sorted({key for config in configs for key in config})
    rows = []
    for key in keys:
        values = [json.dumps(config.get(key), ensure_ascii=False) for config in configs]
        if len(set(values)) > 1:
            rows.append([Entry(text, text) for text in (key, *values)])
    return Table(["key", *sweep.arms.values()], rows)


def _without_empty_counts(frame: pd.DataFrame) -> pd.DataFrame:
    """Drop the columns of failed, missing and censored cells that there are not, and of ratios that do not exist."""
    counts = ["n_failed", "n_baseline_failed", "n_missing", "n_censored", "n_baseline_censored"]
    empty = [c for c in counts if c in frame and not frame[c].any()]
    worst = [
        c for c in frame if str(c).startswith(("mean_worst", "difference_worst", "ratio")) and frame[c].isna().all()
    ]
    return frame.drop(columns=[*empty, *worst, *(["failed"] if "n_failed" in empty and "failed" in frame else [])])


def _with_labels(frame: pd.DataFrame, sweep: Sweep) -> pd.DataFrame:
    """Replace the names of arms by their labels; drop the column of labels."""
    if frame.empty:
        return frame
    frame = frame.drop(columns="label", errors="ignore")
    return frame.assign(
        **{c: frame[c].map(lambda arm: sweep.arms.get(arm, arm)) for c in ("arm", "baseline") if c in frame}
    )
