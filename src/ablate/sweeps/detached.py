"""The process of a detached sweep (sweep.detach=true), which runs on without the command that started it.

It checks the study, claims the folder and hands the first cells to the launcher. Until then it writes to the
terminal, and the command waits for it. Then it lets go: its output goes to a log in the sweep's folder, and the command
returns. It holds a lock on the log for as long as it lives. So any process can see whether it lives; an id of a process
would not show it, because ids are used again."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import sys
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ablate.parallel.machine import is_locked, lock
from ablate.records.files import is_file, read_object, write_json
from ablate.records.schema import DETACHED, SWEEP_LOG

WAITING = "ABLATE_DETACHED"  # in the environment: the descriptor of the command's pipe, and how the command was called
_pipe: int | None = None  # to the command that waits; None: nobody waits
_folder: Path | None = None  # once it has let go
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Detached:
    """A detached.json."""

    host: str
    pid: int
    started: str
    log_from: int  # the byte of the log at which this start of the sweep begins
    exit_code: int | None = None  # None while it runs, and if it was killed


def begin() -> str:
    """Call this first in the process of a detached sweep. Returns the path with which the command was called."""
    global _pipe
    descriptor, _, called = os.environ.pop(WAITING).partition(":")
    _pipe = int(descriptor)
    os.set_inheritable(_pipe, False)
    return called


def is_detached() -> bool:
    """Whether this is the process of a detached sweep."""
    return _pipe is not None or _folder is not None


def let_go(folder: Path) -> None:
    """Go on without the terminal: the launcher has accepted the cells. Does nothing in any other sweep, or again.

    Raises OSError if the log cannot be written."""
    global _pipe, _folder
    with _one_at_a_time:  # of the launcher's thread and the one that watches the cells
        if _pipe is None:
            return
        path = folder / SWEEP_LOG
        is_file(path)  # raises if a pipe is there, which would keep this process waiting
        log = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        held = os.open(path, os.O_RDWR)  # never closed. Not `log`: what it starts inherits that as its output
        lock(held, wait=True)
        started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        _write(folder, Detached(platform.node(), os.getpid(), started, os.fstat(log).st_size))
        for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
            with contextlib.suppress(OSError):  # the terminal is gone already
                stream.flush()
            os.dup2(log, descriptor)
        os.close(log)
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        with contextlib.suppress(OSError), open(_pipe, "wb") as pipe:  # the command may have been killed
            pipe.write(os.fsencode(folder))
        _pipe, _folder = None, folder


def end(code: int) -> None:
    """Record the exit code; the last thing that this process does."""
    if _folder is not None and (started := read_detached(_folder)) is not None:
        with contextlib.suppress(OSError):
            _write(_folder, replace(started, exit_code=code))


def read_detached(folder: Path) -> Detached | None:
    """The sweep's last start; None if it was not detached. Raises ConfigError if the file is damaged."""
    return read_object(folder / DETACHED, Detached)


def _write(folder: Path, detached: Detached) -> None:
    write_json(folder / DETACHED, asdict(detached))


def lives(folder: Path) -> bool:
    """Whether the process of a detached sweep lives, on any machine that shares the disk."""
    return is_locked(folder / SWEEP_LOG)
