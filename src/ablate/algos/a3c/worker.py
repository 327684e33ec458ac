"""A3C (Mnih et al. 2016, Algorithm S3): workers that collect a rollout, push its gradient and pull the parameters.

Both schedules run the same loop. schedule=async: one process a worker, and they race. schedule=interleaved: one process
in which the workers take turns, so that a worker's gradient was computed on parameters pulled W - 1 updates before."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ablate.algos.a3c.game_worker import GameWorker
from ablate.algos.a3c.gradients import BACKENDS, LossSettings
from ablate.algos.a3c.rollout import RolloutAccumulator
from ablate.algos.job import WorkerJob, process_state, wait_for_release
from ablate.config.derived import device_of, limit_reached
from ablate.config.schema import A3CConfig, Config, ConvConfig
from ablate.envs import classic
from ablate.envs.make import make_env
from ablate.nn.architecture import architecture_of
from ablate.nn.distributions import make_distribution
from ablate.nn.mlp_acting import MlpActing
from ablate.nn.optimizers import Optimizer, make_optimizer
from ablate.parallel.shared import Command, SharedState
from ablate.parallel.supervisor import ChildFailed
from ablate.play.evaluator import Evaluator, due
from ablate.seeding import Role, draw_seed, generator, restore, state_of
from ablate.types import Counters, EnvSpec, EpisodeRecord, ProcessState, Trajectory, UpdateRecord


class Worker:
    """One worker: its environment, its local network and its streams. `resumed`: what `state` gave, or None."""

    def __init__(self, index: int, config: Config, spec: EnvSpec, resumed: ProcessState | None, starts: int) -> None:
        assert isinstance(config.algo, A3CConfig)
        self.index = index
        self._algo = config.algo
        self._reward_shift, self._reward_scale = config.env.reward_shift, config.env.reward_scale
        architecture = architecture_of(config.model, spec)
        self.computer = BACKENDS[str(config.backend)](
            architecture, make_distribution(spec.action), LossSettings.of(config.algo), device_of(config, index)
        )
        self._acting_parameters = np.zeros(architecture.layout().size, np.float32)
        self._acting: MlpActing = architecture.acting(self._acting_parameters, spec.action)
        self._rollout = RolloutAccumulator(config.algo.t_max, spec.observation_size, spec.action, np.dtype(np.float32))
        self._action_rng = generator(config.seed, Role.action, index)
        self._env = make_env(config.env)
        self._episodic_return, self._episodic_length = 0.0, 0
        self.pulled_at = 0  # updates made by all workers when this one last pulled
        saved = resumed.state if resumed else {}
        if saved:
            restore(self._action_rng, saved["action_rng"])
        if saved and saved["env"] is not None:
            classic.restore(self._env, saved["env"])
            self._observation = np.array(saved["observation"], np.float32)
            self._episodic_return = saved["episodic_return"]
            self._episodic_length = saved["episodic_length"]
        else:  # a new episode; after a resume from a stream of its own
            seed = draw_seed(generator(config.seed, Role.environment, index, *([starts] if starts else [])))
            self._observation = self._env.reset(seed=seed)[0]

    def pull(self, shared_parameters: torch.Tensor, updates: int) -> None:
        """θ' ← θ."""
        self.computer.parameters.copy_(shared_parameters)
        self._acting_parameters[:] = self.computer.parameters.cpu()
        self.pulled_at = updates

    def collect(self, limit: int, beat: Callable[[], None]) -> tuple[Trajectory, list[EpisodeRecord]]:
        """Act for t_max steps (or `limit`) or to the episode's end. The record of an ended one lacks step and time."""
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
            "env": classic.save(self._env),
            "observation": np.asarray(self._observation, np.float32).reshape(-1).tolist(),
        }
        return values, {"parameters": self._acting_parameters.copy()}


def make_worker(
    index: int, config: Config, spec: EnvSpec, shared: SharedState, resumed: ProcessState | None, starts: int
) -> Worker | GameWorker:
    """The worker for the configuration's network."""
    if isinstance(config.model, ConvConfig):
        return GameWorker(index, config, spec, shared, resumed, starts)
    return Worker(index, config, spec, resumed, starts)


def work(send: Callable[[Any], None], job: WorkerJob) -> None:
    """The loop of a process: its workers take turns until a limit is reached or the parent says stop."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # the moments of units that are never active would slow every step of Adam
    config, shared = job.config, job.shared
    assert isinstance(config.algo, A3CConfig)
    theta = torch.from_numpy(shared.parameters_view())
    statistics = [torch.from_numpy(view) for view in shared.statistics_views()]
    assert all(shared.holds(tensor.data_ptr()) for tensor in (theta, *statistics)), "not in shared memory"
    optimizer = make_optimizer(config.optimizer, theta, statistics)

    def beat() -> None:
        shared.beat(job.process)

    workers: list[Worker | GameWorker] = []
    for index in job.workers:
        resumed = job.resumed.get(index)
        worker = make_worker(index, config, job.spec, shared, resumed, job.starts)
        if resumed:
            worker.pull(torch.from_numpy(resumed.tensors["parameters"]), resumed.state["pulled_at"])
        else:
            worker.pull(theta, shared.counters().updates)
        workers.append(worker)
    evaluator = Evaluator(config, job.spec, job.folder, job.evaluations_done, beat) if job.evaluates else None
    if evaluator:
        evaluator.begin(shared, send)
    turn, paused_for = job.turn, 0

    while shared.command == Command.run:
        beat()
        if shared.pauses_asked > paused_for:
            paused_for = shared.pauses_asked
            send(_state(workers, turn))
            wait_for_release(shared, paused_for, beat)
            continue
        shared.begin()
        worker = workers[turn]
        turn = (turn + 1) % len(workers)

        before = shared.counters()
        limit = max(1, config.total_steps - before.steps) if config.total_steps else sys.maxsize
        try:
            rollout, ended = worker.collect(limit, beat)
        except FloatingPointError as error:
            raise diverged(str(error), before, worker) from error
        loss, metrics = worker.computer.compute(rollout)
        gradient, grad_norm = checked_gradient(worker, loss, before, config.algo.max_grad_norm)
        steps = rollout.rewards.size
        staleness, counters = push(
            worker, optimizer, gradient, theta, shared, steps, len(ended), config.algo.lock_updates
        )

        for episode in ended:
            send(episode._replace(global_step=counters.steps, wall_time_s=shared.wall_time_s()))
        if counters.updates % config.log_interval == 0:
            losses = (metrics.policy_loss.item(), metrics.value_loss.item(), metrics.entropy.item())
            at = (counters.updates, counters.steps, shared.wall_time_s())
            send(UpdateRecord(*at, *losses, grad_norm, staleness, config.optimizer.lr))
        reached_limit = bool(limit_reached(config, counters))
        if evaluator and (reached_limit or due(config.evaluation.every_steps, before.steps, counters.steps)):
            send(evaluator.evaluate(shared, counters))
        if reached_limit:
            shared.command = Command.stop
    send(_state(workers, turn))


def checked_gradient(
    worker: Worker | GameWorker, loss: torch.Tensor, before: Counters, max_grad_norm: float | None
) -> tuple[torch.Tensor, float]:
    """The worker's gradient on the CPU, clipped, and its norm before that. Nothing but finite numbers may be pushed."""
    gradient = worker.computer.gradient.cpu()
    grad_norm = float(torch.linalg.vector_norm(gradient))
    if not (math.isfinite(grad_norm) and math.isfinite(float(loss))):
        raise diverged(f"loss {float(loss)}, gradient norm {grad_norm}", before, worker)
    if max_grad_norm is not None and grad_norm > max_grad_norm:
        gradient.mul_(max_grad_norm / grad_norm)
    return gradient, grad_norm


def diverged(what: str, before: Counters, worker: Worker | GameWorker) -> ChildFailed:
    return ChildFailed(f"diverged: {what} at update {before.updates + 1} (worker {worker.index})")


def push(
    worker: Worker | GameWorker,
    optimizer: Optimizer,
    gradient: torch.Tensor,
    theta: torch.Tensor,
    shared: SharedState,
    steps: int,
    episodes: int,
    lock: bool,
) -> tuple[int, Counters]:
    """Count the update, step the shared parameters, pull them. Returns the push's staleness and the totals."""
    with shared.update_lock if lock else contextlib.nullcontext():
        counters = shared.count(steps, episodes)
        staleness = counters.updates - 1 - worker.pulled_at
        optimizer.step(gradient, counters.updates)
        worker.pull(theta, shared.counters().updates)
    return staleness, counters


def _state(workers: list[Worker | GameWorker], turn: int) -> ProcessState:
    return process_state({worker.index: worker.state() for worker in workers}, turn)
