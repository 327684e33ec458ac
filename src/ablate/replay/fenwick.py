"""Sums over priorities: a binary indexed tree (Fenwick 1994), changed and searched in O(log² n) and O(log n)."""

from __future__ import annotations

import numpy as np

from ablate.compiled.jit import kernel


class FenwickTree:
    """Priorities of slots 0 ... size-1, all 0 at first, and their partial sums.

    A sum is always computed anew from the sums below it, never corrected by a difference: it is the sum of at most
    log² n non-negative numbers of today, so no error is left behind, whatever was there before and however often it
    changed. That also makes the tree a function of the priorities alone, to the bit."""

    def __init__(self, size: int) -> None:
        self.priorities = np.zeros(size)  # to be changed by `update` only
        self._sums = np.zeros(size + 1)  # [j] = Σ priorities[j - lowbit(j) : j], [0] unused
        self._largest_step = 1 << (size.bit_length() - 1)

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
        _find(self.priorities, self._sums, self._largest_step, targets, end, slots)
        return slots


@kernel
def _update(priorities: np.ndarray, sums: np.ndarray, slots: np.ndarray, values: np.ndarray) -> bool:
    size = len(priorities)
    for b in range(len(slots)):
        if not (0 <= slots[b] < size and 0 <= values[b] < np.inf):
            return False
    for b in range(len(slots)):
        priorities[slots[b]] = values[b]
    for b in range(len(slots)):
        # Nodes over a slot: j, j + lowbit(j), ... Invariant: those that lie below node j and over slots[b] are right,
        # and so is everything over no slot but slots[:b]. What is still wrong lies over a later slot: its turn comes.
        j = slots[b] + 1
        while j <= size:
            width = j & -j
            total = priorities[j - 1]
            step = 1
            while step < width:  # nodes j-1, j-2, j-4, ... share out the rest of (j - width, j - 1] among them
                total += sums[j - step]
                step *= 2
            sums[j] = total
            j += width
    return True


@kernel
def _find(
    priorities: np.ndarray, sums: np.ndarray, largest_step: int, targets: np.ndarray, end: int, slots: np.ndarray
) -> None:
    size = len(priorities)
    for b in range(len(targets)):
        rest = max(targets[b], 0.0)
        slot = 0
        step = largest_step
        while step > 0:
            # Invariant: Σ priorities[:slot] + rest = target, rest >= 0, and the slot we look for is in
            # [slot, slot + 2 step).
            right = slot + step
            if right <= size and sums[right] <= rest:
                rest -= sums[right]
                slot = right
            step //= 2
        # Rounding can carry `rest` over the end of an interval of positive sum, into slots of priority 0 behind it or
        # past the last one. A slot reached without that has a priority above `rest`, which is at least 0.
        slot = min(slot, end - 1)
        while slot > 0 and priorities[slot] == 0:
            slot -= 1
        slots[b] = slot
