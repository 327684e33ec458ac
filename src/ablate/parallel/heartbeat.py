"""The sign of life of a process: whoever does work in it calls `beat`, and nobody has to hand it around."""

from __future__ import annotations

from collections.abc import Callable


def _nothing() -> None:
    """A process that nobody watches."""


_beat: Callable[[], None] = _nothing


def install(beat: Callable[[], None]) -> None:
    """Make this the process's sign of life. The supervisor of a run does so in each process that it starts."""
    global _beat
    _beat = beat


def also(check: Callable[[], None]) -> None:
    """Call `check` at every further beat: it may raise to leave what the process is doing."""
    first = _beat

    def both() -> None:
        first()
        check()

    install(both)


def beat() -> None:
    """Show that the process works: at every step of an environment, and while it waits for another process."""
    _beat()
