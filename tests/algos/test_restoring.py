"""A checkpoint with a right checksum and a wrong content: no worker starts from it, and one line says why."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import config_of, job_of

from ablate.algos.a3c.compiled import CompiledWorkers
from ablate.algos.a3c.worker import make_worker
from ablate.algos.dqn.actor import ACTOR, Actor
from ablate.algos.dqn.compiled import CompiledLearner
from ablate.algos.job import WorkerJob
from ablate.parallel.supervisor import ChildFailed
from ablate.types import ProcessState

DQN = ("env=cartpole", "algo=dqn", "workers=1", "replay.capacity=500")
SETTINGS = {
    "manual": ("env=pendulum", "backend=manual", "workers=1"),
    "compiled": ("env=pendulum", "backend=compiled", "workers=1", "schedule=interleaved"),
    "dqn": DQN,
    "dqn compiled": (*DQN, "backend=compiled", "schedule=interleaved"),
}


def start(kind: str, job: WorkerJob) -> Any:
    if kind == "compiled":
        return CompiledWorkers(job)
    if kind == "manual":
        return make_worker(0, job, torch.from_numpy(job.shared.parameters_view()))
    return Actor(job) if kind == "dqn" else CompiledLearner(job, lambda message: None)


def state_of(kind: str, worker: Any) -> ProcessState:
    if "compiled" not in kind:
        return ProcessState(*worker.state())
    values, tensors = worker.state()
    if kind == "dqn compiled":
        return ProcessState(values["workers"]["1"], {"observations": tensors["worker.1.observations"]})
    return ProcessState(values["workers"]["0"], {"parameters": tensors["worker.0.parameters"]})


def without(name: str) -> Callable[[ProcessState], None]:
    return lambda state: (state.tensors if name in state.tensors else state.state).pop(name)


def replaced(name: str, value: Any) -> Callable[[ProcessState], None]:
    def change(state: ProcessState) -> None:
        own: dict[str, Any] = state.tensors if name in state.tensors else state.state
        assert name in own
        own[name] = value

    return change


ONE = np.ones(1, np.float32)  # numpy would repeat it


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        ("manual", without("parameters"), "KeyError: 'parameters'"),
        ("manual", replaced("parameters", ONE), "parameters has the shape (1,)"),
        ("manual", without("action_rng"), "KeyError: 'action_rng'"),
        ("manual", replaced("observation", [0.5]), "ValueError: "),
        ("manual", replaced("episodic_return", "much"), "ValueError: "),
        ("compiled", without("parameters"), "KeyError: 'parameters'"),
        ("compiled", replaced("parameters", ONE), "parameters has the shape (1,)"),
        ("compiled", replaced("env", {"random": {}, "state": [1.0]}), "Error: "),
        ("compiled", replaced("pulled_at", None), "TypeError: "),
        ("dqn", without("observations"), "KeyError: 'observations'"),
        ("dqn", replaced("observations", ONE), "observations has the shape (1,)"),
        ("dqn", replaced("returns", []), "IndexError: "),
        ("dqn", replaced("action_rng", {"bit_generator": "MT19937"}), "ValueError: "),
        ("dqn compiled", without("observations"), "KeyError: 'observations'"),
        ("dqn compiled", replaced("env", [{"random": {}, "state": [1.0]}]), "Error: "),
        ("dqn compiled", replaced("lengths", None), "TypeError: "),
    ],
)
def test_a_state_that_does_not_fit_is_one_line(
    kind: str, change: Callable[[ProcessState], None], reason: str, tmp_path: Path
) -> None:
    job = job_of(config_of(*SETTINGS[kind]), tmp_path)
    saved = copy.deepcopy(state_of(kind, start(kind, job)))
    member = ACTOR if kind.startswith("dqn") else 0
    start(kind, job._replace(resumed={member: copy.deepcopy(saved)}))  # as it was written, it fits
    change(saved)
    with pytest.raises(ChildFailed) as failure:
        start(kind, job._replace(resumed={member: saved}))
    line = str(failure.value)
    assert line.startswith(f"the checkpoint is damaged: the state of worker {member} cannot be restored (")
    assert reason in line
    assert "\n" not in line
