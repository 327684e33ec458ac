"""The estimated cores and memory of a cell, compared with measurements."""

from types import SimpleNamespace
from typing import Any

import pytest
from helpers import config_of

from ablate.algos.algorithm import algorithm_of
from ablate.config.schema import Config
from ablate.sweeps import plan as planning


def memory_mb(config: Config) -> int:
    return algorithm_of(config).memory_mb(config)


# MB of the largest moment of one worker of Breakout, measured: VmHWM on Linux, torch 2.13, rollouts of 20 steps.
MEASURED = [
    ("conv_lstm_42", "manual", 8, 341),
    ("conv_lstm_42", "manual", 64, 511),
    ("conv_lstm_42", "autograd", 8, 365),
    ("conv_pool_lstm_80", "manual", 1, 435),
    ("conv_pool_lstm_80", "manual", 8, 566),
    ("conv_pool_lstm_80", "autograd", 8, 922),
    ("conv_84", "manual", 8, 393),
    ("conv_84", "autograd", 8, 416),
]


@pytest.mark.parametrize(("model", "backend", "games", "measured"), MEASURED)
def test_each_worker_with_games_adds_its_memory(model: str, backend: str, games: int, measured: int) -> None:
    game = ("env=breakout", f"model={model}", f"backend={backend}", f"envs_per_worker={games}", "algo.t_max=20")
    one, two = (memory_mb(config_of(*game, f"workers={workers}")) for workers in (1, 2))
    assert measured <= two - one <= 1.25 * measured


def test_interleaved_workers_share_a_process_but_not_a_network() -> None:
    game = ("env=breakout", "backend=manual", "workers=4")
    turns, processes = (memory_mb(config_of(*game, f"schedule={schedule}")) for schedule in ("interleaved", "async"))
    one = memory_mb(config_of(*game[:2], "workers=1", "schedule=interleaved"))
    assert one < turns < processes


def test_the_memory_of_a_cell_that_saves_its_replay_counts_the_copies() -> None:
    options = ("algo=dqn", "env=breakout", "backend=manual", "replay.capacity=1000000")
    saves, does_not, in_file = (
        memory_mb(config_of(*options, *more)) for more in (("save_replay=true",), (), ("replay.storage=memmap",))
    )
    replay = does_not - in_file
    assert 7000 < replay < 7500
    assert saves == pytest.approx(does_not + 2 * replay, abs=2)


def test_threads_of_games_are_cores_of_a_cell() -> None:
    def of(*more: str) -> int:
        config = config_of("algo=dqn", "env=breakout", "envs_per_worker=4", *more)
        return algorithm_of(config).cores(config)

    alone = "schedule=interleaved"
    assert (of(alone), of("schedule=async")) == (1, 2)
    assert (of(alone, "env.threads=3"), of(alone, "env.threads=9"), of("schedule=async", "env.threads=3")) == (3, 4, 4)


def test_more_cells_at_once_than_the_memory_holds_are_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 cells on two cores were once planned with 54 GB of 23, without a word."""
    config = config_of("workers=1", "schedule=interleaved", "backend=manual")
    plan: Any = SimpleNamespace(to_run=[SimpleNamespace(arm="a")] * 100, configs={"a": config})
    monkeypatch.setattr(planning, "available_bytes", lambda: 63 * memory_mb(config) * 1_000_000)
    (note,) = planning._too_much_memory(plan, 64)
    assert note.startswith(f"note      64 cells at once need {64 * memory_mb(config) / 1000:.0f} GB of memory")
    assert list(planning._too_much_memory(plan, 63)) == []
