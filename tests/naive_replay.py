"""A replay that keeps whole observations in lists and computes everything in plain loops: what the real one must give."""

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
    first_frame: int  # how many frames its lane had stored before
    fillers: int  # stored of the first observation beside its newest frame
    observations: list[np.ndarray]  # (S, H, W) each, as the environment gave them
    actions: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    end: str = ""  # or terminated, truncated


class NaiveReplay:
    def __init__(self, lanes: int, lane_length: int, stack: int, n_step: int, gamma: float) -> None:
        self.lane_length, self.stack, self.n_step, self.gamma = lane_length, stack, n_step, gamma
        self.lanes: list[list[Episode]] = [[] for _ in range(lanes)]
        self.stored = [0] * lanes
        self.steps = 0

    def start(self, lane: int, observation: np.ndarray, fillers: int) -> None:
        if self.lanes[lane] and not self.lanes[lane][-1].end:
            self.lanes[lane][-1].end = "truncated"
        self.lanes[lane].append(Episode(self.stored[lane], fillers, [observation]))
        self.stored[lane] += fillers + 1

    def add(self, lane: int, action: int, reward: float, end: str, observation: np.ndarray) -> None:
        self.steps += 1
        episode = self.lanes[lane][-1]
        episode.observations.append(observation)
        episode.actions.append(action)
        episode.rewards.append(reward)
        episode.times.append(self.steps)
        episode.end = end
        self.stored[lane] += end != "terminated"

    def transitions(self) -> dict[int, NaiveTransition]:
        """All that can be drawn, by the number of their step."""
        found = {}
        for lane, episodes in enumerate(self.lanes):
            oldest = self.stored[lane] - self.lane_length
            for episode in episodes:
                for t, time in enumerate(episode.times):
                    newest = episode.first_frame + episode.fillers + t
                    whole = max(newest - self.stack + 1, episode.first_frame) >= oldest
                    if whole and (transition := self._transition(episode, t)):
                        found[time] = transition
        return found

    def _transition(self, episode: Episode, t: int) -> NaiveTransition | None:
        steps = len(episode.actions)
        if t + self.n_step > steps and not episode.end:
            return None
        last = min(t + self.n_step, steps)
        n_step_return = sum(self.gamma ** (k - t) * episode.rewards[k] for k in range(t, last))
        over = last == steps and episode.end == "terminated"
        return NaiveTransition(
            episode.observations[t],
            episode.actions[t],
            n_step_return,
            0.0 if over else self.gamma ** (last - t),
            episode.observations[last],
        )


class Driver:
    """Plays the same random episodes into replays and the naive one. Vectors: a stack of one."""

    def __init__(self, seed: int, *replays: Replay) -> None:
        self.replays, self.replay = [*replays], replays[0]
        store = self.replay.store
        self.vectors, self.stack = store.frames.dtype == np.float32, store.stack
        self.naive = NaiveReplay(store.lanes, store.lane_length, store.stack, self.replay.n_step, self.replay.gamma)
        self.rng = np.random.default_rng(seed)
        self.observations: list[np.ndarray | None] = [None] * store.lanes  # of the episodes under way

    def play(self, lane: int, event: str) -> None:
        """`step`, `terminated`, `truncated`, or `restart` in mid-episode. Starts an episode where there is none."""
        observation = self.observations[lane]
        if observation is None or event == "restart":
            observation = self._frames(self.stack)
            missing = int(self.rng.integers(self.stack))
            observation[:missing] = observation[missing]
            self.observations[lane] = observation
            for replay in self.replays:
                replay.start(lane, self._seen(observation))
            self.naive.start(lane, self._seen(observation), self.stack - 1 - missing)
        if event != "restart":
            observation = np.concatenate([observation[1:], self._frames(1)])
            action, reward = int(self.rng.integers(5)), float(self.rng.normal())
            terminated, truncated = event == "terminated", event == "truncated"
            error = float(self.rng.normal())
            for replay in self.replays:
                replay.add(lane, action, reward, terminated, truncated, self._seen(observation), error)
            self.naive.add(lane, action, reward, event if terminated or truncated else "", self._seen(observation))
            self.observations[lane] = None if terminated or truncated else observation

    def play_randomly(self, events: int) -> None:
        for _ in range(events):
            lane = int(self.rng.integers(len(self.observations)))
            event = self.rng.choice(["step", "terminated", "truncated", "restart"], p=[0.8, 0.1, 0.05, 0.05])
            self.play(lane, str(event))

    def _frames(self, count: int) -> np.ndarray:
        if self.vectors:
            return self.rng.random((count, 3), np.float32)
        return self.rng.integers(256, size=(count, *FRAME), dtype=np.uint8)

    def _seen(self, observation: np.ndarray) -> np.ndarray:
        return observation[0] if self.vectors else observation.copy()
