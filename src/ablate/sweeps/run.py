"""Run a sweep: hand the missing cells to a Hydra launcher, report each cell as it ends, then judge the study.

To resume a sweep, repeat its command: completed cells are skipped, others continue from their checkpoints."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ablate.config.choices import Until
from ablate.config.inequality import parse
from ablate.config.plugins import named_modules
from ablate.config.schema import ConfigError
from ablate.config.serial import to_dict
from ablate.parallel.signals import Interrupted, Signals
from ablate.paths import command, shown
from ablate.records.files import refuse_unwritable, remove_temporaries
from ablate.records.manifest import lock_folder
from ablate.records.schema import DETACHED, VERDICTS
from ablate.records.study_file import read_study, write_study
from ablate.runs.run import RunFailed
from ablate.sweeps.cell import NOT_STARTED, STOP, attempts_of
from ablate.sweeps.cell_process import close_server, command_of, environment
from ablate.sweeps.detached import let_go
from ablate.sweeps.environments import names_of, with_random_scores
from ablate.sweeps.live import STOPPED_PAGE, LiveReport
from ablate.sweeps.plan import Cell, SweepPlan, make_plan
from ablate.sweeps.study_record import record_study
from ablate.sweeps.watch import Watch

RANDOM_EPISODES = 20  # of a random policy, next to which the arms are judged
RANDOM_S = 120.0


def run(
    plan: SweepPlan,
    launch: Callable[[Sequence[Sequence[str]]], Sequence[Any]],
    job_overrides: Callable[[Cell], list[str]],
) -> None:
    """Run the missing cells and judge the study. Trials of a search are only run: `judge` writes their report.

    launch: runs jobs with a Hydra launcher in the plan's folder. Returns the result or the exception of each job.
    job_overrides: the overrides of a cell's job.
    Raises RunFailed if cells failed, Interrupted after a signal."""
    try:
        _run(plan, launch, job_overrides)
    except BrokenPipeError:  # `| head`: the reader of the output is gone
        raise
    except OSError as error:
        raise RunFailed(f"{plan.folder}: a file could not be written ({error}); repeat the command") from error


def _run(
    plan: SweepPlan,
    launch: Callable[[Sequence[Sequence[str]]], Sequence[Any]],
    job_overrides: Callable[[Cell], list[str]],
) -> None:
    new = not plan.folder.exists()
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"hydra.sweep.dir={plan.folder}: {error.strerror}") from error
    with _lock_sweep(plan.folder):
        now = make_plan(plan.study, plan.configs, plan.folder)
        if now.folder != plan.folder:  # study.json has changed since the plan was made
            raise ConfigError(f"{plan.folder}: another sweep has just used it; repeat the command")
        plan = now  # the other sweep may have completed cells
        _tidy(plan)
        if not plan.study.has_trials:  # a search may have been asked to stop between two batches
            (plan.folder / STOP).unlink(missing_ok=True)  # of the last start, as the next
        (plan.folder / DETACHED).unlink(missing_ok=True)
        record_study(plan)
        with Signals() as signals:
            watch = Watch(plan, signals)
            live = LiveReport(plan.folder, watch.progress)
            try:
                _play_references(plan)
                with live:
                    for cells in _blocks(plan, watch):
                        _rounds(cells, plan, watch, launch, job_overrides)
            except ConfigError:  # from the launcher, before anything ran
                if new and not any(cell.folder.exists() for cell in plan.cells):
                    shutil.rmtree(plan.folder)
                raise
            except Interrupted:
                print("stopped at once; the work of running cells since their last checkpoints is lost")
                raise
            finally:
                if not plan.study.has_trials:  # whose next batch needs the server
                    close_server()
        let_go(plan.folder)  # if it had nothing to run
        (plan.folder / STOP).unlink(missing_ok=True)
        if plan.study.has_trials:
            _refuse_unfinished(plan, watch, signals)
            return
        if plan.study.settings.until is Until.decided:  # the other cells were not needed
            asked = [cell for cell in plan.cells if cell.folder.exists() or cell in watch.outcomes]
            plan = plan._replace(cells=asked)
        _report(plan, watch, signals, live)


def refuse_folder(folder: Path) -> None:
    """Raise ConfigError if another sweep runs in the folder, or if nothing can be written in it."""
    refuse_unwritable(folder, "hydra.sweep.dir")
    if folder.is_dir():
        with _lock_sweep(folder):
            pass


def _lock_sweep(folder: Path) -> AbstractContextManager[Callable[[], bool]]:
    return lock_folder(folder, "another sweep runs in this folder")


def _tidy(plan: SweepPlan) -> None:
    """Remove the temporary files of a killed sweep from folders in which no cell will run."""
    for folder in (plan.folder, *(cell.folder for cell in plan.cells if cell.state == "completed")):
        remove_temporaries(folder)


def _blocks(plan: SweepPlan, watch: Watch) -> Iterator[list[Cell]]:
    """The cells to run, list by list: all of them, or blocks of seeds for the arms whose claims are not settled yet.

    What is settled follows from the cells in the folder alone, so a repeated command continues the same plan. A failed
    cell counts in its claims, or in its trial's objective, and is not run again."""
    settings = plan.study.settings
    if plan.study.has_trials:
        yield [cell for cell in plan.to_run if not _has_failed(cell)]
        return
    if settings.until is not Until.decided:
        yield plan.to_run
        return
    asked: set[Cell] = set()
    arms, most = list(plan.configs), len(plan.study.seeds)
    for size in (*range(settings.block, most, settings.block), most):
        seeds = plan.study.seeds[:size]
        asked |= {cell for cell in plan.cells if cell.arm in arms and cell.seed in seeds}
        if todo := [
            cell for cell in plan.to_run if cell in asked and cell not in watch.outcomes and not _has_failed(cell)
        ]:
            print(f"block     {size} seeds per arm: {', '.join(arms)}", flush=True)
            yield todo
        if watch.stopping or not (arms := _undecided_arms(plan)):
            break


def _has_failed(cell: Cell) -> bool:
    return any(attempt.outcome == "failed" for attempt in attempts_of(cell.folder)[-1:])


def _undecided_arms(plan: SweepPlan) -> list[str]:
    """The arms of claims that more seeds may settle, all of which are run."""
    from ablate.analysis.load import load_sweep
    from ablate.analysis.summary import judged

    try:
        verdicts = judged(load_sweep(plan.folder))
    except ConfigError as error:
        raise RunFailed(f"the claims cannot be judged: {error}") from error
    crossed, only = plan.study.crossed, plan.study.settings.only
    named = [names_of(parse(verdict.inequality).arms, crossed) for verdict in verdicts if verdict.wants_seeds]
    return list(dict.fromkeys(arm for arms in named if not only or {*arms} <= {*only} for arm in arms))


def _rounds(
    todo: list[Cell],
    plan: SweepPlan,
    watch: Watch,
    launch: Callable[[Sequence[Sequence[str]]], Sequence[Any]],
    job_overrides: Callable[[Cell], list[str]],
) -> None:
    """Run these cells. Then run failed cells again, at most sweep.max_retries times."""
    for attempt in range(plan.study.settings.max_retries + 1):
        if not todo or watch.stopping:
            return
        if attempt:
            print(f"again     {len(todo)} failed cells (sweep.max_retries)")
        with watch.watching(todo):
            results = launch([job_overrides(cell) for cell in todo])
        watch.settle(todo, results)
        todo = [cell for cell in todo if watch.outcomes[cell].outcome != "completed"]


def _refuse_unfinished(plan: SweepPlan, watch: Watch, signals: Signals) -> None:
    """Raise Interrupted or RunFailed if cells were stopped before their end."""
    if watch.was_interrupted:
        print("repeat the command to continue")
        raise Interrupted(signals.received or signal.SIGTERM)
    if watch.stopping:
        raise RunFailed(watch.stopping)
    if interrupted := sum(outcome.outcome == "interrupted" for outcome in watch.outcomes.values()):
        raise RunFailed(
            f"{interrupted} of {len(plan.cells)} cells were interrupted; repeat the command to continue them"
        )


def refuse_stopped(folder: Path) -> None:
    """Raise Interrupted if the sweep in this folder has been asked to stop."""
    if (folder / STOP).exists():
        (folder / STOP).unlink()
        print("repeat the command to continue")
        raise Interrupted(signal.SIGTERM)


def _report(plan: SweepPlan, watch: Watch, signals: Signals, live: LiveReport) -> None:
    """Print how the sweep ended, and write its report."""
    states = Counter(outcome.outcome for outcome in watch.outcomes.values())
    skipped = sum(cell.state == "completed" for cell in plan.cells)
    failed = [cell for cell, outcome in watch.outcomes.items() if outcome.outcome == "failed"]
    again = "repeat the command to run them again"
    if plan.study.settings.until is Until.decided:  # a claim must not get new seeds for those that failed
        failed += [cell for cell in plan.to_run if cell not in watch.outcomes and _has_failed(cell)]
        again = "they count in the claims; to run them again, remove their folders and repeat the command"
    counts = [f"{skipped + states['completed']} of {len(plan.cells)} cells completed"]
    waiting = sum(outcome == NOT_STARTED for outcome in watch.outcomes.values())
    numbers = {"failed": len(failed), "interrupted": states["interrupted"] - waiting, "not started": waiting}
    counts += [f"{number} {state}" for state, number in numbers.items() if number]
    print(f"sweep     {', '.join(counts)}")
    for cell in failed:
        reason = watch.outcomes[cell].reason if cell in watch.outcomes else attempts_of(cell.folder)[-1].reason
        print(f"failed    {cell.name}: {reason}")
    if watch.was_interrupted:
        live.end(STOPPED_PAGE)
        _refuse_unfinished(plan, watch, signals)
    if skipped + states["completed"]:
        print("report    being written", flush=True)
        if plan.study.settings.claims:
            _play_at_random(plan)
        judge(plan.folder)
    else:
        live.end("It has ended, and no cell has completed.")
    if failed:
        raise RunFailed(f"{len(failed)} of {len(plan.cells)} cells; {again}")
    _refuse_unfinished(plan, watch, signals)


def _play_references(plan: SweepPlan) -> None:
    """Play the random policy whose scores count as 0, before anything is judged. Raises ConfigError if it fails."""
    wanted = [env for env, reference in read_study(plan.folder).references.items() if reference.low is None]
    if not wanted:
        return
    _play_at_random(plan, wanted)
    study = read_study(plan.folder)
    references = with_random_scores(study.references, study.random_scores, study.score_units)
    if absent := [env for env in wanted if references[env].low is None]:
        raise ConfigError(
            f"sweep.environments: no random policy could be played in {absent[0]}, whose score counts as 0; give its "
            "reference=[<score that counts as 0>, <as 1>], or sweep.normalisation=cdf"
        )
    write_study(plan.folder, replace(study, references=references))


def _play_at_random(plan: SweepPlan, wanted: Sequence[str] | None = None) -> None:
    """Add the scores of a random policy in each environment to study.json, so that verdicts can say if no arm learned.

    wanted: by env.id; None: in all. Nothing is added if an environment crashes or takes longer than RANDOM_S."""
    study = read_study(plan.folder)
    for config in {config.env.id: config for config in plan.configs.values()}.values():
        if config.env.id in study.random_scores or config.env.id not in (wanted or [config.env.id]):
            continue
        request = json.dumps({"config": to_dict(config), "modules": named_modules(), "episodes": RANDOM_EPISODES})
        command = command_of("ablate.play.random_policy")
        with suppress(OSError, subprocess.SubprocessError, ValueError, IndexError):
            played = subprocess.run(
                command, input=request, capture_output=True, text=True, check=True, timeout=RANDOM_S, env=environment()
            )
            scores = [(float(score), int(length)) for score, length in json.loads(played.stdout.splitlines()[-1])]
            study = replace(study, random_scores={**study.random_scores, config.env.id: scores})
    with suppress(OSError):  # the verdicts can do without it
        write_study(plan.folder, study)


def judge(folder: Path, prints: bool = True) -> None:
    """Write tables, figures and report; print the verdicts. Raises RunFailed if a file cannot be written."""
    from ablate.analysis.load import load_sweep
    from ablate.analysis.report import write_report
    from ablate.analysis.summary import SEEDS, summarise
    from ablate.analysis.terminal import result_lines

    summary = summarise(load_sweep(folder))
    try:
        report, *figures = write_report(summary)
    except OSError as error:
        raise RunFailed(
            f"the report could not be written ({error}); the cells' results are safe, and "
            f"{command('plot')} {shown(folder)} writes it again"
        ) from error
    if not prints:
        print(f"report    {shown(report)} (the trials of the search)", flush=True)
        return
    for line in result_lines(summary):
        print(line)
    print(f"report    {shown(report)}")
    for name in (VERDICTS, "summary.csv", SEEDS, "export.npz", "tables.tex", "methods.tex"):
        print(f"          {shown(folder / name)}")
    if figures:
        print(f"          {len(figures)} figures, PNG and PDF, in {shown(figures[0].parent)}")
