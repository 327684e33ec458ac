"""Shared by tests: configurations from conf/, random rollouts, both backends with the same parameters, a worker's loop
in this process."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ablate.algos.a3c.gradients import BACKENDS, GradientComputer, LossSettings
from ablate.algos.algorithm import algorithm_of
from ablate.algos.job import WorkerJob
from ablate.cli.compose import compose_config
from ablate.config.schema import Config
from ablate.envs.make import spec_of
from ablate.nn.architecture import architecture_of, initial_parameters
from ablate.nn.distributions import make_distribution
from ablate.nn.mlp_architecture import MlpArchitecture
from ablate.parallel.shared import SharedState
from ablate.seeding import Role, generator
from ablate.types import ActionSpec, ProcessState, SliceRecords, Trajectory

ROOT = Path(__file__).resolve().parents[1]
torch.set_num_threads(1)  # as workers do; with networks this small, more threads only wait for each other


def config_of(*overrides: str) -> Config:
    """The configuration of `python src/run.py <overrides>`."""
    return compose_config(overrides)


def random_rollout(
    rng: np.random.Generator, size: int, action: ActionSpec, steps: int, terminated: bool, dtype: type = np.float64
) -> Trajectory:
    actions = (
        rng.integers(action.n, size=steps)
        if action.n is not None
        else rng.standard_normal((steps, len(action.low))).astype(dtype)
    )
    discounts = np.full(steps, 0.9, dtype)
    if terminated:
        discounts[-1] = 0.0
    observations = rng.standard_normal((steps + 1, size)).astype(dtype)
    return Trajectory(observations, actions, rng.standard_normal(steps).astype(dtype), discounts)


def computers(
    architecture: MlpArchitecture, action: ActionSpec, settings: LossSettings, dtype: torch.dtype, seed: int = 0
) -> dict[str, GradientComputer]:
    """Both backends with the same random parameters."""
    layout = architecture.layout()
    flat = np.zeros(layout.size)
    layout.initialise(flat, np.random.default_rng(seed), 0.1)
    made = {}
    for name, backend in BACKENDS.items():
        made[name] = backend(architecture, make_distribution(action), settings, "cpu", dtype)
        made[name].parameters.copy_(torch.from_numpy(flat))
    return made


def job_of(config: Config, folder: Path, evaluates: bool = False) -> WorkerJob:
    """The job of one process with all workers, at the start of a run."""
    spec = spec_of(config.env)
    architecture = architecture_of(config.model, spec)
    parameters = initial_parameters(architecture, generator(config.seed, Role.parameters))
    shared = SharedState(parameters.size, len(config.optimizer.statistics), 1)
    shared.parameters_view()[:] = parameters
    members = tuple(range(config.workers or 1))
    return WorkerJob(config, spec, architecture, folder, shared, members, evaluates, {}, 0, 0, False, 0)


def work(job: WorkerJob) -> list[Any]:
    """Run the loop of the configuration's backend to its end. Returns its messages; records are single ones."""
    loop = "compiled" if job.config.backend == "compiled" else "worker"
    messages: list[Any] = []

    def send(message: Any) -> None:
        messages.extend(message.unpacked() if isinstance(message, SliceRecords) else [message])

    try:
        importlib.import_module(f"ablate.algos.a3c.{loop}").work(send, job)
    finally:
        torch.set_flush_denormal(False)  # a worker sets it for its whole process
    return messages


def train(config: Config, folder: Path, evaluates: bool = False) -> tuple[list[Any], np.ndarray, SharedState]:
    """Run `work` from the start. Returns messages, final parameters and shared state."""
    job = job_of(config, folder, evaluates)
    return work(job), job.shared.parameters_view().copy(), job.shared


class MadeRun(NamedTuple):
    """The results of a run in this process."""

    job: WorkerJob
    rows: list[Any]  # records and summaries, in order
    state: ProcessState


def started(config: Config, folder: Path, evaluates: bool = False) -> WorkerJob:
    """The job of DQN's process."""
    folder.mkdir(exist_ok=True)
    (folder / "checkpoints").mkdir(exist_ok=True)
    return job_of(config, folder, evaluates)._replace(members=(0, 1))


def learn(job: WorkerJob, send: Any = None) -> MadeRun:
    """Run the loop of DQN to its end, in this process."""
    (process,) = algorithm_of(job.config).processes(job.config)
    messages: list[Any] = []

    def collect(message: Any) -> None:
        messages.extend(message.unpacked() if isinstance(message, SliceRecords) else [message])

    try:
        getattr(importlib.import_module(process.module), process.function)(send or collect, job)
    finally:
        torch.set_flush_denormal(False)  # a learner sets it for its whole process
    *rows, state = messages or [None]
    return MadeRun(job, rows, state)


def trained_arrays(job: WorkerJob) -> list[np.ndarray]:
    """The parameters, and what the optimizer keeps of each."""
    return [job.shared.parameters_view(), *job.shared.statistics_views()]


def columns(made: MadeRun, kind: Any) -> dict[str, list[Any]]:
    """The records of this kind by column, without their times."""
    rows = [row for row in made.rows if isinstance(row, kind)]
    return {name: [getattr(row, name) for row in rows] for name in kind._fields if name != "wall_time_s"}
