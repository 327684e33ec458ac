"""DQN on CartPole with kernels: whole runs next to backend=manual, stable-baselines3 and a JAX program of the same
algorithm, and the parts of a step."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from ablate.algos.dqn.compiled import CompiledLearner
from ablate.algos.job import WorkerJob
from ablate.cli.compose import compose_and_plan
from ablate.compiled import dynamics, q_replay
from ablate.compiled.jit import kernel
from ablate.compiled.optimizer import step_and_pull
from ablate.compiled.q_network import N_IN, N_OUT, backward, forward
from ablate.compiled.q_update import compute_gradient
from ablate.parallel.shared import SharedState
from ablate.records.schema import EPISODES
from benchmarks.common import (
    TRAINING_ONLY,
    WINDOW,
    Mark,
    Options,
    execute,
    in_turn,
    median_seconds,
    ratio,
    spread,
    steps_per_second,
    table_of,
    table_of_parts,
    temporary_folder,
    train,
    with_installed,
    yes_or_no,
)

RUN = ("algo=dqn", "env=cartpole", "checkpoint_every_seconds=3600", *TRAINING_ONLY)
LARGE_BATCH = ("algo.batch_size=128", "algo.train_freq=10")
PRIORITIZED_GOAL = 0.7  # of uniform
JAX_SEEDS = 30  # runs of the JAX program at once
SB3, JAX = "stable-baselines3", f"JAX, {JAX_SEEDS} seeds at once"
EXPECTED = {"compiled": 60_000, "manual": 4_000, SB3: 2_000, JAX: 40_000}  # steps/s, to choose the length of a run


class Variant(NamedTuple):
    """One row of the table of training speeds."""

    program: str  # a backend, SB3 or JAX
    replay: str
    updates: str


DEFAULT, LARGE = "64 every 2 steps", "128 every 10 steps"
UNIFORM = Variant("compiled", "uniform", DEFAULT)
GOALS = {UNIFORM: 25_000, Variant("compiled", "uniform", LARGE): 70_000}  # steps/s
VARIANTS = [
    *GOALS,
    Variant("compiled", "prioritized", DEFAULT),
    Variant("manual", "uniform", DEFAULT),
    Variant("manual", "prioritized", DEFAULT),
]
OTHERS = {
    "stable_baselines3": [Variant(SB3, "uniform", updates) for updates in (DEFAULT, LARGE)],
    "optax": [Variant(JAX, "uniform", updates) for updates in (DEFAULT, LARGE)],
}


def benchmark_dqn_classic(console: Console, options: Options) -> None:
    """Training speeds on one core, and where a step's time goes."""
    variants = with_installed(console, VARIANTS, OTHERS)
    rates: dict[Variant, list[float]] = {variant: [] for variant in variants}
    for variant in in_turn(console, variants, options.repeats):
        rates[variant].append(training_rate(variant, options.seconds))
    console.print(rates_table(rates))
    for replay in ("uniform", "prioritized"):
        console.print(parts_table(replay, options.repeats))


def training_rate(variant: Variant, seconds: float) -> float:
    """Steps per second of a run of about `seconds`."""
    steps, large = int(seconds * EXPECTED[variant.program]), variant.updates == LARGE
    if variant.program == SB3:
        return rate_of("benchmarks.dqn_classic", int(large), steps)
    if variant.program == JAX:
        batch, train_freq = (128, 10) if large else (64, 2)
        return rate_of("benchmarks.jax_dqn", batch, train_freq, steps // JAX_SEEDS, JAX_SEEDS)
    overrides = (f"backend={variant.program}", f"replay={variant.replay}", f"total_steps={1000 + steps}")
    return train(*RUN, *overrides, *(LARGE_BATCH if large else ()), table=EPISODES)


def rates_table(rates: dict[Variant, list[float]]) -> Table:
    table = table_of(
        f"DQN on CartPole, one core: environment steps/s in training, {WINDOW}, CSV files included",
        f"vs SB3, vs JAX: relative to that program with the same batches, median of the ratios in the same repeat\n"
        f"SB3 and JAX have one-step targets; JAX without the time of compilation and without files\n"
        f"vs uniform: relative to uniform replay of the same program; goal ≥ {PRIORITIZED_GOAL:g}",
        ("program", "replay", "updates"),
        ("steps/s", "min–max", "vs SB3", "vs JAX", "vs uniform", "goal"),
    )
    for variant, samples in rates.items():
        others = [rates.get(Variant(program, "uniform", variant.updates)) for program in (SB3, JAX)]
        versus = [f"{ratio(samples, theirs):.1f}" if theirs else "–" for theirs in others]
        uniform = ratio(samples, rates[variant._replace(replay="uniform")])
        reached = ""
        if variant in GOALS:
            reached = yes_or_no(median(samples) >= GOALS[variant])
        elif variant.program == "compiled":
            reached = yes_or_no(uniform >= PRIORITIZED_GOAL)
        vs_uniform = f"{uniform:.2f}" if variant.replay != "uniform" else ""
        table.add_row(*variant, *spread(samples, ",.0f"), *versus, vs_uniform, reached)
    return table


def rate_of(module: str, *arguments: int) -> float:
    """The same for another program, in a process of its own on one core, which writes the rate to a file."""
    with temporary_folder() as folder:
        execute(["-m", module, *map(str, arguments), f"{folder}/rate"])
        return float((folder / "rate").read_text())


def train_sb3(large: bool, steps: int) -> float:
    """Steps per second of stable-baselines3's DQN, with the same network, batches and steps per update."""
    from stable_baselines3 import DQN
    from stable_baselines3.common.callbacks import BaseCallback

    torch.set_num_threads(1)

    class Clock(BaseCallback):
        def _on_training_start(self) -> None:
            self.marks: list[Mark] = []

        def _on_step(self) -> bool:
            if self.num_timesteps > 1000:
                self.marks.append(Mark(self.num_timesteps, time.monotonic()))
            return True

    model = DQN(
        "MlpPolicy", "CartPole-v1", learning_rate=1e-3, buffer_size=100_000, learning_starts=1000,
        batch_size=128 if large else 64, train_freq=10 if large else 2, gradient_steps=1, target_update_interval=200,
        exploration_final_eps=0.04, policy_kwargs={"net_arch": [120, 84]}, seed=0, device="cpu",
    )  # fmt: skip
    clock = Clock()
    model.learn(1000 + steps, callback=clock)
    return steps_per_second(clock.marks)


# The parts of a step. Each is called many times in a kernel of its own, on the state at the end of a training.


@kernel
def _dynamics(env, actor, step, n):
    for _ in range(n):
        dynamics.step(env, actor.state[0], step.env_action)
        dynamics.observe(env, actor.state[0], step.observation[0])


@kernel
def _acting(network, theta, step, n):
    for _ in range(n):
        forward(network, theta, step.activations, 1)


@kernel
def _storing(replay, constants, draw, step, n):
    for i in range(n):
        q_replay.add(replay, constants, draw, 0, i & 1, 1.0, False, False, step.observation[0], 0.0)


@kernel
def _drawing(replay, constants, draw, batch, scratch, draws, used, n):
    for _ in range(n):
        if used[0] + 4 * len(batch.slots) > len(draws):  # otherwise other points: equal ones would be predicted
            used[0] = 0
        q_replay.draw(replay, constants, draw, batch, draws, used, 0, 0.5)
        q_replay.gather(replay.frames, batch.slots, scratch.activations)
        q_replay.gather(replay.frames, batch.next_slots, scratch.next_activations)


@kernel
def _gradient(network, constants, theta, target, batch, scratch, n):
    for _ in range(n):
        compute_gradient(network, constants.loss, theta, target, batch, scratch)


@kernel
def _forward(network, theta, scratch, columns, n):
    for _ in range(n):
        forward(network, theta, scratch.next_activations, columns)


@kernel
def _backward(network, theta, scratch, columns, n):
    for _ in range(n):
        backward(network, theta, scratch.gradient, scratch.activations, scratch.deltas, columns)


@kernel
def _optimizer(optimizer, shared, scratch, n):
    for i in range(n):
        step_and_pull(
            optimizer, shared.theta, shared.first, shared.second, shared.largest_second, scratch.gradient, i + 1000,
            1e-9, scratch.local,
        )  # fmt: skip


@kernel
def _priorities(replay, constants, draw, batch, n):
    for _ in range(n):
        q_replay.learn_priorities(replay, constants, draw, batch)


def parts_table(replay_name: str, repeats: int) -> Table:
    """Nanoseconds per step of each part, with the default batches: an update is shared by two steps."""
    with temporary_folder() as folder:
        learner, steps_of_update = trained_learner(replay_name, folder), 2
        x = learner.arguments
        theta, B, calls = x.shared.theta, len(x.batch.slots), 200
        drawing = (x.replay, x.replay_constants, x.draw, x.batch)
        used = np.zeros(1, np.int64)
        parts: list[tuple[str, Callable[[int], object], float]] = [
            ("dynamics and observation", partial(_dynamics, x.env, x.actor, x.step), 1),
            ("action values", partial(_acting, x.network, theta, x.step), 1),
            ("store", partial(_storing, *drawing[:3], x.step), 1),
            ("draw and gather", partial(_drawing, *drawing, x.scratch, x.actor.replay_draws, used), steps_of_update),
            ("both forward passes", partial(_forward, x.network, theta, x.scratch, B), steps_of_update / 2),
            ("backward pass", partial(_backward, x.network, theta, x.scratch, B), steps_of_update),
            (
                "gradient, as a whole",
                partial(_gradient, x.network, x.constants, theta, x.target, x.batch, x.scratch),
                steps_of_update,
            ),
            ("Adam", partial(_optimizer, x.optimizer, x.shared, x.scratch), steps_of_update),
        ]
        if replay_name == "prioritized":
            parts.append(("new priorities", partial(_priorities, *drawing), steps_of_update))
        whole_ns = 1e9 * median_seconds(partial(learner.advance, 500), 5 * repeats) / 1000
        ns = {}
        for name, part, shared_by in parts:
            part(1)
            ns[name] = 1e9 * median_seconds(partial(part, calls), 5 * repeats) / calls / shared_by
    # Operations per step: 2 per weight of a matrix product, and Adam's 14 per parameter. Backward, each weight has a
    # product for its own gradient and, behind the first layer, one for that of its input.
    weights = x.network.layers[:, N_IN] * x.network.layers[:, N_OUT]
    operations = {
        "action values": 2 * weights.sum(),
        "both forward passes": 4 * B * weights.sum() / steps_of_update,
        "backward pass": 2 * B * (weights.sum() + weights[1:].sum()) / steps_of_update,
        "Adam": 14 * len(theta) / steps_of_update,
    }
    operations["all"] = sum(operations.values())
    inside = ns.pop("gradient, as a whole")
    ns["the rest of the gradient (loss, clipping, norm)"] = inside - ns["both forward passes"] - ns["backward pass"]
    ns["the rest of the loop, with random numbers and records"] = whole_ns - sum(ns.values())
    ns["all"] = whole_ns
    return table_of_parts(
        f"One environment step of DQN on CartPole, replay={replay_name}: nanoseconds",
        [(name, spent, operations.get(name, 0)) for name, spent in ns.items()],
        "the parts of an update are divided by the 2 steps that share it\n",
    )


def trained_learner(replay_name: str, folder: Path) -> CompiledLearner:
    """A learner after 20 000 steps, in this process, without a parent."""
    plan = compose_and_plan([*RUN, "backend=compiled", f"replay={replay_name}", "total_steps=100000000"])
    shared = SharedState(len(plan.parameters), len(plan.config.optimizer.statistics), 1)
    shared.parameters_view()[:] = plan.parameters
    job = WorkerJob(plan.config, plan.spec, plan.architecture, folder, shared, (0, 1), False, {}, 0, 0, False, 0)
    learner = CompiledLearner(job, lambda message: None)
    learner.advance(10_000)
    return learner


if __name__ == "__main__":
    Path(sys.argv[3]).write_text(str(train_sb3(sys.argv[1] == "1", int(sys.argv[2]))))
