"""Speed of A3C on games, for src/benchmark.py: training next to the emulator, and where a step's time goes."""

from __future__ import annotations

import contextlib
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import ale_py
import gymnasium
import hydra
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from ablate.algos.a3c import worker as a3c
from ablate.algos.a3c.game_worker import GameWorker
from ablate.algos.a3c.spec import A3CConfig
from ablate.cli import hydra_app as command_line
from ablate.config.validation import validate
from ablate.envs.games import emulator
from ablate.envs.make import make_env
from ablate.paths import ROOT
from ablate.records.schema import UPDATES
from ablate.runs import plan as experiment
from ablate.runs.plan import Resolved
from ablate.types import Rollout
from benchmarks.a3c import Clock, job_of, split, table_of

# Each network's goals: agent steps/s on two cores, and the part of the raw emulator's.
GOALS: dict[str, tuple[int, float]] = {"conv_lstm_42": (2300, 0.4), "conv_pool_lstm_80": (350, 0.0)}
# Backend, and games side by side in a worker: the default, the same by autograd, and one game as the reports have it.
SETTINGS = (("manual", 8), ("autograd", 8), ("manual", 1))
MEMORY_GOAL_MB = 400  # a worker
LEAST_UPDATES = 6  # of each worker, for a rate
GYMNASIUMS = "gymnasium's AtariPreprocessing"
FRAME_SKIP = 4
T_MAX = 20  # steps of a rollout
MEMORY_POLL_S = 0.5
TRAINING_ONLY = (
    "algo=a3c", "env=breakout", "max_episodes=null", "evaluation.every_seconds=null", "evaluation.every_steps=null",
    "figures=false", "logger.display=off", "log_interval=1",
)  # fmt: skip
PARTS = ("game", "acting", "gradient", "push")
WARM_UP_UPDATES = 3


class Variant(NamedTuple):
    """One row of the table of training speeds."""

    model: str
    backend: str
    workers: int
    games: int  # side by side in a worker


def benchmark_atari(console: Console, seconds: float, repeats: int, workers: list[int]) -> None:
    """Training, the emulator and the environments took turns; a step's parts are one worker's alone."""
    cores = len(os.sched_getaffinity(0))
    variants = [Variant(model, backend, n, games) for model in GOALS for n in workers for backend, games in SETTINGS]
    kinds = ("emulator", GYMNASIUMS, *GOALS)
    runs: dict[Variant, list[Run]] = {variant: [] for variant in variants}
    processes = sorted({*(min(n, cores) for n in workers), cores})
    ceilings: dict[tuple[str, int], list[float]] = {(kind, n): [] for kind in kinds for n in processes}
    for repeat in range(repeats):
        for kind, n in ceilings:
            with console.status(f"repeat {repeat + 1} of {repeats}: {kind}, {n} processes"):
                ceilings[kind, n].append(playing_rate(kind, n, seconds))
        for variant in variants if repeat % 2 == 0 else variants[::-1]:
            with console.status(f"repeat {repeat + 1} of {repeats}: {' '.join(map(str, variant))}"):
                guess = runs[variant][-1].rate if runs[variant] else GOALS[variant.model][0] / 2
                runs[variant].append(train(variant, int(guess * seconds)))
    console.print(ceilings_table(ceilings))
    console.print(training_table(runs, ceilings, cores))
    console.print(split_table(console, seconds, repeats))


# Playing with random actions, in processes of their own that begin together.


def playing_rate(kind: str, processes: int, seconds: float) -> float:
    """Steps/s of all processes together."""
    command = [sys.executable, __file__, kind, str(seconds)]
    players = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    try:
        for player in players:
            assert player.stdout is not None
            player.stdout.readline()  # it is ready
        for player in players:
            assert player.stdin is not None
            print(file=player.stdin, flush=True)
        rates = [float(player.communicate()[0]) for player in players]
    finally:
        for player in players:
            player.kill()
    return sum(rates)


def play(kind: str, seconds: float) -> None:
    """A process of `playing_rate`."""
    step = raw_emulator() if kind == "emulator" else environment(kind)
    print("ready", flush=True)
    sys.stdin.readline()
    steps, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        step()
        steps += 1
    print(steps / elapsed)


def raw_emulator() -> Callable[[], None]:
    """Breakout without anything around it: FRAME_SKIP frames with one action, no screen is looked at."""
    ale = emulator("breakout")
    actions = ale.getMinimalActionSet()
    rng = np.random.default_rng(0)

    def step() -> None:
        action = actions[rng.integers(len(actions))]
        for _ in range(FRAME_SKIP):
            ale.act(action)
        if ale.game_over():
            ale.reset_game()

    return step


def environment(kind: str) -> Callable[[], None]:
    """What a worker steps, its preprocessing included; or gymnasium's, which does as nature_84 without its stack."""
    if kind == GYMNASIUMS:
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # or each emulator prints a banner
        game = gymnasium.make("ALE/Breakout-v5", frameskip=1)
        env: gymnasium.Env = gymnasium.wrappers.AtariPreprocessing(game, frame_skip=FRAME_SKIP)
    else:
        env = make_env(plan_of(Variant(kind, "manual", 1, 1)).config.env, training=True)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    n = int(env.action_space.n)  # type: ignore[attr-defined]

    def step() -> None:
        _, _, terminated, truncated, _ = env.step(int(rng.integers(n)))
        if terminated or truncated:
            env.reset()

    return step


def ceilings_table(ceilings: dict[tuple[str, int], list[float]]) -> Table:
    table = table_of(
        "Breakout with random actions, no network: agent steps/s, all processes together",
        f"emulator: ale_py alone, {FRAME_SKIP} frames a step; of it: of the emulator in as many processes",
        ("what",),
        ("processes", "steps/s", "min–max", "of it"),
    )
    for (kind, n), samples in ceilings.items():
        ratio = median(ours / raw for ours, raw in zip(samples, ceilings["emulator", n], strict=True))
        table.add_row(kind, str(n), *spread(samples), f"{ratio:.2f}")
    return table


def spread(samples: list[float]) -> tuple[str, str]:
    """The median, and the smallest and the largest."""
    return f"{median(samples):.0f}", f"{min(samples):.0f}–{max(samples):.0f}"


# Whole runs of src/run.py, CSVs included. Rates from the CSVs' own clock, over the later three quarters.


def overrides_of(variant: Variant) -> list[str]:
    return [
        *TRAINING_ONLY, f"model={variant.model}", f"backend={variant.backend}", f"workers={variant.workers}",
        f"envs_per_worker={variant.games}",
    ]  # fmt: skip


class Run(NamedTuple):
    """What was measured of one run."""

    rate: float  # agent steps/s of all workers together
    memory_mb: float  # of the largest worker, shared memory by its share


def train(variant: Variant, steps: int) -> Run:
    """One run of about so many steps, but enough of them for a rate."""
    steps = max(steps, LEAST_UPDATES * T_MAX * variant.workers * variant.games)
    with tempfile.TemporaryDirectory(prefix="ablate-benchmark-") as folder:
        limits = (f"total_steps={steps}", f"hydra.run.dir={folder}/run")
        command = [sys.executable, str(ROOT / "src/run.py"), *overrides_of(variant), *limits]
        memory = 0.0
        with Path(folder, "output").open("w+") as output:
            program = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
            while program.poll() is None:
                memory = max(memory, largest_child_mb(program.pid))
                time.sleep(MEMORY_POLL_S)
            if program.returncode != 0:
                output.seek(0)
                raise RuntimeError(f"{' '.join(command)} ended with code {program.returncode}:\n{output.read()}")
        with Path(folder, "run", UPDATES).open(newline="") as file:
            marks = [(int(row["global_step"]), float(row["wall_time_s"])) for row in csv.DictReader(file)]
    (first_step, first_s), (last_step, last_s) = marks[len(marks) // 4], marks[-1]
    return Run((last_step - first_step) / (last_s - first_s), memory)


def largest_child_mb(pid: int) -> float:
    """Memory of the largest child of a process (Pss); 0 while there is none."""
    sizes = [0]
    with contextlib.suppress(OSError):  # it has ended meanwhile
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            lines = Path(f"/proc/{child}/smaps_rollup").read_text().splitlines()
            sizes += [int(line.split()[1]) for line in lines if line.startswith("Pss:")]
    return max(sizes) / 1024


def training_table(runs: dict[Variant, list[Run]], ceilings: dict[tuple[str, int], list[float]], cores: int) -> Table:
    goals = ", ".join(
        f"{model} ≥ {goal:,}" + (f" and ≥ {part:g} of raw" if part else "") for model, (goal, part) in GOALS.items()
    )
    table = table_of(
        "A3C on Breakout: agent steps/s in training, all workers together, CSVs included",
        f"games: side by side in a worker; MB: memory of the largest worker\n"
        f"of raw: to the emulator alone in as many processes, at most {cores}\n"
        f"goals, for 2 cores: {goals}; a worker under {MEMORY_GOAL_MB} MB",
        ("model", "backend"),
        ("workers", "games", "steps/s", "min–max", "of raw", "MB", "goal"),
    )
    for variant, samples in runs.items():
        model, backend, n, games = variant
        rates, memory = [run.rate for run in samples], median(run.memory_mb for run in samples)
        raw = ceilings["emulator", min(n, cores)]
        ratio = median(ours / theirs for ours, theirs in zip(rates, raw, strict=True))
        goal, part = GOALS[model]
        reached = median(rates) >= goal and ratio >= part and memory < MEMORY_GOAL_MB
        cells = (str(n), str(games), *spread(rates), f"{ratio:.2f}", f"{memory:.0f}", "yes" if reached else "no")
        table.add_row(model, backend, *cells)
    return table


# Where a step's time goes: one worker's loop in this process, with clocks around its parts.


def plan_of(variant: Variant) -> Resolved:
    command_line.register()
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        arguments = command_line.complete_arguments([*overrides_of(variant), "total_steps=1"])
        return experiment.plan(validate(hydra.compose("config", arguments)), [])


def worker_loop(variant: Variant, clock: Clock) -> Callable[[], int]:
    """A function that makes one update as a3c.work does, less its messages, and returns its steps."""
    plan = plan_of(variant)
    algo, job = plan.config.algo, job_of(plan)
    assert isinstance(algo, A3CConfig)
    shared = job.shared
    theta, optimizer = a3c.shared_learner(job)
    worker = GameWorker(0, job)
    worker.pull(theta, 0)
    for env in worker._envs:
        clock.wrap("game", env, "step", "reset")
    clock.wrap("acting", worker.computer, "start", "step")

    def gradient(rollout: Rollout) -> torch.Tensor:
        loss, _ = worker.computer.compute(rollout)
        return a3c.checked_gradient(worker, loss, shared.counters(), algo.max_grad_norm)[0]

    def push(change: torch.Tensor, steps: int, ended: int) -> None:
        a3c.push(worker, optimizer, change, theta, shared, steps, ended, algo.lock_updates)

    timed_gradient, timed_push = clock.timed("gradient", gradient), clock.timed("push", push)

    def advance() -> int:
        rollout, ended = worker.collect(sys.maxsize)
        timed_push(timed_gradient(rollout), rollout.rewards.size, len(ended))
        return int(rollout.rewards.size)

    return advance


def split_table(console: Console, seconds: float, repeats: int) -> Table:
    """Microseconds per agent step by part, medians of the repeats, each part on its own."""
    variants = [Variant(model, backend, 1, games) for model in GOALS for backend, games in SETTINGS]
    samples: dict[Variant, list[list[float]]] = {variant: [] for variant in variants}
    for repeat in range(repeats):
        for variant in variants:
            with console.status(f"repeat {repeat + 1} of {repeats}: parts of a step, {' '.join(map(str, variant))}"):
                samples[variant].append(split(partial(worker_loop, variant), seconds, PARTS, WARM_UP_UPDATES))
    table = table_of(
        "One agent step in training, one worker alone, µs",
        "game: emulator and preprocessing; acting: forward passes, the bootstrap's too\n"
        "gradient: loss, backward, clipping; push: optimizer, pull; rest: normalisation, drawing",
        ("model", "backend"),
        ("games", *PARTS, "rest", "total"),
    )
    for variant, rows in samples.items():
        numbers = (f"{median(column):.0f}" for column in zip(*rows, strict=True))
        table.add_row(variant.model, variant.backend, str(variant.games), *numbers)
    return table


if __name__ == "__main__":
    play(sys.argv[1], float(sys.argv[2]))
