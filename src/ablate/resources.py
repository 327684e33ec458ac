"""What a cell takes of a machine, and what the machine has."""

from __future__ import annotations

import os
from math import prod
from pathlib import Path

from ablate.config import A3CConfig, Config, ConvConfig, number_of_workers
from ablate.nn.architecture import ConvArchitecture, architecture_of
from ablate.types import ActionSpec, EnvSpec

PROCESS_MB = {"compiled": 300, "manual": 450, "autograd": 450}  # measured: a worker's, and less for its parent
# Measured of workers that play games: what is there before the network, copies of the parameters (the optimizer's and
# shared ones among them), and the peak over what a rollout's backward pass needs.
GAMES_MB, COPIES = 310, 12
PEAK = {"manual": 2.0, "autograd": 1.25}


def cores(config: Config) -> int:
    """Cores that a resolved cell keeps busy: an interleaved run is one process, an async one has `workers`."""
    return number_of_workers(config) if config.schedule == "async" else 1


def memory_mb(config: Config) -> int:
    """Memory of a cell's processes: the parent, its workers, and under async the test process."""
    workers, others = number_of_workers(config), 2 if config.schedule == "async" else 1
    processes = workers if config.schedule == "async" else 1
    each = PROCESS_MB[config.backend]
    if not isinstance(config.model, ConvConfig):
        return (processes + others) * each
    return others * each + processes * GAMES_MB + workers * _network_mb(config)


def _network_mb(config: Config) -> int:
    """Memory of one worker's network of images, and of the rollout that it keeps."""
    assert isinstance(config.algo, A3CConfig)
    assert isinstance(config.model, ConvConfig)
    architecture = architecture_of(config.model, EnvSpec(tuple(config.model.input), ActionSpec(n=18)))
    assert isinstance(architecture, ConvArchitecture)
    sizes = architecture.sizes()
    numbers = float(prod(sizes[0]))  # of a row of one game
    for layer, before, after in zip(architecture.convolutions, sizes, sizes[1:], strict=False):
        if config.backend == "manual":  # the output; where pooling took it from, in half the bits
            numbers += prod(after) * (1.5 if layer.pool else 1.0)
        else:  # before and behind the activation; pooled, and from where, in twice the bits
            convolved = layer.channels * prod(layer.convolved(*before[1:]))
            numbers += 2 * convolved + 3 * prod(after) * layer.pool
    rows = (config.algo.t_max + 1) * config.envs_per_worker
    kept = PEAK[config.backend] * rows * numbers
    return round(4 * (COPIES * architecture.layout().size + kept) / 1e6)


class Room:
    """Cores and memory that cells share. A cell that is larger than all of it runs alone."""

    def __init__(self, cores: int, memory_mb: int, parallel: int | None) -> None:
        self._cores, self._memory_mb, self._parallel = cores, memory_mb, parallel
        self._taken: dict[int, tuple[int, int]] = {}

    @classmethod
    def of(cls, parallel: int | None) -> Room:
        """This machine's. parallel: cells at once, whatever they take; None: as many as fit."""
        available = next(
            line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable")
        )
        return cls(len(os.sched_getaffinity(0)), int(available.split()[1]) // 1024, parallel)

    def take(self, job: int, config: Config) -> bool:
        """Room for the job, if there is."""
        need = (cores(config), memory_mb(config))
        fits = all(
            sum(taken[i] for taken in self._taken.values()) + need[i] <= room
            for i, room in enumerate((self._cores, self._memory_mb))
        )
        if self._taken and not (len(self._taken) < self._parallel if self._parallel else fits):
            return False
        self._taken[job] = need
        return True

    def leave(self, job: int) -> None:
        del self._taken[job]

    def at_once(self, configs: list[Config]) -> int:
        """How many of these, in their order, would run at first."""
        for job, config in enumerate(configs):
            if not self.take(job, config):
                return job
        return len(configs)
