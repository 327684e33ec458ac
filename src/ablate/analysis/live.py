"""report.html while a sweep runs: a light page that reloads itself, without figures, tables or intervals.

A study of fixed size shows no verdict before its end: to stop at a look that pleases raises the error of the verdicts
(docs/statistics.md). A study that grows until it is decided shows the claims that its looks have settled."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ablate.analysis.figure_parts import metric_unit
from ablate.analysis.load import load_sweep
from ablate.analysis.report import LOGS, SYMBOLS, effect_unit, environment, log_tail, number
from ablate.analysis.summary import so_far
from ablate.analysis.verdicts import NOT_TESTABLE, Verdict
from ablate.config.choices import Until
from ablate.config.schema import ConfigError
from ablate.records.schema import CELL_LOG, cell_folder
from ablate.records.study_file import StudyFile

RELOAD_S = 5  # between two reloads in the browser


@dataclass(frozen=True)
class Known:
    """What the completed cells say so far."""

    claims: list[dict[str, Any]] = field(default_factory=list)
    means: dict[str, tuple[int, str]] = field(default_factory=dict)  # by arm: number of seeds, mean of the metric
    unit: str = ""  # of the means


def known(folder: Path) -> Known:
    """What is known of the claims and of each arm's mean; empty if no metric can be computed."""
    sweep = load_sweep(folder)
    study = sweep.study
    try:
        verdicts, values = so_far(sweep)
    except ConfigError:
        return Known()
    means = {}
    for arm in sweep.arms:
        if (rows := values.get((study.metric, arm))) is None:
            continue
        scores = rows["value"].to_numpy(float)
        if len(finite := scores[np.isfinite(scores)]):
            means[arm] = (len(finite), number(finite.mean()))
    claims = []
    for verdict in verdicts:
        claims.append({**_claim(study, verdict), "unit": effect_unit(sweep, verdict)})
    return Known(claims if means else [], means, metric_unit(sweep, study.metric))


def _claim(study: StudyFile, verdict: Verdict) -> dict[str, Any]:
    """The parts of a verdict that may be shown before the end."""
    settled = study.until is Until.decided and not verdict.preliminary and not verdict.wants_seeds
    shows_verdict = settled or verdict.verdict == NOT_TESTABLE
    return {
        "id": verdict.id,
        "words": verdict.words,
        "metric": verdict.metric,
        "inequality": verdict.inequality,
        "effect": number(verdict.effect),
        "n": verdict.n,
        "verdict": verdict.verdict if shows_verdict else "",
        "reason": verdict.reason if shows_verdict else "",
    }


def render(
    folder: Path,
    study: StudyFile,
    states: dict[str, list[dict[str, Any]]],
    failures: list[dict[str, Any]],
    known: Known,
    left: str,
    written: str,
    next_s: float,
    ended: str = "",
) -> str:
    """The HTML page.

    states: by arm, the `seed`, `state` and `share` done of each cell. failures: the cells that have failed, by `arm`,
    `seed`, `state`, `reason`, `attempts`, `seconds`. left: the time that is left, in words. written: now, ISO 8601.
    next_s: seconds until the page is written again. ended: how the sweep has ended without a report."""
    cells = [cell for own in states.values() for cell in own]
    logs = [cell_folder(folder, failure["arm"], failure["seed"]) / CELL_LOG for failure in failures]
    return (
        environment()
        .get_template("live.html.jinja")
        .render(
            study=study,
            arms=study.labels,
            grows=study.until is Until.decided,
            states=states,
            counts=Counter(cell["state"] for cell in cells),
            total=len(cells),
            done=sum(cell["share"] for cell in cells),
            failures=[
                {**failure, "path": path, "log": log_tail(path) if place < LOGS else ""}
                for place, (failure, path) in enumerate(zip(failures, logs, strict=True))
            ],
            known=known,
            label=study.metrics[study.metric].label,
            symbols=SYMBOLS,
            number=number,
            left=left,
            written=written,
            ended=ended,
            reload_s=RELOAD_S,
            stale_s=round(3 * next_s) + 30,
        )
    )
