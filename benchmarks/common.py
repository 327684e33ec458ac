"""What several benchmarks need: run the program and measure its rate, take turns, time functions, print tables."""

from __future__ import annotations

import csv
import datetime
import os
import platform
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from ablate.algos.a3c.spec import A3CConfig
from ablate.algos.a3c.worker import checked_gradient, make_worker, push
from ablate.algos.job import WorkerJob
from ablate.nn.optimizers import make_optimizer
from ablate.parallel import heartbeat
from ablate.parallel.machine import cpu_description, usable_cpus
from ablate.parallel.shared import SharedState
from ablate.paths import ROOT
from ablate.records.schema import EPISODES
from ablate.runs.plan import Resolved

Row = TypeVar("Row")
# Overrides for a run that only trains, as the programs that it is compared with do.
TRAINING_ONLY = (
    "evaluation.every_seconds=null", "evaluation.every_steps=null", "figures=false", "logger.display=off",
)  # fmt: skip
PENDULUM = ("algo=a3c", "env=pendulum", "env.max_ep_step=200", "max_episodes=null", *TRAINING_ONLY)
PROGRAM = ("src/run.py",)
WINDOW = "over the second half of the steps"  # see `steps_per_second`
WATCH_PERIOD_S = 0.5


class Options(NamedTuple):
    """The options of the command line."""

    seconds: float  # of training, per measurement
    repeats: int
    workers: list[int]


def header() -> None:
    """Print the machine, the versions, the date, and how rates are measured: without them, a rate means nothing."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "numpy", "gymnasium"))
    load = f"load average before the start {os.getloadavg()[0]:.1f}"
    print(f"machine   {cpu_description()}, {usable_cpus()} cores; {load}")
    print(f"versions  Python {platform.python_version()}, {versions}")
    if (kernels := os.environ.get("OPENBLAS_CORETYPE")) is not None:
        print(f"blas      OPENBLAS_CORETYPE={kernels}: without it, OpenBLAS may use faster kernels on this processor")
    print(f"date      {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC")
    print(f"rates     of training: steps per second {WINDOW}, with the times in the run's CSV file")


# Rates of training.


class Mark(NamedTuple):
    """A row of a CSV file: how many steps all workers had made at that time."""

    step: int
    time_s: float  # only differences between marks of one run have a meaning
    worker: int = 0  # whose episode ended; 0 if the file does not say


def steps_per_second(marks: Iterable[Mark], workers: int = 1) -> float:
    """The rate over the second half of the steps, or from when each of the `workers` has ended an episode, if later.

    All benchmarks use this window. The first half contains the start-up: processes start one after the other, kernels
    are loaded, caches and buffers fill. Raises RuntimeError if the marks are too few."""
    ordered = sorted(marks, key=lambda mark: mark.time_s)
    middle = (ordered[0].step + ordered[-1].step) / 2 if ordered else 0.0
    seen: set[int] = set()
    start = None
    for mark in ordered:
        all_seen_before = len(seen) == workers
        seen.add(mark.worker)
        if len(seen) == workers and (mark.step <= middle or not all_seen_before):
            start = mark
    if start is None or mark.time_s <= start.time_s:
        raise RuntimeError(f"{len(ordered)} rows of {workers} workers are too few to measure: give more --seconds")
    return (mark.step - start.step) / (mark.time_s - start.time_s)


def read_marks(path: Path) -> list[Mark]:
    """The rows of a run's episodes.csv or updates.csv."""
    with path.open(newline="") as file:
        return [
            Mark(int(row["global_step"]), float(row["wall_time_s"]), int(row.get("worker", 0)))
            for row in csv.DictReader(file)
        ]


def train(
    *overrides: str,
    table: str = EPISODES,
    workers: int = 1,
    program: Sequence[str] = PROGRAM,
    watch: Callable[[int], None] | None = None,
) -> float:
    """Run the program with these overrides in a temporary folder. Returns steps per second, CSV files included.

    table: the file to read the rate from. workers: see `steps_per_second`. program, watch: see `execute`."""
    with temporary_folder() as folder:
        execute([*program, *overrides, f"hydra.run.dir={folder}/run"], watch)
        return steps_per_second(read_marks(folder / "run" / table), workers)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ablate-benchmark-") as folder:
        yield Path(folder)


def execute(arguments: Sequence[str], watch: Callable[[int], None] | None = None) -> None:
    """Run Python with these arguments at the root of the repository. Raises RuntimeError with its output if it fails.

    watch: called with the process's id every WATCH_PERIOD_S while it runs."""
    command = [sys.executable, *arguments]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        try:
            while watch and process.poll() is None:
                watch(process.pid)
                time.sleep(WATCH_PERIOD_S)
            process.wait()
        finally:  # after Ctrl-C; the program's workers notice its end, and end, too
            process.kill()
        if process.returncode != 0:
            output.seek(0)
            raise RuntimeError(f"{' '.join(command)} ended with code {process.returncode}:\n{output.read()}")


def side_by_side(measurements: Sequence[Callable[[], float]]) -> float:
    """The sum of rates that are measured at the same time."""
    with ThreadPoolExecutor(len(measurements)) as pool:
        return sum(rate.result() for rate in [pool.submit(measure) for measure in measurements])


# Samples, and tables of them.


def with_installed(console: Console, own: Sequence[Row], others: Mapping[str, Sequence[Row]]) -> list[Row]:
    """The variants to measure: our own, and those of each other module that is installed; a line names the others."""
    rows = [*own]
    for module, theirs in others.items():
        if find_spec(module):
            rows += theirs
        else:
            console.print(f"{module} is not installed; with pip install -e '.[bench]' it is measured too")
    return rows


def in_turn(console: Console, rows: Sequence[Row], repeats: int, what: str = "") -> Iterator[Row]:
    """Yield each row once per repeat, with a status line.

    Every second repeat goes backwards, so that a steady drift of the machine cancels out."""
    for repeat in range(repeats):
        for row in rows if repeat % 2 == 0 else rows[::-1]:
            name = row if isinstance(row, str) else " ".join(map(str, row)) if isinstance(row, tuple) else str(row)
            with console.status(f"repeat {repeat + 1} of {repeats}: {what}{name}"):
                yield row


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios, repeat by repeat."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))


def spread(samples: Sequence[float], form: str = ".0f") -> tuple[str, str]:
    """The median, and the smallest and the largest sample."""
    return f"{median(samples):{form}}", f"{min(samples):{form}}–{max(samples):{form}}"


def yes_or_no(reached: bool) -> str:
    return "yes" if reached else "no"


def table_of(title: str, caption: str, words: tuple[str, ...], numbers: tuple[str, ...]) -> Table:
    """An empty table: columns of words, then columns of numbers."""
    table = Table(title=title, caption=caption, box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name in (*words, *numbers):
        table.add_column(name, justify="left" if name in words else "right", no_wrap=True)
    return table


# Timing in this process.


def median_seconds(function: Callable[[], object], calls: int) -> float:
    """The median time of a call."""
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return median(times)


def operations_per_ns() -> float:
    """Floating-point operations per nanosecond, in float32, of numpy's product of 512 × 512 matrices on one core."""
    a = np.ones((512, 512), np.float32)
    return 2 * 512**3 / min(timeit.repeat(lambda: a @ a, number=1, repeat=200)) / 1e9


def table_of_parts(title: str, rows: Sequence[tuple[str, float, float]], note: str = "") -> Table:
    """Rows of (part, nanoseconds, operations), with the floor: the operations at the core's measured rate."""
    rate = operations_per_ns()
    table = table_of(
        title,
        f"{note}floor: operations at {rate:.0f} per ns, the rate of numpy's product of 512 × 512 matrices on one core",
        ("part",),
        ("ns", "operations", "floor"),
    )
    for name, spent, operations in rows:
        table.add_row(name, f"{spent:.0f}", f"{operations:,.0f}", f"{operations / rate:.0f}")
    return table


def seconds_per_call(function: Callable[[], object], seconds: float) -> float:
    """The mean time of a call, from repeated calls for about `seconds`."""
    calls, start = 0, time.perf_counter()
    while (total := time.perf_counter() - start) < seconds:
        for _ in range(100):
            function()
        calls += 100
    return total / calls


class Clock:
    """Adds up the seconds spent in functions, by part of a loop."""

    def __init__(self, parts: tuple[str, ...]) -> None:
        self.spent = dict.fromkeys(parts, 0.0)

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with a clock around it."""

        def call(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = function(*arguments)
            self.spent[part] += time.perf_counter() - start
            return result

        return call

    def wrap(self, part: str, owner: object, *methods: str) -> None:
        """Put a clock around methods of an object."""
        for name in methods:
            setattr(owner, name, self.timed(part, getattr(owner, name)))


MakeLoop = Callable[[Clock], Callable[[], int]]  # gives a function that makes one update and returns its steps


def time_parts(make_loop: MakeLoop, seconds: float, parts: tuple[str, ...], warm_up: int) -> list[float]:
    """Microseconds per step of each part, of the rest, and in total, after `warm_up` updates."""
    clock = Clock(parts)
    advance = make_loop(clock)
    for _ in range(warm_up):
        advance()
    clock.spent.update(dict.fromkeys(parts, 0.0))
    steps, start = 0, time.perf_counter()
    while (total := time.perf_counter() - start) < seconds:
        steps += advance()
    spent = [*clock.spent.values(), total - sum(clock.spent.values()), total]
    return [1e6 * part / steps for part in spent]


# The program's own objects, in this process.


class WorkerLoop:
    """The training loop of one A3C worker on its own, without messages to a parent.

    gradient, push: the parts to which the clock adds these two. The caller wraps methods of `worker`."""

    def __init__(self, plan: Resolved, clock: Clock, gradient: str, push: str) -> None:
        config = plan.config
        assert isinstance(config.algo, A3CConfig)
        self._config, self._algo = config, config.algo
        self._shared = SharedState(plan.parameters.size, len(config.optimizer.statistics), 1)
        self._shared.parameters_view()[:] = plan.parameters
        job = WorkerJob(config, plan.spec, plan.architecture, Path(), self._shared, (0,), False, {}, 0, 0, False, 0)
        heartbeat.install(partial(self._shared.beat, 0))  # as in a process of a run
        self._theta, *statistics = job.shared_tensors()
        self._optimizer = make_optimizer(config.optimizer, self._theta, statistics)
        self.worker: Any = make_worker(0, job, self._theta)
        self._timed_gradient = clock.timed(gradient, self._gradient)
        self._timed_push = clock.timed(push, self._push)

    def advance(self) -> int:
        """Make one update. Returns its number of steps."""
        rollout, ended = self.worker.collect(sys.maxsize)
        steps = int(rollout.rewards.size)
        self._timed_push(self._timed_gradient(rollout), steps, len(ended))
        return steps

    def _gradient(self, rollout: Any) -> torch.Tensor:
        loss, _ = self.worker.computer.compute(rollout)
        return checked_gradient(self.worker, loss, self._shared.counters(), self._algo.max_grad_norm)[0]

    def _push(self, gradient: torch.Tensor, steps: int, episodes: int) -> None:
        push(self.worker, self._optimizer, gradient, self._theta, self._shared, steps, episodes, self._config)
