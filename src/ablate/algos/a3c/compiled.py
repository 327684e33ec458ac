"""A3C with backend=compiled: the loop of `worker.py` in kernels, one slice at a time. Commands are read in between."""

from __future__ import annotations

import math
import time
from typing import NamedTuple

import numpy as np

from ablate.algos.a3c.spec import A3CConfig, UpdateRecord
from ablate.algos.job import WorkerJob, process_state, restoring
from ablate.algos.kernels import idle_job, shared_arrays, with_times
from ablate.algos.rounds import Send, rounds
from ablate.compiled import loop
from ablate.compiled.arguments import environment_of, policy_of
from ablate.compiled.draw_buffer import DrawBuffer
from ablate.compiled.jit import announcing
from ablate.compiled.optimizer import optimizer_of
from ablate.config.choices import LossReduction
from ablate.config.schema import Config
from ablate.envs.saving import saved_state
from ablate.nn.mlp_architecture import MlpArchitecture
from ablate.parallel.supervisor import ChildFailed
from ablate.play.evaluator import make_player
from ablate.seeding import Role, draw_seed, environment_stream, generator, restore, state_of
from ablate.types import EnvSpec, EpisodeRecord, ProcessState, SliceRecords

# The kernel writes records by the names of their columns.
assert loop.EpisodeColumns._fields == EpisodeRecord._fields
assert loop.UpdateColumns._fields == UpdateRecord._fields
SLICE_S = 0.02  # seconds of one call of the kernel
EPISODES_PER_SLICE = 4096  # records that one slice has room for
UPDATES_PER_SLICE = 4096
DRAWS = 1 << 16  # random numbers that are drawn in advance, for all workers of a process together


def work(send: Send, job: WorkerJob) -> None:
    """A process that trains, with the loop of `worker.work` in kernels: slices until a limit or the parent's stop."""
    shared = job.shared
    with announcing(shared.note_compilation):
        workers = CompiledWorkers(job)
        workers.advance(0)  # compiled now, before the first sign of life
        updates = 1  # of a slice
        for _ in rounds(job, send, workers.state):
            began = time.monotonic()
            ended = workers.advance(updates)
            passed = time.monotonic() - began
            send(ended.records)
            if ended.reason == loop.DIVERGED:
                raise ChildFailed(workers.diverged())
            if ended.reason == loop.LOCKED:
                raise RuntimeError("the shared lock was not released: its holder died or hangs")
            if ended.updates == updates:  # nothing cut the slice short: its length can be judged
                updates = max(1, min(2 * updates, int(updates * SLICE_S / max(passed, 1e-9)), workers.most_updates))


def load_kernels(config: Config, spec: EnvSpec) -> None:
    """Load the kernels of a run, or compile them, by calls that train nothing."""
    job = idle_job(config, spec, (0,))
    CompiledWorkers(job).advance(0)
    make_player(config, spec, job.architecture)


class Slice(NamedTuple):
    """What one call of the kernel did."""

    reason: int
    updates: int
    records: SliceRecords


class CompiledWorkers:
    """The workers of a process as rows of arrays, with the random streams that fill their draws."""

    def __init__(self, job: WorkerJob) -> None:
        config, shared = job.config, job.shared
        assert isinstance(config.algo, A3CConfig)
        self._config, self._shared, self._indices = config, shared, np.array(job.members)
        self._turn = job.turn
        self._module, self._env = environment_of(config.env)
        architecture = job.architecture
        longest = min(config.algo.t_max, config.env.max_ep_step or config.algo.t_max)  # rollout
        assert isinstance(architecture, MlpArchitecture)
        policy = policy_of(architecture, job.spec.action, longest)
        self._head, self._network, self._scratch = policy
        self._constants = constants_of(config, job.evaluates)
        self._optimizer = optimizer_of(config.optimizer)
        self._observation = np.zeros(job.spec.observation_size, np.float32)

        count, size = len(job.members), architecture.layout().size
        discrete = job.spec.action.is_discrete
        draws_per_turn = longest * (1 if discrete else len(job.spec.action.low))
        turns = max(1, DRAWS // (count * draws_per_turn))  # of each worker, until its draws are refilled
        self.most_updates = turns * count
        self._workers = loop.WorkerArrays(
            theta=np.zeros((count, size), np.float32),
            state=np.zeros((count, self._module.STATE_SIZE)),
            episodic_return=np.zeros(count),
            episodic_length=np.zeros(count, np.int64),
            pulled_at=np.zeros(count, np.int64),
            draws=np.zeros((count, turns * draws_per_turn)),
            draws_used=np.zeros(count, np.int64),
            reset_draws=np.zeros((count, (turns + 1) * self._module.RESET_DRAWS)),
            reset_draws_used=np.zeros(count, np.int64),
        )
        self._records = loop.record_arrays(EPISODES_PER_SLICE, UPDATES_PER_SLICE)
        self._shared_arrays = shared_arrays(job)
        self._streams: list[tuple[np.random.Generator, DrawBuffer, np.random.Generator, DrawBuffer]] = []
        for row, index in enumerate(job.members):
            self._start(row, index, job.resumed.get(index), job.starts, discrete)

    def _start(self, row: int, index: int, resumed: ProcessState | None, starts: int, discrete: bool) -> None:
        workers, seed = self._workers, self._config.seed
        action_rng = generator(seed, Role.action, index)
        env_seed = draw_seed(generator(seed, Role.environment, index, *([starts] if starts else [])))
        env_rng = environment_stream(env_seed)
        if resumed:
            saved = resumed.state
            with restoring(index):
                restore(action_rng, saved["action_rng"])
                restore(env_rng, saved["env"]["random"])
                workers.state[row, :] = np.asarray(saved["env"]["state"]).reshape(workers.state[row].shape)
                workers.episodic_return[row] = saved["episodic_return"]
                workers.episodic_length[row] = saved["episodic_length"]
                workers.pulled_at[row] = saved["pulled_at"]
                workers.theta[row] = resumed.tensor("parameters", workers.theta[row].shape)
        else:
            self._module.reset(self._env, workers.state[row], env_rng.random(self._module.RESET_DRAWS))
            workers.pulled_at[row] = self._shared.counters().updates
            workers.theta[row] = self._shared.parameters_view()
        draw = action_rng.random if discrete else action_rng.standard_normal
        actions = DrawBuffer(action_rng, draw, workers.draws[row], workers.draws_used[row : row + 1])
        resets = DrawBuffer(env_rng, env_rng.random, workers.reset_draws[row], workers.reset_draws_used[row : row + 1])
        self._streams.append((action_rng, actions, env_rng, resets))

    def advance(self, updates: int) -> Slice:
        """Up to `updates` updates, at most `most_updates`."""
        for _, actions, _, resets in self._streams:
            actions.refill()
            resets.refill()
        began = self._shared.wall_time_s()
        reason, self._turn, made, episodes, rows = loop.advance(
            self._env, self._head, self._network, self._constants, self._optimizer,
            self._shared_arrays, self._workers, self._scratch, self._records, self._turn, updates,
        )  # fmt: skip
        pace = (self._shared.wall_time_s() - began) / max(1, made)
        return Slice(reason, made, self._recorded(episodes, rows, began, pace))

    def _recorded(self, episodes: int, rows: int, began: float, pace: float) -> SliceRecords:
        """The records of the slice."""
        ended = with_times(self._records.episodes[:episodes], loop.EPISODE.wall_time_s, began, pace)
        ended[:, loop.EPISODE.worker] = self._indices[ended[:, loop.EPISODE.worker].astype(int)]
        updates = with_times(self._records.updates[:rows], loop.UPDATE.wall_time_s, began, pace)
        return SliceRecords(ended, updates, UpdateRecord, self._shared.counters().steps)

    def diverged(self) -> str:
        update, worker, loss, grad_norm = self._records.failure
        worker = self._indices[int(worker)]
        return f"diverged: loss {loss}, gradient norm {grad_norm} at update {int(update)} (worker {worker})"

    def state(self) -> ProcessState:
        """What a resume needs, in the form of `worker.Worker`."""
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
                "env": saved_state(state, env_rng, [length]),
                "observation": self._observation.tolist(),
            }
            states[index] = (values, {"parameters": workers.theta[row].copy()})
        return process_state(states, self._turn)


def constants_of(config: Config, evaluates: bool) -> loop.Constants:
    """The constants of the kernel's loop."""
    algo = config.algo
    assert isinstance(algo, A3CConfig)
    return loop.Constants(
        t_max=algo.t_max,
        gamma=algo.gamma,
        gae_lambda=algo.gae_lambda,
        entropy_coef=algo.entropy_coef,
        value_loss_coef=algo.value_loss_coef,
        mean=algo.loss_reduction == LossReduction.mean,
        max_grad_norm=math.inf if algo.max_grad_norm is None else algo.max_grad_norm,
        bootstrap_truncated=algo.bootstrap_truncated,
        lock_updates=algo.lock_updates,
        reward_shift=float(config.env.reward_shift),
        reward_scale=float(config.env.reward_scale),
        max_ep_step=config.env.max_ep_step or 0,
        max_episodes=config.max_episodes or 0,
        total_steps=config.total_steps or 0,
        log_interval=config.log_interval,
        evaluate_every=(config.evaluation.every_steps or 0) if evaluates else 0,
    )
