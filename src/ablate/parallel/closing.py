"""What a process must close before it ends, whatever ends it: environments, which may be programs of their own."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from ablate.config.plugins import text_of

CLOSE_S = 5.0  # for one environment to close

_registered: list[Callable[[], object]] | None = None


@contextlib.contextmanager
def closing_at_end() -> Iterator[None]:
    """Call what was given to `close_at_end` within this context when the context ends, the newest first."""
    global _registered
    before, _registered = _registered, []
    try:
        yield
    finally:
        registered, _registered = _registered, before
        for close in reversed(registered):
            close_now(close)


def close_at_end(close: Callable[[], object]) -> None:
    """Have `close` called at the end of this process. Outside of `closing_at_end` this does nothing."""
    if _registered is not None:
        _registered.append(close)


def close_now(close: Callable[[], object]) -> None:
    """Call `close` for at most CLOSE_S. If it fails, this is written to the terminal, and nothing else happens."""
    try:
        with _limited():
            close()
    except Exception as error:
        message = " ".join(f"{type(error).__name__}: {text_of(error)}".split())[:200]
        print(f"an environment could not be closed: {message}", file=sys.stderr)


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Raise TimeoutError after CLOSE_S. Only the main thread can be interrupted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def too_long(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"it took longer than {CLOSE_S:g} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, CLOSE_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
