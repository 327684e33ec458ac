"""backend=compiled: whole runs, its kernels compared with one for the Pendulum report alone, and parts of a step."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ablate.algos.a3c.compiled import constants_of
from ablate.cli.compose import compose_and_plan
from ablate.compiled import dynamics, loop
from ablate.compiled import head as policy
from ablate.compiled.arguments import environment_of, policy_of
from ablate.compiled.jit import kernel
from ablate.compiled.network import backward, forward
from ablate.compiled.optimizer import optimizer_of, step_and_pull
from ablate.nn.mlp_architecture import MlpArchitecture
from ablate.parallel.machine import usable_cpus
from ablate.paths import ROOT
from ablate.records.schema import EPISODES
from benchmarks import pendulum_kernel
from benchmarks.common import (
    PENDULUM,
    PROGRAM,
    WINDOW,
    Options,
    execute,
    in_turn,
    median_seconds,
    ratio,
    side_by_side,
    spread,
    table_of,
    table_of_parts,
    temporary_folder,
    train,
    yes_or_no,
)

COMPILED = (*PENDULUM, "backend=compiled")
INTERLEAVED = (1, 4, 12)  # workers
ASYNC = (2, 12)  # processes
GOAL = 800_000  # steps/s of one interleaved run
S1_GOAL, ASYNC_GOAL, SIDE_BY_SIDE_GOAL = 0.95, 0.4, 1.8
# src/run.py with the shared arrays packed as closely as possible.
PACKED_PROGRAM = (
    "-c",
    "import runpy, sys; sys.path.insert(0, 'src'); from ablate.parallel import shared; shared.LINE = 8; "
    "sys.argv[0] = 'src/run.py'; runpy.run_path('src/run.py', run_name='__main__')",
)
ONE_RUN = "interleaved, 4 workers"  # the other kinds are compared with it


def benchmark_compiled(console: Console, options: Options) -> None:
    """Runs of the program, kernels in this process, and where a step's time goes."""
    runs = run_rates(console, options)
    console.print(runs_table(runs))
    study = Study(1)
    console.print(kernels_table(console, options))
    one = median(runs["interleaved, 1 worker"])
    console.print(parts_table(study, options.repeats, 1e9 / one))


# Whole runs of src/run.py, CSV files included.


def run_rates(console: Console, options: Options) -> dict[str, list[float]]:
    """Steps per second of each kind of run, one number per repeat."""
    run = partial(train, *COMPILED, f"total_steps={int(1_500_000 * options.seconds)}")
    kinds: dict[str, Callable[[], float]] = {}
    for n in INTERLEAVED:
        word = "worker" if n == 1 else "workers"
        kinds[f"interleaved, {n} {word}"] = partial(run, f"workers={n}", "schedule=interleaved", workers=n)
    pair = [partial(run, "workers=4", "schedule=interleaved", f"seed={seed}", workers=4) for seed in (1, 2)]
    kinds["two interleaved runs side by side, 4 workers each"] = partial(side_by_side, pair)
    for n in ASYNC:
        name = f"async, {n} processes"
        processes = partial(run, f"workers={n}", workers=n)
        kinds[f"{name}, lock-free"] = processes
        kinds[f"{name}, lock-free, arrays packed"] = partial(processes, program=PACKED_PROGRAM)
        kinds[f"{name}, locked"] = partial(processes, "algo.lock_updates=true")
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    for kind in in_turn(console, list(kinds), options.repeats):
        rates[kind].append(kinds[kind]())
    return rates


def runs_table(rates: dict[str, list[float]]) -> Table:
    table = table_of(
        f"A3C on Pendulum, backend=compiled: environment steps/s in training, {WINDOW}, CSV files included",
        f"of one: to one interleaved run with 4 workers, median of the repeats; goals: {GOAL:,} steps/s interleaved, "
        f"side by side ≥ {SIDE_BY_SIDE_GOAL:g} of one, async ≥ {ASYNC_GOAL:g}",
        ("run",),
        ("steps/s", "min–max", "of one", "goal"),
    )
    for kind, samples in rates.items():
        of_one = ratio(samples, rates[ONE_RUN])
        if kind.startswith("interleaved"):
            reached = median(samples) >= GOAL
        else:
            reached = of_one >= (ASYNC_GOAL if kind.startswith("async") else SIDE_BY_SIDE_GOAL)
        table.add_row(kind, *spread(samples, ",.0f"), f"{of_one:.2f}", yes_or_no(reached))
    return table


# Kernels in this process, without records or a parent.


class Study:
    """The kernel's arguments for the Pendulum report's network and W workers, as algos/a3c/compiled.py makes them."""

    def __init__(self, workers: int, rollouts: int = 400) -> None:
        plan = compose_and_plan(
            [*COMPILED, f"workers={workers}", "schedule=interleaved", "total_steps=null", "max_episodes=1000000000"]
        )
        config, size = plan.config, len(plan.parameters)
        rng = np.random.default_rng(0)
        module, self.env = environment_of(config.env)
        assert isinstance(plan.architecture, MlpArchitecture)
        self.head, self.network, self.scratch = policy_of(plan.architecture, plan.spec.action, 10)
        self.algorithm, self.optimizer = constants_of(config, False), optimizer_of(config.optimizer)
        theta = plan.parameters.copy()
        integers = np.zeros(workers, np.int64)
        self.shared = loop.SharedArrays(
            theta=theta,
            first=np.zeros(size, np.float32),
            second=np.zeros(size, np.float32),
            largest_second=np.zeros(0, np.float32),
            counters=np.zeros(3, np.int64),
            lock=np.zeros(1, np.int64),
        )
        self.workers = loop.WorkerArrays(
            theta=np.tile(theta, (workers, 1)),
            state=rng.uniform(-1, 1, (workers, module.STATE_SIZE)),
            episodic_return=np.zeros(workers),
            episodic_length=integers.copy(),
            pulled_at=integers.copy(),
            draws=rng.standard_normal((workers, rollouts * 10)),
            draws_used=integers.copy(),
            reset_draws=rng.random((workers, rollouts * 2)),
            reset_draws_used=integers.copy(),
        )
        self.records = loop.record_arrays(4096, 4096)
        self.updates = workers * rollouts
        self.steps = 10 * self.updates

    def advance(self) -> None:
        """Compute one slice, on the same random numbers as the slice before."""
        self.workers.draws_used[:] = 0
        self.workers.reset_draws_used[:] = 0
        loop.advance(
            self.env, self.head, self.network, self.algorithm, self.optimizer, self.shared, self.workers, self.scratch,
            self.records, 0, self.updates,
        )  # fmt: skip


class S1Study:
    """The same work, done by the kernel for the Pendulum report (S1) alone."""

    def __init__(self, workers: int, plain: bool, rollouts: int = 400) -> None:
        self._general, self._plain, self._made = Study(workers, rollouts), plain, 0
        self.shared = self._general.shared
        self._length, self._scratch = np.zeros(workers, np.int64), pendulum_kernel.scratch_of()
        self.steps = self._general.steps

    def advance(self) -> None:
        shared, workers = self._general.shared, self._general.workers
        pendulum_kernel.train(
            self._plain, shared.theta, shared.first, shared.second, workers.theta, workers.state, self._length,
            workers.draws, workers.reset_draws, self._scratch, self._made, self._general.updates,
        )  # fmt: skip
        self._made += self._general.updates


def kernels_table(console: Console, options: Options) -> Table:
    table = table_of(
        "The general kernels compared with one written for S1 alone: nanoseconds per step, in this process",
        f"ratio: speed of the general kernels to this one, median over slices in turn; goal ≥ {S1_GOAL:g}",
        ("kernel",),
        ("workers", "ns", "steps/s", "ratio", "goal"),
    )
    for workers in (1, 4, 12):
        studies: dict[str, Any] = {
            "general": Study(workers),
            "S1 alone, as the equations stand": S1Study(workers, plain=True),
            "S1 alone, tuned by hand": S1Study(workers, plain=False),
        }
        times: dict[str, list[float]] = {name: [] for name in studies}
        with console.status(f"kernels, {workers} workers"):
            for study in studies.values():
                study.advance()
            end = time.perf_counter() + options.seconds
            while time.perf_counter() < end or len(times["general"]) < 5 * options.repeats:
                for name, study in studies.items():
                    start = time.perf_counter()
                    study.advance()
                    times[name].append((time.perf_counter() - start) / study.steps)
        for name, samples in times.items():
            ns = 1e9 * median(samples)
            cells = [name, f"{workers}", f"{ns:.0f}", f"{1e9 / ns:,.0f}"]
            if name != "general":
                of_this = ratio(samples, times["general"])
                cells += [f"{of_this:.2f}", yes_or_no(of_this >= S1_GOAL)]
            table.add_row(*cells)
    return table


# Parts of a step. Each is called many times in a kernel of its own, on the state at the end of a training.


@kernel
def _dynamics(env, head, network, optimizer, shared, workers, scratch, algorithm, n):
    for _ in range(n):
        for t in range(10):
            dynamics.step(env, workers.state[0], scratch.env_action)
            dynamics.observe(env, workers.state[0], scratch.activations[4 * t : 4 * t + 3])


@kernel
def _actor(env, head, network, optimizer, shared, workers, scratch, algorithm, n):
    for _ in range(n):
        for t in range(10):
            forward(network.actor, network.activation, workers.theta[0], scratch.activations, t, t + 1)


@kernel
def _drawing(env, head, network, optimizer, shared, workers, scratch, algorithm, n):
    for _ in range(n):
        for t in range(10):
            z = network.z + 2 * t
            policy.compute_dist_params(head, scratch.activations[z : z + 2], scratch.dist_params[t])
            policy.draw(head, scratch.dist_params[t], workers.draws[0, t : t + 1], scratch.actions[t])
            policy.to_env(head, scratch.actions[t], scratch.env_action)


@kernel
def _critic(env, head, network, optimizer, shared, workers, scratch, algorithm, n):
    for _ in range(n):
        forward(network.critic, network.activation, workers.theta[0], scratch.activations, 0, 11)


@kernel
def _gradient(env, head, network, optimizer, shared, workers, scratch, algorithm, n):
    for _ in range(n):
        loop.compute_gradient(head, network, algorithm, workers.theta[0], scratch, 10)


@kernel
def _backward(env, head, network, optimizer, shared, workers, scratch, algorithm, n):
    for _ in range(n):
        backward(
            network, workers.theta[0], scratch.gradient, scratch.activations, scratch.deltas,
            scratch.other_deltas, 10,
        )  # fmt: skip


@kernel
def _optimizer(env, head, network, optimizer, shared, workers, scratch, algorithm, n):
    for i in range(n):
        step_and_pull(
            optimizer, shared.theta, shared.first, shared.second, shared.largest_second, scratch.gradient,
            i + 1000, optimizer.lr, workers.theta[0],
        )  # fmt: skip


def parts_table(study: Study, repeats: int, program_ns: float) -> Table:
    """Nanoseconds per step by part, next to the floor: operations divided by the core's measured rate."""
    for _ in range(20):
        study.advance()
    arguments = (
        study.env, study.head, study.network, study.optimizer, study.shared, study.workers, study.scratch,
        study.algorithm,
    )  # fmt: skip
    ns: dict[str, float] = {}
    for part in (_dynamics, _actor, _drawing, _critic, _gradient, _backward, _optimizer):
        part(*arguments, 1)
        ns[part.__name__] = 1e9 * median_seconds(partial(part, *arguments, 1000), 5 * repeats) / 10_000
    kernel_ns = 1e9 * median_seconds(study.advance, 5 * repeats) / study.steps
    rng = np.random.default_rng(0)
    draws = study.workers.draws
    noise_ns = 1e9 * median_seconds(lambda: rng.standard_normal(out=draws), 50) / draws.size

    # Operations per step: 2 per weight of a matrix product. There is one product forward, one for the gradient of the
    # weights and one for that of the inputs. Adam: 14 for each of the 1703 parameters, every ten steps.
    actor, critic, heads = 3 * 200 + 200 * 2, 3 * 100 + 100, (200 * 2, 100)
    rows: list[tuple[str, float, float]] = [
        ("dynamics and observation", ns["_dynamics"], 40),
        ("actor forward", ns["_actor"], 2 * actor),
        ("distribution and action", ns["_drawing"], 60),
        ("critic forward", ns["_critic"], 2 * critic * 1.1),
        ("gradient of the loss", ns["_gradient"] - ns["_backward"] - ns["_critic"], 40),
        ("backward", ns["_backward"], 2 * (actor + critic + sum(heads))),
        ("Adam and pull", ns["_optimizer"], 14 * 170.3),
    ]
    inside = sum(row[1] for row in rows)
    rows.append(("the rest of the loop (bookkeeping, gradient norm)", kernel_ns - inside, 0))
    rows.append(("random numbers, drawn beforehand by numpy", noise_ns, 0))
    rows.append(("records, messages, Python between slices", program_ns - kernel_ns - noise_ns, 0))
    rows.append(("all", program_ns, sum(row[2] for row in rows)))
    return table_of_parts("One environment step, interleaved, 1 worker: nanoseconds", rows)


# All arms of the Pendulum report's two ablations.


def benchmark_arms(console: Console, options: Options) -> None:
    """The time of a sweep over every arm of both ablations, with `repeats` seeds each, until all files are closed."""
    with temporary_folder() as folder, console.status("arms"):
        command = [
            *PROGRAM, f"hydra.searchpath=[file://{ROOT}/benchmarks]", "sweep=pendulum_arms",
            f"sweep.seeds=0-{options.repeats - 1}", f"hydra.sweep.dir={folder}",
        ]  # fmt: skip
        start = time.time()
        execute(command)
        tables = list(folder.glob(f"*/*/{EPISODES}"))
        trained = max(path.stat().st_mtime for path in tables) - start
        whole = time.time() - start
        lengths = [int(row["episodic_length"]) for path in tables for row in csv.DictReader(path.open())]
    steps, arms = sum(lengths), len(tables) // options.repeats
    print(
        f"{arms} arms × {options.repeats} seeds, {usable_cpus()} cells at a time: {steps / 1e6:.0f} million steps, "
        f"{len(lengths):,} episodes in {trained:.0f} s ({steps / trained:,.0f} steps/s, all starts included), "
        f"with the report {whole:.0f} s"
    )
