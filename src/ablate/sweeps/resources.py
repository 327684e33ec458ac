"""The cores and memory of this machine, shared among cells."""

from __future__ import annotations

from ablate.algos.algorithm import algorithm_of
from ablate.config.schema import Config
from ablate.parallel.machine import available_bytes, usable_cpus


class MachineCapacity:
    """Cores and memory that cells share. A cell that needs more than the whole machine runs alone."""

    def __init__(self, cores: int, memory_mb: int, parallel: int | None) -> None:
        self._cores, self._memory_mb, self._parallel = cores, memory_mb, parallel
        self._taken: dict[int, tuple[int, int]] = {}

    @classmethod
    def of_this_machine(cls, parallel: int | None) -> MachineCapacity:
        """parallel: number of cells that run at once, even if they do not fit; None: as many as fit."""
        return cls(usable_cpus(), available_bytes() // 1024**2, parallel)

    def take(self, job: int, config: Config) -> bool:
        """Reserve what the job needs. Returns False if it does not fit now."""
        algorithm = algorithm_of(config)
        need = (algorithm.cores(config), algorithm.memory_mb(config))
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
