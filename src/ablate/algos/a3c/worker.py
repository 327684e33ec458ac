"""A3C (Mnih et al. 2016, Algorithm S3): workers that collect a rollout, push its gradient and pull the parameters.

Both schedules run the same loop. schedule=async: one process per worker, and their updates race.
schedule=interleaved: one process in which the workers take turns, so that with W workers each
gradient is W - 1 updates old. With backend=compiled the same loop runs in kernels: compiled.py, compiled/loop.py."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch

from ablate.algos.a3c.game_worker import GameWorker
from ablate.algos.a3c.gradients import BACKENDS, GradientComputer, LossSettings
from ablate.algos.a3c.rollout import RolloutAccumulator
from ablate.algos.a3c.spec import A3CConfig, UpdateRecord
from ablate.algos.job import WorkerJob, process_state, restoring
from ablate.algos.rounds import Send, rounds
from ablate.config.derived import device_of
from ablate.config.schema import Config
from ablate.envs.make import kind_of, make_env
from ablate.envs.placeholders import numbered
from ablate.nn.distributions import make_distribution
from ablate.nn.mlp_acting import MlpActing
from ablate.nn.optimizers import Optimizer, make_optimizer
from ablate.parallel.heartbeat import beat
from ablate.parallel.shared import SharedState
from ablate.parallel.supervisor import ChildFailed
from ablate.seeding import Role, draw_seed, generator, restore, state_of
from ablate.types import Counters, EpisodeRecord, ProcessState, Rollout, Trajectory


def work(send: Send, job: WorkerJob) -> None:
    """A process that trains: its workers take turns until a limit is reached or the parent says stop."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # the moments of units that are never active would slow every step of Adam
    config, shared, algo = job.config, job.shared, job.config.algo
    assert isinstance(algo, A3CConfig)
    theta, *statistics = job.shared_tensors()
    optimizer = make_optimizer(config.optimizer, theta, statistics)
    workers = [make_worker(index, job, theta) for index in job.members]
    turn = job.turn

    def state() -> ProcessState:
        return process_state({worker.index: worker.state() for worker in workers}, turn)

    for before in rounds(job, send, state):
        worker, turn = workers[turn], (turn + 1) % len(workers)

        # Act: up to t_max steps, or to the episode's end.
        limit = max(1, config.total_steps - before.steps) if config.total_steps else sys.maxsize
        with naming_divergence(before, worker):
            rollout, episodes = worker.collect(limit)

        # The gradient of the loss at the parameters θ' that acted.
        loss, metrics = worker.computer.compute(rollout)
        gradient, grad_norm = checked_gradient(worker, loss, before, algo.max_grad_norm)

        # Push: one step of the shared parameters θ. Pull: θ' ← θ.
        steps = rollout.rewards.size
        staleness, counters = push(worker, optimizer, gradient, theta, shared, steps, len(episodes), config)

        for episode in episodes:
            send(episode._replace(global_step=counters.steps, wall_time_s=shared.wall_time_s()))
        if counters.updates % config.log_interval == 0:
            losses = (metrics.policy_loss.item(), metrics.value_loss.item(), metrics.entropy.item())
            at = (counters.updates, counters.steps, shared.wall_time_s())
            send(UpdateRecord(*at, *losses, grad_norm, staleness, config.optimizer.learning_rate(counters)))


class AnyWorker(Protocol):
    """What the loop needs of a worker."""

    index: int
    pulled_at: int  # updates made by all workers when this one last pulled

    @property
    def computer(self) -> GradientComputer:
        """The local network, and the gradient of its loss."""
        ...

    def pull(self, shared_parameters: torch.Tensor, updates: int) -> None:
        """θ' ← θ."""
        ...

    def collect(self, limit: int) -> tuple[Trajectory | Rollout, list[EpisodeRecord]]:
        """At most `limit` steps, and the episodes that ended in them; the loop fills in their step and time."""
        ...

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What a resume needs: JSON values, and tensors by name."""
        ...


class Worker:
    """A worker for observations that are vectors: its environment, its local network and its random streams."""

    def __init__(self, index: int, job: WorkerJob) -> None:
        config, spec, architecture = job.config, job.spec, job.architecture
        assert isinstance(config.algo, A3CConfig)
        self.index = index
        self._algo = config.algo
        self._reward_shift, self._reward_scale = config.env.reward_shift, config.env.reward_scale
        self.computer = BACKENDS[str(config.backend)](
            architecture, make_distribution(spec.action), LossSettings.of(config.algo), device_of(config, index)
        )
        self._acting_parameters = np.zeros(architecture.layout().size, np.float32)
        self._acting: MlpActing = architecture.acting(self._acting_parameters, spec.action)
        self._rollout = RolloutAccumulator(config.algo.t_max, spec.observation_size, spec.action, np.dtype(np.float32))
        self._action_rng = generator(config.seed, Role.action, index)
        self._env, self._env_kind = make_env(numbered(config.env, index)), kind_of(config.env)
        self._episodic_return, self._episodic_length = 0.0, 0
        self.pulled_at = 0  # updates made by all workers when this one last pulled
        resumed = job.resumed.get(index)
        saved = resumed.state if resumed else {}
        if saved:
            with restoring(index):
                restore(self._action_rng, saved["action_rng"])
                if saved["env"] is not None:
                    self._env_kind.restore(self._env, saved["env"])
                    self._observation = np.array(saved["observation"], np.float32).reshape(spec.observation_size)
                    self._episodic_return = float(saved["episodic_return"])
                    self._episodic_length = int(saved["episodic_length"])
        if not saved or saved["env"] is None:  # start a new episode; after a resume, with a new random stream
            seed = draw_seed(generator(config.seed, Role.environment, index, *([job.starts] if job.starts else [])))
            self._observation = self._env.reset(seed=seed)[0]

    def pull(self, shared_parameters: torch.Tensor, updates: int) -> None:
        """θ' ← θ."""
        self.computer.parameters.copy_(shared_parameters)
        self._acting_parameters[:] = self.computer.parameters.cpu()
        self.pulled_at = updates

    def collect(self, limit: int) -> tuple[Trajectory, list[EpisodeRecord]]:
        """Act for t_max steps, at most `limit`, or to the episode's end. The record of an episode lacks its time."""
        acting, rollout, gamma = self._acting, self._rollout, self._algo.gamma
        rollout.start(self._observation)
        for t in range(min(self._algo.t_max, limit)):
            beat()
            action = acting.sample(rollout.observations[t], self._action_rng)
            observation, reward, terminated, truncated, _ = self._env.step(acting.to_env(action))
            reward = float(reward)
            self._episodic_return += reward
            self._episodic_length += 1
            nothing_follows = terminated or (truncated and not self._algo.bootstrap_truncated)
            discount = 0.0 if nothing_follows else gamma
            rollout.add(action, (reward + self._reward_shift) / self._reward_scale, discount, observation)
            self._observation = observation
            if terminated or truncated:
                record = EpisodeRecord(
                    self.index, 0, 0.0, self._episodic_return, self._episodic_length, terminated, truncated
                )
                self._episodic_return, self._episodic_length = 0.0, 0
                self._observation = self._env.reset()[0]
                return rollout.trajectory(), [record]
        return rollout.trajectory(), []

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What a resume needs: JSON values, and the local parameters (P,)."""
        values = {
            "pulled_at": self.pulled_at,
            "episodic_return": self._episodic_return,
            "episodic_length": self._episodic_length,
            "action_rng": state_of(self._action_rng),
            "env": self._env_kind.save(self._env),
            "observation": np.asarray(self._observation, np.float32).reshape(-1).tolist(),
        }
        return values, {"parameters": self._acting_parameters.copy()}


def make_worker(index: int, job: WorkerJob, theta: torch.Tensor) -> AnyWorker:
    """The worker for the configuration's network. After a resume, it has the parameters that it last pulled."""
    worker: AnyWorker = (GameWorker if job.config.model.takes_images else Worker)(index, job)
    if resumed := job.resumed.get(index):
        with restoring(index):
            parameters = resumed.tensor("parameters", tuple(theta.shape))
            worker.pull(torch.from_numpy(parameters), int(resumed.state["pulled_at"]))
    else:
        worker.pull(theta, job.shared.counters().updates)
    return worker


def checked_gradient(
    worker: AnyWorker, loss: torch.Tensor, before: Counters, max_grad_norm: float | None
) -> tuple[torch.Tensor, float]:
    """The worker's gradient on the CPU, clipped, and its norm before clipping. Only finite numbers may be pushed."""
    gradient = worker.computer.gradient.cpu()
    grad_norm = float(torch.linalg.vector_norm(gradient))
    if not (math.isfinite(grad_norm) and math.isfinite(float(loss))):
        raise diverged(f"loss {float(loss)}, gradient norm {grad_norm}", before, worker)
    if max_grad_norm is not None and grad_norm > max_grad_norm:
        gradient.mul_(max_grad_norm / grad_norm)
    return gradient, grad_norm


def diverged(what: str, before: Counters, worker: AnyWorker) -> ChildFailed:
    return ChildFailed(f"diverged: {what} at update {before.updates + 1} (worker {worker.index})")


@contextlib.contextmanager
def naming_divergence(before: Counters, worker: AnyWorker) -> Iterator[None]:
    """If the policy gives a number that is not finite, fail the run and name the worker and the update."""
    try:
        yield
    except FloatingPointError as error:
        raise diverged(str(error), before, worker) from error


def push(
    worker: AnyWorker,
    optimizer: Optimizer,
    gradient: torch.Tensor,
    theta: torch.Tensor,
    shared: SharedState,
    steps: int,
    episodes: int,
    config: Config,
) -> tuple[int, Counters]:
    """Count the update, step the shared parameters, pull them. Returns the push's staleness and the totals."""
    assert isinstance(config.algo, A3CConfig)
    with shared.update_lock if config.algo.lock_updates else contextlib.nullcontext():
        counters = shared.count(steps, episodes)
        staleness = counters.updates - 1 - worker.pulled_at
        optimizer.step(gradient, counters.updates, config.optimizer.learning_rate(counters))
        worker.pull(theta, shared.counters().updates)
    return staleness, counters
