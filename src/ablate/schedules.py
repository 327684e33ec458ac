"""Values that change as training goes on."""

from __future__ import annotations


def linear(start: float, end: float, steps: int, at: int) -> float:
    """From `start` at step 0 to `end` at step `steps`, and `end` from then on."""
    return start + (end - start) * min(1.0, max(0, at) / steps)
