"""DQN's actor: it plays E environments ε-greedily, a block of steps at a time, in the learner's or its own process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from ablate.algos.dqn.spec import ACTOR, DQNConfig, make_exchange
from ablate.algos.job import WorkerJob, process_state, restoring
from ablate.algos.rounds import Send
from ablate.envs.make import kind_of
from ablate.nn.q_acting import QActing
from ablate.parallel.exchange import Exchange, wait
from ablate.parallel.heartbeat import beat
from ablate.parallel.supervisor import ChildFailed
from ablate.schedules import due
from ablate.seeding import Role, draw_seed, generator, restore, state_of
from ablate.types import Experience


class Actor:
    """The environments, the episodes under way in them, and the random streams."""

    def __init__(self, job: WorkerJob) -> None:
        config, spec, architecture = job.config, job.spec, job.architecture
        resumed, starts = job.resumed.get(ACTOR), job.starts
        assert isinstance(config.algo, DQNConfig)
        self._algo, self._action_start = config.algo, spec.action.start
        self._reward_shift, self._reward_scale = config.env.reward_shift, config.env.reward_scale
        self._every_steps = config.evaluation.every_steps if config.algo.reset_after_evaluation else None
        self._wants_td_errors = config.replay is not None and config.replay.wants_td_errors
        E = config.envs_per_worker
        self._envs = kind_of(config.env).make_side_by_side(config.env, E)
        self._rng = generator(config.seed, Role.action, 0)
        # If the old episodes could not be saved, new ones begin after a resume, on a stream of their own.
        self._reset_rng = generator(config.seed, Role.environment, 0, *([starts] if starts else []))
        self.parameters = np.zeros(architecture.layout().size, np.float32)  # a copy, for the block under way
        self._network: QActing = architecture.acting(self.parameters, spec.action, E)
        assert spec.action.n is not None
        self._actions = spec.action.n
        self.observations = np.zeros((E, *spec.observation_shape), spec.observation_dtype)  # to act on next
        self._returns, self._lengths = [0.0] * E, [0] * E  # of the episodes under way, raw
        self._random_left = [0] * E  # random steps of a noisy start that are left
        if resumed:
            saved = resumed.state
            with restoring(ACTOR):
                restore(self._rng, saved["action_rng"])
                if saved["env"] is not None:
                    self._envs.restore(saved["env"])
                    restore(self._reset_rng, saved["reset_rng"])
                    for e in range(E):
                        self._returns[e], self._lengths[e] = float(saved["returns"][e]), int(saved["lengths"][e])
                        self._random_left[e] = int(saved["random_left"][e])
                    self.observations[:] = resumed.tensor("observations", self.observations.shape)
                    return
        for e in range(E):
            self.observations[e] = self._begin(e, new=True)

    def _begin(self, e: int, new: bool) -> np.ndarray:
        """The first observation of an episode. new: a new game, not the same game after a lost life."""
        observation = self._envs.reset(e, draw_seed(self._reset_rng) if new else None)
        if self._algo.noisy_start:
            self._random_left[e] = int(self._rng.random() * (self._algo.noisy_start + 1))
        return observation

    def act(self, out: Experience, step: int) -> None:
        """Act with `parameters` for (K, E) steps, the first of which is number `step`, and write them to `out`."""
        algo, E = self._algo, len(self._returns)
        out.firsts[:] = self.observations
        known: np.ndarray | None = None  # Q of the next observations, if a TD error needed it already
        for k in range(len(out.actions)):
            actions, values = self._choose(algo.epsilon(step), known)
            cut_off = due(self._every_steps, step, step + E)
            for e, stepped in enumerate(self._envs.step(actions + self._action_start)):
                beat()
                observation, reward, terminated, truncated, raw_reward, scored_end = stepped
                self._returns[e] += raw_reward
                self._lengths[e] += 1
                out.observations[k, e] = observation
                out.actions[k, e] = actions[e]
                out.rewards[k, e] = (reward + self._reward_shift) / self._reward_scale
                out.terminated[k, e], out.truncated[k, e] = terminated, truncated or cut_off
                out.returns[k, e], out.lengths[k, e], out.cut[k, e] = 0.0, 0, truncated
                if scored_end:
                    out.returns[k, e], out.lengths[k, e] = self._returns[e], self._lengths[e]
                if scored_end or cut_off:
                    self._returns[e], self._lengths[e] = 0.0, 0
                self.observations[e] = observation
                if terminated or truncated or cut_off:
                    self.observations[e] = out.starts[k, e] = self._begin(e, new=cut_off)
            if values is not None:
                following = self._network.q_values(out.observations[k])
                out.td_errors[k] = self._td_errors(out, k, values, following)
                known = following if np.array_equal(out.observations[k], self.observations) else None
            step += E

    def _choose(self, epsilon: float, known: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        """ε-greedy actions (E,), and the values Q (E, n) if new transitions need their TD errors."""
        E, n = len(self._returns), self._actions
        # only numbers in [0, 1): kernels draw those in advance
        explores = self._rng.random(E) < epsilon
        random = (self._rng.random(E) * n).astype(np.int64)
        for e in range(E):
            if self._random_left[e]:
                self._random_left[e] -= 1
                explores[e] = True
        if explores.all() and not self._wants_td_errors:
            return random, None
        values = self._network.q_values(self.observations) if known is None else known
        if not np.isfinite(values).all():
            raise FloatingPointError(f"action values {values[0]}")
        return np.where(explores, random, values.argmax(1)), values if self._wants_td_errors else None

    def _td_errors(self, out: Experience, k: int, values: np.ndarray, following: np.ndarray) -> np.ndarray:
        """δ of step k in each environment, (E,), by the network that acted: the first priorities in S3."""
        discounts = np.where(out.nothing_follows(self._algo.bootstrap_truncated)[k], 0.0, self._algo.gamma)
        errors = out.rewards[k] + discounts * following.max(1) - values[np.arange(len(values)), out.actions[k]]
        if not np.isfinite(errors).all():
            raise FloatingPointError(f"TD errors {errors}")
        return np.asarray(errors)

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What a resume needs: JSON values, and tensors by name."""
        values = {
            "action_rng": state_of(self._rng),
            "reset_rng": state_of(self._reset_rng),
            "env": self._envs.save(),
            "returns": list(self._returns),
            "lengths": list(self._lengths),
            "random_left": list(self._random_left),
        }
        return values, {"observations": self.observations.copy()}


States = dict[int, tuple[dict[str, Any], dict[str, np.ndarray]]]  # by member: JSON values, and tensors by name


class Acting(Protocol):
    """What the learner needs of an actor, in whichever process it lives."""

    def block(self, step: int) -> Experience:
        """The next block, whose first step is number `step`. Valid until the next is asked for."""
        ...

    def wait_for_copy(self) -> None:
        """Return once the parameters may be changed."""
        ...

    def states(self) -> States:
        """The actor's state, if this process saves it."""
        ...


class ActorHere:
    """schedule=interleaved: a block is acted when it is asked for, with the parameters as they are then."""

    def __init__(self, actor: Actor, job: WorkerJob) -> None:
        self._actor = actor
        self._theta = job.shared.parameters_view()
        self._block = make_exchange(job.config, job.spec).experience()

    def block(self, step: int) -> Experience:
        self._actor.parameters[:] = self._theta
        self._actor.act(self._block, step)
        return self._block

    def wait_for_copy(self) -> None:
        pass

    def states(self) -> States:
        return {ACTOR: self._actor.state()}


class ActorElsewhere:
    """schedule=async: while the learner learns from a block, the actor's process acts the next one."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._experience = exchange.experience()

    def block(self, step: int) -> Experience:
        if not self._exchange.begun:
            self._exchange.ask(step)
        while not self._exchange.done:
            beat()
            wait()
        # a copy, as the next block begins at once
        experience = Experience(*(array.copy() for array in self._experience))
        self._exchange.ask(step + experience.actions.size)
        return experience

    def wait_for_copy(self) -> None:
        while not self._exchange.copied:
            wait()

    def states(self) -> States:
        self._exchange.ask_state()  # the actor's process sends its own
        return {}


@contextlib.contextmanager
def naming_divergence(updates: int) -> Iterator[None]:
    """Action values that are not finite fail the run, with the number of the update that follows."""
    try:
        yield
    except FloatingPointError as error:
        raise ChildFailed(f"diverged: {error} at update {updates + 1}") from error


def act(send: Send, job: WorkerJob) -> None:
    """The actor's process: blocks as they are asked for."""
    import torch

    torch.set_num_threads(1)
    assert job.exchange is not None
    exchange, shared = job.exchange, job.shared
    actor = Actor(job)
    theta = shared.parameters_view()
    experience = exchange.experience()
    states_sent = 0
    while not exchange.closed or exchange.asked or exchange.states_asked > states_sent:
        beat()
        if exchange.asked:
            actor.parameters[:] = theta
            exchange.note_copied()
            with naming_divergence(shared.counters().updates):
                actor.act(experience, exchange.step)
            exchange.note_done()
        elif exchange.states_asked > states_sent:
            states_sent = exchange.states_asked
            values, tensors = actor.state()
            values["begun"] = exchange.begun
            block = {f"block.{name}": array.copy() for name, array in experience._asdict().items()}
            send(process_state({ACTOR: (values, tensors | block)}))
        else:
            wait()
