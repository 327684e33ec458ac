"""The terminal: text from configurations and files is shown as it is written, and a reader that is gone is no fault."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

from rich.console import Console
from rich.theme import Theme

# The styles of rich that are hard to read on white or on black.
THEME = Theme({"bar.back": "grey58", "progress.remaining": "default"})


class PlainConsole(Console):
    """A console of rich that takes no text for markup: the label `[relu]` must not vanish, `[/red]` is no error.

    Numbers in a text are not coloured: rich's cyan is unreadable on white."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, theme=THEME, **options)


def print_if_read(line: str) -> None:
    """Print a line that says no more than the files do: nothing happens if nobody can read it."""
    try:
        print(line, flush=True)
    except (OSError, ValueError):  # `| head` has ended, the disk is full, or the stream is closed
        discard_output()


def discard_output() -> None:
    """Write standard output to nowhere from now on. Otherwise Python would fail to flush it at the end."""
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
