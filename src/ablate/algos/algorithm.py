"""What the rest of the program may ask of an algorithm, and the registry of algorithms. No torch: the parent asks."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from ablate.config.choices import Backend
from ablate.config.schema import SCHEMAS, AlgoConfig, Config, ConfigError
from ablate.config.validation import suggest
from ablate.parallel.exchange import Exchange
from ablate.types import EnvSpec

PROCESS_MB = {
    "compiled": 300,
    "manual": 450,
    "autograd": 450,
}  # measured: a process that trains


SLOW_STEP_S = {"compiled": 1e-4, "manual": 1e-2, "autograd": 1e-2}  # a step with a vector network on a slow machine


class Process(NamedTuple):
    """One of the processes that train: `function(send, job)` of `module`, which only that process imports."""

    name: str
    module: str
    function: str
    members: tuple[int, ...]  # whose state it saves: numbers of A3C's workers; DQN: 0 learner, 1 actor


class Algorithm(ABC):
    """An algorithm as the parent process, the checks, the records and the figures see it.

    A subclass must define `name`, `config_class`, `update_record` and `processes`. Everything else has a default that
    suits an algorithm with one process, a network for vectors and autograd."""

    name: ClassVar[str]  # of its option in the group `algo`
    config_class: ClassVar[type[AlgoConfig]]
    update_record: ClassVar[type[Any]]  # a NamedTuple: the columns of updates.csv, of which the first three are fixed
    backends: ClassVar[tuple[Backend, ...]] = (Backend.autograd,)  # the fastest first
    has_workers: ClassVar[bool] = False  # whether `workers` has a meaning for it
    has_envs_per_worker: ClassVar[bool] = False  # whether `envs_per_worker` has

    @abstractmethod
    def processes(self, config: Config) -> list[Process]:
        """The processes that train."""

    # Before anything is made.

    def default_model(self, has_images: bool) -> str:
        """The option of the group `model` for environments with or without images."""
        return "conv_lstm_42" if has_images else "mlp"

    def default_optimizer(self, has_images: bool) -> str:
        """The option of the group `optimizer` for environments with or without images."""
        return "adam"

    def default_replay(self) -> str:
        """The option of the group `replay`; `none` for an algorithm without a replay."""
        return "none"

    def default_workers(self) -> int:
        """The number of workers if the configuration leaves it open."""
        return 1

    def refuse_backend(self, config: Config) -> str:
        """Why backend=compiled cannot train this configuration; empty if it can."""
        return f"algo={self.name} has no kernel"

    def resolve(self, config: Config, here: bool, new: bool) -> Config:
        """Fill in values that depend on this machine. here: the run will train on this machine. new: it is not resumed,
        or with another precision.

        Raises ConfigError."""
        return config

    def memory_note(self, config: Config, spec: EnvSpec, folder: Path) -> str:
        """What the run will keep in memory, or in files in `folder`, in words; empty if it is little.

        Raises ConfigError if this machine or disk does not have it."""
        return ""

    def steps_at_once(self, config: Config) -> int:
        """Steps that are counted together, so that a run ends at a multiple of them."""
        return 1

    # Cores and memory of a run.

    def cores(self, config: Config) -> int:
        """Cores that a run keeps busy: one per process."""
        return len(self.processes(config))

    def memory_mb(self, config: Config) -> int:
        """Memory of the run's processes: its parent, those that train, and with schedule=async the test process."""
        others = 2 if config.schedule == "async" else 1
        return (self.cores(config) + others) * PROCESS_MB[config.backend]

    def slow_step_s(self, config: Config) -> float | None:
        """Seconds that a step takes at most on any common machine; None if that cannot be told beforehand.

        Only chooses how many short cells share a job of a cluster (`sweep.cells_per_job`)."""
        return None if config.model.takes_images else SLOW_STEP_S[config.backend]

    def shortened(self, config: Config) -> Config:
        """The configuration for a short run that measures what a step costs."""
        return config

    # While it trains.

    def preload(self, config: Config, spec: EnvSpec | None) -> None:
        """Import what the run's processes need and load its kernels, in a process from which such runs are forked.

        A module with kernels has a function `load_kernels(config, spec)`. spec: None if the environment's code is the
        user's, which that process does not import.
        It must not compute with torch, nor start a thread: a fork of a process that has done so may hang."""
        for name in {process.module for process in self.processes(config)}:
            module = importlib.import_module(name)
            if spec is not None and hasattr(module, "load_kernels"):
                module.load_kernels(config, spec)

    def connect(self, config: Config, spec: EnvSpec) -> Exchange | None:
        """The shared memory between the processes that train; None if they need none."""
        return None

    def restore_connection(self, exchange: Exchange, states: dict[str, Any], tensors: dict[str, Any]) -> None:
        """Fill the shared memory with what a checkpoint holds. states: by member, as in a checkpoint."""
        return None

    def crew(self, config: Config) -> str:
        """Who trains, for the title of the display."""
        return f"{config.workers} worker{'s' * (config.workers != 1)}"

    def notes(self, config: Config) -> Iterator[str]:
        """What a user should know before the first step, a sentence each."""
        yield from ()

    def resume_notes(self, config: Config, states: Sequence[dict[str, Any]]) -> Iterator[str]:
        """What differs after a resume, one sentence each. states: of all members."""
        yield from ()

    def progress(self, config: Config, steps: int, updates: Sequence[Any]) -> tuple[str, float | None, str]:
        """A number for the display: its name, its value if there is one, and its format. updates: the last records."""
        return "learning rate", updates[-1].learning_rate if updates else None, ".2g"


_ALGORITHMS: dict[str, Algorithm] = {}


def register(algorithm: Algorithm) -> None:
    """Make an algorithm known by its name, and its configuration class to the schema."""
    _ALGORITHMS[algorithm.name] = algorithm
    SCHEMAS["algo"][algorithm.name] = algorithm.config_class


def algorithm_named(name: str) -> Algorithm:
    """Raises ConfigError for a name that is not registered."""
    if name not in _ALGORITHMS:
        known = list(_ALGORITHMS)
        raise ConfigError(f"algo.name={name}: no such algorithm{suggest(name, known)} (there are: {', '.join(known)})")
    return _ALGORITHMS[name]


def algorithm_of(config: Config) -> Algorithm:
    """The algorithm of a configuration."""
    return algorithm_named(config.algo.name)


def number_of_workers(config: Config) -> int:
    """`workers`, or what suits the algorithm on this machine."""
    return config.workers or algorithm_of(config).default_workers()
