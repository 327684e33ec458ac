"""Counting and locking between processes that race."""

from __future__ import annotations

import multiprocessing
from typing import Any

import numpy as np
import pytest

from ablate.compiled import atomic
from ablate.compiled.jit import helper, kernel
from ablate.parallel.shared import SharedState

PROCESSES, TIMES = 3, 300_000


@kernel
def count(counters, lock, times):
    """Add 2 to the second counter atomically, and 1 + 1 to the third under the lock.

    Returns the sum of the second counter's values before each addition."""
    before = 0
    for _ in range(times):
        before += atomic.add(counters, 1, 2)
        if not atomic.acquire(lock):
            return -1
        counters[2] += 1
        counters[2] += 1
        atomic.release(lock)
    return before


def child(shared: SharedState, ready: Any, sums: Any) -> None:
    counters, lock = shared.counters_view(), shared.spin_lock_view()
    count(counters, lock, 0)  # compile or load
    ready.wait(60)
    sums.put(count(counters, lock, TIMES))


def test_processes_lose_no_addition_and_exclude_each_other() -> None:
    context = multiprocessing.get_context("spawn")
    shared, ready, sums = SharedState(1, 0, 1), context.Barrier(PROCESSES), context.Queue()
    count(shared.counters_view(), shared.spin_lock_view(), 0)  # compile once
    processes = [context.Process(target=child, args=(shared, ready, sums), daemon=True) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    total = sum(sums.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    n = PROCESSES * TIMES
    assert shared.counters() == (0, 2 * n, 2 * n)
    assert total == sum(range(0, 2 * n, 2))  # each value was before exactly one addition
    assert shared.spin_lock_view().tolist() == [0]


@pytest.mark.parametrize("holder", [0, 1])
def test_waiting_for_a_lock_that_is_never_released_ends(holder: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "PATIENCE", 1000)
    acquire = helper(atomic.acquire.py_func)  # compiled again, because PATIENCE is part of the machine code
    lock = np.array([7, holder, 7])
    assert acquire(lock[1:2]) == (holder == 0)
    assert lock.tolist() == [7, 1, 7]
    atomic.release(lock[1:2])
    assert acquire(lock[1:2])
