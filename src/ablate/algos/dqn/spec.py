"""DQN as the rest of the program sees it: its keys, its records, its processes, what it refuses. No torch."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from omegaconf import MISSING
from pydantic import Field
from pydantic.dataclasses import dataclass

from ablate.algos.algorithm import PROCESS_MB, Algorithm, Process
from ablate.algos.job import restoring
from ablate.compiled.support import why_not
from ablate.config.choices import Backend, DqnLoss, Storage
from ablate.config.derived import devices
from ablate.config.schema import (
    AlgoConfig,
    Config,
    ConfigError,
    Count,
    CountFromZero,
    Fraction,
    Positive,
    PositiveFraction,
    PrioritizedConfig,
    Size,
)
from ablate.envs.make import spec_of
from ablate.nn.precision import with_precision
from ablate.parallel.exchange import Exchange
from ablate.parallel.machine import available_bytes
from ablate.paths import nearest_existing
from ablate.replay.store import smallest_capacity, store_bytes
from ablate.schedules import linear
from ablate.types import EnvSpec, Experience

# The keys with which the kernels compute, and one that `refuse_backend` refuses. With another one, runs use
# backend=manual unless it has its default.
IN_KERNELS = frozenset(
    ("gamma", "warmup_steps", "train_freq", "target_update", "target_tau", "batch_size", "n_step", "double",
     "loss", "max_grad_value", "epsilon_start", "epsilon_end", "epsilon_decay_steps", "evaluation_epsilon",
     "noisy_start", "bootstrap_truncated", "reset_after_evaluation")
)  # fmt: skip
LEARNER, ACTOR = 0, 1  # whose state it is in a checkpoint
SAVED_COPIES = 2  # measured: of a replay in memory while save_replay writes it, and one more with several environments
MOST_STACKED = 256  # images; the store counts them in a byte
TREE_BYTES = 24  # of a prioritized replay's priorities and their tree, per frame


@dataclass
class DQNConfig(AlgoConfig):
    """The keys of `conf/algo/dqn.yaml`, which says what they mean."""

    name: Annotated[str, Field(pattern="^dqn$")] = "dqn"
    gamma: Fraction = MISSING
    warmup_steps: CountFromZero = MISSING
    train_freq: Size = MISSING
    target_update: Count = MISSING
    target_tau: PositiveFraction = MISSING
    batch_size: Size = MISSING
    n_step: Size = MISSING
    double: bool = MISSING
    loss: DqnLoss = MISSING
    max_grad_value: Positive | None = None
    epsilon_start: Fraction = MISSING
    epsilon_end: Fraction = MISSING
    epsilon_decay_steps: Count = MISSING
    evaluation_epsilon: Fraction = MISSING
    noisy_start: CountFromZero = MISSING
    bootstrap_truncated: bool = MISSING
    reset_after_evaluation: bool = MISSING
    cuda_graph: bool = False

    def refuse(self, config: Config) -> None:
        """Raise ConfigError for what DQN lacks or cannot do."""
        self._refuse_parts(config)
        envs = config.envs_per_worker
        if self.cuda_graph and devices(config) == ["cpu"]:
            raise ConfigError(
                f"algo.cuda_graph=true: only a GPU can record its updates; drop it, or use device=cuda "
                f"(device={config.device})"
            )
        if self.reset_after_evaluation and config.schedule == "async" and config.evaluation.every_seconds is not None:
            raise ConfigError(
                f"algo.reset_after_evaluation=true: it ends episodes at steps, but evaluation.every_seconds="
                f"{config.evaluation.every_seconds:g} evaluates by the clock; use evaluation.every_seconds=null"
            )
        if self.warmup_steps < self.batch_size:
            raise ConfigError(
                f"algo.warmup_steps={self.warmup_steps}: the first batch of algo.batch_size={self.batch_size} is drawn "
                "from the steps of the warm-up; use at least as many steps"
            )
        if self.warmup_steps < self.n_step * envs:
            raise ConfigError(
                f"algo.warmup_steps={self.warmup_steps}: {envs} environments have not taken the "
                f"algo.n_step={self.n_step} steps of a transition by then; use {self.n_step * envs} or more"
            )
        if max(envs, self.train_freq) % min(envs, self.train_freq):
            raise ConfigError(
                f"envs_per_worker={envs}: {envs} environments give {envs} steps at once, and an update follows every "
                f"algo.train_freq={self.train_freq} steps; one must be a multiple of the other"
            )

    def _refuse_parts(self, config: Config) -> None:
        """Raise ConfigError for a network, replay, backend, device or precision that DQN cannot use."""
        model, env = config.model, config.env
        if config.workers not in (None, 1):
            raise ConfigError(
                f"workers={config.workers}: DQN has one learner; use 1, and envs_per_worker for more games"
            )
        if not model.gives_action_values:
            raise ConfigError(
                f"model.name={model.name}: a network of actor and critic; DQN needs one of action values: "
                "model=dqn_mlp, model=dqn_84 or model=dqn_early"
            )
        if model.takes_images != env.has_images:
            right = "model=dqn_mlp" if model.takes_images else "model=dqn_84"
            kind = "no images" if model.takes_images else "images"
            raise ConfigError(f"env.id={env.id}: its observations are {kind}; use {right}")
        if config.replay is None:
            raise ConfigError("replay=null: DQN learns from a replay; use replay=uniform or replay=prioritized")
        if len(devices(config)) > 1:
            raise ConfigError(f"device={config.device}: DQN has one learner; give one device")
        config.replay.refuse()

    def epsilon(self, step: int) -> float:
        """The probability of a random action: 1 in the warm-up, then the linear decay (Mnih et al. 2015)."""
        if step < self.warmup_steps:
            return 1.0
        return linear(self.epsilon_start, self.epsilon_end, self.epsilon_decay_steps, step - self.warmup_steps)


class UpdateRecord(NamedTuple):
    """A row of updates.csv."""

    update: int
    global_step: int
    wall_time_s: float
    td_loss: float
    q_mean: float
    grad_norm: float  # after clamping
    epsilon: float
    beta: float | None  # None for a replay without priorities
    effective_sample_size: float  # (Σw)² / Σw² of the batch's importance weights
    sample_age: float  # steps since the batch's transitions were taken, mean
    learning_rate: float


class DQN(Algorithm):
    """Deep Q-learning (Mnih et al. 2015, Algorithm 1)."""

    name = "dqn"
    config_class = DQNConfig
    update_record = UpdateRecord
    backends = (Backend.compiled, Backend.manual, Backend.autograd)
    has_envs_per_worker = True

    def processes(self, config: Config) -> list[Process]:
        """schedule=interleaved: one process acts, then learns. schedule=async: the actor has a process of its own."""
        learner = f"ablate.algos.dqn.{'compiled' if config.backend == Backend.compiled else 'learner'}"
        if config.schedule == "interleaved":
            return [Process("learner", learner, "learn", (LEARNER, ACTOR))]
        return [
            Process("learner", learner, "learn", (LEARNER,)),
            Process("actor", "ablate.algos.dqn.actor", "act", (ACTOR,)),
        ]

    def default_model(self, has_images: bool) -> str:
        return "dqn_84" if has_images else "dqn_mlp"

    def default_replay(self) -> str:
        return "uniform"

    def resolve(self, config: Config, here: bool, new: bool) -> Config:
        return with_precision(config, here, new)

    def refuse_backend(self, config: Config) -> str:
        assert isinstance(config.algo, DQNConfig)
        if obstacle := why_not(config, "q", IN_KERNELS):
            return obstacle
        if config.schedule == "async":
            return "schedule=async: kernels act and learn in one process, which is faster than two; use interleaved"
        if config.algo.reset_after_evaluation:
            return "algo.reset_after_evaluation=true has no kernel"
        return ""

    def memory_note(self, config: Config, spec: EnvSpec, folder: Path) -> str:
        return check_replay(config, spec, folder)

    def steps_at_once(self, config: Config) -> int:
        """A block."""
        assert isinstance(config.algo, DQNConfig)
        return max(config.algo.train_freq, config.envs_per_worker)

    def cores(self, config: Config) -> int:
        """The actor waits for its learner, but the two work at the same time; its games may have threads."""
        threads = getattr(config.env, "threads", 0)
        return max(1, min(threads, config.envs_per_worker)) + (config.schedule == "async")

    def memory_mb(self, config: Config) -> int:
        parent, trainers, test_process = 1, len(self.processes(config)), int(config.schedule == "async")
        processes = parent + trainers + test_process
        return processes * PROCESS_MB[config.backend] + replay_in_memory(config) // 1_000_000

    def shortened(self, config: Config) -> Config:
        """With a short warm-up, which says nothing of what a step costs later."""
        assert isinstance(config.algo, DQNConfig)
        warmup = min(config.algo.warmup_steps, 4 * config.algo.batch_size)
        return replace(config, algo=replace(config.algo, warmup_steps=warmup))

    def connect(self, config: Config, spec: EnvSpec) -> Exchange | None:
        return make_exchange(config, spec) if config.schedule == "async" else None

    def restore_connection(self, exchange: Exchange, states: dict[str, Any], tensors: dict[str, Any]) -> None:
        actor = states[str(ACTOR)]
        with restoring(ACTOR):
            if actor["begun"] and actor["env"] is not None:
                exchange.restore(Experience(*(tensors[f"worker.{ACTOR}.block.{name}"] for name in Experience._fields)))

    def crew(self, config: Config) -> str:
        assert config.replay is not None
        envs = config.envs_per_worker
        return f"{config.replay.name} replay · {envs} environment{'s' * (envs > 1)}"

    def notes(self, config: Config) -> Iterator[str]:
        assert isinstance(config.algo, DQNConfig)
        warmup, total = config.algo.warmup_steps, config.total_steps
        if total is not None and total <= warmup:
            yield f"total_steps={total} ends in algo.warmup_steps={warmup}: nothing is learned"

    def resume_notes(self, config: Config, states: Sequence[dict[str, Any]]) -> Iterator[str]:
        assert isinstance(config.algo, DQNConfig)
        if any(state.get("replay", ...) is None for state in states):
            steps = config.algo.warmup_steps
            yield f"the replay was not saved (save_replay=true): {steps} steps fill it, then learning goes on"

    def progress(self, config: Config, steps: int, updates: Sequence[UpdateRecord]) -> tuple[str, float | None, str]:
        assert isinstance(config.algo, DQNConfig)
        return "epsilon", config.algo.epsilon(steps), ".3f"


def make_exchange(config: Config, spec: EnvSpec) -> Exchange:
    """For blocks of `algo.train_freq` steps, or of one step per environment if there are more environments."""
    assert isinstance(config.algo, DQNConfig)
    return Exchange(spec, max(1, config.algo.train_freq // config.envs_per_worker), config.envs_per_worker)


def replay_bytes(config: Config) -> int:
    """Bytes that the replay of a run takes when it is full, in memory or in its file."""
    assert config.replay is not None
    image = config.model.image_shape  # of a stack of images, each is stored once
    frame, dtype = (image[1:], "uint8") if image else (spec_of(config.env).observation_shape, "float32")
    return store_bytes(config.replay.capacity, frame, dtype) + TREE_BYTES * config.replay.capacity


def replay_in_memory(config: Config) -> int:
    """Bytes of memory that the replay takes, also while it is saved, apart from the pages of a file."""
    assert config.replay is not None
    copies = int(config.replay.storage == Storage.memory)
    if config.save_replay:
        copies += SAVED_COPIES + (config.envs_per_worker > 1)
    return copies * replay_bytes(config)


def check_replay(config: Config, spec: EnvSpec, folder: Path) -> str:
    """What the replay of a run will take, in words. folder: where the run's files will be.

    Raises ConfigError for a capacity that is too small to learn from, or larger than what this machine has."""
    algo, replay = config.algo, config.replay
    assert isinstance(algo, DQNConfig)
    assert replay is not None
    stack = spec.observation_shape[0] if len(spec.observation_shape) == 3 else 1
    if stack > MOST_STACKED:
        raise ConfigError(f"model.input: {stack} images in a stack; a replay of images stacks at most {MOST_STACKED}")
    smallest = smallest_capacity(config.envs_per_worker, stack, algo.n_step)
    if isinstance(replay, PrioritizedConfig) and replay.first_half_only:
        smallest *= 2  # or that half may hold no whole transition when the ring starts again
    least = max(2 * algo.batch_size, smallest)
    if replay.capacity < least:
        raise ConfigError(
            f"replay.capacity={replay.capacity}: too few frames for batches of {algo.batch_size} from "
            f"{config.envs_per_worker} environments; use {least} or more"
        )
    size = replay_bytes(config)
    in_file = replay.storage == Storage.memmap
    free_bytes = shutil.disk_usage(nearest_existing(folder)).free if in_file else available_bytes()
    medium = "of disk" if in_file else "of memory"
    if size > free_bytes:
        hint = "" if in_file else ", or replay.storage=memmap: a file"
        raise ConfigError(
            f"replay.capacity={replay.capacity}: it takes {size / 1e9:.2f} GB {medium}, and {free_bytes / 1e9:.2f} GB "
            f"are free; use {int(replay.capacity * 0.9 * free_bytes / size)} or fewer{hint}"
        )
    needed, free = replay_in_memory(config), available_bytes()
    if config.save_replay and needed > free:
        raise ConfigError(
            f"save_replay=true: writing a replay of {size / 1e9:.2f} GB takes {needed / 1e9:.2f} GB of memory in all, "
            f"and {free / 1e9:.2f} GB are free; drop it, or use replay.capacity="
            f"{int(replay.capacity * 0.9 * free / needed)}"
        )
    amount = f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
    return f"{replay.name}, {replay.capacity} frames: up to {amount} {medium}"
