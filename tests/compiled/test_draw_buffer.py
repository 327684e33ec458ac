"""Numbers that are drawn in advance equal those that an equal generator draws one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablate.compiled.draw_buffer import DrawBuffer
from ablate.seeding import draw_seed, state_of

# A kernel uses up to this many numbers; the buffer is refilled or settled; other code draws from the generator, as
# the player does between two episodes.
USES = st.tuples(st.just("use"), st.integers(0, 12))
EVENTS = st.lists(USES | st.sampled_from([("refill", 0), ("settle", 0), ("draw a seed", 0)]), max_size=40)


@pytest.mark.parametrize("method", ["random", "standard_normal"])
@settings(max_examples=300, deadline=None)
@given(size=st.integers(0, 12), events=EVENTS)
def test_numbers_equal_those_that_are_drawn_one_by_one(method: str, size: int, events: list[tuple[str, int]]) -> None:
    rng, one_by_one = np.random.default_rng(0), np.random.default_rng(0)
    rows, all_used = np.full((3, size), np.nan), np.zeros(3, np.int64)
    buffer, used = rows[1], all_used[1:2]
    stream = DrawBuffer(rng, getattr(rng, method), buffer, used)
    for event, number in (*events, ("settle", 0)):
        if event == "use":
            taken = buffer[used[0] : used[0] + number]
            used[0] += len(taken)
            assert taken.tolist() == [getattr(one_by_one, method)() for _ in taken]
        elif event == "refill":
            stream.refill()
            assert used[0] == 0
        else:
            stream.settle()
            assert state_of(rng) == state_of(one_by_one)
        if event == "draw a seed":
            assert draw_seed(rng) == draw_seed(one_by_one)
            stream = DrawBuffer(rng, getattr(rng, method), buffer, used)
    assert np.isnan(rows[[0, 2]]).all()
    assert all_used[[0, 2]].tolist() == [0, 0]
