"""Play a frozen policy inside kernels: the same episodes from the same random stream as play.episodes."""

from __future__ import annotations

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
from ablate.config.derived import evaluation_horizon
from ablate.config.schema import Config
from ablate.nn.architecture import Architecture
from ablate.nn.mlp_architecture import MlpArchitecture
from ablate.parallel.heartbeat import beat
from ablate.seeding import draw_seed
from ablate.types import EnvSpec, Score

STEPS_PER_CALL = 10_000  # a few milliseconds


class CompiledPlayer:
    """Plays whole episodes with parameters (P,), with a heartbeat every few milliseconds."""

    def __init__(self, config: Config, spec: EnvSpec, architecture: Architecture) -> None:
        self._module, self._env = environment_of(config.env)
        assert isinstance(architecture, MlpArchitecture)
        self._policy = policy_of(architecture, spec.action, 1)
        self._horizon = evaluation_horizon(config)
        self._sample = config.evaluation.action == "sample"
        self._discrete = spec.action.is_discrete
        self._state = np.zeros(self._module.STATE_SIZE)
        draws_per_step = 1 if self._discrete else len(spec.action.low)
        self._draws = np.zeros(STEPS_PER_CALL * draws_per_step if self._sample else 0)
        # Compile now, before the process's first heartbeat: later it would count as training time, or as a hang.
        self._play(np.zeros(architecture.layout().size, np.float32), np.zeros(1, np.int64), 0, 1)

    def play(
        self, parameters: np.ndarray, episodes: int, rng: np.random.Generator, normalisation: np.ndarray | None = None
    ) -> Iterator[Score]:
        assert normalisation is None  # only games are normalised
        used = np.zeros(1, np.int64)
        for _ in range(episodes):
            env_rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(draw_seed(rng))))
            self._module.reset(self._env, self._state, env_rng.random(self._module.RESET_DRAWS))
            stream = DrawBuffer(rng, rng.random if self._discrete else rng.standard_normal, self._draws, used)
            episodic_return, length, episode_over = 0.0, 0, False
            while not episode_over:
                beat()
                stream.refill()
                rewards, steps, episode_over = self._play(parameters, used, length, self._horizon)
                episodic_return += rewards
                length += steps
            stream.settle()
            yield Score(episodic_return, length)

    def _play(self, parameters: np.ndarray, used: np.ndarray, length: int, horizon: int) -> tuple[float, int, bool]:
        head, network, scratch = self._policy
        return play(
            self._env, head, network, scratch, parameters, self._state, self._draws, used, self._sample, length, horizon
        )


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
