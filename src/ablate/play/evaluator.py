"""Evaluate a policy while it is trained: write its scores, and keep the best parameters."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from ablate.config.derived import evaluation_horizon
from ablate.config.schema import Config, EvaluationConfig
from ablate.config.serial import to_dict
from ablate.nn.architecture import Architecture
from ablate.parallel import heartbeat
from ablate.parallel.shared import Command, SharedState
from ablate.parallel.supervisor import ChildFailed
from ablate.play.episodes import envs_for, make_envs, play
from ablate.play.policy import Policy
from ablate.records.checkpoint import BestState, Checkpoint, read_checkpoint, write_checkpoint
from ablate.records.csv_writer import CsvWriter
from ablate.records.schema import BEST_CHECKPOINT, EVALUATIONS
from ablate.schedules import due
from ablate.seeding import Role, generator, keeping_libraries
from ablate.types import Counters, EnvSpec, EvaluationSummary, Score

POLL_S = 0.05
WATCH_S = 0.002  # between two looks at the counter of steps: the smaller, the nearer are evaluations to their steps


class Player(Protocol):
    """Plays whole episodes with parameters (P,), with draws from `rng`, and yields their scores.

    normalisation: (2,) mean and std of observations, or None."""

    def play(
        self, parameters: np.ndarray, episodes: int, rng: np.random.Generator, normalisation: np.ndarray | None = None
    ) -> Iterator[Score]: ...


class GymnasiumPlayer:
    """Plays in gymnasium's environments, with the same Policy as outside programs."""

    def __init__(self, config: Config, spec: EnvSpec, architecture: Architecture) -> None:
        self._envs = make_envs(config, evaluation_horizon(config), envs_for(spec, config.evaluation.episodes))
        self._policy = Policy(config, spec, architecture, config.evaluation.action == "sample", games=len(self._envs))

    def play(
        self, parameters: np.ndarray, episodes: int, rng: np.random.Generator, normalisation: np.ndarray | None = None
    ) -> Iterator[Score]:
        self._policy.set_parameters(parameters, normalisation)
        # Episodes that are played one after the other draw from one stream, as in CompiledPlayer.
        streams = rng.spawn(episodes) if len(self._envs) > 1 else [rng] * episodes
        played = list(play(self._policy, self._envs, streams))
        return iter([episode.score for episode in sorted(played, key=lambda episode: episode.number)])


def make_player(config: Config, spec: EnvSpec, architecture: Architecture) -> Player:
    """The player for a run. It uses kernels if training does: the test process must not be slower than training."""
    if config.backend != "compiled":
        return GymnasiumPlayer(config, spec, architecture)
    from ablate.compiled.player import CompiledPlayer, CompiledQPlayer  # imports Numba

    made = CompiledQPlayer if config.model.gives_action_values else CompiledPlayer
    return made(config, spec, architecture)


def frozen_normalisation(shared: SharedState) -> np.ndarray | None:
    """(2,) the workers' current mean and std of observations, weighted by their steps; None without normalisation."""
    if not shared.normalisation_view().any():
        return None
    from ablate.envs.preprocessing import RunningNormalisation  # imports OpenCV

    return RunningNormalisation.frozen(shared.normalisation_view().copy())


class Snapshot(NamedTuple):
    """What is evaluated: the shared parameters at one moment of training."""

    parameters: np.ndarray  # (P,)
    normalisation: np.ndarray | None  # (2,) mean and std of observations
    counters: Counters
    wall_time_s: float

    @classmethod
    def of(cls, shared: SharedState, counters: Counters) -> Snapshot:
        """counters: the totals of training now."""
        return cls(shared.parameters_view().copy(), frozen_normalisation(shared), counters, shared.wall_time_s())


class Evaluator:
    """Evaluates parameters during training: rows to evaluations.csv, the best parameters to best.safetensors.

    done: number of earlier evaluations (in a resumed run). Evaluations have random streams and environments of their
    own, separate from training."""

    def __init__(self, config: Config, spec: EnvSpec, architecture: Architecture, folder: Path, done: int) -> None:
        self._config = config
        self._spec = spec
        self._best_path = folder / BEST_CHECKPOINT
        self._player = make_player(config, spec, architecture)
        with _recording():
            self._csv = CsvWriter(folder / EVALUATIONS)
        self._best = -np.inf
        if self._best_path.exists():
            # It may be newer than the resumed checkpoint, whose evaluations were dropped: it stays the best one.
            self._best = read_checkpoint(self._best_path, BestState).state["mean_return"]
        self.done = done

    @property
    def begins(self) -> bool:
        """Whether the evaluation before the first step (evaluation.at_start) is still to be made."""
        return self._config.evaluation.at_start and self.done == 0

    def evaluate(self, shared: SharedState, counters: Counters) -> EvaluationSummary:
        """Evaluate the current shared parameters. counters: the totals of training at this moment."""
        return self.evaluate_snapshot(Snapshot.of(shared, counters))

    def evaluate_snapshot(self, snapshot: Snapshot) -> EvaluationSummary:
        """Play the evaluation's episodes, and write their scores."""
        parameters, normalisation, counters, wall_time_s = snapshot
        rng = generator(self._config.seed, Role.evaluation, self.done)
        with keeping_libraries():  # training in this process must not depend on how often it is evaluated
            scores = list(self._player.play(parameters, self._config.evaluation.episodes, rng, normalisation))
        self.done += 1
        at = (self.done, counters.steps, counters.updates, f"{wall_time_s:.3f}")
        protocol = (evaluation_horizon(self._config), str(self._config.evaluation.action))
        with _recording():
            for episode, score in enumerate(scores, start=1):
                self._csv.write((*at, episode, *score, *protocol))
            self._csv.flush()
        mean_return = float(np.mean([score.episodic_return for score in scores]))
        if mean_return > self._best:
            self._best = mean_return
            state = {
                "config": to_dict(self._config),
                "env_spec": asdict(self._spec),
                "counters": counters._asdict(),
                "evaluation": self.done,
                "mean_return": mean_return,
            }
            tensors = {"parameters": parameters}
            if normalisation is not None:
                tensors["normalisation"] = normalisation
            with _recording():
                write_checkpoint(self._best_path, Checkpoint(tensors, state))
        return EvaluationSummary(self.done, counters.steps, mean_return)


@contextmanager
def _recording() -> Iterator[None]:
    """A file that cannot be written ends the process with one line: a full disk is no error of the program."""
    try:
        yield
    except OSError as error:
        raise ChildFailed(f"the records could not be written: {error}") from error


def test_process(
    send: Callable[[EvaluationSummary], None],
    config: Config,
    spec: EnvSpec,
    architecture: Architecture,
    folder: Path,
    shared: SharedState,
    done: int,
    start: Snapshot,
) -> None:
    """The function of the process that evaluates every `evaluation.every_seconds`, or else every `every_steps`.

    start: what training starts from. With every_steps, a thread takes a snapshot whenever training passes a multiple,
    also during an evaluation. All snapshots are evaluated, if need be after the training: so every run is looked at
    after the same steps, however fast it trains. A stop leaves out those that wait, and the resume says so."""

    def leave_if_abandoned() -> None:
        if shared.command == Command.abandon:
            raise _Abandoned

    try:
        with heartbeat.checking(leave_if_abandoned):
            make = partial(Evaluator, config, spec, architecture, folder, done)
            _evaluate_until_the_end(send, make, config.evaluation, shared, start)
    except _Abandoned:
        return


def _watch(
    shared: SharedState, every_steps: int, steps: int, snapshots: deque[Snapshot], ended: threading.Event
) -> None:
    """Take a snapshot whenever the training passes a multiple of every_steps, until it has ended."""
    while shared.command in (Command.run, Command.stop) and not ended.wait(WATCH_S):
        counters = shared.counters()
        if due(every_steps, steps, counters.steps):
            snapshots.append(Snapshot.of(shared, counters))
        steps = counters.steps


def _evaluate_until_the_end(
    send: Callable[[EvaluationSummary], None],
    make: Callable[[], Evaluator],
    evaluation: EvaluationConfig,
    shared: SharedState,
    start: Snapshot,
) -> None:
    waiting: deque[Snapshot] = deque()
    ended = threading.Event()
    every_s, every_steps = evaluation.every_seconds, evaluation.every_steps
    if every_s is None and every_steps is not None:
        # Before the evaluator compiles or imports: training may have begun.
        watch = (shared, every_steps, start.counters.steps, waiting, ended)
        threading.Thread(target=_watch, args=watch, daemon=True).start()
    try:
        evaluator = make()
        if evaluator.begins and start.counters.steps == 0:
            waiting.appendleft(start)
        last_time, evaluated_steps = time.monotonic(), -1
        while True:
            heartbeat.beat()
            finish = shared.command == Command.finish
            if every_s is not None and shared.command == Command.run:
                now = time.monotonic()
                if not shared.began:  # workers still import or compile; the network has its initial parameters
                    last_time = now
                if now - last_time >= every_s:
                    waiting.append(Snapshot.of(shared, shared.counters()))
            while waiting:
                snapshot = waiting.popleft()
                last_time, evaluated_steps = time.monotonic(), snapshot.counters.steps
                send(evaluator.evaluate_snapshot(snapshot))
            if finish:
                if shared.counters().steps != evaluated_steps:
                    send(evaluator.evaluate(shared, shared.counters()))
                return
            time.sleep(POLL_S)
    finally:
        ended.set()


class _Abandoned(Exception):
    """The parent no longer needs the current evaluation."""
