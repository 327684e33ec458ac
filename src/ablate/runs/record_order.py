"""Sort the records of several processes by the time at which they happened."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from ablate.types import SliceRecords


class RecordOrder:
    """Collects messages of all processes and releases them in the order of their steps.

    A kernel sends the records of a whole slice at once, and a slice of another process may hold earlier records. So the
    records of a slice wait until each process that runs has sent something later."""

    def __init__(self) -> None:
        self._ready: list[tuple[str, Any]] = []
        self._waiting: list[tuple[str, Any]] = []  # records of slices
        self._seen_until: dict[str, int] = {}  # by sender: its further records come after this step

    def add(self, sender: str, message: Any, steps: int) -> None:
        """Add a message. steps: the number of steps that all workers have done so far."""
        if isinstance(message, SliceRecords):
            self._waiting += [(sender, record) for record in message.unpacked()]
            self._seen_until[sender] = message.global_step
        else:
            self._ready.append((sender, message))
            self._seen_until[sender] = steps

    def due(self, running: Iterable[str]) -> list[tuple[str, Any]]:
        """The messages that can be handled now: no running sender can still send an earlier one."""
        return self._until(min((self._seen_until.get(sender, 0) for sender in running), default=math.inf))

    def everything(self) -> list[tuple[str, Any]]:
        """All messages. Call it only if each sender is paused or has ended."""
        return self._until(math.inf)

    def _until(self, step: float) -> list[tuple[str, Any]]:
        released = self._ready + [item for item in self._waiting if _step_of(item) <= step]
        self._ready, self._waiting = [], [item for item in self._waiting if _step_of(item) > step]
        return sorted(released, key=_step_of)


def _step_of(item: tuple[str, Any]) -> float:
    """The step of a message. A message without a step comes last, because its sender sent it after the others."""
    return getattr(item[1], "global_step", math.inf)
