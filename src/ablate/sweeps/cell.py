"""One cell of a sweep, an arm with a seed, as a process of its own: a crash, an exit or a hang is this cell's alone.

`run_cell` is called where a launcher puts it, here or elsewhere. What it starts is `python -m ablate.sweeps.cell`, the
side below. What became of the cell is in its folder: cell.json, written here, and the run's own files."""

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
from typing import Any, NamedTuple

from ablate.config.plugins import import_plugins
from ablate.config.schema import Config, ConfigError
from ablate.config.serial import from_dict, to_dict
from ablate.parallel.signals import Interrupted
from ablate.parallel.supervisor import die_with_parent
from ablate.paths import ROOT
from ablate.records.csv_writer import read_rows
from ablate.records.files import read_json, write_json
from ablate.records.manifest import lock_run, read_status
from ablate.records.schema import CELL, CELL_LOG, COLUMNS, EPISODES, EVALUATIONS, MANIFEST, STATUS, UPDATES
from ablate.runs.plan import Resolved, plan
from ablate.runs.run import RunFailed, run
from ablate.types import Counters

POLL_S = 0.05
STOP = ".stop"  # a file in a sweep's folder: running cells shall write their checkpoints and end
STOPPED = "the sweep was stopped"
GRACE_S = 60.0  # for a cell that was asked to stop: to write its checkpoint
SILENCE_S = 30.0  # a cell's parent writes status.json every 2 s: at least so long without it before it counts as hung
TAIL = 8  # lines of a failed cell's log that are shown


class Outcome(NamedTuple):
    """How an attempt at a cell ended."""

    outcome: str  # completed, interrupted or failed
    reason: str


NOT_STARTED = Outcome("interrupted", f"not started: {STOPPED}")


def run_cell(config: Config, overrides: list[str], folder: Path, stopped: Callable[[], bool]) -> Outcome:
    """Train the resolved configuration in `folder`, in a session of its own, and note in cell.json how that ended.

    Goes on from the folder's last checkpoint if it holds one. stopped: whether the sweep is being stopped; the cell
    then writes a checkpoint. Raises OSError if cell.json cannot be written."""
    if stopped():
        return NOT_STARTED
    folder.mkdir(parents=True, exist_ok=True)
    # one that has no outcome was killed together with whoever watched it
    lost = {"outcome": "interrupted", "reason": "killed together with its sweep"}
    attempts = [{**lost, **earlier} for earlier in attempts_of(folder)]
    attempt: dict[str, Any] = {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
    }
    write_json(folder / CELL, {"attempts": [*attempts, attempt]})
    began = time.monotonic()
    ended, peak_mb = _supervised(config, overrides, folder, stopped)
    measured = {"seconds": round(time.monotonic() - began, 2), "max_rss_mb": peak_mb}
    write_json(folder / CELL, {"attempts": [*attempts, {**attempt, **ended._asdict(), **measured}]})
    return ended


def run_as_job(config: Config, overrides: list[str], folder: Path, sweep: Path) -> float:
    """`run_cell` as a Hydra job: returns what a sweeper may maximise, the mean return of the last evaluation.

    sweep: the folder of the sweep, where STOP is looked for. Raises RunFailed if the cell does not complete."""
    own = [override for override in overrides if not override.startswith("sweep.")]
    ended = run_cell(config, own, folder, (sweep / STOP).exists)
    if ended.outcome != "completed":
        raise RunFailed(ended.reason)
    return objective(folder)


def objective(folder: Path) -> float:
    """The mean return of the cell's last evaluation, for sweepers that look for a maximum; NaN without one."""
    import pandas as pd

    table = pd.read_csv(folder / EVALUATIONS, usecols=["evaluation", "episodic_return"])
    return float(table.loc[table["evaluation"] == table["evaluation"].max(), "episodic_return"].mean())


def last_lines(folder: Path) -> list[str]:
    """The end of the cell's log."""
    try:
        with (folder / CELL_LOG).open(errors="replace") as file:
            return [line.rstrip() for line in deque(file, TAIL)]
    except OSError:
        return []


def attempts_of(folder: Path) -> list[dict[str, Any]]:
    """The attempts in a cell.json; none if it cannot be read."""
    try:
        return [dict(attempt) for attempt in read_json(folder / CELL)["attempts"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def python_path() -> str:
    """PYTHONPATH for a cell's process, here or elsewhere: this source tree, whatever is installed, and the caller's."""
    return os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])


def _supervised(
    config: Config, overrides: list[str], folder: Path, stopped: Callable[[], bool]
) -> tuple[Outcome, float]:
    """Start the cell's process and watch it to its end: (how it ended, peak memory of its largest process in MB)."""
    environment = {**os.environ, "PYTHONPATH": python_path()}
    request = json.dumps({"config": to_dict(config), "overrides": overrides, "parent": os.getpid()})
    with (folder / CELL_LOG).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ablate.sweeps.cell", str(folder)],
            stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True, env=environment,
        )  # fmt: skip
    assert process.stdin is not None
    try:
        with process.stdin as pipe:
            pipe.write(request.encode())
    except BrokenPipeError:
        pass  # it died at once; its exit code says how
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
            os.killpg(process.pid, signal.SIGKILL)  # the session's leader leads its group
            process.wait()


def _watched(
    process: subprocess.Popen[bytes], config: Config, folder: Path, stopped: Callable[[], bool]
) -> tuple[Outcome, float]:
    began, limit_s = time.monotonic(), config.sweep.time_limit_s
    why, kill_at = "", math.inf
    # Silence is counted in looks, not by the clock: a machine that was suspended is no cell that hangs.
    sign, silent_s = _last_sign(folder), 0.0
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return _outcome(process, why, folder), round(usage.ru_maxrss / 1024, 1)
        now = time.monotonic()
        if not why:
            if stopped():
                why, kill_at = STOPPED, now + GRACE_S
            elif limit_s is not None and now - began > limit_s:
                why, kill_at = f"stopped after {limit_s:g} s (sweep.time_limit_s)", now + GRACE_S
            elif silent_s > max(SILENCE_S, 2 * config.hang_timeout_s):
                why, kill_at = "hangs: its status.json grows old", now
            if why:
                process.terminate()
        if now >= kill_at:
            os.killpg(process.pid, signal.SIGKILL)
        time.sleep(POLL_S)
        last, sign = sign, _last_sign(folder)
        silent_s = silent_s + min(time.monotonic() - now, 1.0) if sign == last else 0.0


def _last_sign(folder: Path) -> int:
    """When the cell last wrote its status, ns on the file system's clock."""
    try:
        return (folder / STATUS).stat().st_mtime_ns
    except OSError:
        return 0


def _outcome(process: subprocess.Popen[bytes], why: str, folder: Path) -> Outcome:
    code, status = process.returncode, read_status(folder)
    if code == 0 and status.get("state") == "completed":
        return Outcome("completed", "")
    if why == STOPPED:
        return Outcome("interrupted", why)
    if why:
        return Outcome("failed", why)
    if code < 0:
        return Outcome("failed", f"killed by {signal.Signals(-code).name}")
    if code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        return Outcome("interrupted", signal.Signals(code - 128).name)
    if status.get("state") == "failed" and status.get("pid") == process.pid:  # not an earlier attempt's
        return Outcome("failed", status["reason"])
    told = next((line for line in reversed(last_lines(folder)) if line), "")
    return Outcome("failed", f"exited with code {code}{': ' + told if told else ''}")


# The child's side.


def main() -> int:
    """Train the cell in the folder that is the argument; its configuration comes through standard input."""
    die_with_parent()
    if sys.platform == "linux":
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # Slurm's warning to all of a job; its watcher heeds it
    request = json.load(sys.stdin)
    if os.getppid() != request["parent"]:
        return 1  # it died before it could be watched
    folder = Path(sys.argv[1])
    sys.argv = ["src/run.py", *request["overrides"]]  # for the manifest: the command that trains this cell alone
    sys.path.append(os.getcwd())  # env.id=<module>:<Name>-v0 of the user's own
    try:
        import_plugins(request["config"].get("plugins", []))  # which the user named for the sweep
        _train(from_dict(request["config"]), request["overrides"], folder)
    except ConfigError as error:
        print(error)
        return 2
    except RunFailed as failure:
        print(f"failed: {failure}")
        return 1
    except Interrupted as interrupt:
        return 128 + interrupt.signal
    return 0


def _train(config: Config, overrides: list[str], folder: Path) -> None:
    """Go on with what is in the folder, or start anew where nothing there can be gone on with."""
    with lock_run(folder):  # an earlier attempt may still run on another machine
        pass
    if (folder / MANIFEST).exists():
        try:
            resumed = plan(replace(config, resume=str(folder)), [])
            _refuse_lost_rows(resumed, folder)
        except (ConfigError, ValueError) as error:
            print(f"starting anew: {error}")
        else:
            return run(resumed, folder, overrides)
    for name in (MANIFEST, STATUS, *COLUMNS):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    run(plan(config, []), folder, overrides)


def _refuse_lost_rows(resumed: Resolved, folder: Path) -> None:
    """Raise ValueError if a table lacks rows that the checkpoint counts, which were written before it."""
    if resumed.resumed is None:
        return
    state, interval = resumed.resumed.state, resumed.config.log_interval
    counters = Counters(**state["counters"])
    counted = {
        EPISODES: range(1, counters.episodes + 1),
        UPDATES: range(interval, counters.updates + 1, interval),
        EVALUATIONS: range(1, state["evaluations_done"] + 1),
    }
    for name, numbers in counted.items():
        if lost := set(numbers) - {int(row[0]) for row in read_rows(folder / name).rows}:
            raise ValueError(f"{folder / name} is damaged: {len(lost)} rows are lost, from {min(lost)} on")


if __name__ == "__main__":
    sys.exit(main())
