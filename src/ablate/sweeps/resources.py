"""What a cell takes of a machine, and what the machine has."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ablate.config.choices import Storage
from ablate.config.derived import number_of_workers
from ablate.config.schema import (
    A3CConfig,
    AtariConfig,
    Config,
    ConfigError,
    ConvConfig,
    DQNConfig,
    PrioritizedConfig,
    QConfig,
)
from ablate.nn.architecture import architecture_of
from ablate.paths import ROOT
from ablate.replay.store import smallest_capacity, store_bytes
from ablate.types import ActionSpec, EnvSpec

PROCESS_MB = {"compiled": 300, "manual": 450, "autograd": 450}  # measured: a worker's, and less for its parent
GAMES_MB = 310  # measured: a worker that plays games, before its network
LARGE_VECTOR = 64  # numbers in an observation that is no image, for an upper bound
SAVED_COPIES = 2  # measured: of a replay in memory while save_replay writes it, and one more with several lanes
TREE_BYTES = 24  # of a prioritized replay's priorities and their tree, a frame


def cores(config: Config) -> int:
    """Cores that a resolved cell keeps busy: an interleaved run is one process, an async one has `workers`.

    DQN's actor waits for its learner, but the two work at the same time; its games may have threads."""
    if isinstance(config.algo, DQNConfig):
        threads = config.env.threads if isinstance(config.env, AtariConfig) else 0
        return max(1, min(threads, config.envs_per_worker)) + (config.schedule == "async")
    return number_of_workers(config) if config.schedule == "async" else 1


def memory_mb(config: Config) -> int:
    """Memory of a cell's processes: the parent, its workers, and under async the test process."""
    workers, others = number_of_workers(config), 2 if config.schedule == "async" else 1
    processes = cores(config)
    each = PROCESS_MB[config.backend]
    if isinstance(config.algo, DQNConfig):
        return (1 + (config.schedule == "async") + others) * each + _replay_in_memory(config) // 1_000_000
    if not isinstance(config.model, ConvConfig):
        return (processes + others) * each
    return others * each + processes * GAMES_MB + workers * _network_mb(config)


def _network_mb(config: Config) -> int:
    """Memory of one worker's network of images, and of the rollout that it keeps."""
    assert isinstance(config.algo, A3CConfig)
    assert isinstance(config.model, ConvConfig)
    architecture = architecture_of(config.model, EnvSpec(tuple(config.model.input), ActionSpec(n=18)))
    return architecture.memory_mb(config.backend, rows=(config.algo.t_max + 1) * config.envs_per_worker)


def replay_bytes(config: Config) -> int:
    """What the replay of a DQN run takes, in use or not, of memory or of its file."""
    assert config.replay is not None
    assert isinstance(config.model, QConfig)
    image = config.model.input
    frame, dtype = (image[1:], "uint8") if image else ((LARGE_VECTOR,), "float32")
    return store_bytes(config.replay.capacity, frame, dtype) + TREE_BYTES * config.replay.capacity


def _replay_in_memory(config: Config) -> int:
    """Bytes of memory that the replay takes, while it is saved if it is, apart from a file's pages."""
    assert config.replay is not None
    copies = int(config.replay.storage == Storage.memory)
    if config.save_replay:
        copies += SAVED_COPIES + (config.envs_per_worker > 1)
    return copies * replay_bytes(config)


def check_replay(config: Config) -> str:
    """What the replay of a run will take, in words; empty if it has none.

    Raises ConfigError for a capacity that is too small to learn from, or larger than what this machine has."""
    if config.replay is None:
        return ""
    assert isinstance(config.algo, DQNConfig)
    assert isinstance(config.model, QConfig)
    replay, stack = config.replay, config.model.input[0] if config.model.input else 1
    smallest = smallest_capacity(config.envs_per_worker, stack, config.algo.n_step)
    if isinstance(replay, PrioritizedConfig) and replay.first_half_only:
        smallest *= 2  # or that half may hold no whole transition when the ring begins anew
    least = max(2 * config.algo.batch_size, smallest)
    if replay.capacity < least:
        raise ConfigError(
            f"replay.capacity={replay.capacity}: too few frames for batches of {config.algo.batch_size} from "
            f"{config.envs_per_worker} environments; use {least} or more"
        )
    size = replay_bytes(config)
    in_file = replay.storage == Storage.memmap
    outputs = next(folder for folder in (ROOT / "outputs", ROOT) if folder.exists())
    room = shutil.disk_usage(outputs).free if in_file else available_bytes()
    where = "of disk" if in_file else "of memory"
    if size > room:
        hint = "" if in_file else ", or replay.storage=memmap: a file"
        raise ConfigError(
            f"replay.capacity={replay.capacity}: it takes {size / 1e9:.2f} GB {where}, and {room / 1e9:.2f} GB are "
            f"free; use {int(replay.capacity * 0.9 * room / size)} or fewer{hint}"
        )
    needed, free = _replay_in_memory(config), available_bytes()
    if config.save_replay and needed > free:
        raise ConfigError(
            f"save_replay=true: writing a replay of {size / 1e9:.2f} GB takes {needed / 1e9:.2f} GB of memory in all, "
            f"and {free / 1e9:.2f} GB are free; drop it, or use replay.capacity="
            f"{int(replay.capacity * 0.9 * free / needed)}"
        )
    told = f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
    return f"{replay.name}, {replay.capacity} frames: up to {told} {where}"


def available_bytes() -> int:
    """Memory of this machine that a new program may take."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])


class MachineCapacity:
    """Cores and memory that cells share. A cell that needs more than the whole machine runs alone."""

    def __init__(self, cores: int, memory_mb: int, parallel: int | None) -> None:
        self._cores, self._memory_mb, self._parallel = cores, memory_mb, parallel
        self._taken: dict[int, tuple[int, int]] = {}

    @classmethod
    def of_this_machine(cls, parallel: int | None) -> MachineCapacity:
        """parallel: number of cells at once, whatever they need; None: as many as fit."""
        return cls(len(os.sched_getaffinity(0)), available_bytes() // 1024**2, parallel)

    def take(self, job: int, config: Config) -> bool:
        """Reserve what the job needs. Returns False if it does not fit now."""
        need = (cores(config), memory_mb(config))
        fits = all(
            sum(taken[i] for taken in self._taken.values()) + need[i] <= capacity
            for i, capacity in enumerate((self._cores, self._memory_mb))
        )
        if self._taken and not (len(self._taken) < self._parallel if self._parallel else fits):
            return False
        self._taken[job] = need
        return True

    def release(self, job: int) -> None:
        del self._taken[job]

    def at_once(self, configs: list[Config]) -> int:
        """How many of these configurations, in this order, would start at once."""
        for job, config in enumerate(configs):
            if not self.take(job, config):
                return job
        return len(configs)
