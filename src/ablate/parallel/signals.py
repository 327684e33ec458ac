"""Ctrl-C and SIGTERM: the first signal is noted, the second ends the program."""

from __future__ import annotations

import signal
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """A signal ended the run; `signal` is its number."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number


class Signals:
    """Within this context, the first SIGINT or SIGTERM is stored in `received`; a second one raises Interrupted.

    Further signals are ignored: ending the children takes about a second and must not be interrupted."""

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
