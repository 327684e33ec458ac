"""Records of several processes leave in the order of their steps, and none is lost."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ablate.algos.a3c.spec import UpdateRecord
from ablate.runs.record_order import RecordOrder
from ablate.types import EpisodeRecord, ProcessState, SliceRecords


def episode(step: int) -> EpisodeRecord:
    return EpisodeRecord(0, step, 0.5, -1.0, 10, False, True)


def slice_of(steps: list[int], until: int) -> SliceRecords:
    rows = np.array([episode(step) for step in steps], float).reshape(len(steps), 7)
    return SliceRecords(rows, np.zeros((0, len(UpdateRecord._fields))), UpdateRecord, until)


def steps(items: list[tuple[str, EpisodeRecord]]) -> list[int]:
    return [record.global_step for _, record in items]


def test_a_slice_waits_for_the_slices_of_other_processes() -> None:
    order = RecordOrder()
    order.add("a", slice_of([10, 40], until=50), 60)
    assert order.due({"a", "b"}) == []  # b may still send earlier records
    order.add("b", slice_of([5, 20], until=30), 60)
    assert steps(order.due({"a", "b"})) == [5, 10, 20]
    assert steps(order.due({"a"})) == [40]  # b has ended


def test_the_state_of_a_process_comes_after_its_records() -> None:
    order = RecordOrder()
    order.add("a", ProcessState({}, {}), 60)
    order.add("a", episode(7), 60)
    assert [type(message) for _, message in order.due({"a"})] == [EpisodeRecord, ProcessState]


def test_numbers_of_a_slice_have_the_types_of_their_fields() -> None:
    row = np.array([[3, 30, 0.25, 1.0, 2.0, 3.0, 4.0, 2, 1e-4]])
    (record,) = SliceRecords(np.zeros((0, 7)), row, UpdateRecord, 30).unpacked()
    assert record == UpdateRecord(3, 30, 0.25, 1.0, 2.0, 3.0, 4.0, 2, 1e-4)
    assert [type(number) for number in record] == [int, int, float, float, float, float, float, int, float]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.lists(st.integers(0, 1000), max_size=4)), max_size=12))
def test_no_record_is_lost_and_each_is_released_in_order(slices: list[tuple[str, list[int]]]) -> None:
    order, released, until = RecordOrder(), [], dict.fromkeys("abc", 0)
    sent = []
    for sender, offsets in slices:
        first = until[sender]
        until[sender] = first + max(offsets, default=0) + 1
        own = sorted(first + offset for offset in offsets)
        sent += own
        order.add(sender, slice_of(own, until[sender]), 10**6)
        released += steps(order.due("abc"))
    released += steps(order.everything())
    assert sorted(released) == sorted(sent)
    assert released == sorted(released)
