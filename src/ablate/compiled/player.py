"""Play a frozen policy inside kernels: the same episodes from the same random stream as play.episodes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np

from ablate.compiled import dynamics
from ablate.compiled import head as policy
from ablate.compiled.arguments import environment_of, policy_of
from ablate.compiled.draw_buffer import DrawBuffer
from ablate.compiled.head import Head
from ablate.compiled.jit import kernel
from ablate.compiled.loop import Scratch
from ablate.compiled.network import Network, forward
from ablate.compiled.q_network import QNetwork, q_network_of
from ablate.compiled.q_network import forward as forward_q
from ablate.config.derived import evaluation_horizon
from ablate.config.schema import Config
from ablate.nn.architecture import Architecture
from ablate.nn.mlp_architecture import MlpArchitecture
from ablate.nn.q_architecture import QArchitecture
from ablate.parallel.heartbeat import beat
from ablate.seeding import draw_seed, environment_stream
from ablate.types import EnvSpec, Score

STEPS_PER_CALL = 10_000  # a few milliseconds


class _Player(ABC):
    """Plays whole episodes with parameters (P,), with a heartbeat every few milliseconds."""

    def __init__(self, config: Config, architecture: Architecture, draws: int, normal: bool = False) -> None:
        """draws: random numbers that are drawn in advance, of a normal distribution or uniform in [0, 1)."""
        self._module, self._env = environment_of(config.env)
        self._horizon = evaluation_horizon(config)
        self._normal = normal
        self._state = np.zeros(self._module.STATE_SIZE)
        self._draws = np.zeros(draws)
        # Compile now, before the process's first heartbeat: later it would count as training time, or as a hang.
        self._play(np.zeros(architecture.layout().size, np.float32), np.zeros(1, np.int64), 0, 1)

    def play(
        self, parameters: np.ndarray, episodes: int, rng: np.random.Generator, normalisation: np.ndarray | None = None
    ) -> Iterator[Score]:
        assert normalisation is None  # only games are normalised
        used = np.zeros(1, np.int64)
        for _ in range(episodes):
            env_rng = environment_stream(draw_seed(rng))
            self._module.reset(self._env, self._state, env_rng.random(self._module.RESET_DRAWS))
            stream = DrawBuffer(rng, rng.standard_normal if self._normal else rng.random, self._draws, used)
            episodic_return, length, episode_over = 0.0, 0, False
            while not episode_over:
                beat()
                stream.refill()
                rewards, steps, episode_over = self._play(parameters, used, length, self._horizon)
                episodic_return += rewards
                length += steps
            stream.settle()
            yield Score(episodic_return, length)

    @abstractmethod
    def _play(self, parameters: np.ndarray, used: np.ndarray, length: int, horizon: int) -> tuple[float, int, bool]:
        """Up to STEPS_PER_CALL steps; see `play`."""


class CompiledPlayer(_Player):
    """For A3C's policies."""

    def __init__(self, config: Config, spec: EnvSpec, architecture: Architecture) -> None:
        assert isinstance(architecture, MlpArchitecture)
        self._policy = policy_of(architecture, spec.action, 1)
        self._sample = config.evaluation.action == "sample"
        draws = STEPS_PER_CALL * (len(spec.action.low) or 1) if self._sample else 0
        super().__init__(config, architecture, draws, normal=not spec.action.is_discrete)

    def _play(self, parameters: np.ndarray, used: np.ndarray, length: int, horizon: int) -> tuple[float, int, bool]:
        head, network, scratch = self._policy
        return play(
            self._env, head, network, scratch, parameters, self._state, self._draws, used, self._sample, length, horizon
        )


class CompiledQPlayer(_Player):
    """For action values, ε-greedily if evaluation.action=sample."""

    def __init__(self, config: Config, spec: EnvSpec, architecture: Architecture) -> None:
        assert isinstance(architecture, QArchitecture)
        self._network = q_network_of(architecture)
        self._activations, self._action = np.zeros(self._network.rows, np.float32), np.zeros(1, np.float32)
        sample = config.evaluation.action == "sample"
        self._epsilon = config.algo.evaluation_epsilon if sample else -1.0
        super().__init__(config, architecture, 2 * STEPS_PER_CALL if sample else 0)

    def _play(self, parameters: np.ndarray, used: np.ndarray, length: int, horizon: int) -> tuple[float, int, bool]:
        return play_q(
            self._env, self._network, self._activations, self._action, parameters, self._state, self._draws, used,
            self._epsilon, length, horizon,
        )  # fmt: skip


@kernel
def play(
    env: Any,
    head: Head,
    network: Network,
    scratch: Scratch,
    theta: np.ndarray,
    state: np.ndarray,
    draws: np.ndarray,
    used: np.ndarray,
    sample: bool,
    length: int,
    horizon: int,
) -> tuple[float, int, bool]:
    """Continue an episode that has `length` steps. Returns (sum of rewards, steps, whether the episode is over)."""
    rewards, steps = 0.0, 0
    n_draws = policy.draws(head)
    while steps < STEPS_PER_CALL:
        dynamics.observe(env, state, scratch.activations[: network.observation])
        forward(network.torso, network.activation, theta, scratch.activations, 0, 1)
        forward(network.actor, network.activation, theta, scratch.activations, 0, 1)
        dist_params, action = scratch.dist_params[0], scratch.actions[0]
        policy.compute_dist_params(head, scratch.activations[network.z : network.z + network.outputs], dist_params)
        if sample:
            policy.draw(head, dist_params, draws[used[0] : used[0] + n_draws], action)
            used[0] += n_draws
        else:
            policy.mode(head, dist_params, action)
        policy.to_env(head, action, scratch.env_action)
        reward, terminated = dynamics.step(env, state, scratch.env_action)
        rewards += reward
        steps += 1
        if terminated or (horizon > 0 and length + steps >= horizon):
            return rewards, steps, True
    return rewards, steps, False


@kernel
def play_q(
    env: Any,
    network: QNetwork,
    activations: np.ndarray,
    env_action: np.ndarray,
    theta: np.ndarray,
    state: np.ndarray,
    draws: np.ndarray,
    used: np.ndarray,
    epsilon: float,
    length: int,
    horizon: int,
) -> tuple[float, int, bool]:
    """As `play`, by action values. epsilon: the probability of a random action; below 0: nothing is drawn."""
    rewards, steps = 0.0, 0
    while steps < STEPS_PER_CALL:
        explores = False
        if epsilon >= 0.0:
            explores = draws[used[0]] < epsilon
            used[0] += 1
        if explores:
            action = int(draws[used[0]] * network.actions)
            used[0] += 1
        else:
            dynamics.observe(env, state, activations[: network.observation])
            forward_q(network, theta, activations, 1)
            action = 0
            for j in range(1, network.actions):
                if activations[network.q + j] > activations[network.q + action]:
                    action = j
        env_action[0] = action
        reward, terminated = dynamics.step(env, state, env_action)
        rewards += reward
        steps += 1
        if terminated or (horizon > 0 and length + steps >= horizon):
            return rewards, steps, True
    return rewards, steps, False
