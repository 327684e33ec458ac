"""An A3C worker with E environments side by side and a network for images: one forward pass for all of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ablate.algos.a3c.conv_gradients import CONV_BACKENDS
from ablate.algos.a3c.gradients import LossSettings
from ablate.algos.a3c.spec import A3CConfig
from ablate.algos.job import WorkerJob, restoring
from ablate.config.derived import device_of
from ablate.envs.make import kind_of, make_env
from ablate.envs.placeholders import numbered
from ablate.envs.preprocessing import RunningNormalisation
from ablate.nn.acting import draw_categorical
from ablate.parallel.heartbeat import beat
from ablate.seeding import Role, draw_seed, generator, restore, state_of
from ablate.types import EpisodeRecord, Rollout


class GameWorker:
    """What `worker.Worker` is for vectors. With one game, a rollout ends with the game; with several, it goes on.

    The running normalisation is in shared memory, one row per worker, so that evaluation can read it."""

    def __init__(self, index: int, job: WorkerJob) -> None:
        config, spec, architecture = job.config, job.spec, job.architecture
        assert isinstance(config.algo, A3CConfig)
        self.index = index
        self._algo = config.algo
        self._reward_shift, self._reward_scale = config.env.reward_shift, config.env.reward_scale
        self._games = E = config.envs_per_worker
        self.computer = CONV_BACKENDS[str(config.backend)](
            architecture, E, config.algo.t_max, LossSettings.of(config.algo), device_of(config, index),
            precision=str(config.precision),
        )  # fmt: skip
        self._envs = [make_env(numbered(config.env, index * E + e)) for e in range(E)]
        self._env_kind = kind_of(config.env)
        self._first_action = spec.action.start
        normalised = self._envs[0].get_wrapper_attr("preprocessor").pipeline.normalised
        self._normalisation = RunningNormalisation(job.shared.normalisation_view()[index]) if normalised else None
        self._action_rng = generator(config.seed, Role.action, index)
        t_max = config.algo.t_max
        self._observations = np.zeros((t_max + 1, E, *spec.observation_shape), spec.observation_dtype)
        self._firsts = np.zeros((t_max + 1, E), np.bool_)
        self._actions = np.zeros((t_max, E), np.int64)
        self._rewards = np.zeros((t_max, E), np.float32)
        self._discounts = np.zeros((t_max, E), np.float32)
        self._returns, self._lengths = [0.0] * E, [0] * E  # of the games under way, raw rewards
        self._at = 0  # the row that holds the newest observations
        self.pulled_at = 0  # updates made by all workers when this one last pulled

        resumed = job.resumed.get(index)
        saved = resumed.state if resumed else {}
        if resumed:
            with restoring(index):
                restore(self._action_rng, saved["action_rng"])
        if resumed and saved["env"] is not None:
            with restoring(index):
                for env, state in zip(self._envs, saved["env"], strict=True):
                    self._env_kind.restore(env, state)
                for e in range(E):
                    self._returns[e], self._lengths[e] = float(saved["returns"][e]), int(saved["lengths"][e])
                self._observations[0] = resumed.tensor("observations", self._observations[0].shape)
                self._firsts[0] = resumed.tensor("firsts", self._firsts[0].shape)
                self.computer.set_state(resumed.tensor("lstm", self.computer.state.shape))
        else:  # new episodes; after a resume, on a stream of their own
            rng = generator(config.seed, Role.environment, index, *([job.starts] if job.starts else []))
            for e, env in enumerate(self._envs):
                self._observe(0, e, env.reset(seed=draw_seed(rng))[0], first=True)

    def _observe(self, t: int, e: int, observation: np.ndarray, first: bool) -> None:
        """Put the newest observation of game e into row t, normalised with the statistics so far."""
        if self._normalisation is None:
            self._observations[t, e] = observation
        else:
            self._normalisation.update(observation)
            self._normalisation.apply(observation, self._observations[t, e])
        self._firsts[t, e] = first

    def pull(self, shared_parameters: Any, updates: int) -> None:
        """θ' ← θ."""
        self.computer.parameters.copy_(shared_parameters)
        self.pulled_at = updates

    def collect(self, limit: int) -> tuple[Rollout, list[EpisodeRecord]]:
        """Act for t_max steps in each game, at most `limit` in all. The records of ended games lack step and time."""
        self._observations[0], self._firsts[0] = self._observations[self._at], self._firsts[self._at]
        self.computer.start()
        ended: list[EpisodeRecord] = []
        T = min(self._algo.t_max, -(-limit // self._games))
        for t in range(T):
            logits, _ = self.computer.step(t, self._observations[t], self._firsts[t])
            cut = []  # games whose episode the time limit cut, with the last observation
            for e, env in enumerate(self._envs):
                beat()
                action = draw_categorical(logits[e], self._action_rng)
                observation, reward, terminated, truncated, info = env.step(self._first_action + action)
                self._actions[t, e] = action
                self._rewards[t, e] = (float(reward) + self._reward_shift) / self._reward_scale
                self._discounts[t, e] = 0.0 if terminated or truncated else self._algo.gamma
                raw_reward, ended_score = self._env_kind.outcome(float(reward), terminated, truncated, info)
                self._returns[e] += raw_reward
                self._lengths[e] += 1
                if ended_score:
                    length = self._lengths[e]
                    record = (self.index, 0, 0.0, self._returns[e], length, terminated, truncated)
                    ended.append(EpisodeRecord(*record))
                    self._returns[e], self._lengths[e] = 0.0, 0
                if truncated and not terminated and self._algo.bootstrap_truncated:
                    cut.append((e, observation))
                if terminated or truncated:
                    observation = env.reset()[0]
                self._observe(t + 1, e, observation, first=terminated or truncated)
            if cut:
                self._bootstrap(t, cut)
            if self._games == 1 and self._firsts[t + 1, 0]:  # as in the source reports
                T = t + 1
                break
        self._at = T
        self.computer.step(T, self._observations[T], self._firsts[T])  # for the values to bootstrap from
        return self._rollout(T), ended

    def _bootstrap(self, t: int, cut: list[tuple[int, np.ndarray]]) -> None:
        """Replace r_t by r_t + γ V(s_t) if the time limit cut an episode: row t + 1 holds the start of the next one."""
        last, firsts = self._observations[t + 1].copy(), self._firsts[t + 1].copy()
        for e, observation in cut:
            if self._normalisation is None:
                last[e] = observation
            else:
                self._normalisation.apply(observation, last[e])
            firsts[e] = False
        _, values = self.computer.step(t + 1, last, firsts)  # this row is stepped again with its real content
        for e, _ in cut:
            self._rewards[t, e] += self._algo.gamma * values[e]

    def _rollout(self, T: int) -> Rollout:
        return Rollout(
            self._observations[: T + 1],
            self._firsts[: T + 1],
            self._actions[:T],
            self._rewards[:T],
            self._discounts[:T],
        )

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What a resume needs: JSON values, and tensors by name."""
        states = [self._env_kind.save(env) for env in self._envs]
        values = {
            "pulled_at": self.pulled_at,
            "action_rng": state_of(self._action_rng),
            "env": None if None in states else states,
            "returns": list(self._returns),
            "lengths": list(self._lengths),
        }
        tensors = {
            "parameters": self.computer.parameters.cpu().numpy().copy(),
            "observations": self._observations[self._at].copy(),
            "firsts": self._firsts[self._at].copy(),
            "lstm": self.computer.state.copy(),
        }
        return values, tensors
