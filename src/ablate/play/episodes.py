"""Playing a frozen policy: whole episodes on random streams of their own, raw returns."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from ablate.config.schema import AtariConfig, Config
from ablate.config.serial import from_dict
from ablate.envs.make import make_env
from ablate.nn.acting import Action
from ablate.parallel.heartbeat import beat
from ablate.parallel.shared import SharedState
from ablate.parallel.supervisor import Child, Supervisor
from ablate.play.policy import Policy
from ablate.records.checkpoint import read_checkpoint
from ablate.seeding import draw_seed
from ablate.types import Score

GAMES_SIDE_BY_SIDE = 8  # one forward pass for all: more save little and wait longer for the longest game
LEAST_SHARE = 4  # games for which another process is worth its start and its memory
POLL_S = 0.1


class Episode(NamedTuple):
    """One that was played: the seed and the actions are what replaying it takes."""

    number: int  # in the order of the streams, from 0
    seed: int
    score: Score
    actions: list[Action]


def play(
    policy: Policy,
    envs: Sequence[gymnasium.Env],
    streams: Sequence[np.random.Generator],
) -> Iterator[Episode]:
    """Play a whole episode for each stream, side by side in `envs`; yield them as they end.

    An episode's seed and the policy's draws come from its stream alone. All are played to their end, so that short ones
    count no more than long ones."""
    waiting = enumerate(streams)
    seats = [_Seat(slot, env) for slot, (env, _) in enumerate(zip(envs, streams, strict=False))]
    playing = list(seats)
    for seat in seats:
        seat.begin(policy, *next(waiting))
    while playing:
        actions = policy.act_on([seat.observation for seat in seats], [seat.stream for seat in seats])
        for seat in list(playing):
            beat()
            if not seat.step(actions[seat.slot]):
                continue
            yield seat.episode()
            if (following := next(waiting, None)) is not None:
                seat.begin(policy, *following)
            else:  # it stays beside the others, and what the policy says of it is not looked at
                playing.remove(seat)


class _Seat:
    """One of the environments that are played side by side, and the episode under way in it."""

    number: int
    stream: np.random.Generator
    observation: np.ndarray

    def __init__(self, slot: int, env: gymnasium.Env) -> None:
        self.slot = slot
        self._env = env

    def begin(self, policy: Policy, number: int, stream: np.random.Generator) -> None:
        self.number, self.stream = number, stream
        self._seed = draw_seed(stream)
        self._actions: list[Action] = []
        self._return = 0.0
        self.observation = self._env.reset(seed=self._seed)[0]
        policy.reset(self.slot)

    def step(self, action: Action) -> bool:
        """Whether the episode is over."""
        self.observation, reward, terminated, truncated, _ = self._env.step(action)
        self._actions.append(action)
        self._return += float(reward)
        return terminated or truncated

    def episode(self) -> Episode:
        return Episode(self.number, self._seed, Score(self._return, len(self._actions)), self._actions)


def make_envs(config: Config, horizon: int | None, episodes: int, **kwargs: Any) -> list[gymnasium.Env]:
    """The environments in which so many episodes are played side by side: several where one forward pass serves them.

    Whole games and raw rewards, whatever training sees. kwargs: further ones of `make_env`."""
    games = min(episodes, GAMES_SIDE_BY_SIDE) if isinstance(config.env, AtariConfig) else 1
    return [make_env(config.env, horizon, training=False, **kwargs) for _ in range(games)]


class Share(NamedTuple):
    """What one process plays of a saved policy's episodes."""

    checkpoint: Path
    horizon: int | None
    sample: bool
    numbers: list[int]
    streams: list[np.random.Generator]  # one for each


def play_in_processes(
    checkpoint: Path, horizon: int | None, sample: bool, streams: list[np.random.Generator], hang_timeout_s: float
) -> Iterator[Episode]:
    """`play` a saved policy's games on all cores; the same games as in one process, but for rounding.

    Raises ChildFailed if a process dies, raises or hangs."""
    processes = min(len(os.sched_getaffinity(0)), -(-len(streams) // LEAST_SHARE))
    shared = SharedState(1, 0, processes)
    children = []
    for process in range(processes):
        numbers = list(range(process, len(streams), processes))
        share = Share(checkpoint, horizon, sample, numbers, [streams[number] for number in numbers])
        children.append(Child(f"player {process}", "ablate.play.episodes", "play_share", (share,)))
    with Supervisor(children, shared, hang_timeout_s) as supervisor:
        while supervisor.running:
            for _, episode in supervisor.messages(POLL_S):
                yield episode


def play_share(send: Callable[[Episode], None], share: Share) -> None:
    """One of these processes."""
    checkpoint = read_checkpoint(share.checkpoint)
    envs = make_envs(from_dict(checkpoint.state["config"]), share.horizon, len(share.streams))
    policy = Policy.of(checkpoint, share.sample, games=len(envs))
    for episode in play(policy, envs, share.streams):
        send(episode._replace(number=share.numbers[episode.number]))
