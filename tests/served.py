"""The process of a fork server, for its tests: what its forks do follows from their requests."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time

import numpy as np

from ablate.parallel.fork_server import ForkServer, serve
from ablate.parallel.forking import may_fork
from ablate.parallel.signals import SIGNALS

__all__ = ["COMMAND", "ForkServer"]

COMMAND = [sys.executable, "-c", "import served; served.main()", str(os.getpid())]
prepared: list[str] = []


def prepare(request: bytes) -> None:
    prepared.append(request.decode())
    if request == b"prepare badly":
        raise ValueError("left to the fork")
    if request == b"start a thread":
        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()


def work(request: bytes) -> int:
    match request.decode().split():
        case ["describe"]:
            handlers = {number.name: signal.getsignal(number) == signal.SIG_DFL for number in SIGNALS}
            description = {
                "descriptors": {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in range(1000) if is_open(fd)},
                "handlers": handlers, "session": os.getsid(0), "pid": os.getpid(), "may fork": may_fork(),
                "prepared": prepared, "draws": [float(np.random.random()), float(np.random.normal())],  # noqa: NPY002
            }  # fmt: skip
            print(json.dumps(description))
        case ["exit", code]:
            sys.exit(int(code))
        case ["raise"]:
            raise ValueError("broken")
        case ["allocate"]:
            print(len(np.ones(60_000_000 // 8)))
        case ["sleep"]:
            time.sleep(1000)
        case ["simulate", how, then, end]:
            import test_descendants

            from ablate.parallel.supervisor import ChildFailed

            try:
                test_descendants.run(how, False, then, getattr(test_descendants, end))
            except ChildFailed as failure:
                print(failure)
    return 0


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def main() -> None:
    serve(prepare, work)
