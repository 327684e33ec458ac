"""A reference replay: it keeps whole observations in lists and computes everything with plain loops."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ablate.replay.transitions import Replay

FRAME = (2, 3)


class NaiveTransition(NamedTuple):
    observation: np.ndarray
    action: int
    n_step_return: float
    discount: float
    next_observation: np.ndarray


@dataclass
class Episode:
    first_frame: int  # number of frames that its environment had stored before
    fillers: int  # stored frames of the first observation, without its newest
    observations: list[np.ndarray]  # (S, H, W) each, from the environment
    actions: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    end: str = ""  # terminated, truncated, or empty while the episode goes on


class NaiveReplay:
    def __init__(self, environments: int, ring_length: int, stack: int, n_step: int, gamma: float) -> None:
        self.ring_length, self.stack, self.n_step, self.gamma = ring_length, stack, n_step, gamma
        self.episodes: list[list[Episode]] = [[] for _ in range(environments)]
        self.stored = [0] * environments
        self.steps = 0

    def start(self, env_index: int, observation: np.ndarray, fillers: int) -> None:
        if self.episodes[env_index] and not self.episodes[env_index][-1].end:
            self.episodes[env_index][-1].end = "truncated"
        self.episodes[env_index].append(Episode(self.stored[env_index], fillers, [observation]))
        self.stored[env_index] += fillers + 1

    def add(self, env_index: int, action: int, reward: float, end: str, observation: np.ndarray) -> None:
        self.steps += 1
        episode = self.episodes[env_index][-1]
        episode.observations.append(observation)
        episode.actions.append(action)
        episode.rewards.append(reward)
        episode.times.append(self.steps)
        episode.end = end
        self.stored[env_index] += end != "terminated"

    def transitions(self) -> dict[int, NaiveTransition]:
        """All transitions that may be drawn, by the number of their step."""
        transitions = {}
        for env_index, episodes in enumerate(self.episodes):
            oldest = self.stored[env_index] - self.ring_length
            for episode in episodes:
                for t, time in enumerate(episode.times):
                    newest = episode.first_frame + episode.fillers + t
                    whole = max(newest - self.stack + 1, episode.first_frame) >= oldest
                    if whole and (transition := self._transition(episode, t)):
                        transitions[time] = transition
        return transitions

    def _transition(self, episode: Episode, t: int) -> NaiveTransition | None:
        steps = len(episode.actions)
        if t + self.n_step > steps and not episode.end:
            return None
        last = min(t + self.n_step, steps)
        n_step_return = sum(self.gamma ** (k - t) * episode.rewards[k] for k in range(t, last))
        terminal = last == steps and episode.end == "terminated"
        return NaiveTransition(
            episode.observations[t],
            episode.actions[t],
            n_step_return,
            0.0 if terminal else self.gamma ** (last - t),
            episode.observations[last],
        )


class Driver:
    """Plays the same random episodes into replays and the naive one. Vectors have a stack of one."""

    def __init__(self, seed: int, *replays: Replay) -> None:
        self.replays, self.replay = [*replays], replays[0]
        store = self.replay.store
        self.vectors, self.stack = store.frames.dtype == np.float32, store.stack
        self.naive = NaiveReplay(
            store.environments, store.ring_length, store.stack, self.replay.n_step, self.replay.gamma
        )
        self.rng = np.random.default_rng(seed)
        self.observations: list[np.ndarray | None] = [None] * store.environments  # current ones; None between episodes

    def play(self, env_index: int, event: str) -> None:
        """event: `step`, `terminated`, `truncated`, or `restart` (mid-episode). Starts an episode if there is none."""
        observation = self.observations[env_index]
        if observation is None or event == "restart":
            observation = self._frames(self.stack)
            missing = int(self.rng.integers(self.stack))
            observation[:missing] = observation[missing]
            self.observations[env_index] = observation
            for replay in self.replays:
                replay.start(env_index, self._seen(observation))
            self.naive.start(env_index, self._seen(observation), self.stack - 1 - missing)
        if event != "restart":
            observation = np.concatenate([observation[1:], self._frames(1)])
            action, reward = int(self.rng.integers(5)), float(self.rng.normal())
            terminated, truncated = event == "terminated", event == "truncated"
            error = float(self.rng.normal())
            for replay in self.replays:
                replay.add(env_index, action, reward, terminated, truncated, self._seen(observation), error)
            self.naive.add(env_index, action, reward, event if terminated or truncated else "", self._seen(observation))
            self.observations[env_index] = None if terminated or truncated else observation

    def play_randomly(self, events: int) -> None:
        for _ in range(events):
            env_index = int(self.rng.integers(len(self.observations)))
            event = self.rng.choice(["step", "terminated", "truncated", "restart"], p=[0.8, 0.1, 0.05, 0.05])
            self.play(env_index, str(event))

    def _frames(self, count: int) -> np.ndarray:
        if self.vectors:
            return self.rng.random((count, 3), np.float32)
        return self.rng.integers(256, size=(count, *FRAME), dtype=np.uint8)

    def _seen(self, observation: np.ndarray) -> np.ndarray:
        return observation[0] if self.vectors else observation.copy()
