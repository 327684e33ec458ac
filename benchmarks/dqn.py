"""DQN on Breakout: whole runs compared with stable-baselines3, and the parts of an update."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise, product
from math import prod
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from ablate.algos.dqn.gradients import Q_BACKENDS, QSettings
from ablate.algos.dqn.spec import DQNConfig
from ablate.cli.compose import compose_and_plan
from ablate.nn.architecture import Architecture
from ablate.nn.optimizers import make_optimizer
from ablate.nn.precision import resolve_precision
from ablate.nn.q_architecture import QArchitecture
from ablate.parallel.forking import ONE_THREAD
from ablate.records.schema import UPDATES
from ablate.replay.fenwick import FenwickTree
from ablate.replay.make import make_replay
from ablate.runs.plan import Resolved
from ablate.seeding import Role, generator
from benchmarks.common import (
    TRAINING_ONLY,
    WINDOW,
    Mark,
    Options,
    execute,
    in_turn,
    median_seconds,
    ratio,
    side_by_side,
    spread,
    steps_per_second,
    table_of,
    temporary_folder,
    train,
    with_installed,
)

GOAL = 2.0  # times stable-baselines3 at its better number of threads
PRIORITIZED_GOAL = 0.95  # of uniform
WARM_UP = 2000  # steps before learning
STEPS_PER_SECOND = 150  # expected, to choose the length of a run
BATCH, FRAMES, UPDATES_TIMED = 32, 10_000, 60  # for the parts of an update
PRIORITIES, TREE_BATCHES = 1_000_000, 2000
PARTS_OF = (
    ("manual", "bf16", "uniform"), ("manual", "bf16", "prioritized"), ("autograd", "bf16", "uniform"),
    ("manual", "float32", "uniform"), ("autograd", "float32", "uniform"),
)  # fmt: skip
RUN = (
    "algo=dqn", "env=breakout", f"algo.warmup_steps={WARM_UP}", "log_interval=5", "checkpoint_every_seconds=3600",
    *TRAINING_ONLY,
)  # fmt: skip


class Variant(NamedTuple):
    """One row of the table of training speeds."""

    program: str  # ablate or stable-baselines3
    replay: str
    layout: str  # the schedule, or torch's number of threads
    runs: int  # side by side


ABLATE = [
    *(Variant("ablate", *pair, 1) for pair in product(("uniform", "prioritized"), ("async", "interleaved"))),
    Variant("ablate", "uniform", "interleaved", 2),
]
SB3 = [Variant("stable-baselines3", "uniform", f"{threads} thread{'s' * (threads > 1)}", 1) for threads in (1, 2)]


def benchmark_dqn(console: Console, options: Options) -> None:
    """Training speeds after the warm-up, the parts of an update, and the tree of priorities."""
    variants = with_installed(console, ABLATE, {"stable_baselines3": SB3})
    rates: dict[Variant, list[float]] = {variant: [] for variant in variants}
    for variant in in_turn(console, variants, options.repeats):
        rates[variant].append(training_rate(variant, int(options.seconds * STEPS_PER_SECOND)))
    console.print(rates_table(rates))
    console.print(parts_table(options.repeats))
    print(f"tree: {tree_us():.1f} µs to update and draw {BATCH} of {PRIORITIES:,} priorities; goal < 20")


def training_rate(variant: Variant, steps: int) -> float:
    """Steps per second of learning, the sum over all runs side by side."""
    measure: Callable[[], float]
    if variant.program == "ablate":
        overrides = (f"replay={variant.replay}", f"schedule={variant.layout}", f"total_steps={WARM_UP + steps}")
        measure = partial(train, *RUN, *overrides, table=UPDATES)
    else:
        measure = partial(sb3_rate, variant.layout[0], steps)
    return side_by_side([measure] * variant.runs)


def rates_table(rates: dict[Variant, list[float]]) -> Table:
    theirs = [rates[variant] for variant in SB3 if variant in rates]
    best = max(theirs, key=median) if theirs else None
    table = table_of(
        f"DQN on Breakout: environment steps/s in learning, {WINDOW}, CSV files included; one update every 4 steps",
        f"vs SB3: relative to its better number of threads, in the same repeat; goal ≥ {GOAL:g} on 2 cores\n"
        f"vs uniform: relative to uniform replay with the same layout; goal ≥ {PRIORITIZED_GOAL:g}",
        ("program", "replay", "layout"),
        ("runs", "steps/s", "min–max", "updates/s", "vs SB3", "vs uniform"),
    )
    for variant, samples in rates.items():
        vs_sb3 = f"{ratio(samples, best):.2f}" if best else "–"
        uniform = rates.get(variant._replace(replay="uniform"))
        vs_uniform = f"{ratio(samples, uniform):.2f}" if uniform and variant.replay != "uniform" else ""
        cells = (str(variant.runs), *spread(samples), f"{median(samples) / 4:.1f}", vs_sb3, vs_uniform)
        table.add_row(*variant[:3], *cells)
    return table


def sb3_rate(threads: str, steps: int) -> float:
    """The same for stable-baselines3, in a process of its own with this number of threads."""
    with temporary_folder() as folder:
        execute(["-m", "benchmarks.dqn", threads, str(steps), f"{folder}/rate"])
        return float((folder / "rate").read_text())


def train_sb3(threads: int, steps: int) -> float:
    """Steps per second of stable-baselines3's DQN, with the same network, batch size and steps per update."""
    import ale_py  # noqa: F401 (registers the games)
    from stable_baselines3 import DQN
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import VecFrameStack

    torch.set_num_threads(threads)

    class Clock(BaseCallback):
        def _on_training_start(self) -> None:
            self.marks: list[Mark] = []

        def _on_step(self) -> bool:
            if self.num_timesteps > WARM_UP:
                self.marks.append(Mark(self.num_timesteps, time.monotonic()))
            return True

    env = VecFrameStack(make_atari_env("BreakoutNoFrameskip-v4", n_envs=1, seed=0), n_stack=4)
    model = DQN(
        "CnnPolicy", env, learning_rate=6.25e-5, buffer_size=100_000, learning_starts=WARM_UP, batch_size=32,
        train_freq=4, gradient_steps=1, target_update_interval=10_000, exploration_fraction=1.0, seed=0, device="cpu",
    )  # fmt: skip
    clock = Clock()
    model.learn(WARM_UP + steps, callback=clock)
    return steps_per_second(clock.marks)


# The parts of an update, on one core.


def parts_table(repeats: int) -> Table:
    """Milliseconds of each part of an update by backend and precision; medians."""
    table = table_of(
        f"One update of {BATCH} transitions on one core, ms",
        "draw: from the replay; gather: copy into the network's input; gradient: both forward passes, backward pass\n"
        "floor: the operations of gradient, at the best rate that a large matrix product or convolution reaches here",
        ("backend", "precision", "replay"),
        ("draw", "gather", "gradient", "optimizer", "total", "floor"),
    )
    fastest = resolve_precision("auto")
    for backend, precision, name in PARTS_OF:
        if precision not in (fastest, "float32"):
            continue  # this processor would compute it in software: the program refuses it
        overrides = (f"backend={backend}", f"precision={precision}", f"replay={name}")
        plan = compose_and_plan(["algo=dqn", "env=breakout", *overrides])
        samples = [update_parts(plan) for _ in range(repeats)]
        columns = [median(column) for column in zip(*samples, strict=True)]
        floor = update_flops(plan.architecture) / flops_per_second(precision)
        table.add_row(backend, precision, name, *(f"{1e3 * s:.2f}" for s in (*columns, sum(columns), floor)))
    return table


def update_parts(plan: Resolved) -> list[float]:
    """Seconds to draw, gather, compute the gradient and step the optimizer; medians over updates on random frames."""
    config, spec = plan.config, plan.spec
    assert isinstance(config.algo, DQNConfig)
    assert config.replay is not None
    rng = generator(config.seed, Role.replay)
    settings = replace(config.replay, capacity=FRAMES)
    replay = make_replay(settings, spec, config.envs_per_worker, config.algo.n_step, config.algo.gamma, rng, Path())
    replay.start(0, rng.integers(256, size=spec.observation_shape, dtype=np.uint8))
    for _ in range(FRAMES):
        observation = rng.integers(256, size=spec.observation_shape, dtype=np.uint8)
        replay.add(0, int(rng.integers(4)), 0.0, False, False, observation, 0.0)
    theta = torch.from_numpy(plan.parameters.copy())
    statistics = [torch.zeros_like(theta) for _ in config.optimizer.statistics]
    optimizer = make_optimizer(config.optimizer, theta, statistics, alone=True)
    computer = Q_BACKENDS[str(config.backend)](
        plan.architecture, BATCH, QSettings.of(config.algo), theta, str(config.precision)
    )
    rows = []
    for update in range(1, UPDATES_TIMED + 1):
        clock = [time.perf_counter()]
        batch = replay.sample(BATCH, 0.5)
        clock.append(time.perf_counter())
        replay.store.gather(batch.slots, computer.observations, computer.table)
        replay.store.gather(batch.next_slots, computer.next_observations, computer.table)
        clock.append(time.perf_counter())
        metrics = computer.compute(batch).metrics()
        clock.append(time.perf_counter())
        optimizer.step(computer.gradient, update, config.optimizer.lr)
        clock.append(time.perf_counter())
        replay.update(batch, metrics.td_errors)
        drawn = clock[1] - clock[0] + time.perf_counter() - clock[4]
        rows.append((drawn, *(b - a for a, b in pairwise(clock[1:]))))
    return [median(column) for column in zip(*rows[UPDATES_TIMED // 5 :], strict=True)]


def update_flops(architecture: Architecture) -> float:
    """Operations of both forward passes and the backward pass; a multiplication with its addition counts as two."""
    assert isinstance(architecture, QArchitecture)
    sizes = architecture.sizes()
    layers = [
        prod(after) * before[0] * layer.kernel**2
        for layer, before, after in zip(architecture.convolutions, sizes, sizes[1:], strict=False)
    ]
    widths = (prod(sizes[-1]), *architecture.hidden, architecture.actions)
    layers += [a * b for a, b in pairwise(widths)]
    return 2.0 * BATCH * (4 * sum(layers) - layers[0])  # the first layer's input needs no gradient


def flops_per_second(precision: str) -> float:
    """The rate of one core in a 1024 × 1024 matrix product or in a 3 × 3 convolution, whichever is higher."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    matrix = torch.rand(1024, 1024).to(dtype)
    images = torch.rand(32, 128, 16, 16).to(dtype, memory_format=torch.channels_last)
    kernels = torch.rand(128, 128, 3, 3).to(dtype, memory_format=torch.channels_last)
    operations = {
        2 * 1024**3: lambda: torch.mm(matrix, matrix),
        2 * 32 * 14 * 14 * 128 * 128 * 9: lambda: torch.conv2d(images, kernels),
    }
    return max(flops / median_seconds(operation, 20) for flops, operation in operations.items())


def tree_us() -> float:
    """Microseconds to update the priorities of a batch and to draw the next one."""
    rng = np.random.default_rng(0)
    tree = FenwickTree(PRIORITIES)
    tree.update(np.arange(PRIORITIES), rng.random(PRIORITIES))
    times = []
    for _ in range(TREE_BATCHES):
        slots, values, points = rng.integers(PRIORITIES, size=BATCH), rng.random(BATCH), rng.random(BATCH) * tree.total
        began = time.perf_counter()
        tree.update(slots, values)
        tree.find(points, PRIORITIES)
        times.append(time.perf_counter() - began)
    return 1e6 * median(times)


if __name__ == "__main__":
    os.environ.update({name: sys.argv[1] for name in ONE_THREAD})
    Path(sys.argv[3]).write_text(str(train_sb3(int(sys.argv[1]), int(sys.argv[2]))))
