"""How many cells share a job of a cluster."""

from __future__ import annotations

import pytest

from ablate.cli.cluster import Needs, cells_of_jobs
from ablate.cli.compose import compose_config
from ablate.sweeps.packs import pack, slow_seconds

LAUNCHER = {"timeout_min": 1440, "signal_delay_s": 120}
A3C = ("algo=a3c", "env=pendulum", "schedule=interleaved", "workers=2", "backend=compiled", "max_episodes=null")
QUICK = (*A3C, "total_steps=100000", "evaluation.every_steps=50000", "evaluation.episodes=10")
DQN = ("algo=dqn", "env=cartpole", "backend=compiled", "max_episodes=null", "total_steps=50000")


def test_seconds_count_the_steps_of_training_and_evaluation() -> None:
    """2 looks and one at the end, of 10 episodes with 200 steps, at 5 µs; a second to start."""
    assert slow_seconds(compose_config(QUICK)) == pytest.approx(1 + 5e-6 * (100_000 + 3 * 10 * 200))
    assert slow_seconds(compose_config([*QUICK, "evaluation.horizon=1000"])) == pytest.approx(1 + 5e-6 * 130_000)


@pytest.mark.parametrize(
    ("overrides", "given", "timeout_min", "sizes"),
    [
        (QUICK, None, 1440, [39, 39, 22]),  # 60 s / 1.53 s
        (QUICK, None, 4, [39, 39, 22]),  # half of two minutes
        (QUICK, None, 3, [19, 19, 19, 19, 19, 5]),  # half of one
        (QUICK, 30, 3, [30, 30, 30, 10]),  # a given number holds
        (QUICK, 1, 1440, [1] * 100),
        ((*A3C, "total_steps=20000000", "evaluation.every_steps=null"), None, 1440, [1] * 100),  # 100 s
        ((*A3C, "total_steps=20000000", "evaluation.every_steps=null"), 50, 1440, [50, 50]),
    ],
)
def test_a_job_has_as_many_cells_as_take_less_than_a_minute(
    overrides: tuple[str, ...], given: int | None, timeout_min: int, sizes: list[int]
) -> None:
    configs = [compose_config(overrides)] * 100
    jobs = cells_of_jobs(configs, given, {**LAUNCHER, "timeout_min": timeout_min})
    assert [len(cells) for cells in jobs] == sizes
    assert [index for cells in jobs for index in cells] == list(range(100))
    if timeout_min == 1440:
        assert cells_of_jobs(configs, given, {"address": None}) == jobs  # Ray has no time limit


def test_cells_of_a_job_request_the_same() -> None:
    """Cells of three arms, seed by seed: two arms need one core, one needs two."""
    arms = [compose_config([*QUICK, f"schedule={s}"]) for s in ("interleaved", "async", "interleaved")]
    assert len({Needs.of(config) for config in arms}) == 2
    jobs = cells_of_jobs(arms * 10, 4, LAUNCHER)
    assert sorted(index for cells in jobs for index in cells) == list(range(30))
    for cells in jobs:
        assert len({Needs.of(arms[index % 3]) for index in cells}) == 1
        assert len(cells) <= 4
    assert len(jobs) == 5 + 3


def test_cells_of_unknown_length_have_jobs_of_their_own() -> None:
    """Code of the user's may take any time per step, and images take long. They don't end the job of short cells."""
    own = compose_config([*QUICK, "backend=manual", "env.id=catch_env:Catch-v0", "env.max_ep_step=20"])
    images = compose_config(["algo=dqn", "env=breakout", "total_steps=100"])
    quick = compose_config(QUICK)
    assert slow_seconds(own) is slow_seconds(images) is None
    assert pack([(config, 0) for config in (quick, own, images, own, quick)], None) == [[0, 4], [1], [2], [3]]
