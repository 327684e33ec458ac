"""Watch the cells of a running sweep: report each as it ends, on any machine, and stop the sweep if necessary."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from ablate.parallel.signals import Signals
from ablate.paths import shown
from ablate.records.durations import approximate
from ablate.records.run_files import Attempt, write_attempts
from ablate.records.schema import CELL, CELL_LOG
from ablate.sweeps.cell import NOT_STARTED, STOP, CellOutcome, attempts_of, last_lines
from ablate.sweeps.detached import let_go
from ablate.sweeps.live import CellState, Failure, Progress
from ablate.sweeps.plan import Cell, SweepPlan, most_steps, share_done

POLL_S = 0.25


class Watch:
    """Reads cell.json to report when a cell ends, on any machine, and stops the sweep if necessary."""

    def __init__(self, plan: SweepPlan, signals: Signals) -> None:
        self._plan, self._signals = plan, signals
        self.outcomes: dict[Cell, CellOutcome] = {}
        self.stopping = ""  # the reason, once the sweep is being stopped
        self._asked_to_stop = False  # by `python src/sweep.py stop`
        self._pending: dict[Cell, int] = {}  # cells that have not ended: their attempts before this sweep
        self._running: set[Cell] = set()
        self._error: Exception | None = None
        self._ended = threading.Event()
        self._began = time.monotonic()
        self._steps = {arm: most_steps(config) for arm, config in plan.configs.items()}
        self._shares: dict[Cell, float] = {}  # share done when this sweep began

    @property
    def was_interrupted(self) -> bool:
        """Whether a signal or `python src/sweep.py stop` asked the sweep to end."""
        return self._signals.received is not None or self._asked_to_stop

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
            self._asked_to_stop = True
            self._stop("stopping, as another process asks: running cells write their checkpoints")
        for cell, before in list(self._pending.items()):
            attempts = attempts_of(cell.folder)
            if len(attempts) <= before:
                continue
            self._running.add(cell)
            let_go(self._plan.folder)
            if outcome := attempts[-1].outcome:
                del self._pending[cell]
                self._report_cell(cell, CellOutcome(outcome, attempts[-1].reason), attempts[-1].seconds)

    def _report_cell(self, cell: Cell, outcome: CellOutcome, seconds: float | None = None) -> None:
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

    def progress(self) -> Progress:
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
        return Progress(states, failed, self._time_left())

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
                outcome = CellOutcome("failed", f"lost: {error[0] if error else 'its process left no message'}")
                _record_lost(cell, outcome)
                self._report_cell(cell, outcome)


def _record_lost(cell: Cell, outcome: CellOutcome) -> None:
    """Write the outcome to cell.json in place of the lost process."""
    attempts = attempts_of(cell.folder)
    unfinished = attempts.pop() if attempts and not attempts[-1].outcome else Attempt()
    try:
        cell.folder.mkdir(parents=True, exist_ok=True)
        write_attempts(cell.folder, [*attempts, replace(unfinished, **outcome._asdict())])
    except OSError as error:
        print(f"{cell.folder / CELL} could not be written: {error}", file=sys.stderr)
