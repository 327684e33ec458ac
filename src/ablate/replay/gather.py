"""The one copy between a replay's frames and a network's input."""

from __future__ import annotations

import numpy as np

from ablate.compiled.jit import kernel


@kernel
def gather(frames: np.ndarray, slots: np.ndarray, table: np.ndarray, out: np.ndarray) -> None:
    """out[b, p, s] = table[frames[slots[b, s], p]]: stacks of S frames, channels last.

    frames (capacity, P) uint8, slots (B, S) int64, table (256,) and out (B, P, S) of one dtype."""
    batch, stack = slots.shape
    for b in range(batch):
        for p in range(frames.shape[1]):
            for s in range(stack):
                out[b, p, s] = table[frames[slots[b, s], p]]
