"""The Fenwick tree compared with plain sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablate.replay.fenwick import FenwickTree

SIZES = st.integers(1, 40)
PRIORITIES = st.one_of(st.just(0.0), st.floats(1e-300, 1e-290), st.floats(1e-9, 10), st.floats(1e15, 1e30))


def batches(values: st.SearchStrategy[float], size: int) -> st.SearchStrategy[list[list[tuple[int, float]]]]:
    """Batches of changes; a slot may occur twice."""
    return st.lists(st.lists(st.tuples(st.integers(0, size - 1), values), max_size=12), max_size=8)


def changed(size: int, changes: list[list[tuple[int, float]]]) -> tuple[FenwickTree, np.ndarray]:
    """The tree after the changes, and the priorities that it must have."""
    tree, priorities = FenwickTree(size), np.zeros(size)
    for batch in changes:
        tree.update(np.array([slot for slot, _ in batch], np.int64), np.array([value for _, value in batch]))
        for slot, value in batch:
            priorities[slot] = value
    return tree, priorities


@given(st.data(), SIZES)
def test_prefix_sums_equal_exact_sums(data: st.DataObject, size: int) -> None:
    tree, priorities = changed(size, data.draw(batches(PRIORITIES, size)))
    np.testing.assert_array_equal(tree.priorities, priorities)
    for count in range(size + 1):
        assert tree.prefix(count) == pytest.approx(math.fsum(priorities[:count]), rel=1e-13, abs=0)
    assert tree.total == tree.prefix(size)


@given(st.data(), SIZES)
def test_slots_are_found_exactly_for_integer_priorities(data: st.DataObject, size: int) -> None:
    """Sums of integers have no rounding error, so a search in the cumulative sum gives the same slots."""
    tree, priorities = changed(size, data.draw(batches(st.integers(0, 9).map(float), size)))
    targets = np.arange(0, priorities.sum(), 0.5)
    expected = np.searchsorted(np.cumsum(priorities), targets, side="right")
    np.testing.assert_array_equal(tree.find(targets, size), expected)


@given(st.data(), SIZES)
def test_a_found_slot_always_has_a_priority(data: st.DataObject, size: int) -> None:
    """Whatever the rounding: at the borders of the intervals, and slightly beyond the end."""
    tree, priorities = changed(size, data.draw(batches(PRIORITIES, size)))
    end = data.draw(st.integers(1, size))
    if not priorities[:end].any():
        return
    sums = np.cumsum(priorities[:end])
    targets = np.concatenate([[0.0], sums, np.nextafter(sums, 0), np.nextafter(sums, np.inf), [tree.prefix(end)]])
    slots = tree.find(targets, end)
    assert (slots < end).all()
    assert (tree.priorities[slots] > 0).all()
    tolerance = 1e-13 * sums[-1]
    before, after = np.concatenate([[0.0], sums])[slots], sums[slots]
    assert (before <= targets + tolerance).all()
    assert (targets <= after + tolerance).all()


@given(st.data(), SIZES)
def test_equal_priorities_give_equal_sums_bit_for_bit(data: st.DataObject, size: int) -> None:
    """Whatever the priorities were before. So a tree can be restored from its priorities."""
    tree, priorities = changed(size, data.draw(batches(PRIORITIES, size)))
    fresh = FenwickTree(size)
    fresh.update(np.arange(size), priorities)
    assert [fresh.prefix(count) for count in range(size + 1)] == [tree.prefix(count) for count in range(size + 1)]


@pytest.mark.parametrize(
    ("slot", "priority"), [(-1, 1.0), (4, 1.0), (0, -1.0), (0, np.nan), (0, np.inf)]
)  # fmt: skip
def test_an_invalid_priority_changes_nothing(slot: int, priority: float) -> None:
    tree = FenwickTree(4)
    with pytest.raises(ValueError, match="from 0 to 3"):
        tree.update(np.array([1, slot]), np.array([2.0, priority]))
    assert tree.total == 0


def largest_error(tree: FenwickTree, priorities: np.ndarray) -> float:
    """The largest relative error of some prefix sums, compared with exact summation."""
    size = len(priorities)
    counts = [size // 7, size // 3, size // 2, size]
    return max(abs(tree.prefix(count) / math.fsum(priorities[:count]) - 1) for count in counts)


def errors_after(size: int, updates: int, batch: int) -> tuple[float, float]:
    """The error after random updates over twelve orders of magnitude, and after all priorities are then made small."""
    rng = np.random.default_rng(0)
    tree, priorities = FenwickTree(size), np.zeros(size)
    for _ in range(updates // batch):
        slots = rng.integers(size, size=batch)
        values = 10 ** rng.uniform(-6, 6, batch)
        tree.update(slots, values)
        priorities[slots] = values  # as in the tree, a slot's last value counts
    error = largest_error(tree, priorities)
    small = rng.uniform(0, 1e-6, size)  # a remaining error of the earlier values would be visible
    tree.update(np.arange(size), small)
    return error, largest_error(tree, small)


def test_sums_stay_exact() -> None:
    assert max(errors_after(1000, 1_000_000, 10_000)) < 1e-9


@pytest.mark.slow
def test_sums_stay_exact_after_a_hundred_million_updates() -> None:
    assert max(errors_after(100_000, 100_000_000, 1_000_000)) < 1e-9
