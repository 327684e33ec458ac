"""The programs that environments start, such as simulators: they end with the process that started them.

They are found in /proc, by their parents and by a mark in their environment variables, which also a daemon inherits. A
system without /proc ends none of them.
Run as a program, this file is the guard of a run: a process killed with SIGKILL cannot end what it has started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator

MARK = "ABLATE_PROCESS"  # the environment variable with the mark
ROUNDS, ROUND_S = 50, 0.02  # how often to look for processes that are left: one may start another while it is ended
GUARD_S = 5.0  # for the guard to end
PYTHONS_OWN = b"multiprocessing.resource_tracker"  # serves the process that started it to its end


class Guard:
    """Ends all processes with its mark: when it is closed, or when this process has ended, however that happened."""

    def __init__(self) -> None:
        self.mark = uuid.uuid4().hex
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, self.mark],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/",
            start_new_session=True,
        )  # fmt: skip

    def close(self) -> None:
        """End all processes with the mark, and the guard."""
        end(lambda: marked(self.mark))
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it was killed, or is closed already
            self._process.stdin.write(b"done")
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GUARD_S)


@contextlib.contextmanager
def ending_descendants(mark: str = "") -> Iterator[None]:
    """End with this context what this process has started within it. mark: that of a Guard, if there is one."""
    own_mark, before = mark or uuid.uuid4().hex, descendants(os.getpid())
    outer_mark = os.environ.get(MARK)
    os.environ[MARK] = own_mark
    try:
        yield
    finally:
        os.environ.pop(MARK)
        if outer_mark is not None:
            os.environ[MARK] = outer_mark
        end(lambda: marked(own_mark) | (descendants(os.getpid()) - before))


def marked(mark: str) -> set[int]:
    """Processes whose mark begins with this one."""
    beginning = f"{MARK}={mark}".encode()
    return {pid for pid in _all() if any(value.startswith(beginning) for value in _read(pid, "environ").split(b"\0"))}


def descendants(*ancestors: int) -> set[int]:
    """Children, grandchildren and so on of these processes, but not Python's own helpers."""
    parents = {pid: int(fields[1]) for pid in _all() if (fields := _read(pid, "stat").rpartition(b")")[2].split())}
    found: set[int] = set()
    newest = set(ancestors)
    while newest:
        newest = {pid for pid, parent in parents.items() if parent in newest} - found
        found |= newest
    return {pid for pid in found if PYTHONS_OWN not in _read(pid, "cmdline")}


def end(find: Callable[[], Iterable[int]]) -> None:
    """Kill the processes that `find` gives, until none of them runs."""
    for _ in range(ROUNDS):
        alive = [pid for pid in find() if pid != os.getpid() and _runs(pid)]
        if not alive:
            return
        for pid in alive:
            with contextlib.suppress(OSError):  # it has ended
                os.kill(pid, signal.SIGKILL)
        time.sleep(ROUND_S)


def _runs(pid: int) -> bool:
    return _read(pid, "stat").rpartition(b")")[2].split()[:1] not in ([], [b"Z"])


def _all() -> list[int]:
    """All processes; none if this system has no /proc."""
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def _read(pid: int, name: str) -> bytes:
    """A file of /proc/<pid>; empty if the process has ended or belongs to another user."""
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read()
    except OSError:
        return b""


if __name__ == "__main__":
    if sys.stdin.buffer.read() != b"done":  # the process that started the guard was killed
        end(lambda: marked(sys.argv[1]))
