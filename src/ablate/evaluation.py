"""Playing a frozen policy: whole episodes on random streams of their own, raw returns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import gymnasium
import numpy as np

from ablate.config import Config, evaluation_horizon, to_dict
from ablate.envs.make import make_env
from ablate.nn.architecture import architecture_of
from ablate.parallel.shared import Command, SharedState
from ablate.policy import Policy
from ablate.records.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from ablate.records.csv_writer import CsvWriter
from ablate.records.schema import BEST_CHECKPOINT, EVALUATIONS
from ablate.seeding import Role, draw_seed, generator
from ablate.types import Counters, EnvSpec, EvaluationSummary, Score

POLL_S = 0.05


def play(
    policy: Policy, env: gymnasium.Env, episodes: int, rng: np.random.Generator, beat: Callable[[], None] = lambda: None
) -> Iterator[Score]:
    """Play whole episodes, each from a seed drawn from `rng`; `beat` is called at every step."""
    for _ in range(episodes):
        observation, _ = env.reset(seed=draw_seed(rng))
        episodic_return, length, over = 0.0, 0, False
        while not over:
            beat()
            observation, reward, terminated, truncated, _ = env.step(policy.act(observation))
            episodic_return += float(reward)
            length += 1
            over = terminated or truncated
        yield Score(episodic_return, length)


class Player(Protocol):
    """Plays whole episodes with parameters (P,), each from a seed drawn from `rng`."""

    def play(self, parameters: np.ndarray, episodes: int, rng: np.random.Generator) -> Iterator[Score]: ...


class GymnasiumPlayer:
    """In gymnasium's environment, through the policy in numpy."""

    def __init__(self, config: Config, spec: EnvSpec, beat: Callable[[], None]) -> None:
        self._env = make_env(config.env, evaluation_horizon(config))
        sample = config.evaluation.action == "sample"
        self._policy = Policy(architecture_of(config.model, spec), spec, sample)
        self._beat = beat

    def play(self, parameters: np.ndarray, episodes: int, rng: np.random.Generator) -> Iterator[Score]:
        self._policy.set_parameters(parameters)
        self._policy.rng = rng
        return play(self._policy, self._env, episodes, rng, self._beat)


def make_player(config: Config, spec: EnvSpec, beat: Callable[[], None]) -> Player:
    """Kernels where the training has them: a test process must not be slower than the training."""
    if config.backend != "compiled":
        return GymnasiumPlayer(config, spec, beat)
    from ablate.compiled.player import CompiledPlayer  # imports Numba

    return CompiledPlayer(config, spec, beat)


def due(every_steps: int | None, before: int, after: int) -> bool:
    """Whether a multiple of every_steps lies between two counts of steps."""
    return every_steps is not None and after // every_steps > before // every_steps


class Evaluator:
    """Evaluates parameters as training goes on: rows to evaluations.csv, the best parameters to best.safetensors.

    done: evaluations made before (on resume). Nothing it draws or plays touches the training's streams."""

    def __init__(self, config: Config, spec: EnvSpec, folder: Path, done: int, beat: Callable[[], None]) -> None:
        self._config = config
        self._spec = spec
        self._best_path = folder / BEST_CHECKPOINT
        self._player = make_player(config, spec, beat)
        self._csv = CsvWriter(folder / EVALUATIONS)
        self._best = -np.inf
        if self._best_path.exists():
            best = read_checkpoint(self._best_path).state
            if best["evaluation"] <= done:  # else it was made after the checkpoint that the run goes on from
                self._best = best["mean_return"]
        self.done = done

    def evaluate(self, parameters: np.ndarray, counters: Counters, wall_time_s: float) -> EvaluationSummary:
        """One evaluation of parameters (P,) as they were at `counters`."""
        rng = generator(self._config.seed, Role.evaluation, self.done)
        scores = list(self._player.play(parameters, self._config.evaluation.episodes, rng))
        self.done += 1
        at = (self.done, counters.steps, counters.updates, f"{wall_time_s:.3f}")
        protocol = (evaluation_horizon(self._config), str(self._config.evaluation.action))
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
            write_checkpoint(self._best_path, Checkpoint({"parameters": parameters}, state))
        return EvaluationSummary(self.done, counters.steps, mean_return)


def test_process(
    send: Callable[[EvaluationSummary], None],
    config: Config,
    spec: EnvSpec,
    folder: Path,
    shared: SharedState,
    process: int,
    done: int,
) -> None:
    """The process that evaluates the shared parameters every `every_seconds` (or else `every_steps`) of training."""

    def beat() -> None:
        shared.beat(process)
        if shared.command == Command.abandon:
            raise _Abandoned

    evaluator = Evaluator(config, spec, folder, done, beat)
    parameters = shared.parameters_view()
    every_s, every_steps = config.evaluation.every_seconds, config.evaluation.every_steps
    last_time, last_steps, evaluated_steps = time.monotonic(), shared.counters().steps, -1
    try:
        while True:
            beat()
            command, counters = shared.command, shared.counters()
            if every_s is not None:
                now_due = time.monotonic() - last_time >= every_s
            else:
                now_due = due(every_steps, last_steps, counters.steps)
            finish = command == Command.finish
            if (now_due and command == Command.run) or (finish and counters.steps != evaluated_steps):
                last_time, last_steps, evaluated_steps = time.monotonic(), counters.steps, counters.steps
                send(evaluator.evaluate(parameters.copy(), counters, shared.wall_time_s()))
            if finish:
                return
            time.sleep(POLL_S)
    except _Abandoned:
        return


class _Abandoned(Exception):
    """The parent no longer wants the evaluation that is under way."""
