"""What a cell takes of a machine, and what the machine has."""

from __future__ import annotations

import os
from pathlib import Path

from ablate.config import Config, number_of_workers

PROCESS_MB = {"compiled": 300, "manual": 450, "autograd": 450}  # measured: a worker's, and less for its parent


def cores(config: Config) -> int:
    """Cores that a resolved cell keeps busy: an interleaved run is one process, an async one has `workers`."""
    return number_of_workers(config) if config.schedule == "async" else 1


def memory_mb(config: Config) -> int:
    """Memory of a cell's processes: the parent, its workers, and under async the test process."""
    processes = number_of_workers(config) + 2 if config.schedule == "async" else 2
    return processes * PROCESS_MB[config.backend]


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
