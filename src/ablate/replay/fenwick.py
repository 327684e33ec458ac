"""Sums over priorities: a binary indexed tree (Fenwick 1994), with compiled kernels for batches."""

from __future__ import annotations

import numpy as np
from numba import uint64

from ablate.compiled.jit import kernel

ZERO, ONE = uint64(0), uint64(1)  # an unsigned index saves the check for negative indices


class FenwickTree:
    """The priorities of slots 0 ... size-1, all 0 at first, and their partial sums.

    At most log₂ n sums cover a slot, so an update changes log₂ n sums and a search takes log₂ n steps. An update
    computes each of these sums from the sums below it (log₂ n at most). It never adds a difference to the old sum, so
    rounding errors do not accumulate, however often the priorities change. (With differences, the tree would have to be
    rebuilt whenever the total falls far below an earlier total.) Therefore the sums depend only on the current
    priorities, to the last bit."""

    def __init__(self, size: int) -> None:
        self.priorities = np.zeros(size)  # only `update` may change them
        self._sums = np.zeros(size + 1)  # [j] = Σ priorities[j - lowbit(j) : j], [0] unused
        self._largest_step = 1 << (size.bit_length() - 1)
        # Compile the kernels now: later the compilation would be a pause in which the process looks hung.
        self.update(np.empty(0, np.int64), np.empty(0))
        self.find(np.empty(0), 0)

    def update(self, slots: np.ndarray, priorities: np.ndarray) -> None:
        """Set priorities (B,) float64 of slots (B,) int64. If a slot occurs twice, its last priority counts.

        Raises ValueError and changes nothing if a priority is negative or not finite, or a slot is out of range."""
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

        Targets are in [0, prefix(end)). If rounding pushed a target beyond that, the result is the last possible slot.
        A slot with priority 0 is never returned as long as a slot before `end` has a positive one."""
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
        # Invariant: Σ priorities[:slots[b]] + rests[b] = targets[b], rests[b] >= 0, and the wanted slot is in
        # [slots[b], slots[b] + 2 step). All targets take each step together, so their memory reads overlap.
        for b in range(len(targets)):
            right = uint64(slots[b]) + step
            if right <= size and sums[right] <= rests[b]:
                rests[b] -= sums[right]
                slots[b] = right
        step >>= ONE
    # Rounding can push a target out of the interval of its slot: into slots of priority 0 that follow, or past the last
    # slot. Without such rounding, priority > rest >= 0 holds, and this loop changes nothing.
    for b in range(len(targets)):
        slot = min(slots[b], end - 1)
        while slot > 0 and priorities[slot] == 0:
            slot -= 1
        slots[b] = slot
