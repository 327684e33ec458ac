"""What the parent tells a worker process. No torch: the parent builds it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ablate.config import Config
from ablate.parallel.shared import SharedState
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
