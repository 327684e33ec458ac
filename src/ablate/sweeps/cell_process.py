"""Start the process of a cell, in a session of its own: as a program, or as a fork of a server that has its imports.

A fork takes its first step after a tenth of a second, a program after one or two seconds. Both are processes of their
own: their log, their time limit and their death are no other cell's."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from ablate.config.derived import devices
from ablate.config.plugins import named_modules
from ablate.config.schema import Config
from ablate.parallel.fork_server import Ended, ForkServer, NotForked
from ablate.parallel.machine import number_of_threads, peak_memory_mb
from ablate.paths import python_path
from ablate.records.files import is_file
from ablate.records.schema import CELL_LOG
from ablate.sweeps.train_cell import CellRequest

_server: ForkServer | None = None


class CellProcess(Protocol):
    """A cell's process. It leads a session and a process group."""

    pid: int

    def poll(self) -> Ended | None:
        """How it ended; None while it runs. Raises NotForked if it was forked, and was killed with its server."""
        ...

    def wait(self, timeout_s: float) -> None:
        """Wait a while, at most until it has ended."""
        ...

    def close(self) -> None: ...


class Program:
    """A cell that was started as a program."""

    def __init__(self, request: bytes, folder: Path, log: int) -> None:
        self._process = subprocess.Popen(
            command_of("ablate.sweeps.train_cell", str(folder)),
            stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True, env=environment(),
        )  # fmt: skip
        self.pid = self._process.pid
        assert self._process.stdin is not None
        try:
            with self._process.stdin as pipe:
                pipe.write(request)
        except BrokenPipeError:
            pass  # it died at once; its exit code and its log show why

    def poll(self) -> Ended | None:
        if self._process.returncode is not None:
            return None
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        if not pid:
            return None
        self._process.returncode = os.waitstatus_to_exitcode(status)
        return Ended(self._process.returncode, peak_memory_mb(usage))

    def wait(self, timeout_s: float) -> None:
        time.sleep(timeout_s)

    def close(self) -> None:
        """Nothing is held."""


def start(
    config: Config, overrides: list[str], folder: Path, stopped: Callable[[], bool], fork: bool = True
) -> CellProcess | None:
    """Start the cell; None if the sweep was stopped before it started. fork: fork it if that is possible."""
    request = CellRequest.of(config, overrides, folder)
    is_file(folder / CELL_LOG)  # raises if a pipe is there, which would keep this process waiting
    with (folder / CELL_LOG).open("ab") as log:
        if fork and _server is not None and may_be_forked(config):
            try:
                return _server.fork(request, log.fileno(), stopped)
            except NotForked:
                pass  # `mend_server` starts another one for the next cell
        return Program(request, folder, log.fileno())


def may_be_forked(config: Config) -> bool:
    """Whether to fork a cell: sweep.fork, or else if it needs no code of the user's, which may start threads.

    Not for a GPU: a process that has asked for one cannot use it in its forks. Only on Linux."""
    if not number_of_threads() or devices(config) != ["cpu"]:
        return False
    return not named_modules() if config.sweep.fork is None else config.sweep.fork


def mend_server(config: Config) -> None:
    """Start the server if this cell may be forked and none runs; only in the main thread, with which it would end."""
    global _server
    if threading.current_thread() is not threading.main_thread() or not may_be_forked(config):
        return
    if _server is None or (_server.has_forked and not _server.runs):  # one that never forked would not do so again
        if _server is not None:
            print("note      the process from which cells are forked was killed; a new one is started", file=sys.stderr)
            _server.close()
        _server = ForkServer(command_of("ablate.sweeps.preload"), environment())


def close_server() -> None:
    """End the server, if one runs."""
    global _server
    if _server is not None:
        _server.close()
        _server = None


def command_of(module: str, *arguments: str) -> list[str]:
    """The command of a module of ours. Its last argument is our process id: it ends with us (`die_with_parent`)."""
    return [sys.executable, "-P", "-m", module, *arguments, str(os.getpid())]  # -P: not from the current folder


def environment() -> dict[str, str]:
    """The environment variables of a cell's process."""
    return {**os.environ, "PYTHONPATH": python_path()}
