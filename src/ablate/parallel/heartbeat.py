"""The heartbeat of a process: any code that does work calls `beat`, without passing it from function to function."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


def _nothing() -> None:
    """The heartbeat of a process that is not watched."""


_beat: Callable[[], None] = _nothing


def install(beat: Callable[[], None]) -> None:
    """Make this the heartbeat of the process. A supervisor calls it in each process that it starts."""
    global _beat
    _beat = beat


@contextlib.contextmanager
def checking(check: Callable[[], None]) -> Iterator[None]:
    """Within this context, call `check` at every heartbeat. It may raise an exception to interrupt the work."""
    first = _beat

    def both() -> None:
        first()
        check()

    install(both)
    try:
        yield
    finally:
        install(first)


def beat() -> None:
    """Show that the process is alive: at every step of an environment, and while it waits for another process."""
    _beat()
