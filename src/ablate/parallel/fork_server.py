"""A process that forks others on request. It has imported what they need, so they start in a few milliseconds.

A fork server is started clean: no thread, and no library that works with threads of its own. It imports and prepares,
then forks. Nothing of it is in the file system: requests come over a socket that it inherits as its standard input.
If the process that started it ends, or closes it, it ends, and with it all of its forks.

Each request has a socket of its own for the answers: the id of the fork when it runs, how it ended when it has ended.
If that socket closes without them, the server is gone, and with it the fork."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from ablate.parallel.forking import ONE_THREAD, forget_parent, may_fork, note_clean
from ablate.parallel.machine import die_with_parent, peak_memory_mb
from ablate.parallel.signals import SIGNALS

LARGEST_REQUEST = 2**20
STARTED, ENDED = struct.Struct("i"), struct.Struct("id")  # process id; exit status, largest memory in MB
# A cluster sends them to all processes of a job. A fork decides what to do; its server lives as long as it does.
HANDLED_BY_FORKS = (*SIGNALS, signal.SIGUSR2)
ANSWER_S = 900.0  # for a fork to start, after a server has compiled kernels
POLL_S = 0.02


class NotForked(Exception):
    """The server cannot fork: it is gone, or it has threads."""


class Ended(NamedTuple):
    """How a process ended."""

    code: int  # negative: killed by this signal
    peak_mb: float


class Fork:
    """A process that a server has forked."""

    def __init__(self, pid: int, answers: socket.socket) -> None:
        self.pid, self._answers = pid, answers

    def poll(self) -> Ended | None:
        """How the process ended; None while it runs. Raises NotForked if its server was killed, and it with it."""
        try:
            answer = self._answers.recv(ENDED.size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            answer = b""
        if len(answer) < ENDED.size:
            raise NotForked("the process that it was forked from was killed")
        status, peak_mb = ENDED.unpack(answer)
        return Ended(os.waitstatus_to_exitcode(status), peak_mb)

    def wait(self, timeout_s: float) -> None:
        """Wait until the process ends, at most this long."""
        select.select([self._answers], [], [], timeout_s)

    def close(self) -> None:
        self._answers.close()


class ForkServer:
    """A fork server from the side of the process that starts it. It lives until `close`, or as long as this process."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        """Start the server. It ends with the thread that has started it.

        command: it calls `serve`; its last argument is our process id."""
        self.has_forked = False
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env={**environment, **ONE_THREAD}, start_new_session=True,
            )  # fmt: skip

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def fork(self, request: bytes, output: int, given_up: Callable[[], bool]) -> Fork | None:
        """A new fork that handles the request, with a descriptor for its output. None if it was given up before.

        Raises NotForked."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(self._requests, [request], [theirs.fileno(), output])
            give_up_at = time.monotonic() + ANSWER_S
            while not select.select([ours], [], [], POLL_S)[0]:
                if given_up():
                    ours.close()
                    return None
                if time.monotonic() > give_up_at:
                    raise NotForked(f"it did not answer within {ANSWER_S:g} s")
            answer = ours.recv(STARTED.size)
        except OSError as error:
            ours.close()
            raise NotForked(str(error)) from error
        except BaseException:
            ours.close()
            raise
        if not answer:
            ours.close()
            raise NotForked("it is gone, or it may not fork")
        self.has_forked = True
        (pid,) = STARTED.unpack(answer)
        return Fork(pid, ours)

    def close(self) -> None:
        """End the server, and the forks that still run."""
        self._requests.close()
        self._process.kill()
        self._process.wait()


def serve(prepare: Callable[[bytes], None], work: Callable[[bytes], int]) -> None:
    """The main function of a server's process; it returns when the process that has started it is gone.

    prepare(request): what can be done before the fork, so that it is done once. An error in it is left to the fork.
    work(request): the main function of the fork. Returns its exit code."""
    die_with_parent(int(sys.argv[-1]))
    note_clean()
    requests = socket.socket(fileno=0)
    os.set_inheritable(0, False)
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    for number in (signal.SIGCHLD, *HANDLED_BY_FORKS):
        if signal.getsignal(number) != signal.SIG_IGN:  # as SIGHUP under nohup, which forks inherit
            signal.signal(number, lambda number, frame: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    server, running = os.getpid(), dict[int, socket.socket]()
    while True:
        ready, _, _ = select.select([requests.fileno(), woken], [], [])
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 4096)
            _report_ended(running)
        if requests.fileno() not in ready:
            continue
        request, descriptors, _, _ = socket.recv_fds(requests, LARGEST_REQUEST, 2)
        if not request:
            return
        answers, output = socket.socket(fileno=descriptors[0]), descriptors[1]
        with contextlib.suppress(Exception, SystemExit):
            prepare(request)
        pid = -1
        if may_fork():
            gc.freeze()  # else the collector would write to, and so copy, all pages that forks share
            with contextlib.suppress(OSError):  # no memory, or too many processes
                pid = os.fork()
        if pid == 0:
            inherited = [woken, wake, *(other.fileno() for other in running.values())]
            _run(server, inherited, answers, output, partial(work, request))
        os.close(output)
        if pid > 0:
            running[pid] = answers
        else:
            answers.close()


def _report_ended(running: dict[int, socket.socket]) -> None:
    for pid in list(running):
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            with running.pop(pid) as answers, contextlib.suppress(OSError):  # nobody waits for it
                answers.send(ENDED.pack(status, peak_memory_mb(usage)))


def _run(server: int, inherited: list[int], answers: socket.socket, output: int, work: Callable[[], int]) -> None:
    """The life of a fork of `server`: a session of its own, its own output. It never returns.

    inherited: descriptors of the server that it must not keep."""
    code = 1
    try:
        forget_parent()
        os.setsid()
        die_with_parent(server)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for descriptor, standard in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(descriptor, standard)
        for descriptor in {nothing, output, *inherited} - {0, 1, 2}:
            os.close(descriptor)
        with answers:
            try:
                answers.send(STARTED.pack(os.getpid()))
            except OSError:  # who asked has given up
                os._exit(0)
        code = work()
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code)
