"""DQN with backend=compiled: the loop of `learner.py` in kernels, one slice at a time. Commands are read in between."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ablate.algos.dqn.replay_memory import ReplayMemory
from ablate.algos.dqn.spec import ACTOR, LEARNER, DQNConfig, UpdateRecord
from ablate.algos.job import WorkerJob, process_state, restoring
from ablate.algos.kernels import idle_job, shared_arrays, with_times
from ablate.algos.rounds import Send, rounds
from ablate.compiled import loop, q_loop
from ablate.compiled.arguments import environment_of
from ablate.compiled.draw_buffer import DrawBuffer
from ablate.compiled.jit import announcing
from ablate.compiled.optimizer import OptimizerConstants, optimizer_of
from ablate.compiled.q_network import QNetwork, q_network_of
from ablate.compiled.q_replay import (
    DrawScratch,
    ReplayArrays,
    ReplayConstants,
    draw_scratch_of,
    replay_constants_of,
)
from ablate.compiled.q_update import BatchArrays, QLossConstants, QScratch, q_scratch_of
from ablate.config.choices import DqnLoss, Storage
from ablate.config.schema import Config
from ablate.envs.saving import saved_state
from ablate.nn.q_architecture import QArchitecture
from ablate.parallel.supervisor import ChildFailed
from ablate.play.evaluator import make_player
from ablate.seeding import Role, draw_seed, environment_stream, generator, restore, state_of
from ablate.types import EnvSpec, ProcessState, SliceRecords

# The kernel writes records by the names of their columns.
assert q_loop.QUpdateColumns._fields == UpdateRecord._fields
SLICE_S = 0.02  # seconds of one call of the kernel
RECORDS_PER_SLICE = 4096  # of each kind: one slice has room for as many, and for those of one more block
DRAWS = 1 << 16  # random numbers that are drawn in advance, for each purpose


def learn(send: Send, job: WorkerJob) -> None:
    """The process that acts and learns, with the loop of `learner.learn` in kernels: slices until a limit or a stop."""
    shared = job.shared
    with announcing(shared.note_compilation):
        learner = CompiledLearner(job, send)
        learner.advance(0)  # compiled now, before the first sign of life
        blocks = 1  # of a slice
        for _ in rounds(job, send, learner.state):
            began = time.monotonic()
            ended = learner.advance(blocks)
            passed = time.monotonic() - began
            if ended:  # nothing cut the slice short: its length can be judged
                blocks = max(1, min(2 * blocks, int(blocks * SLICE_S / max(passed, 1e-9))))


def load_kernels(config: Config, spec: EnvSpec) -> None:
    """Load the kernels of a run, or compile them, by calls that train nothing."""
    assert config.replay is not None
    in_memory = replace(config, replay=replace(config.replay, storage=Storage.memory))  # a memmap would be a file
    job = idle_job(in_memory, spec, (LEARNER, ACTOR))
    CompiledLearner(job, lambda message: None).advance(0)
    make_player(config, spec, job.architecture)


class Arguments(NamedTuple):
    """The arguments of `q_loop.advance`, but for the number of blocks."""

    env: Any
    network: QNetwork
    constants: q_loop.QConstants
    replay_constants: ReplayConstants
    optimizer: OptimizerConstants
    shared: loop.SharedArrays
    target: np.ndarray
    actor: q_loop.ActorArrays
    step: q_loop.StepScratch
    replay: ReplayArrays
    draw: DrawScratch
    batch: BatchArrays
    scratch: QScratch
    progress: np.ndarray
    records: q_loop.QRecordArrays


class CompiledLearner:
    """The arrays of a run, and the random streams that fill their draws."""

    def __init__(self, job: WorkerJob, send: Send) -> None:
        config, shared, architecture = job.config, job.shared, job.architecture
        algo, envs = config.algo, config.envs_per_worker
        assert isinstance(algo, DQNConfig)
        assert isinstance(architecture, QArchitecture)
        assert config.replay is not None
        self._send, self._shared = send, shared
        self._module, self._env = environment_of(config.env)
        self._network = q_network_of(architecture)
        self._memory = ReplayMemory(job)
        replay = self._memory.replay
        self._constants = constants_of(config, self._memory.learn_from, job.evaluates)
        arrays = ReplayArrays(**replay.arrays())
        slots = len(arrays.drawable)
        block = self._constants.block
        size = architecture.layout().size
        batch, scratch = q_scratch_of(self._network, algo.batch_size, size, np.float32)
        resets = max(DRAWS // envs, 2 * block * self._module.RESET_DRAWS)
        self._actor = q_loop.ActorArrays(
            state=np.zeros((envs, self._module.STATE_SIZE)),
            episodic_return=np.zeros(envs),
            episodic_length=np.zeros(envs, np.int64),
            random_left=np.zeros(envs, np.int64),
            draws=np.zeros(max(DRAWS, 6 * block * envs)),
            draws_used=np.zeros(1, np.int64),
            reset_draws=np.zeros((envs, resets)),
            reset_draws_used=np.zeros(envs, np.int64),
            replay_draws=np.zeros(max(DRAWS, 4 * algo.batch_size)),
            replay_draws_used=np.zeros(1, np.int64),
        )
        rows = RECORDS_PER_SLICE + block * envs + 1
        self._step = q_loop.step_scratch_of(self._network, envs)
        self._records = q_loop.q_record_arrays(rows, rows)
        self._target = shared.parameters_view().copy()
        self.arguments = Arguments(
            env=self._env,
            network=self._network,
            constants=self._constants,
            replay_constants=replay_constants_of(config.replay, algo.n_step, algo.gamma, slots, envs),
            optimizer=optimizer_of(config.optimizer),
            shared=shared_arrays(job),
            target=self._target,
            actor=self._actor,
            step=self._step,
            replay=arrays,
            draw=draw_scratch_of(algo.batch_size, algo.n_step),
            batch=batch,
            scratch=scratch,
            progress=np.zeros(4, np.int64),
            records=self._records,
        )
        if self._memory.target is not None:
            self._target[:] = self._memory.target
        self._start(job, algo.noisy_start)

    def _start(self, job: WorkerJob, noisy_start: int) -> None:
        """Begin the first episodes, or go on with those of a resumed run."""
        actor, seed, resumed = self._actor, job.config.seed, job.resumed.get(ACTOR)
        self._action_rng = generator(seed, Role.action, 0)
        # for the first episodes; later ones draw from the environment's own stream
        self._reset_rng = generator(seed, Role.environment, 0, *([job.starts] if job.starts else []))
        self._env_rngs: list[np.random.Generator] = []
        continues = resumed is not None and resumed.state["env"] is not None
        for _ in actor.state:
            env_seed = 0 if continues else draw_seed(self._reset_rng)
            self._env_rngs.append(environment_stream(env_seed))
        if resumed:
            saved = resumed.state
            with restoring(ACTOR):
                restore(self._action_rng, saved["action_rng"])
                if continues:
                    restore(self._reset_rng, saved["reset_rng"])
                    for e, rng in enumerate(self._env_rngs):
                        restore(rng, saved["env"][e]["random"])
                        actor.state[e] = np.asarray(saved["env"][e]["state"]).reshape(actor.state[e].shape)
                        actor.episodic_return[e] = float(saved["returns"][e])
                        actor.episodic_length[e] = int(saved["lengths"][e])
                        actor.random_left[e] = int(saved["random_left"][e])
                    observations = self._step.observation
                    observations[:] = resumed.tensor("observations", observations.shape)
        if not continues:
            for e, rng in enumerate(self._env_rngs):
                self._module.reset(self._env, actor.state[e], rng.random(self._module.RESET_DRAWS))
                self._module.observe(self._env, actor.state[e], self._step.observation[e])
                if noisy_start:
                    actor.random_left[e] = int(self._action_rng.random() * (noisy_start + 1))
        self._streams = [
            DrawBuffer(self._action_rng, self._action_rng.random, actor.draws, actor.draws_used),
            DrawBuffer(self._memory.rng, self._memory.rng.random, actor.replay_draws, actor.replay_draws_used),
            *(
                DrawBuffer(rng, rng.random, actor.reset_draws[e], actor.reset_draws_used[e : e + 1])
                for e, rng in enumerate(self._env_rngs)
            ),
        ]

    def advance(self, blocks: int) -> bool:
        """Act and learn for up to `blocks` blocks, and send the records. Returns whether nothing cut the slice short.

        Raises ChildFailed if an update or an action diverged."""
        if blocks:
            self._memory.begin_episodes(self._step.observation)
        left = blocks
        while True:
            for stream in self._streams:
                stream.refill()
            began = self._shared.wall_time_s()
            reason, made, episodes, rows = q_loop.advance(*self.arguments, left)
            pace = (self._shared.wall_time_s() - began) / max(1, made)
            if episodes or rows:
                self._send(self._recorded(episodes, rows, began, pace))
            left -= made
            if reason != q_loop.DRAWS:
                break
        if message := self._divergence(reason):
            raise ChildFailed(message)
        return reason == q_loop.PAUSED and left == 0

    def _recorded(self, episodes: int, rows: int, began: float, pace: float) -> SliceRecords:
        """The records of the slice."""
        ended = with_times(self._records.episodes[:episodes], loop.EPISODE.wall_time_s, began, pace)
        updates = with_times(self._records.updates[:rows], q_loop.QUPDATE.wall_time_s, began, pace)
        return SliceRecords(ended, updates, UpdateRecord, self._shared.counters().steps)

    def _divergence(self, reason: int) -> str:
        """What diverged, as learner.py and actor.py say it; empty if nothing has."""
        network = self._network
        if reason == q_loop.DIVERGED:
            number, loss, grad_norm = self._records.failure
            return f"diverged: loss {loss}, gradient norm {grad_norm} at update {int(number)}"
        number = self._shared.counters().updates + 1
        if reason == q_loop.ACTION_VALUES_DIVERGED:
            values = self._step.activations.reshape(network.rows, -1)[network.q : network.q + network.actions, 0]
            return f"diverged: action values {values} at update {number}"
        if reason == q_loop.TD_ERRORS_DIVERGED:
            return f"diverged: TD errors {self._step.td_errors} at update {number}"
        return ""

    def state(self) -> ProcessState:
        """What a resume needs, in the form of `learner.Learner` and `actor.Actor`."""
        for stream in self._streams:
            stream.settle()
        actor = self._actor
        lengths = actor.episodic_length.tolist()
        values = {
            "action_rng": state_of(self._action_rng),
            "reset_rng": state_of(self._reset_rng),
            "env": [
                saved_state(state, rng, [length])
                for state, rng, length in zip(actor.state, self._env_rngs, lengths, strict=True)
            ],
            "returns": actor.episodic_return.tolist(),
            "lengths": lengths,
            "random_left": actor.random_left.tolist(),
        }
        learner = self._memory.state(self._shared.counters().steps, self._target)
        return process_state({LEARNER: learner, ACTOR: (values, {"observations": self._step.observation.copy()})})


def constants_of(config: Config, learn_from: int, evaluates: bool) -> q_loop.QConstants:
    """The constants of the kernel's loop."""
    algo, envs = config.algo, config.envs_per_worker
    assert isinstance(algo, DQNConfig)
    return q_loop.QConstants(
        loss=QLossConstants(
            double=algo.double,
            squared=algo.loss == DqnLoss.squared,
            max_grad_value=math.inf if algo.max_grad_value is None else algo.max_grad_value,
        ),
        block=max(1, algo.train_freq // envs),
        train_freq=algo.train_freq,
        learn_from=learn_from,
        target_update=algo.target_update,
        target_tau=algo.target_tau,
        gamma=algo.gamma,
        warmup_steps=algo.warmup_steps,
        epsilon_start=algo.epsilon_start,
        epsilon_end=algo.epsilon_end,
        epsilon_decay_steps=algo.epsilon_decay_steps,
        noisy_start=algo.noisy_start,
        bootstrap_truncated=algo.bootstrap_truncated,
        reward_shift=float(config.env.reward_shift),
        reward_scale=float(config.env.reward_scale),
        max_ep_step=config.env.max_ep_step or 0,
        max_episodes=config.max_episodes or 0,
        total_steps=config.total_steps or 0,
        log_interval=config.log_interval,
        evaluate_every=(config.evaluation.every_steps or 0) if evaluates else 0,
    )
