"""The terminal: text from configurations and files is shown as it is written."""

from __future__ import annotations

from typing import Any

from rich.console import Console


class PlainConsole(Console):
    """A console of rich that takes no text for markup: the label `[relu]` must not vanish, `[/red]` is no error."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)
