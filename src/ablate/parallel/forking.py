"""Whether this process may be forked, and what a fork of it must be given or must forget."""

from __future__ import annotations

import signal

import numpy as np

from ablate.parallel.machine import number_of_threads
from ablate.parallel.signals import SIGNALS

# Environment variables for processes that train, set before they import torch: each uses one thread.
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}

_clean = False


def note_clean() -> None:
    """Note that this process is a fork server or a fork of one: so far it has run nothing that a fork would break."""
    global _clean
    _clean = True


def may_fork() -> bool:
    """Whether the children of this process may be forks of it: it is a fork of a clean server and has one thread.

    A fork has only the thread that called it: a lock that another thread held would stay locked in it for ever. So
    nothing is forked where the number of threads is not known."""
    return _clean and number_of_threads() == 1


def forget_parent() -> None:
    """Make a forked process like one that was started afresh: signals end it, and it draws other random numbers."""
    signal.set_wakeup_fd(-1)
    for number in (*SIGNALS, signal.SIGCHLD, signal.SIGUSR2):
        if signal.getsignal(number) != signal.SIG_IGN:  # as SIGHUP under nohup
            signal.signal(number, signal.SIG_DFL)
    np.random.seed()  # noqa: NPY002 (Python's own `random` does it itself)
