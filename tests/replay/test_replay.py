"""The transitions of both replays, compared with a naive replay that keeps whole observations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_replay import FRAME, Driver
from scipy.stats import chisquare

from ablate import seeding
from ablate.config.schema import PrioritizedConfig
from ablate.records.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from ablate.replay.prioritized import PrioritizedReplay
from ablate.replay.store import FrameStore
from ablate.replay.transitions import Replay
from ablate.replay.uniform import UniformReplay
from ablate.types import Batch

EVENTS = st.sampled_from(["step"] * 6 + ["terminated", "truncated", "restart"])
PRIORITIZED = {
    "alpha": 0.6, "draws": "independent", "weights": "max", "new_priority": "td_error", "priority_eps": 0.01,
    "first_half_only": False,
}  # fmt: skip


def make(name: str, capacity: int, environments: int, stack: int, n_step: int, seed: int = 0, **options: Any) -> Replay:
    store = (
        FrameStore(capacity, environments, 1, (3,), "float32")
        if options.get("vectors")
        else FrameStore(capacity, environments, stack, FRAME, "uint8", options.get("file"))
    )
    rng = np.random.default_rng(seed)
    if name == "uniform":
        return UniformReplay(store, n_step, 0.9, rng)
    return PrioritizedReplay(store, PrioritizedConfig(**PRIORITIZED), n_step, 0.9, rng)


def observations(store: FrameStore, slots: np.ndarray) -> np.ndarray:
    """(B, S, H, W), or (B, size): the observations from the environment."""
    if store.stack == 1 and store.frames.dtype == np.float32:
        out = np.empty((len(slots), 3), np.float32)
        store.gather(slots, out, None)
        return out
    images = np.empty((len(slots), *FRAME, store.stack), np.uint8)
    store.gather(slots, images, np.arange(256, dtype=np.uint8))
    return images.transpose(0, 3, 1, 2)


def check(driver: Driver, beta: float = 1.0) -> None:
    """The drawable transitions are those of the naive replay, with the same content."""
    replay, expected = driver.replay, driver.naive.transitions()
    assert len(replay) == len(expected)
    if not expected:
        with pytest.raises(ValueError, match="no transition"):
            replay.sample(1, beta)
        return
    batch = replay.sample(60 * len(expected), beta)
    drawn = dict(zip(batch.times.tolist(), range(len(batch.times)), strict=True))
    if isinstance(replay, UniformReplay):  # with priorities, an improbable transition may not be drawn
        assert drawn.keys() == expected.keys()
    rows = list(drawn.values())
    s_t, s_tpn = (observations(replay.store, slots[rows]) for slots in (batch.slots, batch.next_slots))
    for i, (time, row) in enumerate(drawn.items()):
        transition = expected[time]
        np.testing.assert_array_equal(s_t[i], transition.observation)
        assert batch.actions[row] == transition.action
        assert batch.returns[row] == pytest.approx(transition.n_step_return, rel=1e-6, abs=1e-6)
        assert batch.discounts[row] == pytest.approx(transition.discount)
        if transition.discount:
            np.testing.assert_array_equal(s_tpn[i], transition.next_observation)


@pytest.mark.parametrize("name", ["uniform", "prioritized"])
@given(st.data())
@settings(max_examples=60)
def test_transitions_equal_those_of_the_naive_replay(name: str, data: st.DataObject) -> None:
    """Random episodes in several environments, until the rings wrap around."""
    environments, stack, n_step = (data.draw(st.integers(1, most)) for most in (3, 4, 4))
    capacity = environments * data.draw(st.integers(2 * stack + n_step + 1, 2 * stack + n_step + 15)) + environments - 1
    driver = Driver(data.draw(st.integers(0, 9)), make(name, capacity, environments, stack, n_step))
    for env_index, event in data.draw(st.lists(st.tuples(st.integers(0, environments - 1), EVENTS), max_size=60)):
        driver.play(env_index, event)
    check(driver)
    driver.play_randomly(data.draw(st.integers(0, 60)))
    check(driver)


@pytest.mark.parametrize("name", ["uniform", "prioritized"])
@pytest.mark.parametrize("n_step", [1, 3])
def test_transitions_of_vectors(name: str, n_step: int) -> None:
    driver = Driver(1, make(name, 90, 2, 1, n_step, vectors=True))
    for _ in range(20):
        driver.play_randomly(20)
        check(driver)


@pytest.mark.parametrize("name", ["uniform", "prioritized"])
@pytest.mark.parametrize("n_step", [1, 3])
def test_a_file_gives_the_same_batches_as_memory(name: str, n_step: int, tmp_path: Path) -> None:
    file = tmp_path / "frames"
    driver = Driver(2, *(make(name, 100, 2, 4, n_step, file=path) for path in (None, file)))
    assert not file.exists()
    driver.play_randomly(300)
    assert_same(*driver.replays)
    check(driver)


def assert_same(one: Replay, other: Replay) -> None:
    """Equal random streams give equal batches, with equal weights."""
    for _ in range(3):
        first, second = (replay.sample(50, 0.5) for replay in (one, other))
        for name, column in first._asdict().items():
            np.testing.assert_array_equal(column, getattr(second, name), err_msg=name)
        np.testing.assert_array_equal(*(observations(r.store, b.slots) for r, b in ((one, first), (other, second))))


@pytest.mark.parametrize("name", ["uniform", "prioritized"])
@pytest.mark.parametrize("events", [40, 400])
def test_a_restored_replay_continues_bit_for_bit(name: str, events: int, tmp_path: Path) -> None:
    """Restored from a file, in the middle of episodes, before and after the ring is full."""
    driver = Driver(3, make(name, 120, 2, 4, 3))
    driver.play_randomly(events)
    learn(driver.replay)
    state = driver.replay.state()
    write_checkpoint(tmp_path / "checkpoint", Checkpoint(state.tensors, state.state))
    read = read_checkpoint(tmp_path / "checkpoint", None)

    restored = make(name, 120, 2, 4, 3)
    restored.restore(read.state, read.tensors)
    seeding.restore(restored._rng, seeding.state_of(driver.replay._rng))
    driver.replays.append(restored)
    assert_same(*driver.replays)
    for _ in range(5):
        driver.play_randomly(30)
        for replay in driver.replays:
            learn(replay)
        assert_same(*driver.replays)
    check(driver)


def learn(replay: Replay) -> None:
    """An update with errors computed from the batch."""
    batch = replay.sample(20, 0.5)
    if isinstance(replay, PrioritizedReplay):
        replay.update(batch, batch.returns * 3)


def test_the_state_copies_no_frames() -> None:
    """Memory has no room for a second store of 7 GB. The ring is full, or not yet."""
    for events in (40, 400):
        driver = Driver(3, make("uniform", 120, 1, 4, 1))
        driver.play_randomly(events)
        frames = driver.replay.state().tensors["replay.frames"]
        assert np.shares_memory(frames, driver.replay.store.frames)
        assert frames.flags.c_contiguous


def test_uniform_replay_draws_all_transitions_equally() -> None:
    """Also if the environments have stored different numbers of frames."""
    driver = Driver(5, make("uniform", 120, 3, 4, 3))
    for env_index, events in enumerate((10, 25, 200)):
        for _ in range(events):
            driver.play(env_index, str(driver.rng.choice(["step", "terminated"], p=[0.8, 0.2])))
    batch = driver.replay.sample(40_000)
    times, counts = np.unique(batch.times, return_counts=True)
    assert len(times) == len(driver.replay)
    assert chisquare(counts).pvalue > 1e-3
    np.testing.assert_array_equal(batch.weights, 1)


def test_statistics_of_a_batch() -> None:
    driver = Driver(6, make("uniform", 120, 1, 4, 1))
    driver.play_randomly(100)
    weights, times = np.array([1, 0.5, 0.5], np.float32), np.array([1, 2, 6])
    steps = driver.naive.steps
    size, age = driver.replay.statistics(Batch(*[np.empty(0)] * 5, weights, times))
    assert size == pytest.approx(4 / 1.5)
    assert age == pytest.approx(steps - 3)


def test_a_store_too_small_for_n_steps_is_refused() -> None:
    store = FrameStore(2 * 10, 2, 4, FRAME, "uint8")
    UniformReplay(store, 1, 0.9, np.random.default_rng(0))
    with pytest.raises(ValueError, match="transitions of 2 steps need a store of 22 frames"):
        UniformReplay(store, 2, 0.9, np.random.default_rng(0))
