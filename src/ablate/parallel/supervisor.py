"""Starting, watching and ending the processes of a run. A process that dies, raises or hangs fails the run by name."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

from ablate.config.plugins import import_plugins
from ablate.parallel import heartbeat
from ablate.parallel.shared import Command, SharedState

STARTUP_S = 120.0  # for a child to import torch and to make its environment, on a crowded machine
COMPILATION_S = 900.0  # and where kernels are compiled, which takes some 15 s on a machine that does nothing else
ASLEEP_S = 1.0  # a pause in watching that says nothing about the children
GRACE_S = 5.0  # for a child whose pipe has ended to end too
ABANDON_S = 1.0  # between asking the children to end and killing them
SIGNALS = (signal.SIGINT, signal.SIGTERM)  # for the parent to understand, for the children to ignore
PR_SET_PDEATHSIG = 1  # linux/prctl.h
# Set before torch is imported in the child: many small matrix products side by side, one thread each.
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


class ChildFailed(Exception):
    """A process of the run died, raised or hangs. The message says which and how."""


class Child(NamedTuple):
    """A process to start. It calls `function(send, *arguments)` of `module`, where send(message) reaches the parent.

    The module is imported in the child only, so that the parent never imports torch."""

    name: str
    module: str
    function: str
    arguments: tuple[Any, ...]
    plugins: Sequence[str] = ()  # modules of the user's own, imported first


class _Done(NamedTuple):
    """A child's last message: an exit without it is a failure, whatever its code."""


class Supervisor:
    """Runs children and hands their messages to the parent, one at a time and in each child's order.

    Use as a context manager: whatever happens, no child is left when it exits."""

    def __init__(self, children: list[Child], shared: SharedState, hang_timeout_s: float) -> None:
        self._children = children
        self._shared = shared
        self._hang_timeout_s = hang_timeout_s
        self._processes: dict[str, BaseProcess] = {}
        self._pipes: dict[str, Connection] = {}
        self._done: set[str] = set()
        self._watched = self._awake_since = time.monotonic()

    def __enter__(self) -> Supervisor:
        context = multiprocessing.get_context("spawn")
        resource_tracker.ensure_running()  # spawning starts it otherwise, and then unblocks the signals
        try:
            with _environment(ONE_THREAD), _signals_blocked():
                for index, child in enumerate(self._children):
                    receiving, sending = context.Pipe(duplex=False)
                    arguments = (child, self._shared, index, sending)
                    process = context.Process(target=_run_child, args=arguments, name=child.name, daemon=True)
                    process.start()
                    sending.close()  # the child's copy is the only one: the pipe ends when the child does
                    self._processes[child.name] = process
                    self._pipes[child.name] = receiving
        except BaseException:  # also a second signal that waited for the block's end
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
        """(child's name, message) for what arrives within the timeout; returns early when nothing runs any more.

        Raises ChildFailed as soon as a child dies by a signal or with a non-zero code, raises, or shows no sign of
        life for hang_timeout_s."""
        ready = wait(list(self._pipes.values()), timeout_s)
        now = time.monotonic()
        if now - self._watched > timeout_s + ASLEEP_S:
            self._awake_since = now  # this process was stopped (Ctrl-Z), and the children with it
        self._watched = now
        for name, pipe in [item for item in self._pipes.items() if item[1] in ready]:
            try:
                while pipe.poll():
                    message = pipe.recv()
                    if isinstance(message, ChildFailed):
                        raise message
                    if isinstance(message, _Done):
                        self._done.add(name)
                    else:
                        yield name, message
            except (EOFError, OSError):
                self._ended(name)
        for index, child in enumerate(self._children):
            if child.name not in self._pipes:
                continue
            silent = self._shared.silent_for_s(index)
            if silent is not None:
                silent = min(silent, now - self._awake_since)
            if silent is not None and silent > self._hang_timeout_s:
                raise ChildFailed(f"{child.name} hangs: no step for {silent:.0f} s (hang_timeout_s)")
            startup_s = COMPILATION_S if self._shared.compiles else STARTUP_S
            if silent is None and time.monotonic() - self._shared.started > max(self._hang_timeout_s, startup_s):
                raise ChildFailed(f"{child.name} hangs: no first step after {startup_s:.0f} s")

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

    def kill(self) -> None:
        """End every child that still runs: ask, then kill. A signal meanwhile cuts the asking short."""
        alive = [process for process in self._processes.values() if process.is_alive()]
        self._shared.command = Command.abandon
        deadline = time.monotonic() + ABANDON_S
        try:
            for process in alive:
                process.join(max(0.0, deadline - time.monotonic()))
        finally:
            for process in alive:
                process.kill()  # of one that has ended: nothing
                process.join()
            for pipe in self._pipes.values():
                pipe.close()
            self._pipes.clear()


def _run_child(child: Child, shared: SharedState, index: int, sending: Connection) -> None:
    """A child's life. It ends with its parent: by a thread, and on Linux by the kernel, where the thread cannot run.

    Ctrl-C reaches the whole terminal group, a cluster's SIGTERM the whole job; the parent alone
    decides what they mean."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    die_with_parent()
    threading.Thread(target=_exit_with_parent, daemon=True).start()

    heartbeat.install(partial(shared.beat, index))

    def send(message: Any) -> None:
        try:
            sending.send(message)
        except BrokenPipeError:
            os._exit(1)  # the parent is gone

    try:
        import_plugins(child.plugins)
        getattr(importlib.import_module(child.module), child.function)(send, *child.arguments)
        send(_Done())
        sys.stdout.flush()
        os._exit(0)  # what torch or Numba would tear down takes a while, and nobody needs it torn down
    except ChildFailed as failure:
        send(failure)
    except Exception as error:
        # A child's exception would reach the parent as exit code 1 only: ship its traceback.
        send(ChildFailed(f"{child.name} raised {type(error).__name__}: {error}\n{traceback.format_exc()}"))


def die_with_parent() -> None:
    """Let the kernel end this process when its parent, or the parent's thread that started it, is gone. On Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _exit_with_parent() -> None:
    """A parent that was killed cannot end its children: each watches it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """A child inherits the block: one that is still starting must not die of what it will ignore."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """The variables set while children are spawned: they inherit them."""
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
