"""What the parent gives a process that trains, and what that process saves. No torch: the parent builds it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ablate.config.plugins import text_of
from ablate.config.schema import Config
from ablate.nn.architecture import Architecture
from ablate.parallel.exchange import Exchange
from ablate.parallel.heartbeat import beat
from ablate.parallel.shared import SharedState
from ablate.parallel.supervisor import ChildFailed
from ablate.types import EnvSpec, ProcessState

if TYPE_CHECKING:
    import torch

BEAT_S = 1.0


class WorkerJob(NamedTuple):
    """What a process is to do. `resumed` is what it sent as its last state."""

    config: Config
    spec: EnvSpec
    architecture: Architecture
    folder: Path
    shared: SharedState
    members: tuple[int, ...]  # see `algorithm.Process`
    evaluates: bool  # schedule=interleaved: the evaluations are part of the loop
    resumed: dict[int, ProcessState]  # by member
    turn: int  # the worker whose turn it is
    evaluations_done: int
    owes_evaluation: bool  # schedule=interleaved: a stop came during an evaluation, which is made first
    starts: int  # how often the run was resumed
    exchange: Exchange | None = None  # with another process that trains

    def shared_tensors(self) -> list[torch.Tensor]:
        """The parameters θ (P,), then the statistics of the optimizer, (P,) each, all in shared memory."""
        import torch

        views = [self.shared.parameters_view(), *self.shared.statistics_views()]
        tensors = [torch.from_numpy(view) for view in views]
        assert all(self.shared.holds(tensor.data_ptr()) for tensor in tensors), "not in shared memory"
        return tensors


@contextlib.contextmanager
def restoring(member: int) -> Iterator[None]:
    """Restore the state of a member from a checkpoint. Raises ChildFailed if it does not fit: the checksum of a
    checkpoint says that it is as it was written, not by whom."""
    try:
        yield
    except Exception as error:
        raise ChildFailed(
            f"the checkpoint is damaged: the state of worker {member} cannot be restored ({type(error).__name__}: "
            f"{text_of(error)}); load= starts a new run"
        ) from error


@contextlib.contextmanager
def beating() -> Iterator[None]:
    """Beat from a thread during work that takes long: writing a replay of gigabytes to a disk is no hang."""
    done = threading.Event()

    def keep_beating() -> None:
        while not done.wait(BEAT_S):
            beat()

    thread = threading.Thread(target=keep_beating, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def process_state(states: dict[int, tuple[dict[str, Any], dict[str, np.ndarray]]], turn: int = 0) -> ProcessState:
    """The last state of a process from the JSON values and tensors of each member."""
    return ProcessState(
        {"turn": turn, "workers": {str(index): values for index, (values, _) in states.items()}},
        {f"worker.{index}.{name}": array for index, (_, tensors) in states.items() for name, array in tensors.items()},
    )
