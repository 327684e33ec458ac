"""The draws of prioritized replay against the distribution of Schaul et al. 2016, eq. 1, and its weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from naive_replay import FRAME, Driver
from scipy.stats import chisquare

from ablate.config.schema import PrioritizedConfig
from ablate.replay.prioritized import PrioritizedReplay
from ablate.replay.store import FrameStore

OPTIONS = {
    "alpha": 0.7, "draws": "independent", "weights": "max", "new_priority": "max", "priority_eps": 0.01,
    "first_half_only": False,
}  # fmt: skip


def driven(events: int, capacity: int = 120, environments: int = 2, n_step: int = 1, **options: Any) -> Driver:
    config = PrioritizedConfig(**{**OPTIONS, **options})
    store = FrameStore(capacity, environments, 4, FRAME, "uint8")
    driver = Driver(7, PrioritizedReplay(store, config, n_step, 0.9, np.random.default_rng(8)))
    driver.play_randomly(events)
    return driver


def replay_of(driver: Driver) -> PrioritizedReplay:
    assert isinstance(driver.replay, PrioritizedReplay)
    return driver.replay


def assert_drawn(replay: PrioritizedReplay, priorities: dict[int, float], draws: int = 60_000) -> None:
    """Transitions are drawn in proportion to these priorities. The keys are the numbers of their steps."""
    times, counts = np.unique(replay.sample(draws).times, return_counts=True)
    assert set(times.tolist()) <= {time for time, priority in priorities.items() if priority > 0}
    drawn = dict(zip(times.tolist(), counts.tolist(), strict=True))
    total = sum(priorities.values())
    expected = {time: draws * priority / total for time, priority in priorities.items()}
    common = [time for time in expected if expected[time] >= 5]  # the rest is too rare for the test and is pooled
    rare = [time for time in expected if expected[time] < 5]
    observed = [drawn.get(time, 0) for time in common]
    wanted = [expected[time] for time in common]
    if sum(expected[time] for time in rare) >= 5:
        observed.append(sum(drawn.get(time, 0) for time in rare))
        wanted.append(sum(expected[time] for time in rare))
    wanted = [value * sum(observed) / sum(wanted) for value in wanted]
    assert len(wanted) > 10
    assert chisquare(observed, wanted).pvalue > 1e-3


def learn(driver: Driver, priorities: dict[int, float], batches: int) -> float:
    """Update with random errors, and change `priorities` to the expected p^α. Returns the largest new one."""
    replay, largest = replay_of(driver), 0.0
    for _ in range(batches):
        batch = replay.sample(16)
        errors = driver.rng.normal(size=16).astype(np.float32) * 3
        replay.update(batch, errors)
        for time, error in zip(batch.times.tolist(), errors.tolist(), strict=True):
            priorities[time] = (abs(error) + 0.01) ** 0.7
            largest = max(largest, priorities[time])
    return largest


@pytest.mark.parametrize("draws", ["stratified", "independent"])
@pytest.mark.parametrize("n_step", [1, 3])
def test_draws_follow_the_priorities(draws: str, n_step: int) -> None:
    """New transitions have the largest priority so far. The ring wraps around several times."""
    driver = driven(100, n_step=n_step, draws=draws)
    priorities = dict.fromkeys(driver.naive.transitions(), 1.0)
    assert_drawn(replay_of(driver), priorities)
    largest = 1.0
    for _ in range(4):
        largest = max(largest, learn(driver, priorities, 6))
        driver.play_randomly(60)
        priorities = {time: priorities.get(time, largest) for time in driver.naive.transitions()}
        assert largest > 1
        assert_drawn(replay_of(driver), priorities)


def test_new_transitions_start_with_their_own_td_errors() -> None:
    """The error of one step is given with it. A transition of n steps has the error of its first step."""
    driver = driven(0, n_step=3, new_priority="td_error")
    errors: list[float] = []
    add = driver.replay.add

    def recorded(*arguments: Any) -> None:
        errors.append(arguments[-1])
        add(*arguments)

    driver.replay.add = recorded  # type: ignore[method-assign]
    driver.play_randomly(300)
    expected = {time: (abs(errors[time - 1]) + 0.01) ** 0.7 for time in driver.naive.transitions()}
    assert_drawn(replay_of(driver), expected)


def test_a_step_without_its_td_error_is_refused() -> None:
    driver = driven(20, new_priority="td_error")
    driver.play(0, "restart")
    with pytest.raises(ValueError, match="needs its TD error"):
        driver.replay.add(0, 0, 0.0, False, False, np.zeros((4, *FRAME), np.uint8))


def test_stratified_draws_take_equal_transitions_once_each() -> None:
    """All priorities are equal, and there are as many draws as transitions."""
    driver = driven(200, draws="stratified")
    size = len(driver.replay)
    assert set(driver.replay.sample(size).times.tolist()) == driver.naive.transitions().keys()
    driver = driven(200, draws="independent")
    assert len(set(driver.replay.sample(size).times.tolist())) < size


@pytest.mark.parametrize("weights", ["max", "mean", "none"])
@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_weights_follow_the_formula(weights: str, beta: float) -> None:
    driver = driven(200, weights=weights)
    priorities = dict.fromkeys(driver.naive.transitions(), 1.0)
    learn(driver, priorities, 10)
    batch = driver.replay.sample(64, beta)
    total = sum(priorities.values())
    expected = np.array([(len(priorities) * priorities[time] / total) ** -beta for time in batch.times.tolist()])
    divisor = {"max": expected.max(), "mean": expected.mean(), "none": 1.0}[weights]
    np.testing.assert_allclose(batch.weights, expected / divisor, rtol=1e-6)
    assert batch.weights.dtype == np.float32


def test_weights_with_beta_1_remove_the_bias() -> None:
    """With β = 1, a weighted mean over draws is the mean over all transitions."""
    driver = driven(200, weights="none")
    priorities = dict.fromkeys(driver.naive.transitions(), 1.0)
    learn(driver, priorities, 10)
    batch = driver.replay.sample(200_000, 1.0)
    drawn = np.array([priorities[time] for time in batch.times.tolist()])
    mean = float(np.mean(list(priorities.values())))
    assert (batch.weights * drawn).mean() == pytest.approx(mean, rel=0.01)
    assert drawn.mean() > 1.1 * mean


def test_overwritten_transitions_are_not_updated() -> None:
    """The slot now has another transition, which keeps its priority. The largest priority does not change either."""
    driver = driven(100, capacity=60, environments=1)
    batch = driver.replay.sample(32)
    driver.play_randomly(500)
    replay_of(driver).update(batch, np.full(32, 1e6))
    driver.play_randomly(20)
    assert_drawn(replay_of(driver), dict.fromkeys(driver.naive.transitions(), 1.0))


def test_first_half_only_draws_from_the_first_half_of_the_ring() -> None:
    """Within this half, draws are in proportion to the priorities."""
    driver = driven(400, environments=1, first_half_only=True)
    priorities = dict.fromkeys(driver.naive.transitions(), 1.0)
    learn(driver, priorities, 20)
    first_frames = {  # position in the ring of the newest frame of each transition's observation
        time: (episode.first_frame + episode.fillers + t) % 120
        for episode in driver.naive.episodes[0]
        for t, time in enumerate(episode.times)
    }
    halved = {time: priority if first_frames[time] < 60 else 0.0 for time, priority in priorities.items()}
    assert 0 < sum(priority > 0 for priority in halved.values()) < len(halved)
    assert_drawn(replay_of(driver), halved)


def test_a_td_error_that_is_not_finite_is_refused() -> None:
    driver = driven(100)
    with pytest.raises(ValueError, match="finite"):
        replay_of(driver).update(driver.replay.sample(2), np.array([1.0, np.nan]))
