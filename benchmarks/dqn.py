"""Speed of DQN on Breakout, for src/benchmark.py: whole runs next to stable-baselines3, and the parts of an update."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise, product
from math import prod
from pathlib import Path
from statistics import median
from typing import NamedTuple

import hydra
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from ablate.algos.dqn.gradients import Q_BACKENDS, QSettings
from ablate.algos.dqn.spec import DQNConfig
from ablate.cli import hydra_app as command_line
from ablate.config.schema import Config
from ablate.config.validation import validate
from ablate.envs.make import spec_of
from ablate.nn.architecture import architecture_of, initial_parameters
from ablate.nn.optimizers import make_optimizer
from ablate.nn.q_architecture import QArchitecture
from ablate.parallel.supervisor import ONE_THREAD
from ablate.paths import ROOT
from ablate.records.schema import UPDATES
from ablate.replay.fenwick import FenwickTree
from ablate.replay.make import make_replay
from ablate.runs import plan as experiment
from ablate.seeding import Role, generator
from benchmarks.a3c import table_of

GOAL = 2.0  # times stable-baselines3 at its better number of threads
PRIORITIZED_GOAL = 0.95  # of uniform
WARM_UP = 2000  # steps before learning
STEPS_PER_SECOND = 150  # a guess, for how long a run is to be
BATCH, FRAMES, UPDATES_TIMED = 32, 10_000, 60  # of the parts of an update
PRIORITIES, TREE_BATCHES = 1_000_000, 2000
PARTS_OF = (
    ("manual", "bf16", "uniform"), ("manual", "bf16", "prioritized"), ("autograd", "bf16", "uniform"),
    ("manual", "float32", "uniform"), ("autograd", "float32", "uniform"),
)  # fmt: skip
RUN = (
    "algo=dqn", "env=breakout", f"algo.warmup_steps={WARM_UP}", "log_interval=5", "evaluation.every_seconds=null",
    "evaluation.every_steps=null", "figures=false", "logger.display=off", "checkpoint_every_seconds=3600",
)  # fmt: skip


class Variant(NamedTuple):
    """A row: what runs, and how many of it side by side."""

    program: str  # ablate or stable-baselines3
    replay: str
    layout: str  # schedule, or number of torch's threads
    runs: int


ABLATE = [
    *(Variant("ablate", *pair, 1) for pair in product(("uniform", "prioritized"), ("async", "interleaved"))),
    Variant("ablate", "uniform", "interleaved", 2),
]
SB3 = [Variant("stable-baselines3", "uniform", f"{threads} thread{'s' * (threads > 1)}", 1) for threads in (1, 2)]


def benchmark_dqn(console: Console, seconds: float, repeats: int) -> None:
    """Training speeds in the learning phase; rows take turns."""
    variants = list(ABLATE)
    if find_spec("stable_baselines3"):
        variants += SB3
    else:
        console.print("stable-baselines3 is not installed: pip install -e '.[bench]' measures it beside")
    rates: dict[Variant, list[float]] = {variant: [] for variant in variants}
    for repeat in range(repeats):
        for variant in variants:
            with console.status(f"repeat {repeat + 1} of {repeats}: {' '.join(map(str, variant))}"):
                rates[variant].append(rate_of(variant, int(seconds * STEPS_PER_SECOND)))
    console.print(rates_table(rates))
    console.print(parts_table(repeats))
    print(f"tree: {tree_us():.1f} µs for the update and the draw of {BATCH} of {PRIORITIES:,} priorities; goal < 20")


def rate_of(variant: Variant, steps: int) -> float:
    """Steps/s of all runs side by side, in learning."""
    with tempfile.TemporaryDirectory(prefix="ablate-benchmark-") as folder:
        programs = []
        for run in range(variant.runs):
            here = Path(folder, str(run))
            here.mkdir()
            if variant.program == "ablate":
                command = [str(ROOT / "src/run.py"), *RUN, f"replay={variant.replay}"]
                limits = [f"schedule={variant.layout}", f"total_steps={WARM_UP + steps}", f"hydra.run.dir={here}/run"]
            else:
                command, limits = [__file__, variant.layout[0], str(steps), f"{here}/rate"], []
            with (here / "output").open("w") as output:
                program = subprocess.Popen([sys.executable, *command, *limits], stdout=output, stderr=subprocess.STDOUT)
            programs.append(program)
        for run, program in enumerate(programs):
            if program.wait() != 0:
                raise RuntimeError(f"{variant} failed:\n{Path(folder, str(run), 'output').read_text()}")
        read = run_rate if variant.program == "ablate" else sb3_rate
        return sum(read(Path(folder, str(run))) for run in range(variant.runs))


def run_rate(folder: Path) -> float:
    """Over the later three quarters of the rows, by the run's own clock."""
    with (folder / "run" / UPDATES).open(newline="") as file:
        marks = [(int(row["global_step"]), float(row["wall_time_s"])) for row in csv.DictReader(file)]
    (first_step, first_s), (last_step, last_s) = marks[len(marks) // 4], marks[-1]
    return (last_step - first_step) / (last_s - first_s)


def sb3_rate(folder: Path) -> float:
    return float((folder / "rate").read_text())


def rates_table(rates: dict[Variant, list[float]]) -> Table:
    theirs = [rates[variant] for variant in SB3 if variant in rates]
    best = max(theirs, key=median) if theirs else None
    table = table_of(
        "DQN on Breakout: environment steps/s in the learning phase, CSVs included; one update every 4 steps",
        f"vs SB3: to its better number of threads, in the same repeat; goal ≥ {GOAL:g} on 2 cores\n"
        f"vs uniform: of the same layout; goal ≥ {PRIORITIZED_GOAL:g}",
        ("program", "replay", "layout"),
        ("runs", "steps/s", "min–max", "updates/s", "vs SB3", "vs uniform"),
    )
    for variant, samples in rates.items():
        versus = f"{median(a / b for a, b in zip(samples, best, strict=True)):.2f}" if best else "–"
        uniform = rates.get(variant._replace(replay="uniform"))
        of_uniform = ""
        if uniform and variant.replay != "uniform":
            of_uniform = f"{median(a / b for a, b in zip(samples, uniform, strict=True)):.2f}"
        middle = median(samples)
        spread = f"{min(samples):.0f}–{max(samples):.0f}"
        cells = (str(variant.runs), f"{middle:.0f}", spread, f"{middle / 4:.1f}", versus, of_uniform)
        table.add_row(*variant[:3], *cells)
    return table


def train_sb3(threads: int, steps: int) -> float:
    """Steps/s of stable-baselines3's DQN, same network, batch and ratio, over its later three quarters."""
    import ale_py  # noqa: F401 (registers the games)
    import torch
    from stable_baselines3 import DQN
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import VecFrameStack

    torch.set_num_threads(threads)

    class Clock(BaseCallback):
        def _on_training_start(self) -> None:
            self.marks: list[tuple[int, float]] = []

        def _on_step(self) -> bool:
            if self.num_timesteps > WARM_UP:
                self.marks.append((self.num_timesteps, time.monotonic()))
            return True

    env = VecFrameStack(make_atari_env("BreakoutNoFrameskip-v4", n_envs=1, seed=0), n_stack=4)
    model = DQN(
        "CnnPolicy", env, learning_rate=6.25e-5, buffer_size=100_000, learning_starts=WARM_UP, batch_size=32,
        train_freq=4, gradient_steps=1, target_update_interval=10_000, exploration_fraction=1.0, seed=0, device="cpu",
    )  # fmt: skip
    clock = Clock()
    model.learn(WARM_UP + steps, callback=clock)
    (first_step, first_s), (last_step, last_s) = clock.marks[len(clock.marks) // 4], clock.marks[-1]
    return (last_step - first_step) / (last_s - first_s)


# The parts of an update, on one core.


def parts_table(repeats: int) -> Table:
    """Milliseconds of each part of an update, medians, by backend and precision."""
    table = table_of(
        f"One update of {BATCH} transitions on one core, ms",
        "draw: from the replay; gather: the copy into the network's input; gradient: both forward passes, backward\n"
        "floor: the multiplications of gradient at the best rate of a large product or convolution here",
        ("backend", "precision", "replay"),
        ("draw", "gather", "gradient", "optimizer", "total", "floor"),
    )
    for backend, precision, name in PARTS_OF:
        config = resolved(f"backend={backend}", f"precision={precision}", f"replay={name}")
        samples = [update_parts(config) for _ in range(repeats)]
        columns = [median(column) for column in zip(*samples, strict=True)]
        floor = update_flops(config) / flops_per_second(precision)
        table.add_row(backend, precision, name, *(f"{1e3 * s:.2f}" for s in (*columns, sum(columns), floor)))
    return table


def resolved(*overrides: str) -> Config:
    command_line.register()
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return experiment.plan(validate(hydra.compose("config", ["algo=dqn", "env=breakout", *overrides])), []).config


def update_parts(config: Config) -> list[float]:
    """Seconds of drawing, gathering, computing and stepping, medians over updates on random frames."""
    rng = generator(config.seed, Role.replay)
    spec = spec_of(config.env)
    assert config.replay is not None
    assert isinstance(config.algo, DQNConfig)
    settings = replace(config.replay, capacity=FRAMES)
    replay = make_replay(settings, spec, config.envs_per_worker, config.algo.n_step, config.algo.gamma, rng, Path())
    replay.start(0, rng.integers(256, size=spec.observation_shape, dtype=np.uint8))
    for _ in range(FRAMES):
        observation = rng.integers(256, size=spec.observation_shape, dtype=np.uint8)
        replay.add(0, int(rng.integers(4)), 0.0, False, False, observation, 0.0)
    architecture = architecture_of(config.model, spec)
    theta = torch.from_numpy(initial_parameters(architecture, rng))
    statistics = [torch.zeros_like(theta) for _ in config.optimizer.statistics]
    optimizer = make_optimizer(config.optimizer, theta, statistics, alone=True)
    computer = Q_BACKENDS[str(config.backend)](
        architecture, BATCH, QSettings.of(config.algo), theta, str(config.precision)
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
        optimizer.step(computer.gradient, update)
        clock.append(time.perf_counter())
        replay.update(batch, metrics.td_errors)
        drawn = clock[1] - clock[0] + time.perf_counter() - clock[4]
        rows.append((drawn, *(b - a for a, b in pairwise(clock[1:]))))
    return [median(column) for column in zip(*rows[UPDATES_TIMED // 5 :], strict=True)]


def update_flops(config: Config) -> float:
    """Of both forward passes and the backward pass, two to a multiplication with its addition."""
    architecture = architecture_of(config.model, spec_of(config.env))
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
    """What one core does in a matrix product of 1024 × 1024, or in a 3 × 3 convolution, whichever is faster."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    matrix = torch.rand(1024, 1024).to(dtype)
    images = torch.rand(32, 128, 16, 16).to(dtype, memory_format=torch.channels_last)
    kernels = torch.rand(128, 128, 3, 3).to(dtype, memory_format=torch.channels_last)
    operations = {
        2 * 1024**3: lambda: torch.mm(matrix, matrix),
        2 * 32 * 14 * 14 * 128 * 128 * 9: lambda: torch.conv2d(images, kernels),
    }
    rates = []
    for flops, operation in operations.items():
        times = []
        for _ in range(20):
            began = time.perf_counter()
            operation()
            times.append(time.perf_counter() - began)
        rates.append(flops / median(times))
    return max(rates)


def tree_us() -> float:
    """Microseconds of a batch's update and draw."""
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
