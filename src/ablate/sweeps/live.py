"""report.html while a sweep runs, written by a thread of the sweep's process.

The page must not disturb cells: it has no figures, and it is written less often the more it costs."""

from __future__ import annotations

import contextlib
import datetime
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ablate.records.files import replace_atomically
from ablate.records.schema import REPORT
from ablate.records.study_file import read_study

if TYPE_CHECKING:
    from ablate.analysis.live import Known

FIRST_S = 3.0  # before the first page: most of a short sweep's report is its end
EVERY_S = 5.0
SHARE = 0.02  # of one core, at most, for the page, and the same for reading what is known of the claims
STOPPED_PAGE = "It was stopped; its command continues it."


class CellState(NamedTuple):
    """How far a cell is. share: of its training that is done."""

    seed: int
    state: str
    share: float


class Failure(NamedTuple):
    """A cell that has failed."""

    arm: str
    seed: int
    state: str
    reason: str
    attempts: int
    seconds: float


class Progress(NamedTuple):
    """How far a sweep is."""

    states: dict[str, list[CellState]]  # by arm
    failures: list[Failure]
    left: str  # the time that is left, in words; empty if it is not known

    @property
    def completed(self) -> int:
        return sum(cell.state == "completed" for cells in self.states.values() for cell in cells)


class LiveReport:
    """Writes the page within its context. If the sweep ends there with an exception, the last page says so."""

    def __init__(self, folder: Path, progress: Callable[[], Progress]) -> None:
        """progress: called by the thread."""
        self._folder, self._progress = folder, progress
        self._known: Known | None = None
        self._known_cells, self._known_until = -1, 0.0  # completed cells in it; when it may be read again
        self._written = False
        self._ended = threading.Event()

    def __enter__(self) -> LiveReport:
        self._thread = threading.Thread(target=self._write_until_the_end, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self._ended.set()
        self._thread.join()
        if kind is not None:
            self.end(STOPPED_PAGE)

    def end(self, how: str) -> None:
        """Say on the page how the sweep has ended, if no report will replace the page."""
        if self._written:
            with contextlib.suppress(OSError):
                self._write(how)

    def _write_until_the_end(self) -> None:
        wait_s = FIRST_S
        try:
            while not self._ended.wait(wait_s):
                wait_s = self._write()
        except Exception as error:  # the cells matter more
            with contextlib.suppress(OSError):
                print(f"note      {REPORT} is not written while the sweep runs: {error}", file=sys.stderr)

    def _write(self, ended: str = "") -> float:
        """Write the page. Returns the seconds until it is to be written again."""
        from ablate.analysis import live  # takes a second the first time

        began, progress = time.thread_time(), self._progress()
        if self._known is None or (progress.completed > self._known_cells and time.monotonic() >= self._known_until):
            reading = time.thread_time()
            self._known, self._known_cells = live.known(self._folder), progress.completed
            took = time.thread_time() - reading
            self._known_until = time.monotonic() + took / SHARE
            began += took
        wait_s = max(EVERY_S, (time.thread_time() - began) / SHARE)
        page = live.render(
            self._folder,
            read_study(self._folder),
            {arm: [cell._asdict() for cell in cells] for arm, cells in progress.states.items()},
            [failure._asdict() for failure in progress.failures],
            self._known,
            progress.left,
            datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            wait_s,
            ended,
        )
        replace_atomically(self._folder / REPORT, page.encode())
        self._written = True
        return max(wait_s, (time.thread_time() - began) / SHARE)
