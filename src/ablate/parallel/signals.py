"""Ctrl-C, SIGTERM and SIGHUP: the first signal is noted, the second ends the program."""

from __future__ import annotations

import signal
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, kill and clusters, the end of an ssh session


class Interrupted(KeyboardInterrupt):
    """A signal ended the run; `signal` is its number."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number


class Signals:
    """Within this context, the first of SIGNALS is stored in `received`; a second one raises Interrupted.

    SIGHUP stays ignored if it was: that is what nohup asks for.
    Further signals are ignored: ending the children takes about a second and must not be interrupted."""

    received: int | None = None

    def __enter__(self) -> Signals:
        handled = [n for n in SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._note) for number in handled}
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
