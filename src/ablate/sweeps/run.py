"""Run a sweep: hand the missing cells to a Hydra launcher, report each cell as it ends, then judge the study.

To resume a sweep, repeat its command: completed cells are skipped, others continue from their checkpoints."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
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
from ablate.records.durations import approximate
from ablate.records.files import refuse_unwritable, remove_temporaries
from ablate.records.manifest import lock_folder
from ablate.records.run_files import Attempt, write_attempts
from ablate.records.schema import CELL, CELL_LOG, DETACHED, VERDICTS
from ablate.records.study_file import read_study, write_study
from ablate.runs.run import RunFailed
from ablate.sweeps.cell import NOT_STARTED, STOP, Outcome, attempts_of, last_lines
from ablate.sweeps.cell_process import close_server, command_of, environment
from ablate.sweeps.detached import let_go
from ablate.sweeps.environments import names_of, with_random_scores
from ablate.sweeps.live import STOPPED_PAGE, CellState, Failure, LiveReport, Look
from ablate.sweeps.plan import Cell, SweepPlan, make_plan, most_steps, share_done
from ablate.sweeps.study_record import record_study

POLL_S = 0.25
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
            watch = _Watch(plan, signals)
            live = LiveReport(plan.folder, watch.look)
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


def _blocks(plan: SweepPlan, watch: _Watch) -> Iterator[list[Cell]]:
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
    watch: _Watch,
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


class _Watch:
    """Reads cell.json to report when a cell ends, on any machine, and stops the sweep if necessary."""

    def __init__(self, plan: SweepPlan, signals: Signals) -> None:
        self._plan, self._signals = plan, signals
        self.outcomes: dict[Cell, Outcome] = {}
        self.stopping = ""  # the reason, once the sweep is being stopped
        self.asked_to_stop = False  # by `python src/sweep.py stop`
        self._pending: dict[Cell, int] = {}  # cells that have not ended: their attempts before this sweep
        self._running: set[Cell] = set()
        self._error: Exception | None = None
        self._ended = threading.Event()
        self._began = time.monotonic()
        self._steps = {arm: most_steps(config) for arm, config in plan.configs.items()}
        self._shares: dict[Cell, float] = {}  # share done when this sweep began

    @contextmanager
    def watching(self, cells: list[Cell]) -> Iterator[None]:
        """Watch the cells while a launcher runs them."""
        self._pending = {cell: len(attempts_of(cell.folder)) for cell in cells}
        for cell in cells:
            self._shares.setdefault(cell, self._share(cell))
        self._total = sum(cell.state == "completed" for cell in self._plan.cells) + len(self._shares)
        self._ended.clear()
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()
        if self._error:
            raise self._error
        self._poll()

    def _watch(self) -> None:
        try:
            while not self._ended.wait(POLL_S):
                self._poll()
                if self._signals.received is not None and not self.stopping:
                    self._stop("stopping: running cells write their checkpoints (a second signal stops at once)")
        except Exception as error:  # for example a broken pipe (`| head`): cells must not run unwatched
            self._error = error
            with suppress(OSError):  # the folder may be gone
                (self._plan.folder / STOP).touch()

    def _poll(self) -> None:
        if not self.stopping and (self._plan.folder / STOP).exists():
            self.asked_to_stop = True
            self._stop("stopping, as another process asks: running cells write their checkpoints")
        for cell, before in list(self._pending.items()):
            attempts = attempts_of(cell.folder)
            if len(attempts) <= before:
                continue
            self._running.add(cell)
            let_go(self._plan.folder)
            if outcome := attempts[-1].outcome:
                del self._pending[cell]
                self._report_cell(cell, Outcome(outcome, attempts[-1].reason), attempts[-1].seconds)

    def _report_cell(self, cell: Cell, outcome: Outcome, seconds: float | None = None) -> None:
        self.outcomes[cell] = outcome
        self._running.discard(cell)
        completed = sum(cell.state == "completed" for cell in self._plan.cells) + sum(
            outcome.outcome == "completed" for outcome in self.outcomes.values()
        )
        took = f" in {seconds:.1f} s" if seconds is not None else ""
        left = f"; about {time_left} left" if (time_left := self._time_left()) else ""
        print(f"{completed:4}/{self._total} {cell.name} {outcome.outcome}{took}{left}", flush=True)
        if outcome.outcome == "failed":
            tail = "".join(f"\n        | {line}" for line in last_lines(cell.folder))
            print(f"      {outcome.reason}{tail}\n      {shown(cell.folder / CELL_LOG)}", flush=True)
            if self._plan.study.settings.fail_fast and not self.stopping:
                self._stop("stopping: a cell failed (sweep.fail_fast)")

    def _time_left(self) -> str:
        """The estimated time to the end, from the steps so far; empty if there is none."""
        if not self._pending or self.stopping:
            return ""
        done = left = 0.0
        for cell, before in list(self._shares.items()):
            now = self._share(cell) if cell in self._pending else 1.0
            done += self._steps[cell.arm] * max(0.0, now - before)
            left += self._steps[cell.arm] * (1.0 - now)
        return approximate((time.monotonic() - self._began) * left / max(done, 1.0))

    def look(self) -> Look:
        """How far the sweep is; for another thread."""
        outcomes, running, states = dict(self.outcomes), set(self._running), dict[str, list[CellState]]()
        for cell in self._plan.cells:
            outcome = outcomes.get(cell)
            if cell in running:
                state = CellState(cell.seed, "running", self._share(cell))
            elif cell.state == "completed" or (outcome and outcome.outcome == "completed"):
                state = CellState(cell.seed, "completed", 1.0)
            else:
                state = CellState(cell.seed, outcome.outcome if outcome and outcome != NOT_STARTED else "missing", 0.0)
            states.setdefault(cell.arm, []).append(state)
        failed = [
            Failure(cell.arm, cell.seed, *outcome, len(attempts), sum(attempt.seconds for attempt in attempts))
            for cell, outcome in outcomes.items()
            if outcome.outcome == "failed" and cell not in running
            for attempts in [attempts_of(cell.folder)]
        ]
        return Look(states, failed, self._time_left())

    def _share(self, cell: Cell) -> float:
        config = self._plan.configs[cell.arm]
        return share_done(cell.folder, config.total_steps, config.max_episodes)

    def _stop(self, reason: str) -> None:
        self.stopping = reason
        print(reason, flush=True)
        (self._plan.folder / STOP).touch()  # on a shared disk, so that cells on any machine see it

    def settle(self, cells: list[Cell], results: Sequence[Any]) -> None:
        """Decide the outcome of the cells without one: they never started, or were lost with their machine."""
        pending, self._pending = self._pending, {}
        for cell, result in itertools.zip_longest(cells, results[: len(cells)], fillvalue=""):
            if cell in pending:
                self._running.discard(cell)
                if self.stopping:
                    self.outcomes[cell] = NOT_STARTED
                    continue
                error = str(result).splitlines()
                outcome = Outcome("failed", f"lost: {error[0] if error else 'its process left no message'}")
                _record_lost(cell, outcome)
                self._report_cell(cell, outcome)


def _record_lost(cell: Cell, outcome: Outcome) -> None:
    """Write the outcome to cell.json in place of the lost process."""
    attempts = attempts_of(cell.folder)
    unfinished = attempts.pop() if attempts and not attempts[-1].outcome else Attempt()
    try:
        cell.folder.mkdir(parents=True, exist_ok=True)
        write_attempts(cell.folder, [*attempts, replace(unfinished, **outcome._asdict())])
    except OSError as error:
        print(f"{cell.folder / CELL} could not be written: {error}", file=sys.stderr)


def _refuse_unfinished(plan: SweepPlan, watch: _Watch, signals: Signals) -> None:
    """Raise Interrupted or RunFailed if cells were stopped before their end."""
    if signals.received is not None or watch.asked_to_stop:
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


def _report(plan: SweepPlan, watch: _Watch, signals: Signals, live: LiveReport) -> None:
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
    if signals.received is not None or watch.asked_to_stop:
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
