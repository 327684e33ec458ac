"""Runs of the program as subprocesses, and what /proc says about processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ablate.paths import ROOT
from ablate.records.schema import EPISODES, STATUS

TEST_ID = "ABLATE_TEST_ID"  # in the environment of every process that a test starts, and of its descendants
# A shell in a session of its own, as that of ssh: it runs a command, then waits for the next one.
LOGIN_SHELL = (
    "-c",
    "import subprocess, sys, time; code = subprocess.call([sys.executable, 'src/run.py', *sys.argv[1:]]);"
    "print('returned', code, flush=True); time.sleep(10000)",
)
START_S = 120.0  # to import torch or compile kernels, on a machine that others use too
GONE_S = 10.0  # for processes to end


class Run:
    """A run as a subprocess, in its own process group like a command typed in a terminal."""

    def __init__(self, folder: Path, *arguments: str, program: tuple[str, ...] = ("src/run.py",), **env: str) -> None:
        self.folder, self.id = folder, uuid.uuid4().hex
        self._output = folder.parent / f"{self.id}.out"
        self._errors = folder.parent / f"{self.id}.err"
        environment = {**os.environ, "PYTHONPATH": "tests", "PYTHONUNBUFFERED": "1", TEST_ID: self.id, **env}
        with self._output.open("wb") as output, self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, *program, *arguments],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=errors,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")

    @property
    def errors(self) -> str:
        return self._errors.read_text(errors="replace")

    def processes(self) -> list[int]:
        """All living processes of this run, also orphans, in the order in which they started."""
        return sorted(filter(self._is_mine, all_processes()), key=lambda pid: (_start_time(pid), pid))

    def child(self, index: int) -> int:
        """A worker or, last, the test process: the processes that multiprocessing spawned, in this order."""
        return [pid for pid in self.processes() if is_spawned(pid)][index]

    def _is_mine(self, pid: int) -> bool:
        return f"{TEST_ID}={self.id}".encode() in read_proc(pid, "environ").split(b"\0")

    def wait_until(self, condition: Callable[[], bool], what: str, timeout_s: float = START_S) -> None:
        """Poll while the run lives. Fails with the run's output."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert self.process.poll() is None, f"ended before {what}: {self.output}\n{self.errors}"
            assert time.monotonic() < deadline, f"not {what} within {timeout_s} s: {self.output}\n{self.errors}"
            time.sleep(0.02)

    def exit_code(self, timeout_s: float = START_S) -> int:
        return self.process.wait(timeout_s)

    def rows(self, name: str = EPISODES) -> int:
        return count_rows(self.folder / name)

    def status(self) -> dict[str, Any]:
        return json.loads((self.folder / STATUS).read_text())

    def temporary_files(self) -> list[str]:
        return [path.name for path in self.folder.rglob("*.tmp")]

    def kill(self) -> None:
        """Kill all processes of the run."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)


def returned(run: Run, code: int, timeout_s: float = START_S) -> None:
    """Wait until the command in a LOGIN_SHELL has returned, with this exit code."""
    run.wait_until(lambda: "returned" in run.output, "returned", timeout_s)
    assert f"returned {code}\n" in run.output, f"{run.output} {run.errors}"


def hang_up(run: Run) -> None:
    """End the session of a LOGIN_SHELL: SIGHUP to its group."""
    os.killpg(run.process.pid, signal.SIGHUP)
    assert run.exit_code() == -signal.SIGHUP


def of_sweep(command: str, folder: Path, timeout_s: float = START_S) -> subprocess.CompletedProcess[str]:
    """python src/sweep.py <command> <folder>, in a session of its own."""
    return subprocess.run(
        [sys.executable, "src/sweep.py", command, str(folder)],
        cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, start_new_session=True,
    )  # fmt: skip


def count_rows(path: Path) -> int:
    """Rows of a CSV file below its header; 0 if there is no such file."""
    return max(0, path.read_bytes().count(b"\n") - 1) if path.exists() else 0


def eventually(condition: Callable[[], object], timeout_s: float = GONE_S) -> bool:
    """Whether the condition becomes true within this time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return bool(condition())


def all_processes() -> list[int]:
    return list(map(int, filter(str.isdigit, os.listdir("/proc"))))


def read_proc(pid: int, name: str) -> bytes:
    """The file /proc/<pid>/<name>; empty if the process has ended or belongs to another user."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def command_of(pid: int) -> list[bytes]:
    """The arguments that the process was started with."""
    return read_proc(pid, "cmdline").rstrip(b"\0").split(b"\0")


def is_spawned(pid: int) -> bool:
    """Whether the process is one that trains or evaluates: multiprocessing started it, or it is a fork with a mark."""
    return b"--multiprocessing-fork" in command_of(pid) or b"/" in read_proc(pid, "comm")


def parent_of(pid: int) -> int:
    """0 if the process has ended."""
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def _start_time(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[19]) if fields else 0


def _stat(pid: int) -> list[bytes]:
    """The fields of proc(5)'s stat from number 3 on, which follow the program's name in brackets."""
    return read_proc(pid, "stat").rpartition(b")")[2].split()
