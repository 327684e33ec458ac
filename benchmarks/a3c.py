"""Speed of training, measured in one invocation:  python src/benchmark.py [a3c|compiled|arms|atari|dqn|learning]

a3c: next to a plain loop. compiled: backend=compiled, its kernels next to one written for the Pendulum report alone,
and the parts of a step. arms: all runs of the report's two ablations, --repeats seeds each. atari: A3C-LSTM on
Breakout, next to the emulator alone, and the parts of a step. dqn: on Breakout, next to stable-baselines3 (extra
[bench]), and the parts of an update. learning: that it learns Breakout, --repeats seeds
for --seconds each.

Ratios are between runs that took turns on the same machine, so that its drift hits all alike.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import gymnasium
import hydra
import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from ablate.algos.a3c import worker as a3c
from ablate.algos.a3c.spec import A3CConfig
from ablate.algos.job import WorkerJob
from ablate.cli import hydra_app as command_line
from ablate.config.validation import validate
from ablate.parallel.shared import SharedState
from ablate.parallel.supervisor import ONE_THREAD
from ablate.paths import ROOT
from ablate.records.schema import EPISODES
from ablate.runs import plan as experiment
from ablate.runs.plan import Resolved
from ablate.types import Trajectory
from benchmarks import plain_a3c
from benchmarks.plain_a3c import Mark

GOAL = 2.0  # times the plain loop with as many processes
BACKENDS = ("manual", "autograd")
# The real program without what a plain loop does not do: evaluation, a figure, a display.
TRAINING_ONLY = (
    "algo=a3c", "env=pendulum", "env.max_ep_step=200", "max_episodes=null",
    "evaluation.every_seconds=null", "evaluation.every_steps=null", "figures=false", "logger.display=off",
)  # fmt: skip
PARTS = ("environment", "network", "update")
WARM_UP_UPDATES = 50
FILE_WIDTH = 100  # columns, where there is no terminal


class Variant(NamedTuple):
    """One row of the table of training speeds."""

    loop: str  # plain or ablate
    backend: str
    schedule: str
    workers: int

    @property
    def processes(self) -> int:
        return self.workers if self.schedule == "async" else 1


def plain(processes: int) -> Variant:
    return Variant("plain", "autograd", "async", processes)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="a3c", choices=sorted(BENCHMARKS), help="what to measure")
    parser.add_argument("--seconds", type=float, help="of training, a measurement; 8 if not given, of learning 600")
    parser.add_argument("--repeats", type=int, help="measurements of each row, or seeds; 3 if not given, of learning 1")
    parser.add_argument("--workers", help="numbers of workers; 1,2,4 if not given, of atari 1,2,8, of learning 2")
    options = parser.parse_args()
    parser.set_defaults(**DEFAULTS.get(options.what, {"seconds": 8.0, "repeats": 3, "workers": "1,2,4"}))
    options = parser.parse_args()
    workers = sorted({int(item) if item.isdecimal() else 0 for item in options.workers.split(",")})
    if not (0 < options.seconds < float("inf") and options.repeats > 0 and workers[0] > 0):
        parser.error("--seconds, --repeats and each of --workers must be positive numbers")
    os.environ.update(ONE_THREAD)  # for the processes to come; torch is in this one already
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):  # a kill cleans up like Ctrl-C
        signal.signal(number, signal.default_int_handler)
    try:
        header()
        console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
        BENCHMARKS[options.what](console, options.seconds, options.repeats, workers)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    limits = f"--seconds {options.seconds:g} --repeats {options.repeats} --workers {','.join(map(str, workers))}"
    print(f"again: python src/benchmark.py {options.what} {limits}")
    return 0


def header() -> None:
    """The machine, the versions and the date: without them the numbers say nothing."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "numpy", "gymnasium"))
    load = f"load average before the start {os.getloadavg()[0]:.1f}"
    print(f"machine   {cpu}, {len(os.sched_getaffinity(0))} cores; {load}")
    print(f"versions  Python {platform.python_version()}, {versions}")
    print(f"date      {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC")


def benchmark_a3c(console: Console, seconds: float, repeats: int, workers: list[int]) -> None:
    """A3C on Pendulum: training speeds, and where a step's time goes."""
    console.print(rates_table(training_rates(console, seconds, repeats, workers)))
    console.print(split_table(console, seconds, repeats))
    env = gymnasium.make("Pendulum-v1").unwrapped
    env.reset(seed=0)
    ceiling_s = seconds_per_call(partial(env.step, np.zeros(1, np.float32)), min(seconds, 2.0))
    print(f"ceiling: gymnasium's Pendulum env.step alone, {1e6 * ceiling_s:.1f} µs, {1 / ceiling_s:,.0f} steps/s")


def variants(workers: list[int]) -> Iterator[Variant]:
    """Grouped by number of processes, the plain loop at the head of each group."""
    for processes in sorted({1, *workers}):
        yield plain(processes)
        for backend in BACKENDS:
            if processes in workers:
                yield Variant("ablate", backend, "async", processes)
            if processes == 1:
                yield from (Variant("ablate", backend, "interleaved", n) for n in workers)


def training_rates(console: Console, seconds: float, repeats: int, workers: list[int]) -> dict[Variant, list[float]]:
    """Steps/s of each variant, one for each repeat. Every other repeat goes backwards: a steady drift cancels out."""
    order = list(variants(workers))
    rates: dict[Variant, list[float]] = {variant: [] for variant in order}
    for repeat in range(repeats):
        for variant in order if repeat % 2 == 0 else order[::-1]:
            with console.status(f"repeat {repeat + 1} of {repeats}: {' '.join(map(str, variant))} workers"):
                if variant.loop == "plain":
                    marks = plain_a3c.train(variant.workers, seconds)
                else:
                    guess = (rates[variant] or [GOAL * rates[plain(variant.processes)][0]])[-1]
                    marks = run_program(variant, max(1000 * variant.workers, int(guess * seconds)))
            rates[variant].append(plain_a3c.steps_per_second(marks, variant.workers))
    return rates


def run_program(variant: Variant, total_steps: int) -> list[Mark]:
    """Train with src/run.py in a temporary folder."""
    overrides = (f"backend={variant.backend}", f"schedule={variant.schedule}", f"workers={variant.workers}")
    with tempfile.TemporaryDirectory(prefix="ablate-benchmark-") as folder:
        limits = (f"total_steps={total_steps}", f"hydra.run.dir={folder}/run")
        command = [sys.executable, str(ROOT / "src/run.py"), *TRAINING_ONLY, *overrides, *limits]
        # Ctrl-C here kills the program; its workers see that it is gone and end themselves.
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} ended with code {done.returncode}:\n{done.stdout}")
        with Path(folder, "run", EPISODES).open(newline="") as file:
            rows = csv.DictReader(file)
            return [Mark(int(row["worker"]), int(row["global_step"]), float(row["wall_time_s"])) for row in rows]


def rates_table(rates: dict[Variant, list[float]]) -> Table:
    table = table_of(
        "A3C on Pendulum: environment steps/s in training, start-up not counted",
        f"ratio: to the plain loop with as many processes (interleaved: 1), median of the repeats; goal ≥ {GOAL:g}",
        ("loop", "backend", "schedule"),
        ("workers", "steps/s", "min–max", "ratio", f"≥ {GOAL:g}"),
    )
    for variant, samples in rates.items():
        cells = [*map(str, variant), f"{median(samples):.0f}", f"{min(samples):.0f}–{max(samples):.0f}"]
        if variant.loop == "ablate":
            baseline = rates[plain(variant.processes)]
            ratio = median(ours / theirs for ours, theirs in zip(samples, baseline, strict=True))
            cells += [f"{ratio:.2f}", "yes" if ratio >= GOAL else "no"]
        table.add_row(*cells)
    return table


def table_of(title: str, caption: str, words: tuple[str, ...], numbers: tuple[str, ...]) -> Table:
    table = Table(title=title, caption=caption, box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name in (*words, *numbers):
        table.add_column(name, justify="left" if name in words else "right", no_wrap=True)
    return table


# Where a step's time goes. The loops run in this process, one after the other, with clocks around their methods.


class Clock:
    """Adds up the seconds spent in functions, by part of the loop."""

    def __init__(self, parts: tuple[str, ...]) -> None:
        self.spent = dict.fromkeys(parts, 0.0)

    def timed(self, part: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = inner(*arguments)
            self.spent[part] += time.perf_counter() - start
            return result

        return call

    def wrap(self, part: str, owner: object, *methods: str) -> None:
        for name in methods:
            setattr(owner, name, self.timed(part, getattr(owner, name)))


def plain_loop(clock: Clock) -> Callable[[], int]:
    """A function that makes one update of the plain loop and returns its steps."""
    gnet = plain_a3c.ActorCritic()
    gnet.share_memory()
    worker = plain_a3c.PlainWorker(gnet, plain_a3c.SharedAdam(gnet), seed=0)
    clock.wrap("environment", worker.env, "step", "reset")
    clock.wrap("network", worker, "act")
    clock.wrap("update", worker, "update")
    updates = worker.train()
    return lambda: next(updates)[0]


def job_of(plan: Resolved) -> WorkerJob:
    """Worker 0 alone in this process, at the start of a run. No file is written."""
    shared = SharedState(plan.parameters.size, len(plan.config.optimizer.statistics), 1)
    shared.parameters_view()[:] = plan.parameters
    return WorkerJob(plan.config, plan.spec, plan.architecture, Path(), shared, (0,), False, {}, 0, 0, 0)


def program_loop(clock: Clock, backend: str) -> Callable[[], int]:
    """The same for a worker of the real program, driven as a3c.work drives it, less its messages."""
    command_line.register()
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        overrides = [*TRAINING_ONLY, f"backend={backend}", "workers=1", "total_steps=1"]  # no limit is looked at here
        plan = experiment.plan(validate(hydra.compose("config", overrides)), [])
    algo, job = plan.config.algo, job_of(plan)
    assert isinstance(algo, A3CConfig)
    shared = job.shared
    theta, optimizer = a3c.shared_learner(job)
    worker = a3c.Worker(0, job)
    worker.pull(theta, 0)
    clock.wrap("environment", worker._env, "step", "reset")
    clock.wrap("network", worker._acting, "sample")

    def update(trajectory: Trajectory, episodes: int) -> None:
        loss, _ = worker.computer.compute(trajectory)
        gradient, _ = a3c.checked_gradient(worker, loss, shared.counters(), algo.max_grad_norm)
        a3c.push(worker, optimizer, gradient, theta, shared, len(trajectory.rewards), episodes, algo.lock_updates)

    timed_update = clock.timed("update", update)

    def advance() -> int:
        trajectory, ended = worker.collect(algo.t_max)
        timed_update(trajectory, len(ended))
        return len(trajectory.rewards)

    return advance


def split_table(console: Console, seconds: float, repeats: int) -> Table:
    """Microseconds per step by part; the medians of the repeats, each part on its own."""
    loops: dict[str, Callable[[Clock], Callable[[], int]]] = {"plain": plain_loop}
    loops |= {f"ablate {backend}": partial(program_loop, backend=backend) for backend in BACKENDS}
    samples: dict[str, list[list[float]]] = {name: [] for name in loops}
    for repeat in range(repeats):
        for name, loop in loops.items():
            with console.status(f"repeat {repeat + 1} of {repeats}: parts of a step, {name}"):
                samples[name].append(split(loop, seconds, PARTS, WARM_UP_UPDATES))
    clocks_s = 2 * seconds_per_call(Clock(PARTS).timed("update", lambda: None), 0.1)  # of env.step and acting
    table = table_of(
        "One environment step in training, one process, µs",
        f"network: acting; update: gradient, optimizer, pull; the clocks cost about {1e6 * clocks_s:.1f} of it",
        ("loop",),
        (*PARTS, "rest", "total"),
    )
    for name, rows in samples.items():
        table.add_row(name, *(f"{median(column):.1f}" for column in zip(*rows, strict=True)))
    return table


def split(
    loop: Callable[[Clock], Callable[[], int]], seconds: float, parts: tuple[str, ...], warm_up: int
) -> list[float]:
    """Microseconds per step of each part, of the rest, and in total, after `warm_up` updates."""
    clock = Clock(parts)
    advance = loop(clock)
    for _ in range(warm_up):
        advance()
    clock.spent.update(dict.fromkeys(parts, 0.0))
    steps, start = 0, time.perf_counter()
    while (total := time.perf_counter() - start) < seconds:
        steps += advance()
    spent = [*clock.spent.values(), total - sum(clock.spent.values()), total]
    return [1e6 * part / steps for part in spent]


def seconds_per_call(function: Callable[[], object], seconds: float) -> float:
    """Mean over calls that fill `seconds`."""
    calls, start = 0, time.perf_counter()
    while (total := time.perf_counter() - start) < seconds:
        for _ in range(100):
            function()
        calls += 100
    return total / calls


def benchmark_compiled(console: Console, seconds: float, repeats: int, workers: list[int]) -> None:
    from benchmarks import compiled as benchmark_compiled

    benchmark_compiled.benchmark_compiled(console, seconds, repeats, workers)


def benchmark_arms(console: Console, seconds: float, repeats: int, workers: list[int]) -> None:
    from benchmarks import compiled as benchmark_compiled

    benchmark_compiled.benchmark_arms(console, seconds, repeats, workers)


def benchmark_atari(console: Console, seconds: float, repeats: int, workers: list[int]) -> None:
    from benchmarks import atari as benchmark_atari

    benchmark_atari.benchmark_atari(console, seconds, repeats, workers)


def benchmark_dqn(console: Console, seconds: float, repeats: int, workers: list[int]) -> None:
    from benchmarks import dqn as benchmark_dqn

    benchmark_dqn.benchmark_dqn(console, seconds, repeats)


def benchmark_learning(console: Console, seconds: float, repeats: int, workers: list[int]) -> None:
    from benchmarks import learning as benchmark_learning

    benchmark_learning.benchmark_learning(console, seconds, repeats, workers)


BENCHMARKS = {
    "a3c": benchmark_a3c,
    "arms": benchmark_arms,
    "atari": benchmark_atari,
    "compiled": benchmark_compiled,
    "dqn": benchmark_dqn,
    "learning": benchmark_learning,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "atari": {"seconds": 8.0, "repeats": 3, "workers": "1,2,8"},
    "dqn": {"seconds": 15.0, "repeats": 3, "workers": "1"},
    "learning": {"seconds": 600.0, "repeats": 1, "workers": "2"},
}

if __name__ == "__main__":
    sys.exit(main())
