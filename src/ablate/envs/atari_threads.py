"""Atari games in threads: ale-py's vector environment, which steps and preprocesses games without Python's lock.

It supports only the preprocessing of Mnih et al. 2015, it cannot be saved, and it cannot step one game alone. So after
a lost life, no action is taken (`AtariGame` plays one step), and the stack of images is not cleared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from ale_py.vector_env import AtariVectorEnv

from ablate.config.schema import AtariConfig
from ablate.envs.games import registered
from ablate.types import Stepped

NO_LIMIT = 10**9  # frames: this class truncates games itself, after a number of steps


class AtariThreads:
    """E games as training sees them; see `kind.SideBySide`."""

    def __init__(self, config: AtariConfig, games: int, max_steps: int) -> None:
        self._envs = AtariVectorEnv(
            registered(config.id).rom,
            games,
            num_threads=min(config.threads, games),
            max_num_frames_per_episode=NO_LIMIT,
            repeat_action_probability=config.sticky_actions,
            full_action_space=config.full_action_space,
            frameskip=config.frame_skip[0],
            noop_max=config.noop_max,
            episodic_life=False,  # ale-py's starts another game after a lost life
            reward_clipping=False,  # ale-py's hides the points, which records need
            use_fire_reset=False,
            autoreset_mode="SameStep",
        )
        self._ends_on_life_loss, self._clips = config.life_loss_terminates, config.clip_rewards
        self._max_steps = max_steps
        self._steps = np.zeros(games, np.int64)  # of the current games
        self._observations, info = self._envs.reset()
        self._lives = info["lives"]
        self._cut = np.zeros(games, np.bool_)  # by the limit; the emulator goes on, so the next reset starts a new game

    def step(self, actions: np.ndarray) -> Iterator[Stepped]:
        self._observations, points, emulator_over, _, info = self._envs.step(actions)
        last = info.get("final_obs", self._observations)
        self._steps += 1
        life_lost = (info["lives"] > 0) & (info["lives"] < self._lives) & ~emulator_over  # as in AtariGame
        self._lives = info["lives"]
        truncated = self._steps >= self._max_steps
        self._cut = truncated & ~emulator_over
        ages = self._steps.copy()
        self._steps[emulator_over] = 0
        terminated = emulator_over | (life_lost & self._ends_on_life_loss & ~truncated)
        rewards = np.sign(points) if self._clips else points
        for e in range(len(emulator_over)):
            game_over = bool(emulator_over[e] or truncated[e])
            observation = _padded(last[e] if emulator_over[e] else self._observations[e], ages[e])
            flags = bool(terminated[e]), bool(truncated[e])
            yield Stepped(observation, float(rewards[e]), *flags, float(points[e]), game_over)

    def reset(self, env_index: int, seed: int | None) -> np.ndarray:
        e = env_index
        if seed is not None or self._cut[e]:
            chosen = np.arange(len(self._cut)) == e
            seeds = None if seed is None else np.array([seed])
            self._observations, info = self._envs.reset(seed=seeds, options={"reset_mask": chosen})
            self._lives[e], self._steps[e], self._cut[e] = info["lives"][e], 0, False
        return _padded(self._observations[e], self._steps[e])

    def save(self) -> list[dict[str, Any]] | None:
        return None

    def restore(self, saved: list[dict[str, Any]]) -> None:
        raise AssertionError("threaded games are never saved")


def _padded(stack: np.ndarray, steps: int) -> np.ndarray:
    """A stack after this many steps of a game: the first image replaces missing ones, which ale-py leaves black."""
    missing = max(0, len(stack) - 1 - int(steps))
    stack[:missing] = stack[missing]
    return stack
