"""Deep Q-learning (Mnih et al. 2015, Algorithm 1): an actor fills the replay, a learner draws batches from it.

There is exactly one update per `train_freq` steps. schedule=interleaved: one process acts, then learns.
schedule=async: while the learner learns, the actor's process acts the next block of steps, with parameters that are one
block older. Both schedules give the same result every time.

The TD target and the loss are in rl/td.py; gradients.py computes them and their gradient."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from ablate.algos.dqn.actor import Acting, Actor, ActorElsewhere, ActorHere, naming_divergence
from ablate.algos.dqn.batch_buffers import BatchBuffers
from ablate.algos.dqn.gradients import Q_BACKENDS, QSettings
from ablate.algos.dqn.replay_memory import ReplayMemory
from ablate.algos.dqn.spec import LEARNER, DQNConfig, UpdateRecord
from ablate.algos.job import WorkerJob, process_state
from ablate.algos.rounds import Send, rounds
from ablate.config.derived import cuda_index, device_of
from ablate.nn.optimizers import make_optimizer
from ablate.parallel.supervisor import ChildFailed
from ablate.types import Batch, Counters, EpisodeRecord, Experience, ProcessState


def updates_ahead(device: str) -> int:
    """How many updates may be unfinished when the next one starts: a GPU works while the next batch is drawn."""
    return 0 if device == "cpu" else 1


class _Update(NamedTuple):
    """An update that may still be under way."""

    at: Counters  # updates with this one, steps, and episodes
    lr: float
    beta: float | None
    batch: Batch
    buffers: BatchBuffers  # its metrics arrive here


class Learner:
    """The replay, the network and its target network, and the optimizer over the shared parameters."""

    def __init__(self, job: WorkerJob, send: Callable[[UpdateRecord], None]) -> None:
        config, shared = job.config, job.shared
        assert isinstance(config.algo, DQNConfig)
        self._config, self._algo = config, config.algo
        self._send, self._wall_time_s = send, shared.wall_time_s
        architecture = job.architecture
        self._shared = job.shared_tensors()
        self._device = device_of(config, 0)
        if self._device != "cpu":
            torch.cuda.set_device(cuda_index(self._device))  # it takes a number, not `cuda`
        self._own = self._shared if self._device == "cpu" else [tensor.to(self._device) for tensor in self._shared]
        self._optimizer = make_optimizer(config.optimizer, self._own[0], self._own[1:], alone=True)
        self._ahead = updates_ahead(self._device)
        self._computer = Q_BACKENDS[str(config.backend)](
            architecture, config.algo.batch_size, QSettings.of(config.algo), self._own[0], str(config.precision),
            buffers=1 + self._ahead, recorded=config.algo.cuda_graph,
        )  # fmt: skip
        self._under_way: deque[_Update] = deque()
        self._memory = ReplayMemory(job)
        self._replay = self._memory.replay
        if self._computer.table is not None:  # compiles it now; during the first update that would look like a hang
            slots = np.zeros((config.algo.batch_size, self._replay.store.stack), np.int64)
            self._replay.store.gather(slots, self._computer.observations, self._computer.table)
        if self._memory.target is not None:
            self._computer.set_target(self._memory.target)

    def absorb(self, experience: Experience) -> None:
        """Store a block of steps in the replay."""
        replay = self._replay
        self._memory.begin_episodes(experience.firsts)
        nothing_follows = experience.nothing_follows(self._algo.bootstrap_truncated)
        for k, env_index in np.ndindex(experience.actions.shape):
            terminated = bool(nothing_follows[k, env_index])
            truncated = bool(experience.truncated[k, env_index]) and not terminated
            replay.add(
                env_index,
                int(experience.actions[k, env_index]),
                float(experience.rewards[k, env_index]),
                terminated,
                truncated,
                experience.observations[k, env_index],
                float(experience.td_errors[k, env_index]),
            )
            if terminated or truncated:
                replay.start(env_index, experience.starts[k, env_index])

    def learns_at(self, step: int) -> bool:
        """Whether an update follows step number `step`: one per `train_freq` steps after the warm-up."""
        return step > self._memory.learn_from and step % self._algo.train_freq == 0

    def update(self, at: Counters, wait_for_copy: Callable[[], None]) -> None:
        """Make update number `at.updates`, after `at.steps` steps. On a GPU it may go on when this returns."""
        computer, replay = self._computer, self._replay
        if replay.learns_from_errors:
            self.settle()
        beta_now, lr = replay.beta(at.steps), self._config.optimizer.learning_rate(at)
        batch = replay.sample(self._algo.batch_size, beta_now or 0.0)
        replay.store.gather(batch.slots, computer.observations, computer.table)
        replay.store.gather(batch.next_slots, computer.next_observations, computer.table)
        self._under_way.append(_Update(at, lr, beta_now, batch, computer.compute(batch)))
        self.settle(self._ahead)
        wait_for_copy()  # the actor has copied the parameters before they change
        self._optimizer.step(computer.gradient, at.updates, lr)

    def settle(self, ahead: int = 0) -> None:
        """Read the metrics of all updates except the last `ahead`. Raises ChildFailed if one diverged."""
        while len(self._under_way) > ahead:
            at, lr, beta_now, batch, buffers = self._under_way.popleft()
            errors, q_mean, loss, grad_norm = buffers.metrics()
            if not (math.isfinite(grad_norm) and math.isfinite(loss)):
                raise ChildFailed(f"diverged: loss {loss}, gradient norm {grad_norm} at update {at.updates}")
            self._replay.update(batch, errors)
            if at.updates % self._config.log_interval == 0:
                effective_sample_size, sample_age = self._replay.statistics(batch)
                self._send(
                    UpdateRecord(
                        update=at.updates,
                        global_step=at.steps,
                        wall_time_s=self._wall_time_s(),
                        td_loss=loss,
                        q_mean=q_mean,
                        grad_norm=grad_norm,
                        epsilon=self._algo.epsilon(at.steps),
                        beta=beta_now,
                        effective_sample_size=effective_sample_size,
                        sample_age=sample_age,
                        learning_rate=lr,
                    )
                )

    def publish(self) -> None:
        """Copy parameters that were changed on a GPU to where the other processes see them."""
        if self._own is not self._shared:
            self._shared[0].copy_(self._own[0])

    def follow(self) -> None:
        """θ⁻ ← θ, or a step towards it."""
        self._computer.update_target(self._algo.target_tau)

    def state(self, steps: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What a resume needs; see ReplayMemory.state."""
        for shared, own in zip(self._shared, self._own, strict=True):
            if own is not shared:
                shared.copy_(own)
        return self._memory.state(steps, self._computer.target.cpu().numpy())


def learn(send: Send, job: WorkerJob) -> None:
    """The learner's process; with schedule=interleaved it acts, too. It ends at a limit or when the parent says so."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # the moments of units that are never active would slow every step of Adam
    shared, algo = job.shared, job.config.algo
    assert isinstance(algo, DQNConfig)
    learner = Learner(job, send)
    actor: Acting = ActorElsewhere(job.exchange) if job.exchange else ActorHere(Actor(job), job)

    def state() -> ProcessState:
        states = {LEARNER: learner.state(shared.counters().steps)}
        return process_state(states | actor.states())

    for before in rounds(job, send, state):
        # Act: a block of steps, ε-greedily. Store them.
        with naming_divergence(before.updates):
            experience = actor.block(before.steps)
        learner.absorb(experience)

        # Learn: an update every train_freq steps, each from a batch of the replay.
        # Every target_update steps the target network follows: θ⁻ ← θ, or a step towards it.
        updates, steps = 0, before.steps + experience.actions.size
        for step in range(before.steps + 1, steps + 1):
            if learner.learns_at(step):
                updates += 1
                learner.update(Counters(before.updates + updates, steps, before.episodes), actor.wait_for_copy)
            if step % algo.target_update == 0:
                learner.follow()
        if updates:
            learner.settle()
            learner.publish()

        episodes = ended_episodes(experience, before.steps)
        shared.count(experience.actions.size, len(episodes), updates)
        for episode in episodes:
            send(episode._replace(wall_time_s=shared.wall_time_s()))
    if job.exchange:
        job.exchange.close()


def ended_episodes(experience: Experience, step: int) -> list[EpisodeRecord]:
    """The episodes that ended in a block that began after `step` steps, without their time."""
    records = []
    for k, e in np.argwhere(experience.lengths):
        terminated, truncated = bool(experience.terminated[k, e]), bool(experience.cut[k, e])
        global_step = step + int(k) * experience.actions.shape[1] + int(e) + 1
        score = (float(experience.returns[k, e]), int(experience.lengths[k, e]))
        records.append(EpisodeRecord(0, global_step, 0.0, *score, terminated, truncated))
    return records
