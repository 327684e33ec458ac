"""A3C on Pendulum: the torch backends compared with a plain loop, and where a step's time goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import NamedTuple

import gymnasium
import numpy as np
from rich.console import Console
from rich.table import Table

from ablate.cli.compose import compose_and_plan
from benchmarks import plain_a3c
from benchmarks.common import (
    PENDULUM,
    WINDOW,
    Clock,
    MakeLoop,
    Mark,
    Options,
    WorkerLoop,
    in_turn,
    ratio,
    seconds_per_call,
    spread,
    steps_per_second,
    table_of,
    time_parts,
    train,
    yes_or_no,
)

GOAL = 2.0  # times the rate of the plain loop with the same number of processes
BACKENDS = ("manual", "autograd")
PARTS = ("environment", "network", "update")
WARM_UP_UPDATES = 50


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


def benchmark_a3c(console: Console, options: Options) -> None:
    """Training speeds, the parts of a step, and the speed of the environment alone."""
    console.print(rates_table(training_rates(console, options)))
    console.print(parts_table(console, options))
    env = gymnasium.make("Pendulum-v1").unwrapped
    env.reset(seed=0)
    ceiling_s = seconds_per_call(partial(env.step, np.zeros(1, np.float32)), min(options.seconds, 2.0))
    print(f"ceiling: gymnasium's Pendulum env.step alone, {1e6 * ceiling_s:.1f} µs, {1 / ceiling_s:,.0f} steps/s")


def variants(workers: list[int]) -> Iterator[Variant]:
    """Grouped by number of processes; each group starts with the plain loop."""
    for processes in sorted({1, *workers}):
        yield plain(processes)
        for backend in BACKENDS:
            if processes in workers:
                yield Variant("ablate", backend, "async", processes)
            if processes == 1:
                yield from (Variant("ablate", backend, "interleaved", n) for n in workers)


def training_rates(console: Console, options: Options) -> dict[Variant, list[float]]:
    """Steps per second of each variant, one number per repeat."""
    rates: dict[Variant, list[float]] = {variant: [] for variant in variants(options.workers)}
    for variant in in_turn(console, list(rates), options.repeats):
        if variant.loop == "plain":
            episodes = plain_a3c.train(variant.workers, options.seconds)
            rate = steps_per_second([Mark(*episode) for episode in episodes], variant.workers)
        else:
            expected = (rates[variant] or [GOAL * rates[plain(variant.processes)][0]])[-1]
            rate = train_ablate(variant, max(1000 * variant.workers, int(expected * options.seconds)))
        rates[variant].append(rate)
    return rates


def train_ablate(variant: Variant, total_steps: int) -> float:
    overrides = (f"backend={variant.backend}", f"schedule={variant.schedule}", f"workers={variant.workers}")
    return train(*PENDULUM, *overrides, f"total_steps={total_steps}", workers=variant.workers)


def rates_table(rates: dict[Variant, list[float]]) -> Table:
    table = table_of(
        f"A3C on Pendulum: environment steps/s in training, {WINDOW}",
        f"ratio: to the plain loop in equally many processes (interleaved: 1), median of the repeats; goal ≥ {GOAL:g}",
        ("loop", "backend", "schedule"),
        ("workers", "steps/s", "min–max", "ratio", f"≥ {GOAL:g}"),
    )
    for variant, samples in rates.items():
        cells = [*map(str, variant), *spread(samples)]
        if variant.loop == "ablate":
            to_plain = ratio(samples, rates[plain(variant.processes)])
            cells += [f"{to_plain:.2f}", yes_or_no(to_plain >= GOAL)]
        table.add_row(*cells)
    return table


# Where a step's time goes. The loops run in this process, one after the other, with clocks around their methods.


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


def ablate_loop(backend: str, clock: Clock) -> Callable[[], int]:
    """A function that makes one update of a worker of the program and returns its steps."""
    plan = compose_and_plan([*PENDULUM, f"backend={backend}", "workers=1", "total_steps=1"])  # no limit is used here
    loop = WorkerLoop(plan, clock, gradient="update", push="update")
    clock.wrap("environment", loop.worker._env, "step", "reset")
    clock.wrap("network", loop.worker._acting, "sample")
    return loop.advance


def parts_table(console: Console, options: Options) -> Table:
    """Microseconds per step by part; the median of the repeats for each part on its own."""
    loops: dict[str, MakeLoop] = {"plain": plain_loop}
    loops |= {f"ablate {backend}": partial(ablate_loop, backend) for backend in BACKENDS}
    samples: dict[str, list[list[float]]] = {name: [] for name in loops}
    for name in in_turn(console, list(loops), options.repeats, "parts of a step, "):
        samples[name].append(time_parts(loops[name], options.seconds, PARTS, WARM_UP_UPDATES))
    clocks_s = 2 * seconds_per_call(Clock(PARTS).timed("update", lambda: None), 0.1)  # of env.step and acting
    table = table_of(
        "One environment step in training, one process, µs",
        f"network: acting; update: gradient, optimizer, pull; total includes about {1e6 * clocks_s:.1f} for the clocks",
        ("loop",),
        (*PARTS, "rest", "total"),
    )
    for name, rows in samples.items():
        table.add_row(name, *(f"{median(column):.1f}" for column in zip(*rows, strict=True)))
    return table
