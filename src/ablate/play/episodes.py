"""Play whole episodes with a frozen policy, each from a random stream of its own. Returns are raw."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import NamedTuple

import gymnasium
import numpy as np

from ablate.config.schema import Config
from ablate.config.serial import from_dict
from ablate.envs.make import make_env
from ablate.envs.placeholders import first_of_evaluations, numbered
from ablate.nn.acting import Action
from ablate.parallel.heartbeat import beat
from ablate.parallel.machine import usable_cpus
from ablate.parallel.shared import SharedState
from ablate.parallel.supervisor import Child, Supervisor
from ablate.play.policy import Policy
from ablate.records.checkpoint import Checkpoint
from ablate.seeding import draw_seed
from ablate.types import EnvSpec, Score

MAX_SIDE_BY_SIDE = 8  # games in one forward pass; more would save little time and wait longer for the longest game
MIN_EPISODES_PER_PROCESS = 4  # for fewer, starting another process is not worth its time and memory
POLL_S = 0.1


class Episode(NamedTuple):
    """An episode that was played. Its seed and its actions are enough to replay it."""

    number: int  # index of its stream
    seed: int
    score: Score
    actions: list[Action]


def play(
    policy: Policy,
    envs: Sequence[gymnasium.Env],
    streams: Sequence[np.random.Generator],
) -> Iterator[Episode]:
    """Play one whole episode per stream, side by side in `envs`, and yield each as it ends.

    An episode's seed and the policy's draws come from its stream alone. All episodes are played to their end, so that
    short ones do not count more than long ones."""
    waiting = enumerate(streams)
    seats = [_Seat(index, env) for index, (env, _) in enumerate(zip(envs, streams, strict=False))]
    playing = list(seats)
    for seat in seats:
        seat.begin(policy, *next(waiting))
    while playing:
        actions = policy.act_on([seat.observation for seat in seats], [seat.stream for seat in seats])
        for seat in list(playing):
            beat()
            if not seat.step(actions[seat.index]):
                continue
            yield seat.episode()
            if (following := next(waiting, None)) is not None:
                seat.begin(policy, *following)
            else:  # the policy keeps acting on its last observation; the actions are ignored
                playing.remove(seat)


class _Seat:
    """One of the environments, with the episode that is played in it."""

    number: int
    stream: np.random.Generator
    observation: np.ndarray

    def __init__(self, index: int, env: gymnasium.Env) -> None:
        self.index = index
        self._env = env

    def begin(self, policy: Policy, number: int, stream: np.random.Generator) -> None:
        self.number, self.stream = number, stream
        self._seed = draw_seed(stream)
        self._actions: list[Action] = []
        self._return = 0.0
        self.observation = self._env.reset(seed=self._seed)[0]
        policy.reset(self.index)

    def step(self, action: Action) -> bool:
        """Take one step. Returns whether the episode has ended."""
        self._actions.append(action)
        self.observation, reward, terminated, truncated, _ = self._env.step(copy(action))  # which may alter it
        self._return += float(reward)
        return terminated or truncated

    def episode(self) -> Episode:
        return Episode(self.number, self._seed, Score(self._return, len(self._actions)), self._actions)


def envs_for(spec: EnvSpec, episodes: int) -> int:
    """Number of environments for these episodes: several for images, because one forward pass serves them all."""
    return min(episodes, MAX_SIDE_BY_SIDE) if spec.is_image else 1


def make_envs(
    config: Config, horizon: int | None, count: int, *, before: int = 0, render_mode: str | None = None
) -> list[gymnasium.Env]:
    """`count` environments for evaluation: whole games and raw rewards, whatever training sees.

    before: number of environments that other processes evaluate in."""
    first = first_of_evaluations(config) + before
    drawn = {"render_mode": render_mode} if render_mode else {}
    return [make_env(numbered(config.env, first + k), horizon, training=False, **drawn) for k in range(count)]


class Share(NamedTuple):
    """The episodes that one process plays with a saved policy."""

    policy: Checkpoint  # with what Policy needs
    horizon: int | None
    sample: bool
    process: int  # its number, from 0
    numbers: list[int]  # of the episodes
    streams: list[np.random.Generator]  # one per episode


def play_in_processes(
    checkpoint: Checkpoint, horizon: int | None, sample: bool, streams: list[np.random.Generator], hang_timeout_s: float
) -> Iterator[Episode]:
    """`play` with a saved policy on all cores. The episodes are the same as in one process, apart from rounding.

    Raises ChildFailed if a process dies, raises or hangs."""
    processes = min(usable_cpus(), -(-len(streams) // MIN_EPISODES_PER_PROCESS))
    shared = SharedState(1, 0, processes)
    # Not its path: training may replace the file while the processes start.
    tensors = {name: t for name, t in checkpoint.tensors.items() if name in ("parameters", "normalisation")}
    policy = Checkpoint(tensors, checkpoint.state)
    children = []
    for process in range(processes):
        numbers = list(range(process, len(streams), processes))
        share = Share(policy, horizon, sample, process, numbers, [streams[number] for number in numbers])
        children.append(Child(f"player {process}", "ablate.play.episodes", "play_share", (share,)))
    with Supervisor(children, shared, hang_timeout_s) as supervisor:
        while supervisor.running:
            for _, episode in supervisor.messages(POLL_S):
                yield episode


def play_share(send: Callable[[Episode], None], share: Share) -> None:
    """The main function of a player process: play its share and send each episode."""
    state = share.policy.state
    count = envs_for(EnvSpec.from_dict(state["env_spec"]), len(share.streams))
    config, before = from_dict(state["config"]), share.process * MAX_SIDE_BY_SIDE
    envs = make_envs(config, share.horizon, count, before=before)
    policy = Policy.of(share.policy, share.sample, games=len(envs))
    for episode in play(policy, envs, share.streams):
        send(episode._replace(number=share.numbers[episode.number]))
