"""A3C on Breakout: training compared with the emulator alone, and where a step's time goes."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import ale_py
import gymnasium
import numpy as np
from ale_py.vector_env import AtariVectorEnv
from rich.console import Console
from rich.table import Table

from ablate.cli.compose import compose_and_plan
from ablate.envs.games import emulator
from ablate.envs.make import make_env
from ablate.parallel.machine import usable_cpus
from ablate.paths import ROOT
from ablate.records.schema import UPDATES
from benchmarks.common import (
    TRAINING_ONLY,
    WINDOW,
    Clock,
    Options,
    WorkerLoop,
    in_turn,
    ratio,
    spread,
    table_of,
    time_parts,
    train,
    yes_or_no,
)


class Network(NamedTuple):
    """How a network is trained here, and its goals on two cores: steps/s, and as a fraction of the emulator's rate."""

    games: int  # per worker, side by side
    t_max: int
    steps_per_second: int
    of_emulator: float


NETWORKS = {
    "conv_84": Network(16, 5, 3000, 0.0),  # the default
    "conv_84_small": Network(16, 5, 3000, 0.0),
    "conv_lstm_42": Network(8, 20, 2300, 0.5),
    "conv_pool_lstm_80": Network(8, 20, 700, 0.0),
}
MEMORY_GOAL_MB = 400  # per worker
LEAST_UPDATES = 6  # per worker, enough for a rate
GYMNASIUMS = "gymnasium's AtariPreprocessing"
ALE_VECTOR = "ale-py's vector environment"  # 8 games, one thread
VECTOR_GAMES = 8
FRAME_SKIP = 4
BREAKOUT = ("algo=a3c", "env=breakout", "max_episodes=null", "log_interval=1", *TRAINING_ONLY)
PARTS = ("game", "acting", "gradient", "push")
WARM_UP_UPDATES = 3


class Variant(NamedTuple):
    """One row of the table of training speeds."""

    model: str
    backend: str
    workers: int
    games: int  # per worker, side by side

    @property
    def overrides(self) -> list[str]:
        return [
            *BREAKOUT, f"model={self.model}", f"backend={self.backend}", f"workers={self.workers}",
            f"envs_per_worker={self.games}", f"algo.t_max={NETWORKS[self.model].t_max}",
        ]  # fmt: skip


def variants(workers: Sequence[int]) -> list[Variant]:
    """Each network by hand and by autograd, and with one game per worker as in the source reports."""
    return [
        Variant(model, backend, n, games)
        for model, network in NETWORKS.items()
        for n in workers
        for backend, games in (("manual", network.games), ("autograd", network.games), ("manual", 1))
    ]


class Run(NamedTuple):
    """The measurements of one run."""

    rate: float  # agent steps per second, all workers together
    memory_mb: float  # of the largest worker, with its share of shared memory


class Ceiling(NamedTuple):
    """One row of the table of random play."""

    kind: str  # the emulator, gymnasium's environment, or ours for a model
    processes: int


Ceilings = dict[Ceiling, list[float]]


def benchmark_atari(console: Console, options: Options) -> None:
    """Training, the emulator and the environments take turns. The parts of a step are those of one worker alone."""
    cores = usable_cpus()
    processes = sorted({*(min(n, cores) for n in options.workers), cores})
    kinds = ("emulator", GYMNASIUMS, ALE_VECTOR, *NETWORKS)
    ceilings: Ceilings = {Ceiling(kind, n): [] for kind in kinds for n in processes}
    runs: dict[Variant, list[Run]] = {variant: [] for variant in variants(options.workers)}
    rows: list[Ceiling | Variant] = [*ceilings, *runs]
    for row in in_turn(console, rows, options.repeats):
        if isinstance(row, Variant):
            expected = runs[row][-1].rate if runs[row] else NETWORKS[row.model].steps_per_second / 2
            runs[row].append(measure(row, int(expected * options.seconds)))
        else:
            ceilings[row].append(playing_rate(row, options.seconds))
    console.print(ceilings_table(ceilings))
    console.print(training_table(runs, ceilings, cores))
    console.print(parts_table(console, options))


# Playing with random actions, in several processes that start at the same time.


def playing_rate(ceiling: Ceiling, seconds: float) -> float:
    """Steps per second of all processes together."""
    command = [sys.executable, "-m", "benchmarks.atari", ceiling.kind, str(seconds)]
    players = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(ceiling.processes)
    ]
    try:
        for player in players:
            assert player.stdout is not None
            player.stdout.readline()  # "ready"
        for player in players:
            assert player.stdin is not None
            print(file=player.stdin, flush=True)
        rates = [float(player.communicate()[0]) for player in players]
    finally:
        for player in players:
            player.kill()
    return sum(rates)


def play(kind: str, seconds: float) -> None:
    """One process of `playing_rate`: print "ready", wait for a line, play, print the rate."""
    special = {"emulator": raw_emulator, ALE_VECTOR: ale_vector}
    step = special[kind]() if kind in special else environment(kind)
    print("ready", flush=True)
    sys.stdin.readline()
    steps, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        steps += step()
    print(steps / elapsed)


def raw_emulator() -> Callable[[], int]:
    """Breakout's emulator alone: FRAME_SKIP frames with one action. Nothing reads the screen."""
    ale = emulator("breakout")
    actions = ale.getMinimalActionSet()
    rng = np.random.default_rng(0)

    def step() -> int:
        action = actions[rng.integers(len(actions))]
        for _ in range(FRAME_SKIP):
            ale.act(action)
        if ale.game_over():
            ale.reset_game()
        return 1

    return step


def ale_vector() -> Callable[[], int]:
    """The environment of ale-py that a user might take instead: nature_84 without pressing FIRE after a lost life."""
    envs = AtariVectorEnv("breakout", VECTOR_GAMES, num_threads=1, frameskip=FRAME_SKIP)
    envs.reset()
    rng = np.random.default_rng(0)
    n = int(envs.single_action_space.n)  # type: ignore[attr-defined]

    def step() -> int:
        envs.step(rng.integers(n, size=VECTOR_GAMES))
        return VECTOR_GAMES

    return step


def environment(kind: str) -> Callable[[], int]:
    """A worker's environment with its preprocessing; or gymnasium's, which is nature_84 without the stack of frames."""
    if kind == GYMNASIUMS:
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # otherwise each emulator prints a banner
        game = gymnasium.make("ALE/Breakout-v5", frameskip=1)
        env: gymnasium.Env = gymnasium.wrappers.AtariPreprocessing(game, frame_skip=FRAME_SKIP)
    else:
        plan = compose_and_plan([*Variant(kind, "manual", 1, 1).overrides, "total_steps=1"])
        env = make_env(plan.config.env, training=True)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    n = int(env.action_space.n)  # type: ignore[attr-defined]

    def step() -> int:
        _, _, terminated, truncated, _ = env.step(int(rng.integers(n)))
        if terminated or truncated:
            env.reset()
        return 1

    return step


def ceilings_table(ceilings: Ceilings) -> Table:
    table = table_of(
        "Breakout with random actions, no network: agent steps/s, all processes together",
        f"emulator: ale_py alone, {FRAME_SKIP} frames per step; ratio: to the emulator in equally many processes",
        ("what",),
        ("processes", "steps/s", "min–max", "ratio"),
    )
    for (kind, n), samples in ceilings.items():
        of_emulator = ratio(samples, ceilings[Ceiling("emulator", n)])
        table.add_row(kind, str(n), *spread(samples), f"{of_emulator:.2f}")
    return table


# Whole runs of src/run.py, CSV files included.


def measure(variant: Variant, steps: int) -> Run:
    """One run of about this many steps, but enough of them for a rate."""
    steps = max(steps, LEAST_UPDATES * NETWORKS[variant.model].t_max * variant.workers * variant.games)
    memory_mb = [0.0]
    rate = train(
        *variant.overrides,
        f"total_steps={steps}",
        table=UPDATES,
        watch=lambda pid: memory_mb.append(largest_child_mb(pid)),
    )
    return Run(rate, max(memory_mb))


def largest_child_mb(pid: int) -> float:
    """Memory (Pss) of the largest child of a process; 0 if there is none yet."""
    sizes = [0]
    with contextlib.suppress(OSError):  # a process ended in the meantime
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            lines = Path(f"/proc/{child}/smaps_rollup").read_text().splitlines()
            sizes += [int(line.split()[1]) for line in lines if line.startswith("Pss:")]
    return max(sizes) / 1024


def training_table(runs: dict[Variant, list[Run]], ceilings: Ceilings, cores: int) -> Table:
    goals = ", ".join(
        f"{model} ≥ {network.steps_per_second:,}"
        + (f" and ≥ {network.of_emulator:g} of raw" if network.of_emulator else "")
        for model, network in NETWORKS.items()
    )
    table = table_of(
        f"A3C on Breakout: agent steps/s in training, {WINDOW}, all workers together, CSV files included",
        f"games: side by side in a worker; MB: memory of the largest worker\n"
        f"of raw: ratio to the emulator alone in equally many processes, at most {cores}\n"
        f"goals, for 2 cores: {goals}; a worker under {MEMORY_GOAL_MB} MB",
        ("model", "backend"),
        ("workers", "games", "steps/s", "min–max", "of raw", "MB", "goal"),
    )
    for variant, samples in runs.items():
        model, backend, n, games = variant
        rates, memory = [run.rate for run in samples], median(run.memory_mb for run in samples)
        of_raw = ratio(rates, ceilings[Ceiling("emulator", min(n, cores))])
        network = NETWORKS[model]
        fast = median(rates) >= network.steps_per_second and of_raw >= network.of_emulator
        reached = fast and memory < MEMORY_GOAL_MB
        cells = (str(n), str(games), *spread(rates), f"{of_raw:.2f}", f"{memory:.0f}", yes_or_no(reached))
        table.add_row(model, backend, *cells)
    return table


# Where a step's time goes: the loop of one worker runs in this process, with clocks around its parts.


def worker_loop(variant: Variant, clock: Clock) -> Callable[[], int]:
    """A function that makes one update of one worker and returns its steps."""
    loop = WorkerLoop(compose_and_plan([*variant.overrides, "total_steps=1"]), clock, gradient="gradient", push="push")
    for env in loop.worker._envs:
        clock.wrap("game", env, "step", "reset")
    clock.wrap("acting", loop.worker.computer, "start", "step")
    return loop.advance


def parts_table(console: Console, options: Options) -> Table:
    """Microseconds per agent step by part; the median of the repeats for each part on its own."""
    samples: dict[Variant, list[list[float]]] = {variant: [] for variant in variants([1])}
    for variant in in_turn(console, list(samples), options.repeats, "parts of a step, "):
        samples[variant].append(time_parts(partial(worker_loop, variant), options.seconds, PARTS, WARM_UP_UPDATES))
    table = table_of(
        "One agent step in training, one worker alone, µs",
        "game: emulator and preprocessing; acting: forward passes, also for the bootstrap\n"
        "gradient: loss, backward, clipping; push: optimizer, pull; rest: normalisation, sampling",
        ("model", "backend"),
        ("games", *PARTS, "rest", "total"),
    )
    for variant, rows in samples.items():
        numbers = (f"{median(column):.0f}" for column in zip(*rows, strict=True))
        table.add_row(variant.model, variant.backend, str(variant.games), *numbers)
    return table


if __name__ == "__main__":
    play(sys.argv[1], float(sys.argv[2]))
