"""Sums over priorities: a binary indexed tree (Fenwick 1994), with compiled kernels for batches."""

from __future__ import annotations

import numpy as np

from ablate.compiled import sum_tree
from ablate.compiled.jit import kernel


class FenwickTree:
    """The priorities of slots 0 ... size-1, all 0 at first, and their partial sums.

    At most log₂ n sums cover a slot, so an update changes log₂ n sums and a search takes log₂ n steps. An update
    computes each of these sums from the sums below it (log₂ n at most). It never adds a difference to the old sum, so
    rounding errors do not accumulate, however often the priorities change. (With differences, the tree would have to be
    rebuilt whenever the total falls far below an earlier total.) Therefore the sums depend only on the current
    priorities, to the last bit."""

    def __init__(self, size: int) -> None:
        self.priorities = np.zeros(size)  # only `update` may change them
        self.sums = np.zeros(size + 1)  # [j] = Σ priorities[j - lowbit(j) : j], [0] unused
        self.largest_step = 1 << (size.bit_length() - 1)
        # Compile the kernels now: later the compilation would be a pause in which the process looks hung.
        self.update(np.empty(0, np.int64), np.empty(0))
        self.find(np.empty(0), 0)

    def update(self, slots: np.ndarray, priorities: np.ndarray) -> None:
        """Set priorities (B,) float64 of slots (B,) int64. If a slot occurs twice, its last priority counts.

        Raises ValueError and changes nothing if a priority is negative or not finite, or a slot is out of range."""
        if not _update(self.priorities, self.sums, slots, priorities):
            raise ValueError(
                f"priorities must be finite and at least 0, slots from 0 to {len(self.priorities) - 1}: "
                f"got {priorities} for {slots}"
            )

    def prefix(self, count: int) -> float:
        """Σ priorities[:count]."""
        total = 0.0
        while count > 0:
            total += float(self.sums[count])
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
        _find(self.priorities, self.sums, self.largest_step, targets, end, np.empty(len(targets)), slots)
        return slots


@kernel
def _update(priorities: np.ndarray, sums: np.ndarray, slots: np.ndarray, values: np.ndarray) -> bool:
    valid: bool = sum_tree.update(priorities, sums, slots, values)
    return valid


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
    sum_tree.find(priorities, sums, largest_step, targets, end, rests, slots)
