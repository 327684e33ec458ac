"""The only copy between a replay's frames and a network's input."""

from __future__ import annotations

import numpy as np

from ablate.compiled.jit import kernel


@kernel
def gather(frames: np.ndarray, slots: np.ndarray, table: np.ndarray, out: np.ndarray) -> None:
    """out[b, p, s] = table[frames[slots[b, s], p]]: stacks of S frames, channels last.

    frames (capacity, P) uint8, slots (B, S) int64, table (256,) and out (B, P, S) of the same dtype."""
    batch, stack = slots.shape
    for b in range(batch):
        image = out[b]
        for s in range(stack):
            frame = frames[slots[b, s]]  # a view: indexing `frames` for each pixel takes twice the time
            for p in range(len(frame)):
                image[p, s] = table[frame[p]]
