"""Ctrl-C and SIGTERM: the first is noted, the second ends the program."""

from __future__ import annotations

import signal
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """A signal ended the run; `signal` is its number."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number


class Signals:
    """While it is entered, the first SIGINT or SIGTERM is noted in `received`; a second raises Interrupted.

    Further ones are ignored: what the second started, ending the children, takes a second and must not be cut short."""

    received: int | None = None

    def __enter__(self) -> Signals:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            for ignored in self._before:
                signal.signal(ignored, signal.SIG_IGN)
            raise Interrupted(number)
        self.received = number
