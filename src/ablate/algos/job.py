"""What the parent tells a worker process and hears of it. No torch: the parent builds it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ablate.config.schema import Config, DQNConfig
from ablate.parallel.exchange import Exchange
from ablate.parallel.shared import Command, SharedState
from ablate.types import EnvSpec, ProcessState


class WorkerJob(NamedTuple):
    """What a process is to do. `resumed` is what it sent as its last state."""

    config: Config
    spec: EnvSpec
    folder: Path
    shared: SharedState
    process: int  # its slot for heartbeats
    workers: tuple[int, ...]
    evaluates: bool  # schedule=interleaved: the evaluations are part of the loop
    resumed: dict[int, ProcessState]  # by worker
    turn: int
    evaluations_done: int
    starts: int  # how often the run was resumed
    exchange: Exchange | None = None  # with DQN's actor, where that has a process of its own


class Role(NamedTuple):
    """A process of a run: its name, the function of the algorithm's module that it runs, and whose state it holds."""

    name: str
    function: str
    members: tuple[int, ...]  # workers of A3C; of DQN the learner, 0, and the actor, 1


def roles(config: Config) -> list[Role]:
    """The processes that train."""
    if config.algo.name == "dqn":
        if config.schedule == "interleaved":
            return [Role("learner", "learn", (0, 1))]
        return [Role("learner", "learn", (0,)), Role("actor", "act", (1,))]
    workers = tuple(range(config.workers or 1))
    groups = [(k,) for k in workers] if config.schedule == "async" else [workers]
    return [Role("worker-" + "-".join(map(str, group[:: max(1, len(group) - 1)])), "work", group) for group in groups]


def make_exchange(config: Config, spec: EnvSpec) -> Exchange:
    """For blocks of as many steps as an update of DQN waits for, or one of each environment where more of them play."""
    assert isinstance(config.algo, DQNConfig)
    return Exchange(spec, max(1, config.algo.policy_update // config.envs_per_worker), config.envs_per_worker)


BEAT_S = 1.0


@contextlib.contextmanager
def beating(beat: Callable[[], None]) -> Iterator[None]:
    """Beat from a thread during what takes long and is no hanging: a replay of gigabytes on its way to a disk."""
    done = threading.Event()

    def go_on() -> None:
        while not done.wait(BEAT_S):
            beat()

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


PAUSE_POLL_S = 0.001


def wait_for_release(shared: SharedState, pause: int, beat: Callable[[], None]) -> None:
    """Stand still until the parent has what it needs for a checkpoint."""
    while shared.pauses_released < pause and shared.command == Command.run:
        beat()
        time.sleep(PAUSE_POLL_S)


def process_state(states: dict[int, tuple[dict[str, Any], dict[str, np.ndarray]]], turn: int) -> ProcessState:
    """The last state of a process from each worker's JSON values and tensors."""
    return ProcessState(
        {"turn": turn, "workers": {str(index): values for index, (values, _) in states.items()}},
        {f"worker.{index}.{name}": array for index, (_, tensors) in states.items() for name, array in tensors.items()},
    )
