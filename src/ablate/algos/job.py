"""What the parent tells a worker process and hears of it. No torch: the parent builds it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ablate.config import Config
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
