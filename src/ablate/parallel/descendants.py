"""The programs that environments start, such as simulators: they end with the process that started them.

They are found in /proc, by their parents and by a mark, which also a daemon inherits. The mark is in the environment
variables. A process that was forked shows there what its fork server was started with, so it also has the mark as its
name, until it runs another program. A system without /proc ends none of them.
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

LONGEST_NAME = 15  # bytes that Linux keeps of a process's name
MARK = "ABLATE_PROCESS"  # the environment variable with the mark
ROUNDS, ROUND_S = 50, 0.02  # how often to look for processes that are left: one may start another while it is ended
GUARD_S = 5.0  # for the guard to end
PYTHONS_OWN = b"multiprocessing.resource_tracker"  # serves the process that started it to its end


class Guard:
    """Ends all processes with its mark: when it is closed, or when this process has ended, however that happened."""

    def __init__(self) -> None:
        from ablate.parallel.forking import forget_parent, may_fork  # as a program, this file cannot import it

        self.mark = uuid.uuid4().hex[:10]  # with a child's number, it is as long as a process's name may be
        reading, self._writing = os.pipe()
        self._program: subprocess.Popen[bytes] | None = None
        if not may_fork():
            self._program = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, self.mark],
                stdin=reading, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", start_new_session=True,
            )  # fmt: skip
        elif (pid := os.fork()) == 0:
            try:
                forget_parent()
                os.setsid()
                self.leave()
                _guard(reading, self.mark)
            finally:
                os._exit(0)
        else:
            self._pid = pid
        os.close(reading)

    def leave(self) -> None:
        """Close this process's end of the guard's pipe, in a fork: the guard waits until no process has it."""
        if self._writing >= 0:
            os.close(self._writing)
        self._writing = -1

    def close(self) -> None:
        """End all processes with the mark, and the guard. A second call does nothing."""
        if self._writing < 0:
            return
        end(lambda: marked(self.mark))
        with contextlib.suppress(OSError):  # it was killed
            os.write(self._writing, b"done")
        self.leave()
        if self._program is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._program.wait(GUARD_S)
        else:
            os.kill(self._pid, signal.SIGKILL)  # it has nothing left to do
            os.waitpid(self._pid, 0)


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
    beginning, name = f"{MARK}={mark}".encode(), mark.encode()[:LONGEST_NAME]
    return {
        pid
        for pid in _all()
        if _read(pid, "comm").startswith(name)
        or any(value.startswith(beginning) for value in _read(pid, "environ").split(b"\0"))
    }


def descendants(*ancestors: int) -> set[int]:
    """Children, grandchildren and so on of these processes, but not Python's own helpers."""
    if not ancestors:
        return set()
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


def _guard(pipe: int, mark: str) -> None:
    """Wait until the process that started the guard has closed it, or was killed."""
    with open(pipe, "rb") as closed:
        if closed.read() != b"done":
            end(lambda: marked(mark))


if __name__ == "__main__":
    _guard(0, sys.argv[1])
