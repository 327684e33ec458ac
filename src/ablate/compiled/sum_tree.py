"""The operations of replay/fenwick.py's tree, for the kernels there and for loops in kernels."""

from __future__ import annotations

import numpy as np
from numba import uint64

from ablate.compiled.jit import helper

ZERO, ONE = uint64(0), uint64(1)  # an unsigned index saves the check for negative indices


@helper
def update(priorities: np.ndarray, sums: np.ndarray, slots: np.ndarray, values: np.ndarray) -> bool:
    """See FenwickTree.update. Returns False, and changes nothing, if a slot or a value is not valid."""
    size = uint64(len(priorities))
    for b in range(len(slots)):
        if not (0 <= slots[b] < len(priorities) and 0 <= values[b] < np.inf):
            return False
    for b in range(len(slots)):
        priorities[slots[b]] = values[b]
    level, width = ZERO, ONE  # width = 2^level
    while width <= size:
        # Invariant: all sums over fewer than `width` slots are correct.
        before = ZERO
        for b in range(len(slots)):
            j = ((uint64(slots[b]) >> level) + ONE) << level
            if j & width and j <= size and j != before:  # a node of this width over slots[b], not yet done
                total = priorities[j - ONE]
                step = ONE
                while step < width:  # nodes j-1, j-2, j-4, ... together cover the rest of (j - width, j - 1]
                    total += sums[j - step]
                    step <<= ONE
                sums[j] = total
                before = j
        level += ONE
        width <<= ONE
    return True


@helper
def find(
    priorities: np.ndarray,
    sums: np.ndarray,
    largest_step: int,
    targets: np.ndarray,
    end: int,
    rests: np.ndarray,
    slots: np.ndarray,
) -> None:
    """See FenwickTree.find. rests (B,) float64: memory. slots (B,) int64: the result."""
    size = uint64(len(priorities))
    for b in range(len(targets)):
        slots[b] = 0
        rests[b] = max(targets[b], 0.0)
    step = uint64(largest_step)
    while step > ZERO:
        # Invariant: Σ priorities[:slots[b]] + rests[b] = targets[b], rests[b] >= 0, and the wanted slot is in
        # [slots[b], slots[b] + 2 step). All targets take each step together, so their memory reads overlap. Half of
        # them go to the right, at random, so a branch would be mispredicted half of the time.
        for b in range(len(targets)):
            slot, rest = uint64(slots[b]), rests[b]
            right = slot + step
            total = sums[min(right, size)]
            goes_right = (right <= size) & (total <= rest)
            rests[b] = rest - total if goes_right else rest
            slots[b] = right if goes_right else slot
        step >>= ONE
    # Rounding can push a target out of the interval of its slot: into slots of priority 0 that follow, or past the last
    # slot. Without such rounding, priority > rest >= 0 holds, and this loop changes nothing.
    for b in range(len(targets)):
        slot = min(slots[b], end - 1)
        while slot > 0 and priorities[slot] == 0:
            slot -= 1
        slots[b] = slot


@helper
def prefix(sums: np.ndarray, count: int) -> float:
    """See FenwickTree.prefix."""
    total = 0.0
    while count > 0:
        total += sums[count]
        count &= count - 1
    return total
