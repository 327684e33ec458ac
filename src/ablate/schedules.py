"""Values that change during training, and actions that are due every so many steps."""

from __future__ import annotations


def linear(start: float, end: float, steps: int, at: int) -> float:
    """From `start` at step 0 to `end` at step `steps`, and `end` from then on."""
    return start + (end - start) * min(1.0, max(0, at) / steps)


def due(every_steps: int | None, before: int, after: int) -> bool:
    """Whether the count of steps has passed a multiple of every_steps on its way from `before` to `after`."""
    return every_steps is not None and after // every_steps > before // every_steps
