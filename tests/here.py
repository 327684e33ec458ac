"""Whole runs in this process, with threads instead of worker processes: they take a fraction of a second."""

from __future__ import annotations

import importlib
import queue
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers import config_of

from ablate.parallel.shared import Command, SharedState
from ablate.parallel.supervisor import Child, ChildFailed
from ablate.records.manifest import lock_run
from ablate.runs.plan import plan
from ablate.runs.run import new_folder, run

TINY = (
    "env=cartpole", "backend=manual", "workers=1", "schedule=interleaved", "max_episodes=30", "log_interval=2",
    "evaluation.every_steps=100", "evaluation.episodes=2", "figures=false", "logger.display=off",
)  # fmt: skip
JOIN_S = 30.0


class Threads:
    """Stands for `Supervisor`, without its watch over silent children. Use it in place of that of `runs.training`."""

    def __init__(self, children: list[Child], shared: SharedState, hang_timeout_s: float) -> None:
        self._shared, self._children = shared, children
        self._messages: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self.running = {child.name for child in children}
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Threads:
        for child in self._children:
            self._threads.append(threading.Thread(target=self._work, args=(child,)))
            self._threads[-1].start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._shared.command = Command.abandon
        for thread in self._threads:
            thread.join(JOIN_S)
            assert not thread.is_alive()

    def _work(self, child: Child) -> None:
        def send(message: Any) -> None:
            self._messages.put((child.name, message))

        try:
            getattr(importlib.import_module(child.module), child.function)(send, *child.arguments)
            send(None)
        except ChildFailed as failure:
            send(failure)
        except Exception as error:  # as in a process of its own
            send(ChildFailed(f"{child.name} raised {type(error).__name__}: {error}\nTraceback"))

    def messages(self, timeout_s: float) -> Iterator[tuple[str, Any]]:
        try:
            received = [self._messages.get(timeout=timeout_s)]
        except queue.Empty:
            return
        while not self._messages.empty():
            received.append(self._messages.get())
        for name, message in received:
            if isinstance(message, ChildFailed):
                raise message
            if message is None:
                self.running.discard(name)
            else:
                yield name, message


def train(folder: Path, *overrides: str) -> None:
    with new_folder(folder) as (made, still_there):
        run(plan(config_of(*TINY, *overrides), []), made, [], still_there)


def resume(folder: Path, *overrides: str) -> None:
    with lock_run(folder) as still_there:
        config = replace(config_of(*overrides), resume=str(folder))
        run(plan(config, [f"resume={folder}", *overrides]), folder, [], still_there)
