"""The checkpoints of a run: collect the state of all its processes, write it to the disk, and restore it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ablate.config.serial import to_dict
from ablate.parallel.shared import SharedState
from ablate.play.evaluator import frozen_normalisation
from ablate.records.checkpoint import Checkpoint, write_checkpoint
from ablate.records.recorder import Recorder
from ablate.records.schema import LAST_CHECKPOINT, REPLAY_FILES
from ablate.runs.plan import Resolved
from ablate.types import Counters, ProcessState


class Checkpoints:
    """Collects the last state of each process that trains, and writes it with all shared state into one file.

    processes: their names, in the order of `Algorithm.processes`. starts: how often the run was resumed."""

    def __init__(self, run: Resolved, folder: Path, shared: SharedState, processes: list[str], starts: int) -> None:
        self._run, self._path, self._shared = run, folder / LAST_CHECKPOINT, shared
        self._processes, self._starts = processes, starts
        self._states: dict[str, ProcessState] = {}

    def note(self, process: str, state: ProcessState) -> None:
        """Keep the state that a process has sent: it is paused or has ended."""
        self._states[process] = state

    @property
    def complete(self) -> bool:
        """Whether each process has sent a state."""
        return len(self._states) == len(self._processes)

    @property
    def owes_evaluation(self) -> bool:
        """Whether a process was stopped during an evaluation, or before one that was due."""
        return any(state.state.get("owes_evaluation", False) for state in self._states.values())

    def make(self, counters: Counters, recorder: Recorder, evaluations_done: int, owes_evaluation: bool) -> Checkpoint:
        """A copy of the state now. All processes that train must be paused or have ended."""
        shared = self._shared
        statistics = zip(self._run.config.optimizer.statistics, shared.statistics_views(), strict=True)
        tensors = {"parameters": shared.parameters_view().copy()}
        tensors |= {name: view.copy() for name, view in statistics}
        if (normalisation := frozen_normalisation(shared)) is not None:
            tensors |= {"normalisations": shared.normalisation_view().copy(), "normalisation": normalisation}
        members: dict[str, Any] = {}
        for state in self._states.values():
            tensors |= state.tensors
            members |= state.state["workers"]
        return Checkpoint(
            tensors,
            {
                "config": to_dict(self._run.config),
                "env_spec": asdict(self._run.spec),
                "counters": counters._asdict(),
                "wall_time_s": shared.wall_time_s(),
                "moving_average": recorder.moving_average,
                "beyond": recorder.beyond,
                "evaluations_done": evaluations_done,
                "owes_evaluation": owes_evaluation,
                "starts": self._starts,
                "turns": [self._states[name].state["turn"] for name in self._processes],
                "workers": members,
            },
        )

    def write(self, checkpoint: Checkpoint) -> None:
        """Replace the last checkpoint. Remove replays that were saved with earlier checkpoints.

        A replay from a later step is kept: the learner may already have ended and written its last replay."""
        write_checkpoint(self._path, checkpoint)
        for path in self._path.parent.glob(REPLAY_FILES):
            steps = path.stem.rpartition("-")[2]  # a user's copy may have another name
            if steps.isdecimal() and int(steps) < checkpoint.state["counters"]["steps"]:
                path.unlink()


def owes_evaluation(checkpoint: Checkpoint | None) -> bool:
    """Whether a resume must begin with an evaluation that was due when the run was stopped."""
    return checkpoint is not None and bool(checkpoint.state.get("owes_evaluation"))


def restore_shared(run: Resolved, checkpoint: Checkpoint, shared: SharedState) -> None:
    """Restore the counters, the elapsed time, the optimizer's statistics and the running normalisations."""
    shared.set_counters(Counters(**checkpoint.state["counters"]))
    shared.elapsed_before = checkpoint.state["wall_time_s"]
    for name, view in zip(run.config.optimizer.statistics, shared.statistics_views(), strict=True):
        view[:] = checkpoint.tensors[name]
    if "normalisations" in checkpoint.tensors:
        shared.normalisation_view()[:] = checkpoint.tensors["normalisations"]


def states_of(checkpoint: Checkpoint, members: tuple[int, ...]) -> dict[int, ProcessState]:
    """The saved state of each member of a process, by the member's number."""
    states = {}
    for k in members:
        prefix = f"worker.{k}."
        own = {n.removeprefix(prefix): array for n, array in checkpoint.tensors.items() if n.startswith(prefix)}
        states[k] = ProcessState(checkpoint.state["workers"][str(k)], own)
    return states
