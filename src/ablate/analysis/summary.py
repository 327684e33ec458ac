"""The results of a sweep: its tables, the verdict on each claim, and the files that contain them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import stats

from ablate.analysis import latex
from ablate.analysis.load import Sweep
from ablate.analysis.markdown import report
from ablate.analysis.metrics import (
    cell_curves,
    counted_axis,
    curves,
    environments,
    noise_share,
    refuse_mixed,
    score_cells,
    span_of,
)
from ablate.analysis.normalisation import normalised
from ablate.analysis.scores import Refusals, Values, by_seed, untimed, values_by_arm, with_failures
from ablate.analysis.sensitivity import sensitivity_of
from ablate.analysis.tables import (
    Summary,
    arms,
    comparisons,
    improvements,
    in_environments,
    over_environments,
    speed_ups,
    stability,
)
from ablate.analysis.verdicts import Verdict, judge, number
from ablate.config.choices import Axis, Budget, Source
from ablate.config.schema import ConfigError
from ablate.records.files import replace_atomically
from ablate.records.schema import VERDICTS

SEEDS = "seeds.csv"  # in a sweep's folder: `Summary.scores`


def summarise(sweep: Sweep, kept: pd.DataFrame | None = None) -> Summary:
    """Every metric of the study for each arm and against the baseline, and the verdicts on the claims.

    kept: the scores of a sweep whose cells are no longer there (SEEDS). A metric whose values cannot be compared is
    left out, and the notes say why. Raises ConfigError if no metric is left, or if the study's primary metric cannot be
    computed."""
    sweep = _with_relative_paths(sweep)
    scores, refusals = _scores(sweep) if kept is None else (kept, _absent(sweep, kept))
    values = values_by_arm(scores)
    shown = [(metric, arm) for metric in sweep.study.metrics for arm in sweep.arms if (metric, arm) not in refusals]
    baselines = _baselines(sweep)
    pairs = [(metric, arm, baselines[arm]) for metric, arm in shown if arm != baselines[arm]]
    notes = _notes(sweep, scores, refusals)
    try:
        sensitivity = sensitivity_of(sweep, values)
    except ConfigError as why:
        sensitivity = None
        notes.append(str(why))
    return Summary(
        sweep=sweep,
        scores=scores,
        arms=arms(sweep, values, shown),
        comparisons=comparisons(sweep, values, pairs),
        speed_ups=speed_ups(sweep, values, pairs),
        stability=stability(sweep, values),
        over_environments=over_environments(sweep, values),
        in_environments=in_environments(sweep, values),
        improvements=improvements(sweep, values),
        verdicts=judge(sweep, values, refusals),
        sensitivity=sensitivity,
        notes=notes,
        caveats=list(_caveats(sweep)),
    )


def _with_relative_paths(sweep: Sweep) -> Sweep:
    """The sweep with paths from its own folder on, where cells say what is wrong: its report may be sent to others."""
    texts = {name: sweep.cells[name].str.replace(f"{sweep.folder}/", "", regex=False) for name in ("reason", "note")}
    return replace(sweep, cells=sweep.cells.assign(**texts))


def judged(sweep: Sweep) -> list[Verdict]:
    """The verdicts alone, without tables."""
    return so_far(sweep)[0]


def so_far(sweep: Sweep) -> tuple[list[Verdict], Values]:
    """The verdicts, and the values of each metric and arm. Raises ConfigError if no metric can be computed."""
    scores, refusals = _scores(sweep)
    values = values_by_arm(scores)
    return judge(sweep, values, refusals), values


def values_of(sweep: Sweep) -> Values:
    """The values of all metrics, without tables."""
    return values_by_arm(_scores(sweep)[0])


def _absent(sweep: Sweep, scores: pd.DataFrame) -> Refusals:
    """The metrics and arms without a score."""
    there = set(zip(scores["metric"], scores["arm"], strict=True))
    pairs = [(metric, arm) for metric in sweep.study.metrics for arm in sweep.arms]
    return {pair: "it has no kept scores" for pair in pairs if pair not in there}


def _scores(sweep: Sweep) -> tuple[pd.DataFrame, Refusals]:
    """All metrics of all cells that have ended, and the reasons why some metrics are left out."""
    parts: list[pd.DataFrame] = []
    refusals: Refusals = {}
    for part in environments(sweep).values():
        for name in sweep.study.metrics:
            try:
                refuse_mixed(part, sweep.study.metric_config(name).source)
                table = score_cells(part, name)
            except ConfigError as refusal:
                refusals |= {(name, arm): str(refusal) for arm in part.arms}
                continue
            table.insert(0, "metric", pd.Series([name] * len(table), dtype="str"))
            parts.append(table)
    if not parts:
        raise ConfigError(next(iter(refusals.values()), "sweep.metrics={}: at least one metric is needed"))
    return with_failures(sweep, pd.concat(parts, ignore_index=True)), refusals


def _baselines(sweep: Sweep) -> dict[str, str]:
    """The arm that each arm is compared with: the study's baseline, or the first arm of another environment."""
    baselines: dict[str, str] = {}
    for part in environments(sweep).values():
        arms = list(part.arms)
        baselines |= dict.fromkeys(arms, part.study.baseline if part.study.baseline in arms else arms[0])
    return baselines


def _caveats(sweep: Sweep) -> Iterator[str]:
    """What limits every verdict: cells that were not made by the same code, packages or machine."""
    yield from sweep.caveats
    completed = sweep.cells[sweep.cells["state"] == "completed"]
    for column, what in (("code", "commits"), ("versions", "versions of packages"), ("machine", "machines")):
        counts = completed.loc[completed[column] != "", column].value_counts()
        if len(counts) > 1:
            own = [set(text.split(", ")) for text in counts.index]
            shared = set.intersection(*own) if column == "versions" else set()
            names = [", ".join(part for part in text.split(", ") if part not in shared) for text in counts.index]
            listed = [f"{name or 'fewer packages'} ({_cells(n)})" for name, n in zip(names, counts, strict=True)]
            yield f"the cells come from several {what}: {'; '.join(listed)}"
    for env, part in environments(sweep).items():
        yield from _unlearned(part, env)


def _unlearned(sweep: Sweep, env: str) -> Iterator[str]:
    """A sentence if no arm ends above a random policy. Each arm's last evaluations are tested against it (Welch)."""
    random = np.array(
        [score / (length if sweep.per_step else 1) for score, length in sweep.study.random_scores.get(env, [])]
    )
    finals: dict[str, list[float]] = {}
    for (arm, _), (_, score) in cell_curves(sweep, Source.evaluations, Axis.global_step).items():
        finals.setdefault(arm, []).append(score[-1])
    arms = {arm: finite for arm, own in finals.items() if len(finite := np.array(own)[np.isfinite(own)]) > 1}
    if len(random) < 2 or not arms:
        return
    best = max(arms, key=lambda arm: arms[arm].mean())
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # about scores that are nearly equal
        p = [stats.ttest_ind(own, random, equal_var=False, alternative="greater").pvalue for own in arms.values()]
    constant = np.isnan(p).any() and arms[best].mean() > random.mean()  # equal scores have no p
    if constant or np.nanmin([1.0, *p]) * len(p) < 0.05:
        return
    above = bool(arms[best].mean() > random.mean())  # by chance, as far as so few seeds can tell
    yield (
        f"{'it is not certain that any arm' if above else 'no arm'} has learned in {env}: the best final evaluation, "
        f"{number(arms[best].mean())} of {best}, is not {'significantly ' * above}above that of a random policy, "
        f"{number(random.mean())} ({len(random)} episodes). Before you compare arms, add seeds, train "
        "longer (total_steps, max_episodes), or try another optimizer.lr, env.reward_scale or algorithm"
    )


def _notes(sweep: Sweep, scores: pd.DataFrame, refusals: Refusals) -> list[str]:
    """What a reader must know to judge the tables."""
    notes = list(sweep.remarks)
    notes += list(dict.fromkeys(f"{metric} is left out: {why}" for (metric, _), why in refusals.items()))
    for change in sweep.study.changes:
        notes.append(
            f"changed after {_cells(change.completed)} had completed ({change.when}): {'; '.join(change.what)}"
        )
    evaluations = sweep.evaluations.groupby(["arm", "seed"])["evaluation"].nunique()
    if len(evaluations) and evaluations.min() < 3 and not sweep.foreign:
        few = f"{evaluations.min()} evaluation{'s' * int(evaluations.min() > 1)}"
        notes.append(f"some cells have only {few}: such a curve shows little; see evaluation.every_steps")
    cells = sweep.cells
    for state, rows in cells[cells["state"] != "completed"].groupby("state"):
        notes.append(f"{len(rows)} of {_cells(len(cells))} {state}: {_names(rows)}")
    if len(resumed := cells[cells["resumes"] > 0]):
        notes.append(f"{_cells(len(resumed))} resumed from a checkpoint: {_names(resumed)}")
    if len(again := cells[(cells["attempts"] > 1) & (cells["state"] == "completed")]):
        notes.append(f"{_cells(len(again))} completed at a later attempt: {_names(again)}")
    notes += [note for note in cells["note"].unique() if note]
    if sweep.torn:
        notes.append(f"incomplete last lines of tables that were left out: {sweep.torn}")
    for (metric, arm), rows in scores.groupby(["metric", "arm"], sort=False):
        if failed := int(np.isinf(rows["value"]).sum()):
            notes.append(
                f"{metric}: {_cells(failed)} of {arm} failed or diverged; the mean is shown without them and with them "
                "at the worst score, and ranks count them as worse than all others"
            )
        if absent := int(rows["value"].isna().sum()):
            notes.append(f"{metric}: {_cells(absent)} of {arm} without a value in the window, left out")
    metrics = {name: sweep.study.metrics[name] for name in scores["metric"].unique()}
    budgets = {(m.source, counted_axis(m)): None for m in metrics.values() if m.budget is Budget.equal}
    for env, part in environments(sweep).items():
        where = "" if part is sweep else f" in {env}"
        notes += [note for source, x in budgets for note in _budget_notes(part, source, x, where)]
        notes += _noise_notes(part, where)
        notes += _unit_notes(part, env)
    timed = [name for name, metric in metrics.items() if metric.x is Axis.wall_time_s]
    reasons = [reason for arm in sweep.arms if (reason := untimed(sweep, arm))]
    if timed and reasons and not sweep.foreign:
        notes.append(f"seconds ({', '.join(timed)}) are not those of parallel workers: {'; '.join(reasons)}")
    return notes


def _budget_notes(sweep: Sweep, source: Source, x: Axis, where: str) -> Iterator[str]:
    """Up to which x, and from which, all cells are compared."""
    if x not in sweep.axes or not (span := span_of(sweep, source, x)):
        return
    name = f"the equal budget{where} on {x} of {source} is {number(span.end)}"
    if span.shortest:
        arm, seed = span.shortest
        yield f"{name}, the end of {arm}/seed={seed}: the plan does not fix it"
    else:
        yield f"{name}, as planned"
    if source is Source.evaluations and 0 < span.start < span.end:
        arm, seed = span.latest
        yield (
            f"curves of evaluations against {x}{where} begin at {number(span.start)}, with the first evaluation of "
            f"{arm}/seed={seed}"
        )


def _noise_notes(sweep: Sweep, where: str) -> Iterator[str]:
    """How much of the spread between seeds is due to playing only a few episodes."""
    name = sweep.study.metric
    try:
        share = noise_share(sweep, name)
    except ConfigError:  # the metric is left out, with its reason
        return
    if not np.isfinite(share):
        return
    episodes = set(sweep.evaluations.groupby(["arm", "seed", "evaluation"]).size())
    raised = "play more episodes per evaluation" if sweep.foreign else "raise evaluation.episodes"
    advice = f": most of this spread is evaluation noise, so {raised}" if share > 0.5 else ""
    yield (
        f"evaluation noise makes {share:.0%} of the variance of {name} between the seeds of an arm{where}, with "
        f"{' or '.join(map(str, sorted(episodes)))} episodes per evaluation{advice}"
    )


def _unit_notes(sweep: Sweep, env: str) -> Iterator[str]:
    """A study from before units were fixed had the unit that its data suggested."""
    if sweep.study.score_units or sweep.episodes.empty:
        return
    if sweep.per_step != (not sweep.episodes["terminated"].any()):
        yield (
            f"the unit of scores in {env} is the {sweep.score_name}; earlier versions of the program chose the unit "
            "by the data, and showed the other one"
        )


def _cells(count: int) -> str:
    return f"{count} cell{'s' * (count != 1)}"


def _names(cells: pd.DataFrame, most: int = 6) -> str:
    """arm/seed=1, arm/seed=2, ..."""
    names = [f"{arm}/seed={seed}" for arm, seed in zip(cells["arm"], cells["seed"], strict=True)]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def write_tables(summary: Summary) -> None:
    """Write summary.csv (one row per number), verdict.md, tables.tex, methods.tex, seeds.csv (one row per seed) and
    export.npz into the sweep's folder, each atomically.

    export.npz has rliable's layout: scores.<arm> (runs, 1 task) of the primary metric, curves.<arm> (runs, 1 task,
    frames) of its source, seeds.<arm> (runs,), and frames.<arm> (frames,) in environment steps. NaN: no value. With
    sweep.environments also normalised.<arm> (runs, tasks), whose tasks are named in `environments`.
    Raises OSError if a file cannot be written."""
    folder = summary.sweep.folder
    replace_atomically(folder / "summary.csv", _tidy(summary).to_csv(index=False).encode())
    replace_atomically(folder / VERDICTS, report(summary).encode())
    replace_atomically(folder / "tables.tex", latex.tables(summary).encode())
    replace_atomically(folder / "methods.tex", latex.methods(summary).encode())
    replace_atomically(folder / SEEDS, summary.scores.to_csv(index=False).encode())
    export = io.BytesIO()
    np.savez_compressed(export, **_export(summary))  # type: ignore[arg-type]
    replace_atomically(folder / "export.npz", export.getvalue())


def _tidy(summary: Summary) -> pd.DataFrame:
    """The numbers of the tables, one per row: metric, arm, baseline, statistic, value, low, high, n.

    n: the seeds of the arm that have a score of the metric."""
    tables = (
        summary.arms,
        summary.comparisons.drop(columns=["n", "n_failed", "n_baseline", "n_baseline_failed"], errors="ignore"),
        summary.speed_ups.drop(columns=["n", "n_baseline", "workers"], errors="ignore").rename(
            columns={"low": "speed_up_low", "high": "speed_up_high"}
        ),
        summary.stability[["arm", "collapsed"]].assign(metric=summary.sweep.study.metric),
        *(
            frame.rename(columns={name: _prefixed(str(name), prefix) for name in frame})
            for prefix, frame in (
                ("over_environments", summary.over_environments),
                ("normalised", summary.in_environments),
                ("over_environments", summary.improvements),
            )
        ),
    )
    rows = []
    for row in [row for table in tables for row in table.to_dict("records")]:
        key = [row.pop(name, "") for name in ("metric", "arm", "baseline")]
        numbers = {str(name): value for name, value in row.items() if name not in ("label", "failed", "environment")}
        rows += [
            [*key, name, value, numbers.get(f"{name}_low"), numbers.get(f"{name}_high")]
            for name, value in numbers.items()
            if not name.endswith(("_low", "_high"))
        ]
    tidy = pd.DataFrame(rows, columns=["metric", "arm", "baseline", "statistic", "value", "low", "high"])
    return tidy.merge(summary.arms[["metric", "arm", "n"]], how="left", on=["metric", "arm"])


def _prefixed(column: str, prefix: str) -> str:
    """The statistic's name in summary.csv: normalised scores must not be taken for an arm's own."""
    return column if column in ("metric", "arm", "baseline", "label", "environment") else f"{prefix}_{column}"


def _export(summary: Summary) -> dict[str, np.ndarray]:
    sweep, primary = summary.sweep, summary.sweep.study.metric
    arrays: dict[str, np.ndarray] = {}
    for part in environments(sweep).values():
        grid = curves(part, sweep.study.metrics[primary].source, Axis.global_step)
        for arm in part.arms:
            scores = summary.scores.query("metric == @primary and arm == @arm").set_index("seed")["value"]
            lines = grid[grid["arm"] == arm].pivot(index="seed", columns="x", values="score").reindex(scores.index)
            arrays[f"seeds.{arm}"] = scores.index.to_numpy()
            arrays[f"scores.{arm}"] = scores.where(np.isfinite(scores)).to_numpy()[:, None]
            arrays[f"curves.{arm}"] = lines.to_numpy()[:, None, :]
            arrays[f"frames.{arm}"] = lines.columns.to_numpy()
    by_arm = normalised(sweep.study, values_by_arm(summary.scores), primary)
    for arm, names in sweep.study.crossed.items():
        own = [by_seed(by_arm, primary, name)["value"] for name in names.values()]
        arrays[f"normalised.{arm}"] = pd.concat(own, axis=1).replace([np.inf, -np.inf], np.nan).to_numpy()
        arrays["environments"] = np.array([*names])
    return arrays
