"""A3C with backend=compiled: the loop of algos/a3c.py in kernels, a slice at a time, with commands seen in between."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ablate.algos.job import WorkerJob, process_state, wait_for_release
from ablate.compiled import loop
from ablate.compiled.arguments import algorithm_of, environment_of, policy_of
from ablate.compiled.draws import Draws
from ablate.compiled.envs import ENVIRONMENTS
from ablate.compiled.jit import announcing
from ablate.compiled.optimizer import optimizer_of
from ablate.config.schema import A3CConfig
from ablate.nn.architecture import architecture_of
from ablate.nn.mlp_architecture import MlpArchitecture
from ablate.parallel.shared import Command
from ablate.parallel.supervisor import ChildFailed
from ablate.play.evaluator import Evaluator
from ablate.seeding import Role, draw_seed, generator, restore, state_of
from ablate.types import ProcessState, Records

SLICE_S = 0.02
EPISODES_A_SLICE = 4096  # records that a slice has room for
UPDATES_A_SLICE = 4096
DRAWS = 1 << 16  # random numbers drawn beforehand, for all workers of a process together


def work(send: Callable[[Any], None], job: WorkerJob) -> None:
    """The loop of a process: slices until a limit is reached or the parent says stop."""
    shared, config = job.shared, job.config

    def beat() -> None:
        shared.beat(job.process)

    workers = CompiledWorkers(job)
    with announcing(shared.note_compilation):
        evaluator = Evaluator(config, job.spec, job.folder, job.evaluations_done, beat) if job.evaluates else None
        workers.advance(0)
    if evaluator:
        evaluator.begin(shared, send)
    paused_for, updates = 0, 1
    while shared.command == Command.run:
        beat()
        if shared.pauses_asked > paused_for:
            paused_for = shared.pauses_asked
            send(workers.state())
            wait_for_release(shared, paused_for, beat)
            continue
        shared.begin()
        before = time.monotonic()
        ended = workers.advance(updates)
        passed = time.monotonic() - before
        send(ended.records)
        if ended.reason == loop.DIVERGED:
            raise ChildFailed(workers.diverged())
        if ended.reason == loop.LOCKED:
            raise RuntimeError("the shared lock was not let go: its holder died or hangs")
        counters = shared.counters()
        if evaluator and ended.reason in (loop.LIMIT, loop.EVALUATION):
            send(evaluator.evaluate(shared, counters))
        if ended.reason == loop.LIMIT:
            shared.command = Command.stop
        if ended.updates == updates:  # nothing cut the slice short: its length can be judged
            updates = max(1, min(2 * updates, int(updates * SLICE_S / max(passed, 1e-9)), workers.most_updates))
    send(workers.state())


class Slice(NamedTuple):
    """What a call of the kernel did."""

    reason: int
    updates: int
    records: Records


class CompiledWorkers:
    """The workers of a process as rows of arrays, with the streams behind their numbers."""

    def __init__(self, job: WorkerJob) -> None:
        config, shared = job.config, job.shared
        assert isinstance(config.algo, A3CConfig)
        self._config, self._shared, self._indices = config, shared, np.array(job.workers)
        self._turn = job.turn
        self._module = ENVIRONMENTS[config.env.id]
        self._env, state_size = environment_of(config.env)
        architecture = architecture_of(config.model, job.spec)
        assert isinstance(architecture, MlpArchitecture)
        longest = min(config.algo.t_max, config.env.max_ep_step or config.algo.t_max)  # rollout
        policy = policy_of(architecture, job.spec.action, longest)
        self._head, self._network, self._scratch = policy
        self._algorithm = algorithm_of(config, job.evaluates)
        self._optimizer = optimizer_of(config.optimizer)
        self._observation = np.zeros(job.spec.observation_size, np.float32)

        count, size = len(job.workers), architecture.layout().size
        discrete = job.spec.action.is_discrete
        draws_a_turn = longest * (1 if discrete else len(job.spec.action.low))
        turns = max(1, DRAWS // (count * draws_a_turn))  # of each worker, before its stream is refilled
        self.most_updates = turns * count
        self._workers = loop.Workers(
            theta=np.zeros((count, size), np.float32),
            state=np.zeros((count, state_size)),
            episodic_return=np.zeros(count),
            episodic_length=np.zeros(count, np.int64),
            pulled_at=np.zeros(count, np.int64),
            draws=np.zeros((count, turns * draws_a_turn)),
            drawn=np.zeros(count, np.int64),
            resets=np.zeros((count, (turns + 1) * self._module.RESET_DRAWS)),
            reset=np.zeros(count, np.int64),
        )
        self._records = loop.Records(np.zeros((EPISODES_A_SLICE, 7)), np.zeros((UPDATES_A_SLICE, 8)), np.zeros(4))
        self._shared_arrays = _shared_arrays(job)
        self._streams: list[tuple[np.random.Generator, Draws, np.random.Generator, Draws]] = []
        for row, index in enumerate(job.workers):
            self._start(row, index, job.resumed.get(index), job.starts, discrete)

    def _start(self, row: int, index: int, resumed: ProcessState | None, starts: int, discrete: bool) -> None:
        workers, seed = self._workers, self._config.seed
        action_rng = generator(seed, Role.action, index)
        env_seed = draw_seed(generator(seed, Role.environment, index, *([starts] if starts else [])))
        env_rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(env_seed)))  # as gymnasium's np_random
        if resumed:
            saved = resumed.state
            restore(action_rng, saved["action_rng"])
            restore(env_rng, saved["env"]["random"])
            workers.state[row] = saved["env"]["state"]
            workers.episodic_return[row] = saved["episodic_return"]
            workers.episodic_length[row] = saved["episodic_length"]
            workers.pulled_at[row] = saved["pulled_at"]
            workers.theta[row] = resumed.tensors["parameters"]
        else:
            self._module.reset(self._env, workers.state[row], env_rng.random(self._module.RESET_DRAWS))
            workers.pulled_at[row] = self._shared.counters().updates
            workers.theta[row] = self._shared.parameters_view()
        draw = action_rng.random if discrete else action_rng.standard_normal
        actions = Draws(action_rng, draw, workers.draws[row], workers.drawn[row : row + 1])
        resets = Draws(env_rng, env_rng.random, workers.resets[row], workers.reset[row : row + 1])
        self._streams.append((action_rng, actions, env_rng, resets))

    def advance(self, updates: int) -> Slice:
        """Up to `updates` updates, at most `most_updates`."""
        for _, actions, _, resets in self._streams:
            actions.refill()
            resets.refill()
        began = self._shared.wall_time_s()
        reason, self._turn, made, episodes, rows = loop.advance(
            self._env, self._head, self._network, self._algorithm, self._optimizer,
            self._shared_arrays, self._workers, self._scratch, self._records, self._turn, updates,
        )  # fmt: skip
        pace = (self._shared.wall_time_s() - began) / max(1, made)
        return Slice(reason, made, self._recorded(episodes, rows, began, pace))

    def _recorded(self, episodes: int, rows: int, began: float, pace: float) -> Records:
        """The slice's records; their times are spread evenly over it."""
        ended, updates = self._records.episodes[:episodes], self._records.updates[:rows]
        workers = self._indices[ended[:, 1].astype(int)]
        times, lr = began + pace * updates[:, 0], np.full(rows, self._config.optimizer.lr)
        return Records(
            np.column_stack((workers, ended[:, 2], began + pace * ended[:, 0], ended[:, 3:])),
            np.column_stack((updates[:, 1:3], times, updates[:, 3:], lr)),
            self._shared.counters().steps,
        )

    def diverged(self) -> str:
        update, worker, loss, grad_norm = self._records.failure
        worker = self._indices[int(worker)]
        return f"diverged: loss {loss}, gradient norm {grad_norm} at update {int(update)} (worker {worker})"

    def state(self) -> ProcessState:
        """What a resume needs, as algos/a3c.py has it."""
        workers = self._workers
        states = {}
        for row, (index, (action_rng, actions, env_rng, resets)) in enumerate(
            zip(self._indices.tolist(), self._streams, strict=True)
        ):
            actions.settle()
            resets.settle()
            state = workers.state[row]
            self._module.observe(self._env, state, self._observation)
            length = int(workers.episodic_length[row])
            values = {
                "pulled_at": int(workers.pulled_at[row]),
                "episodic_return": float(workers.episodic_return[row]),
                "episodic_length": length,
                "action_rng": state_of(action_rng),
                "env": {
                    "state": state.tolist(),
                    "dtype": str(state.dtype),
                    "random": state_of(env_rng),
                    "elapsed_steps": [length],
                },
                "observation": self._observation.tolist(),
            }
            states[index] = (values, {"parameters": workers.theta[row].copy()})
        return process_state(states, self._turn)


def _shared_arrays(job: WorkerJob) -> loop.Shared:
    """The shared vectors under the names of the moments that the optimizer keeps."""
    vectors = dict(zip(job.config.optimizer.statistics, job.shared.statistics_views(), strict=True))
    empty = np.zeros(0, np.float32)
    shared = loop.Shared(
        theta=job.shared.parameters_view(),
        first=vectors.get("exp_avg", empty),
        second=vectors.get("exp_avg_sq", vectors.get("square_avg", empty)),
        largest_second=vectors.get("max_exp_avg_sq", empty),
        counters=job.shared.counters_view(),
        lock=job.shared.spin_lock_view(),
    )
    moments = (shared.first, shared.second, shared.largest_second)
    assert all(job.shared.holds(vector.ctypes.data) for vector in (shared.theta, *moments) if len(vector))
    return shared
