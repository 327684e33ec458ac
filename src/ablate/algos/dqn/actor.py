"""DQN's actor: E environments played ε-greedily, a block of steps at a time, in the learner's process or in its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from ablate.algos.job import WorkerJob, make_exchange, process_state
from ablate.config.choices import NewPriority
from ablate.config.schema import Config, DQNConfig, PrioritizedConfig
from ablate.envs.side_by_side import make_side_by_side
from ablate.nn.architecture import architecture_of
from ablate.nn.q_acting import QActing
from ablate.parallel.exchange import Exchange, wait
from ablate.parallel.supervisor import ChildFailed
from ablate.play.evaluator import due
from ablate.schedules import epsilon
from ablate.seeding import Role, draw_seed, generator, restore, state_of
from ablate.types import EnvSpec, Experience, ProcessState

ACTOR = 1  # whose state it is in a checkpoint


class Actor:
    """The environments, the episodes under way in them, and the streams of chance. `resumed`: what `state` gave."""

    def __init__(self, config: Config, spec: EnvSpec, resumed: ProcessState | None, starts: int) -> None:
        assert isinstance(config.algo, DQNConfig)
        architecture = architecture_of(config.model, spec)
        self._algo, self._action_start = config.algo, spec.action.start
        self._reward_shift, self._reward_scale = config.env.reward_shift, config.env.reward_scale
        self._every_steps = config.evaluation.every_steps if config.algo.reset_after_evaluation else None
        self._wants_td_errors = (
            isinstance(config.replay, PrioritizedConfig) and config.replay.new_priority == NewPriority.td_error
        )
        E = config.envs_per_worker
        self._envs = make_side_by_side(config.env, E)
        self._rng = generator(config.seed, Role.action, 0)
        # after a resume new episodes begin on a stream of their own, where the old ones could not be saved
        self._reset_rng = generator(config.seed, Role.environment, 0, *([starts] if starts else []))
        self.parameters = np.zeros(architecture.layout().size, np.float32)  # a copy, of the block under way
        self._network: QActing = architecture.acting(self.parameters, spec.action, E)
        assert spec.action.n is not None
        self._actions = spec.action.n
        self.observations = np.zeros((E, *spec.observation_shape), spec.observation_dtype)  # what is acted on next
        self._returns, self._lengths = [0.0] * E, [0] * E  # of the episodes under way, raw
        self._random_left = [0] * E  # steps of a noisy start that are still to come
        if resumed:
            saved = resumed.state
            restore(self._rng, saved["action_rng"])
            if saved["env"] is not None:
                self._envs.restore(saved["env"])
                restore(self._reset_rng, saved["reset_rng"])
                self._returns, self._lengths = saved["returns"], saved["lengths"]
                self._random_left = saved["random_left"]
                self.observations[:] = resumed.tensors["observations"]
                return
        for e in range(E):
            self.observations[e] = self._begin(e, new=True)

    def _begin(self, e: int, new: bool) -> np.ndarray:
        """The first observation of an episode; `new`: not the same game after a lost life."""
        observation = self._envs.reset(e, draw_seed(self._reset_rng) if new else None)
        if self._algo.noisy_start:
            self._random_left[e] = int(self._rng.integers(self._algo.noisy_start + 1))
        return observation

    def act(self, out: Experience, step: int, beat: Callable[[], None]) -> None:
        """Act with `parameters` and write it to `out`, (K, E) steps the first of which is number `step`."""
        algo, E = self._algo, len(self._returns)
        out.firsts[:] = self.observations
        known: np.ndarray | None = None  # the values of what is acted on next, where a TD error has asked for them
        for k in range(len(out.actions)):
            actions, values = self._choose(epsilon(algo, step), known)
            cut_off = due(self._every_steps, step, step + E)
            for e, stepped in enumerate(self._envs.step(actions + self._action_start)):
                beat()
                observation, reward, terminated, truncated, raw_reward, over = stepped
                self._returns[e] += raw_reward
                self._lengths[e] += 1
                out.observations[k, e] = observation
                out.actions[k, e] = actions[e]
                out.rewards[k, e] = (reward + self._reward_shift) / self._reward_scale
                out.terminated[k, e] = terminated or (truncated and not algo.bootstrap_truncated)
                out.truncated[k, e] = (truncated or cut_off) and not out.terminated[k, e]
                out.returns[k, e], out.lengths[k, e], out.cut[k, e] = 0.0, 0, truncated
                if over:
                    out.returns[k, e], out.lengths[k, e] = self._returns[e], self._lengths[e]
                if over or cut_off:
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
        """ε-greedy actions (E,), and the values (E, n) that they were chosen by if somebody wants them."""
        E, n = len(self._returns), self._actions
        explores = self._rng.random(E) < epsilon
        random = self._rng.integers(n, size=E)
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
        """δ of step k in each environment, (E,), by the network that acted: the report's first priorities."""
        discounts = np.where(out.terminated[k], 0.0, self._algo.gamma)
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


class Acting(Protocol):
    """What the learner has of an actor, wherever it lives."""

    def block(self, step: int) -> Experience:
        """What came of the next block, whose first step is number `step`. Valid until the next is asked for."""
        ...

    def wait_for_copy(self) -> None:
        """Return once the parameters may be changed."""
        ...


class ActorHere:
    """schedule=interleaved: a block is acted when it is asked for, with the parameters as they are then."""

    def __init__(
        self, actor: Actor, config: Config, spec: EnvSpec, theta: np.ndarray, beat: Callable[[], None]
    ) -> None:
        self.actor = actor
        self._theta, self._beat = theta, beat
        self._out = make_exchange(config, spec).experience()

    def block(self, step: int) -> Experience:
        self.actor.parameters[:] = self._theta
        self.actor.act(self._out, step, self._beat)
        return self._out

    def wait_for_copy(self) -> None:
        pass


class ActorElsewhere:
    """schedule=async: while the learner learns from a block, the actor's process acts the next one."""

    def __init__(self, exchange: Exchange, beat: Callable[[], None]) -> None:
        self._exchange, self._beat = exchange, beat
        self._experience = exchange.experience()

    def block(self, step: int) -> Experience:
        if not self._exchange.begun:
            self._exchange.ask(step)
        while not self._exchange.done:
            self._beat()
            wait()
        # out of the way of the next block, which begins at once
        experience = Experience(*(array.copy() for array in self._experience))
        self._exchange.ask(step + experience.actions.size)
        return experience

    def wait_for_copy(self) -> None:
        while not self._exchange.copied:
            wait()


def act(send: Callable[[Any], None], job: WorkerJob) -> None:
    """The actor's process: blocks as they are asked for."""
    import torch

    torch.set_num_threads(1)
    assert job.exchange is not None
    exchange, shared = job.exchange, job.shared
    resumed = job.resumed.get(ACTOR)
    actor = Actor(job.config, job.spec, resumed, job.starts)
    theta = shared.parameters_view()
    experience = exchange.experience()
    states_sent = 0

    def beat() -> None:
        shared.beat(job.process)

    while True:
        beat()
        if exchange.asked:
            actor.parameters[:] = theta
            exchange.note_copied()
            try:
                actor.act(experience, exchange.step, beat)
            except FloatingPointError as error:
                raise ChildFailed(f"diverged: {error} at update {shared.counters().updates + 1}") from error
            exchange.note_done()
        elif exchange.states_asked > states_sent:
            states_sent = exchange.states_asked
            values, tensors = actor.state()
            values["begun"] = exchange.begun
            block = {f"block.{name}": array.copy() for name, array in experience._asdict().items()}
            send(process_state({ACTOR: (values, tensors | block)}, 0))
        elif exchange.closed:
            return
        else:
            wait()
