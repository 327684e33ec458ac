"""A3C as the rest of the program sees it: its keys, its records, its processes, what it refuses. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Annotated, NamedTuple

from omegaconf import MISSING
from pydantic import Field
from pydantic.dataclasses import dataclass

from ablate.algos.algorithm import PROCESS_MB, Algorithm, Process, number_of_workers
from ablate.compiled.support import why_not
from ablate.config.choices import Backend, LossReduction
from ablate.config.schema import (
    AlgoConfig,
    Config,
    ConfigError,
    Fraction,
    NonNegative,
    Positive,
    Size,
)
from ablate.nn.architecture import architecture_of
from ablate.nn.precision import with_precision
from ablate.parallel.machine import usable_cpus
from ablate.types import ActionSpec, EnvSpec

# The keys with which the kernels compute. With another one, runs use backend=manual unless it has its default.
IN_KERNELS = frozenset(
    ("t_max", "gamma", "gae_lambda", "entropy_coef", "value_loss_coef", "loss_reduction", "max_grad_norm",
     "bootstrap_truncated", "lock_updates")
)  # fmt: skip
GAMES_MB = 310  # measured: a worker process that plays games, before its network


@dataclass
class A3CConfig(AlgoConfig):
    """The keys of `conf/algo/a3c.yaml`, which says what they mean."""

    name: Annotated[str, Field(pattern="^a3c$")] = "a3c"
    t_max: Size = MISSING
    gamma: Fraction = MISSING
    gae_lambda: Fraction = MISSING
    entropy_coef: NonNegative = MISSING
    value_loss_coef: NonNegative = MISSING
    loss_reduction: LossReduction = MISSING
    max_grad_norm: Positive | None = None
    bootstrap_truncated: bool = MISSING
    lock_updates: bool = MISSING

    def refuse(self, config: Config) -> None:
        """Raise ConfigError for what A3C lacks or cannot do."""
        model, env = config.model, config.env
        if self.lock_updates and config.schedule == "interleaved":
            raise ConfigError(
                "algo.lock_updates=true: no updates race under schedule=interleaved; drop it or use schedule=async"
            )
        if model.gives_action_values:
            raise ConfigError(
                f"model.name={model.name}: A3C needs an actor and a critic; use model=mlp or model=conv_lstm_42"
            )
        if model.takes_images and not env.has_images:
            raise ConfigError(f"env.id={env.id}: no images, which this network needs; use model=mlp")
        if env.has_images and not model.takes_images:
            raise ConfigError(f"env.id={env.id}: its observations are images; use model=conv_lstm_42 or another conv_*")
        if config.envs_per_worker > 1 and not model.takes_images:
            raise ConfigError(
                f"envs_per_worker={config.envs_per_worker}: only networks of images step several environments at once; "
                "use 1, and more workers"
            )
        if threads := getattr(env, "threads", 0):
            raise ConfigError(f"env.threads={threads}: only DQN supports threaded games; use workers=2 with A3C")
        if config.replay is not None:
            raise ConfigError(
                f"replay={config.replay.name}: A3C learns from each step once; only DQN has a replay (algo=dqn)"
            )
        if config.save_replay:
            raise ConfigError("save_replay=true: A3C has no replay; drop it, or use algo=dqn")


class UpdateRecord(NamedTuple):
    """A row of updates.csv. The losses are reduced over the rollout as `algo.loss_reduction` says."""

    update: int
    global_step: int
    wall_time_s: float
    policy_loss: float
    value_loss: float
    entropy: float  # nats
    grad_norm: float  # before clipping
    staleness: int  # updates
    learning_rate: float


class A3C(Algorithm):
    """Asynchronous advantage actor-critic (Mnih et al. 2016, Algorithm S3)."""

    name = "a3c"
    config_class = A3CConfig
    update_record = UpdateRecord
    has_workers = has_envs_per_worker = True
    backends = (Backend.compiled, Backend.manual, Backend.autograd)

    def processes(self, config: Config) -> list[Process]:
        """schedule=async: one process per worker. schedule=interleaved: one process whose workers take turns."""
        workers = tuple(range(number_of_workers(config)))
        groups = [(k,) for k in workers] if config.schedule == "async" else [workers]
        module = f"ablate.algos.a3c.{'compiled' if config.backend == Backend.compiled else 'worker'}"
        ends = [group[:: max(1, len(group) - 1)] for group in groups]
        names = ["worker-" + "-".join(map(str, first_and_last)) for first_and_last in ends]
        return [Process(name, module, "work", group) for name, group in zip(names, groups, strict=True)]

    def default_model(self, has_images: bool) -> str:
        return "conv_84" if has_images else super().default_model(has_images)

    def default_optimizer(self, has_images: bool) -> str:
        return "rmsprop" if has_images else super().default_optimizer(has_images)

    def resolve(self, config: Config, here: bool, new: bool) -> Config:
        return with_precision(config, here, new) if config.model.takes_images else config

    def default_workers(self) -> int:
        return usable_cpus()

    def steps_at_once(self, config: Config) -> int:
        """One step of each game of a worker."""
        return config.envs_per_worker

    def refuse_backend(self, config: Config) -> str:
        return why_not(config, "mlp", IN_KERNELS)

    def memory_mb(self, config: Config) -> int:
        if not config.model.takes_images:
            return super().memory_mb(config)
        others = 2 if config.schedule == "async" else 1
        networks = number_of_workers(config) * network_mb(config)
        return others * PROCESS_MB[config.backend] + self.cores(config) * GAMES_MB + networks

    def slow_step_s(self, config: Config) -> float | None:
        """With kernels 5 µs, 9 times what a step of the Pendulum report's network takes (docs/speed.md)."""
        return 5e-6 if config.backend == Backend.compiled else super().slow_step_s(config)

    def progress(self, config: Config, steps: int, updates: Sequence[UpdateRecord]) -> tuple[str, float | None, str]:
        return "staleness", fmean(update.staleness for update in updates) if updates else None, ".1f"


def network_mb(config: Config) -> int:
    """Memory of one worker's network of images, and of the rollout that it keeps."""
    assert isinstance(config.algo, A3CConfig)
    assert config.model.image_shape is not None
    spec = EnvSpec(tuple(config.model.image_shape), ActionSpec(n=18))
    rows = (config.algo.t_max + 1) * config.envs_per_worker
    return architecture_of(config.model, spec).memory_mb(config.backend, rows)
