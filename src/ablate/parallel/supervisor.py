"""Start, watch and end the processes of a run. If one dies, raises or hangs, the run fails, and the error names it."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, NamedTuple

from ablate.config.plugins import import_plugins, named_modules, text_of
from ablate.parallel import heartbeat
from ablate.parallel.closing import CLOSE_S, closing_at_end
from ablate.parallel.descendants import MARK, Guard, descendants, end, marked
from ablate.parallel.forking import ONE_THREAD, forget_parent, may_fork
from ablate.parallel.machine import die_with_parent, set_name
from ablate.parallel.shared import Command, SharedState
from ablate.parallel.signals import SIGNALS

STARTUP_S = 120.0  # for a child to import torch and to make its environment, on a busy machine
COMPILATION_S = 900.0  # if it also compiles kernels, which takes about 15 s on an idle machine
ASLEEP_S = 1.0  # if the parent has not watched for longer than this, a silent child does not count as hung
CLOSING_S = 2 * CLOSE_S  # between the last message of a child and its end: it closes its environments
GRACE_S = 5.0  # between the end of a child's pipe and the end of the child
ABANDON_S = 1.0  # between asking the children to end and killing them
# While a child starts, it must not import from the current folder: a pickle.py there is not Python's.
SAFE_PATH = "PYTHONSAFEPATH"
LONGEST_MESSAGE = 2000  # characters of an exception: its text goes to status.json and to the terminal
LONGEST_TRACEBACK = 20_000


class ChildFailed(Exception):
    """A process of the run died, raised an exception or hangs. The message says which process and how."""


class Child(NamedTuple):
    """A process to start: it calls `function(send, *arguments)` of `module`. send(message) reaches the parent.

    Only the child imports the module, so that the parent never imports torch."""

    name: str
    module: str
    function: str
    arguments: tuple[Any, ...]


class _Done(NamedTuple):
    """The last message of a child. An exit without it is a failure, whatever the exit code."""


class Supervisor:
    """Runs children and gives their messages to the parent, in the order in which each child sent them.

    It is a context manager: whatever happens, no child is left when the context ends, nor what a child has started."""

    def __init__(self, children: list[Child], shared: SharedState, hang_timeout_s: float) -> None:
        self._children = children
        self._shared = shared
        self._hang_timeout_s = hang_timeout_s
        self._processes: dict[str, BaseProcess] = {}
        self._pipes: dict[str, Connection] = {}
        self._done: dict[str, float] = {}  # when a child sent its last message
        self._guard: Guard | None = None
        self._watched = self._awake_since = time.monotonic()

    def __enter__(self) -> Supervisor:
        forks = may_fork()
        context = multiprocessing.get_context("fork") if forks else multiprocessing.get_context("spawn")
        if not forks:
            resource_tracker.ensure_running()  # otherwise spawning starts it, and then unblocks the signals
        self._guard = Guard()
        try:
            with _environment({**ONE_THREAD, SAFE_PATH: "1", MARK: ""}), _signals_blocked():
                for index, child in enumerate(self._children):
                    os.environ[MARK] = mark = self._mark(child.name)
                    receiving, sending = context.Pipe(duplex=False)
                    # What only a fork inherits, and must close: with it, a pipe would stay open when this process ends.
                    ours = (mark, self._guard, receiving, *self._pipes.values()) if forks else None
                    arguments = (child, named_modules(), self._shared, index, sending, ours)
                    # not a daemon, which may have no children: an environment may start processes
                    process = context.Process(target=_run_child, args=arguments, name=child.name, daemon=False)
                    process.start()
                    sending.close()  # only the child keeps this end, so the pipe ends with the child
                    self._processes[child.name] = process
                    self._pipes[child.name] = receiving
        except BaseException:  # also a second signal, which waited until signals were unblocked
            self.kill()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()

    @property
    def running(self) -> set[str]:
        """Names of the children that have not ended."""
        return set(self._pipes)

    def messages(self, timeout_s: float) -> Iterator[tuple[str, Any]]:
        """Yield (name of the child, message) as messages arrive within the timeout. Returns early if no child runs.

        Raises ChildFailed if a child is killed by a signal, exits with a non-zero code, raises an exception, or has no
        heartbeat for hang_timeout_s."""
        ready = wait(list(self._pipes.values()), timeout_s)
        now = time.monotonic()
        if now - self._watched > timeout_s + ASLEEP_S:
            self._awake_since = now  # this process was stopped (Ctrl-Z), and so were its children
        self._watched = now
        for name, pipe in [item for item in self._pipes.items() if item[1] in ready]:
            try:
                while pipe.poll():
                    yield from self._received(name)
            except (EOFError, OSError):
                self._ended(name)
        # The pipe of a child that has ended stays open if a process that its environment has started still holds it.
        for name in [name for name in self._pipes if self._processes[name].exitcode is not None]:
            with contextlib.suppress(EOFError, OSError):
                while self._pipes[name].poll():
                    yield from self._received(name)
            self._ended(name)
        for index, child in enumerate(self._children):
            if child.name not in self._pipes:
                continue
            if child.name in self._done:
                if now - self._done[child.name] > CLOSING_S:  # it does not close its environments: all results are here
                    self._processes[child.name].kill()
                    self._pipes.pop(child.name).close()
                continue
            silent = self._shared.silent_for_s(index)
            if silent is not None:
                silent = min(silent, now - self._awake_since)
            if silent is not None and silent > self._hang_timeout_s:
                raise ChildFailed(f"{child.name} hangs: no step for {silent:.0f} s (hang_timeout_s)")
            limit = max(self._hang_timeout_s, COMPILATION_S if self._shared.compiles else STARTUP_S)
            waited = time.monotonic() - max(self._shared.started, self._awake_since)
            if silent is None and waited > limit:
                longer = f"hang_timeout_s={2 * limit:.0f} waits longer"
                raise ChildFailed(f"{child.name} hangs: no first step after {limit:.0f} s; {longer}")

    def _received(self, name: str) -> Iterator[tuple[str, Any]]:
        """The next message of a child, except that it is done. Raises its ChildFailed, EOFError or OSError."""
        message = self._pipes[name].recv()
        if isinstance(message, ChildFailed):
            raise message
        if isinstance(message, _Done):
            self._done[name] = time.monotonic()
        else:
            yield name, message

    def _ended(self, name: str) -> None:
        self._pipes.pop(name).close()
        process = self._processes[name]
        process.join(GRACE_S)
        if process.exitcode is None:
            raise ChildFailed(f"{name} closed its pipe but does not end")
        if process.exitcode < 0:
            raise ChildFailed(f"{name} was killed by {signal.Signals(-process.exitcode).name}")
        if process.exitcode > 0 or name not in self._done:
            raise ChildFailed(f"{name} exited with code {process.exitcode}")
        end(lambda: marked(self._mark(name)))  # what it started and left behind

    def _mark(self, name: str) -> str:
        """The mark of a child, which all that it starts inherits."""
        assert self._guard is not None
        return f"{self._guard.mark}/{[child.name for child in self._children].index(name)}/"

    def kill(self) -> None:
        """End all children: give them a second to end, then kill them. A signal skips the wait."""
        alive = [process for process in self._processes.values() if process.is_alive()]
        self._shared.command = Command.abandon
        started: set[int] = set()
        deadline = time.monotonic() + ABANDON_S
        try:
            started |= descendants(*_pids(alive))
            for process in alive:
                process.join(max(0.0, deadline - time.monotonic()))
        finally:
            started |= descendants(*_pids(alive))
            for process in alive:
                process.kill()  # does nothing if the process has ended
                process.join()
            end(lambda: started)
            if self._guard is not None:
                self._guard.close()
            for pipe in self._pipes.values():
                pipe.close()
            self._pipes.clear()


def _pids(processes: list[BaseProcess]) -> list[int]:
    return [process.pid for process in processes if process.pid is not None]


def _run_child(
    child: Child,
    modules: list[str],
    shared: SharedState,
    index: int,
    sending: Connection,
    inherited: tuple[Any, ...] | None,
) -> None:
    """The main function of a child. When the parent ends, a thread ends the child, and on Linux the kernel does too.

    Ctrl-C reaches all processes of the terminal, and a cluster's SIGTERM all processes of the job. Only the parent
    handles them."""
    if inherited is not None:
        mark, guard, *pipes = inherited
        set_name(mark)
        guard.leave()
        for pipe in pipes:
            pipe.close()
        forget_parent()
    os.environ.pop(SAFE_PATH, None)  # it was for this process, not for those that an environment starts
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # SIGHUP is ignored under nohup, also by what is started here
            signal.signal(number, _nothing)
            signal.siginterrupt(number, False)
    os.register_at_fork(after_in_child=_default_signals)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    parent = multiprocessing.parent_process()
    assert parent is not None
    assert parent.pid is not None
    die_with_parent(parent.pid)
    threading.Thread(target=_exit_with, args=(parent.sentinel,), daemon=True).start()

    heartbeat.install(partial(shared.beat, index))

    def send(message: Any) -> None:
        try:
            sending.send(message)
        except BrokenPipeError:
            os._exit(1)  # the parent is gone

    code = 0
    with closing_at_end():
        try:
            import_plugins(modules)
            getattr(importlib.import_module(child.module), child.function)(send, *child.arguments)
            send(_Done())
        except ChildFailed as failure:
            send(failure)
        except SystemExit as leaving:  # in an environment
            code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        except BaseException as error:  # of any kind: otherwise the parent would only see an exit code
            message = shortened(f"{child.name} raised {type(error).__name__}: {text_of(error)}", LONGEST_MESSAGE)
            send(ChildFailed(f"{message}\n{shortened(traceback.format_exc(), LONGEST_TRACEBACK)}"))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # it may be closed
            stream.flush()
    os._exit(code)  # skips the slow clean-up of torch and Numba, and does not wait for what an environment has started


def _nothing(number: int, frame: FrameType | None) -> None:
    """A handler of signals. Unlike SIG_IGN, it does not pass on to programs: they must obey a `terminate()`."""


def _default_signals() -> None:
    """In a process forked by an environment: signals end it."""
    for number in SIGNALS:
        if signal.getsignal(number) is _nothing:
            signal.signal(number, signal.SIG_DFL)


def shortened(text: str, most: int) -> str:
    """The text in letters that a terminal shows and a file holds, without its middle if it has more than `most`.

    An exception of an environment may hold anything, also half of a letter, which no file could be written with."""
    text = "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)
    if len(text) <= most:
        return text
    return f"{text[: most // 2]} ... {len(text) - most} characters ... {text[-(most // 2) :]}"


def _exit_with(parent: int) -> None:
    """End this process when its parent, given by its sentinel, ends: if it is killed, it cannot end its children."""
    wait([parent])
    os._exit(1)


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block signals while children start; they inherit it. A signal would kill a child that does not ignore it yet."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables while children are spawned, which inherit them."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
