"""Sums over priorities: a binary indexed tree (Fenwick 1994), in compiled kernels for batches."""

from __future__ import annotations

import numpy as np
from numba import uint64

from ablate.compiled.jit import kernel

ZERO, ONE = uint64(0), uint64(1)  # of an unsigned index a kernel need not ask whether it counts from the end


class FenwickTree:
    """Priorities of slots 0 ... size-1, all 0 at first, and their partial sums.

    A slot lies under at most log₂ n sums, and so many steps find one. A sum is always computed anew from the up to
    log₂ n sums below it, never corrected by a difference: no rounding error is left behind, whatever was there before
    and however often it changed (differences need a rebuild whenever the total falls far below what it was). That also
    makes the tree a function of the priorities alone, to the bit."""

    def __init__(self, size: int) -> None:
        self.priorities = np.zeros(size)  # to be changed by `update` only
        self._sums = np.zeros(size + 1)  # [j] = Σ priorities[j - lowbit(j) : j], [0] unused
        self._largest_step = 1 << (size.bit_length() - 1)
        # compiled now: later it would be a silence in which a process counts as hung
        self.update(np.empty(0, np.int64), np.empty(0))
        self.find(np.empty(0), 0)

    def update(self, slots: np.ndarray, priorities: np.ndarray) -> None:
        """Set priorities (B,) float64 of slots (B,) int64; of a slot that comes twice the last counts.

        Raises ValueError, and changes nothing, where a priority is negative or not finite, or a slot is outside."""
        if not _update(self.priorities, self._sums, slots, priorities):
            raise ValueError(
                f"priorities must be finite and at least 0, slots from 0 to {len(self.priorities) - 1}: "
                f"got {priorities} for {slots}"
            )

    def prefix(self, count: int) -> float:
        """Σ priorities[:count]."""
        total = 0.0
        while count > 0:
            total += float(self._sums[count])
            count &= count - 1
        return total

    @property
    def total(self) -> float:
        return self.prefix(len(self.priorities))

    def find(self, targets: np.ndarray, end: int) -> np.ndarray:
        """(B,) float64 -> (B,) int64: the slots i < end with Σ priorities[:i] <= target < Σ priorities[:i+1].

        Targets lie in [0, prefix(end)); one that rounding took past it gives the last slot that could be. A slot of
        priority 0 is never returned, as long as one before `end` has more."""
        slots = np.empty(len(targets), np.int64)
        _find(self.priorities, self._sums, self._largest_step, targets, end, np.empty(len(targets)), slots)
        return slots


@kernel
def _update(priorities: np.ndarray, sums: np.ndarray, slots: np.ndarray, values: np.ndarray) -> bool:
    size = uint64(len(priorities))
    for b in range(len(slots)):
        if not (0 <= slots[b] < len(priorities) and 0 <= values[b] < np.inf):
            return False
    for b in range(len(slots)):
        priorities[slots[b]] = values[b]
    level, width = ZERO, ONE  # width = 2^level
    while width <= size:
        # Invariant: all sums over less than `width` slots are right.
        before = ZERO
        for b in range(len(slots)):
            j = ((uint64(slots[b]) >> level) + ONE) << level
            if j & width and j <= size and j != before:  # a node over slots[b], of this width; same as the last: done
                total = priorities[j - ONE]
                step = ONE
                while step < width:  # nodes j-1, j-2, j-4, ... share out the rest of (j - width, j - 1] among them
                    total += sums[j - step]
                    step <<= ONE
                sums[j] = total
                before = j
        level += ONE
        width <<= ONE
    return True


@kernel
def _find(
    priorities: np.ndarray,
    sums: np.ndarray,
    largest_step: int,
    targets: np.ndarray,
    end: int,
    rests: np.ndarray,
    slots: np.ndarray,
) -> None:
    size = uint64(len(priorities))
    for b in range(len(targets)):
        slots[b] = 0
        rests[b] = max(targets[b], 0.0)
    step = uint64(largest_step)
    while step > ZERO:
        # Invariant: Σ priorities[:slots[b]] + rests[b] = targets[b], rests[b] >= 0, and what we look for is in
        # [slots[b], slots[b] + 2 step). All targets take a step together: their sums come from memory side by side.
        for b in range(len(targets)):
            right = uint64(slots[b]) + step
            if right <= size and sums[right] <= rests[b]:
                rests[b] -= sums[right]
                slots[b] = right
        step >>= ONE
    # Rounding can carry a target over the end of an interval of positive sum, into slots of priority 0 behind it or
    # past the last one. A slot reached without that has a priority above the rest, which is at least 0.
    for b in range(len(targets)):
        slot = min(slots[b], end - 1)
        while slot > 0 and priorities[slot] == 0:
            slot -= 1
        slots[b] = slot
