"""Run one cell of a sweep (one arm with one seed) in its own process, so a crash or hang affects no other cell.

A launcher calls `run_cell`, on this machine or another. `run_cell` starts the cell's process (cell_process.py), whose
code is in train_cell.py, and watches it. It writes cell.json to the cell's folder, which also has the files of the
run."""

from __future__ import annotations

import contextlib
import datetime
import math
import os
import platform
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ablate.config.schema import Config, ConfigError
from ablate.parallel.fork_server import NotForked
from ablate.parallel.signals import SIGNALS, Interrupted
from ablate.records.files import is_file
from ablate.records.logs import final_score
from ablate.records.run_files import Attempt, Status, read_attempts, read_status, write_attempts
from ablate.records.schema import CELL_LOG, STATUS, EndState
from ablate.runs.run import RunFailed
from ablate.sweeps.cell_process import CellProcess, start

POLL_S = 0.05
STOP = ".stop"  # a file in a sweep's folder: running cells must write their checkpoints and end
STOPPED = "the sweep was stopped"
GRACE_S = 60.0  # time for a cell that must stop to write its checkpoint
SILENCE_S = 30.0  # a cell writes status.json every 2 s; it may count as hung after this time without a write
TAIL = 8  # number of lines to show from the end of a failed cell's log


class CellOutcome(NamedTuple):
    """How an attempt at a cell ended."""

    outcome: EndState
    reason: str


NOT_STARTED = CellOutcome("interrupted", f"not started: {STOPPED}")


def run_cell(config: Config, overrides: list[str], folder: Path, stopped: Callable[[], bool]) -> CellOutcome:
    """Train the resolved configuration in `folder`, in its own session, and record in cell.json how it ended.

    Continues from the folder's last checkpoint if there is one. stopped: whether the sweep is being stopped; the cell
    then writes a checkpoint and ends. Raises OSError if cell.json cannot be written."""
    if stopped():
        return NOT_STARTED
    folder.mkdir(parents=True, exist_ok=True)
    attempts = [
        earlier if earlier.outcome else replace(earlier, outcome="interrupted", reason="killed together with its sweep")
        for earlier in attempts_of(folder)
    ]
    attempt = Attempt(datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), platform.node())
    write_attempts(folder, [*attempts, attempt])
    outcome, seconds, peak_mb = _supervised(config, overrides, folder, stopped)
    ended = replace(attempt, **outcome._asdict(), seconds=round(seconds, 2), max_rss_mb=round(peak_mb, 1))
    write_attempts(folder, [*attempts, ended])
    return outcome


def run_as_job(config: Config, overrides: list[str], folder: Path, sweep: Path) -> float:
    """`run_cell` as a Hydra job. Returns the value that a sweeper may maximise: the mean return of the last evaluation.

    sweep: the folder of the sweep, which may contain STOP. Raises RunFailed if the cell does not complete."""
    own = [override for override in overrides if not override.startswith("sweep.")]
    outcome = run_cell(config, own, folder, (sweep / STOP).exists)
    if outcome.outcome != "completed":
        raise RunFailed(outcome.reason)
    return objective(folder)


def objective(folder: Path) -> float:
    """The mean return of the cell's last evaluation, for sweepers that search a maximum; NaN without an evaluation."""
    score = final_score(folder)
    return math.nan if score is None else score


def last_lines(folder: Path) -> list[str]:
    """The last lines of the cell's log."""
    try:
        if not is_file(folder / CELL_LOG):
            return []
        with (folder / CELL_LOG).open(errors="replace") as file:
            return [line.rstrip() for line in deque(file, TAIL)]
    except (OSError, ConfigError):
        return []


def attempts_of(folder: Path) -> list[Attempt]:
    """The attempts in a cell.json; empty if it is damaged, because it only tells how the cell came to its state."""
    try:
        return read_attempts(folder)
    except ConfigError:
        return []


def status_of(folder: Path) -> Status | None:
    """The status of a cell; None if there is none, or if it is damaged."""
    try:
        return read_status(folder)
    except ConfigError:
        return None


def _supervised(
    config: Config, overrides: list[str], folder: Path, stopped: Callable[[], bool]
) -> tuple[CellOutcome, float, float]:
    """Start the cell's process and watch it until it ends. Returns the outcome, its seconds and its peak memory in MB.

    The seconds are those of the cell itself, without the imports of the server from which it is forked."""
    process = start(config, overrides, folder, stopped)
    if process is None:
        return NOT_STARTED, 0.0, 0.0
    began = time.monotonic()
    try:
        outcome, peak_mb = _watched(process, config, folder, stopped)
    except NotForked:  # its server was killed, and it with it: it goes on as a program
        if stopped():
            return CellOutcome("interrupted", STOPPED), time.monotonic() - began, 0.0
        process = start(config, overrides, folder, stopped, fork=False)
        assert process is not None
        outcome, peak_mb = _watched(process, config, folder, stopped)
    return outcome, time.monotonic() - began, peak_mb


def _watched(
    process: CellProcess, config: Config, folder: Path, stopped: Callable[[], bool]
) -> tuple[CellOutcome, float]:
    """Watch the process until it ends; it never outlives this function."""
    ended = False
    try:
        outcome = _until_it_ends(process, config, folder, stopped)
        ended = True
        return outcome
    except NotForked:
        ended = True
        raise
    except Interrupted:  # a second signal: stop at once
        raise
    except BaseException:  # Ctrl-C in this thread
        _signal(process, signal.SIGTERM)
        with contextlib.suppress(NotForked):
            ended = _ends_within(process, GRACE_S)
        raise
    finally:
        if not ended:
            _signal(process, signal.SIGKILL)
            with contextlib.suppress(NotForked):
                _ends_within(process, GRACE_S)
        process.close()


def _until_it_ends(
    process: CellProcess, config: Config, folder: Path, stopped: Callable[[], bool]
) -> tuple[CellOutcome, float]:
    began, limit_s = time.monotonic(), config.sweep.time_limit_s
    reason, kill_at = "", math.inf
    # Each poll adds at most 1 s to the silence, so that cells do not count as hung after the machine was suspended.
    status_time, silent_s = _status_time(folder), 0.0
    while True:
        if (ended := process.poll()) is not None:
            return _outcome(process.pid, ended.code, reason, folder), ended.peak_mb
        now = time.monotonic()
        if not reason:
            if stopped():
                reason, kill_at = STOPPED, now + GRACE_S
            elif limit_s is not None and now - began > limit_s:
                reason, kill_at = f"stopped after {limit_s:g} s (sweep.time_limit_s)", now + GRACE_S
            elif silent_s > max(SILENCE_S, 2 * config.hang_timeout_s):
                reason, kill_at = "hangs: it no longer updates its status.json", now
            if reason:
                _signal(process, signal.SIGTERM)
        if now >= kill_at:
            _signal(process, signal.SIGKILL)
        process.wait(POLL_S)
        previous, status_time = status_time, _status_time(folder)
        silent_s = silent_s + min(time.monotonic() - now, 1.0) if status_time == previous else 0.0


def _signal(process: CellProcess, number: signal.Signals) -> None:
    """Send a signal to the cell's process; SIGKILL goes to its whole group."""
    with contextlib.suppress(ProcessLookupError):  # it was forked, and has just ended
        (os.killpg if number == signal.SIGKILL else os.kill)(process.pid, number)


def _ends_within(process: CellProcess, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while process.poll() is None:
        if time.monotonic() > deadline:
            return False
        process.wait(POLL_S)
    return True


def _status_time(folder: Path) -> int:
    """When the cell last wrote its status, in ns on the file system's clock."""
    try:
        return (folder / STATUS).stat().st_mtime_ns
    except OSError:
        return 0


def _outcome(pid: int, code: int, stop_reason: str, folder: Path) -> CellOutcome:
    status = status_of(folder)
    if code == 0 and status is not None and status.state == "completed":
        return CellOutcome("completed", "")
    if stop_reason == STOPPED:
        return CellOutcome("interrupted", stop_reason)
    if stop_reason:
        return CellOutcome("failed", stop_reason)
    if code < 0:
        return CellOutcome("failed", f"killed by {signal.Signals(-code).name}")
    if code in [128 + number for number in SIGNALS]:
        return CellOutcome("interrupted", signal.Signals(code - 128).name)
    if status is not None and status.state == "failed" and status.pid == pid:  # not from an earlier attempt
        return CellOutcome("failed", status.reason)
    last_line = next((line for line in reversed(last_lines(folder)) if line), "")
    return CellOutcome("failed", f"exited with code {code}{': ' + last_line if last_line else ''}")
