"""Run one cell of a sweep (one arm with one seed) in its own process, so a crash or hang affects no other cell.

A launcher calls `run_cell`, on this machine or another. `run_cell` starts `python -m ablate.sweeps.cell`, the child
process, whose code is at the end of this file. The parent writes cell.json to the cell's folder, which also has the
files of the run."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ablate.config.plugins import import_plugins, named_modules
from ablate.config.schema import Config, ConfigError
from ablate.config.serial import from_dict, to_dict
from ablate.parallel.machine import die_with_parent, peak_memory_mb
from ablate.parallel.signals import SIGNALS, Interrupted
from ablate.paths import ROOT
from ablate.records.files import is_file
from ablate.records.manifest import lock_run
from ablate.records.run_files import Attempt, Status, read_attempts, read_status, write_attempts
from ablate.records.schema import CELL_LOG, CHECKPOINTS, COLUMNS, EVALUATIONS, MANIFEST, STATUS, EndState
from ablate.runs.plan import plan
from ablate.runs.run import RunFailed, run

POLL_S = 0.05
STOP = ".stop"  # a file in a sweep's folder: running cells must write their checkpoints and end
STOPPED = "the sweep was stopped"
GRACE_S = 60.0  # time for a cell that must stop to write its checkpoint
SILENCE_S = 30.0  # a cell writes status.json every 2 s; it may count as hung after this time without a write
TAIL = 8  # number of lines to show from the end of a failed cell's log


class Outcome(NamedTuple):
    """How an attempt at a cell ended."""

    outcome: EndState
    reason: str


NOT_STARTED = Outcome("interrupted", f"not started: {STOPPED}")


def run_cell(config: Config, overrides: list[str], folder: Path, stopped: Callable[[], bool]) -> Outcome:
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
    began = time.monotonic()
    outcome, peak_mb = _supervised(config, overrides, folder, stopped)
    seconds = round(time.monotonic() - began, 2)
    ended = replace(attempt, **outcome._asdict(), seconds=seconds, max_rss_mb=peak_mb)
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
    import pandas as pd

    table = pd.read_csv(folder / EVALUATIONS, usecols=["evaluation", "episodic_return"])
    return float(table.loc[table["evaluation"] == table["evaluation"].max(), "episodic_return"].mean())


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


def python_path() -> str:
    """PYTHONPATH for a cell's process on any machine: this source tree first, then the caller's own path."""
    return os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])


def _supervised(
    config: Config, overrides: list[str], folder: Path, stopped: Callable[[], bool]
) -> tuple[Outcome, float]:
    """Start the cell's process and watch it until it ends. Returns the outcome and the peak memory in MB."""
    environment = {**os.environ, "PYTHONPATH": python_path()}
    values = {"config": to_dict(config), "overrides": overrides, "modules": named_modules(), "parent": os.getpid()}
    request = json.dumps(values)
    is_file(folder / CELL_LOG)  # raises if a pipe is there, which would keep this process waiting
    with (folder / CELL_LOG).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ablate.sweeps.cell", str(folder)],  # -P: not from the current folder first
            stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True, env=environment,
        )  # fmt: skip
    assert process.stdin is not None
    try:
        with process.stdin as pipe:
            pipe.write(request.encode())
    except BrokenPipeError:
        pass  # it died at once; its exit code and its log show why
    try:
        return _watched(process, config, folder, stopped)
    except Interrupted:  # a second signal: stop at once
        raise
    except BaseException:  # Ctrl-C in this thread
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
        raise
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)  # the session leader also leads its process group
            process.wait()


def _watched(
    process: subprocess.Popen[bytes], config: Config, folder: Path, stopped: Callable[[], bool]
) -> tuple[Outcome, float]:
    began, limit_s = time.monotonic(), config.sweep.time_limit_s
    reason, kill_at = "", math.inf
    # Each poll adds at most 1 s to the silence, so that cells do not count as hung after the machine was suspended.
    status_time, silent_s = _status_time(folder), 0.0
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return _outcome(process, reason, folder), round(peak_memory_mb(usage), 1)
        now = time.monotonic()
        if not reason:
            if stopped():
                reason, kill_at = STOPPED, now + GRACE_S
            elif limit_s is not None and now - began > limit_s:
                reason, kill_at = f"stopped after {limit_s:g} s (sweep.time_limit_s)", now + GRACE_S
            elif silent_s > max(SILENCE_S, 2 * config.hang_timeout_s):
                reason, kill_at = "hangs: it no longer updates its status.json", now
            if reason:
                process.terminate()
        if now >= kill_at:
            os.killpg(process.pid, signal.SIGKILL)
        time.sleep(POLL_S)
        previous, status_time = status_time, _status_time(folder)
        silent_s = silent_s + min(time.monotonic() - now, 1.0) if status_time == previous else 0.0


def _status_time(folder: Path) -> int:
    """When the cell last wrote its status, in ns on the file system's clock."""
    try:
        return (folder / STATUS).stat().st_mtime_ns
    except OSError:
        return 0


def _outcome(process: subprocess.Popen[bytes], stop_reason: str, folder: Path) -> Outcome:
    code, status = process.returncode, status_of(folder)
    if code == 0 and status is not None and status.state == "completed":
        return Outcome("completed", "")
    if stop_reason == STOPPED:
        return Outcome("interrupted", stop_reason)
    if stop_reason:
        return Outcome("failed", stop_reason)
    if code < 0:
        return Outcome("failed", f"killed by {signal.Signals(-code).name}")
    if code in [128 + number for number in SIGNALS]:
        return Outcome("interrupted", signal.Signals(code - 128).name)
    if status is not None and status.state == "failed" and status.pid == process.pid:  # not from an earlier attempt
        return Outcome("failed", status.reason)
    last_line = next((line for line in reversed(last_lines(folder)) if line), "")
    return Outcome("failed", f"exited with code {code}{': ' + last_line if last_line else ''}")


# The code of the child process.


def main() -> int:
    """Train the cell in the folder given as argument. The configuration is read from standard input."""
    die_with_parent()
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # Slurm warns all processes of a job with it; the parent handles it
    request = json.load(sys.stdin)
    if os.getppid() != request["parent"]:
        return 1  # the parent died before it could watch this process
    folder = Path(sys.argv[1])
    sys.argv = ["src/run.py", *request["overrides"]]  # for the manifest: the command that trains only this cell
    try:
        import_plugins(request["modules"])
        _train(from_dict(request["config"]), request["overrides"], folder)
    except ConfigError as error:
        print(error)
        return 2
    except (RunFailed, OSError) as failure:
        print(f"failed: {failure}")
        return 1
    except Interrupted as interrupt:
        return 128 + interrupt.signal
    return 0


def _train(config: Config, overrides: list[str], folder: Path) -> None:
    """Resume the run in the folder, or start again if it cannot be resumed."""
    with lock_run(folder) as still_there:  # raises if an earlier attempt still runs on another machine
        if (folder / MANIFEST).exists():
            try:
                resumed = plan(replace(config, resume=str(folder)), [])
            except ConfigError as error:
                print(f"starting again: {error}")
            else:
                return run(resumed, folder, overrides, still_there)
        for name in (MANIFEST, STATUS, *COLUMNS, CHECKPOINTS):
            _remove(folder / name)
        run(plan(config, [], folder=folder), folder, overrides, still_there)


def _remove(path: Path) -> None:
    """Remove what is at this path, of whatever kind."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
