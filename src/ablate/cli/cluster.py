"""What launchers on clusters share: what a job asks for, the job where it is run, how one that was lost is told."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from ablate.algos.algorithm import algorithm_of
from ablate.cli.arguments import named_plugins
from ablate.cli.compose import plan_job
from ablate.cli.hydra_app import register
from ablate.config.derived import devices
from ablate.config.plugins import import_plugins
from ablate.sweeps.cell import STOP

JOB_MB = 300  # measured: 160 to 220 for the process that watches the cell's


class JobLost(Exception):
    """A job ended without a word of its own: its machine died, or the cluster killed it."""


class Needs(NamedTuple):
    """What a job asks the cluster for."""

    cpus: int
    gpus: int
    memory_mb: int


class Jobs(NamedTuple):
    """What all jobs of a launch have in common; it travels to the machines that run them."""

    context: HydraContext
    task_function: TaskFunction
    config: DictConfig
    singletons: dict[Any, Any]

    @classmethod
    def of(cls, context: HydraContext, task_function: TaskFunction, config: DictConfig) -> Jobs:
        return cls(context, task_function, config, Singleton.get_state())

    @property
    def folder(self) -> Path:
        """The sweep's."""
        return Path(self.config.hydra.sweep.dir).absolute()

    @property
    def stopped(self) -> bool:
        """Whether the sweep is being stopped: what is queued shall not start."""
        return (self.folder / STOP).exists()

    def needs(self, jobs: Sequence[Sequence[str]]) -> list[Needs]:
        """Each job's, from its resolved configuration. Raises ConfigError.

        Jobs that differ in seed and folder alone need the same: of a thousand, a few have to be composed."""
        known: dict[tuple[str, ...], Needs] = {}
        found = []
        for overrides in jobs:
            arm = tuple(o for o in overrides if not o.startswith(("seed=", "hydra.")))
            if arm not in known:
                composed = self.context.config_loader.load_sweep_config(self.config, list(overrides))
                config = plan_job(composed, overrides, here=False).config
                gpus = len({device for device in devices(config) if device.startswith("cuda")})
                algorithm = algorithm_of(config)
                known[arm] = Needs(algorithm.cores(config), gpus, algorithm.memory_mb(config) + JOB_MB)
            found.append(known[arm])
        return found

    def run(self, overrides: Sequence[str], number: int, cluster_id: str) -> JobReturn:
        """One job where the cluster has put it, as Hydra's basic launcher would run it here."""
        Singleton.set_state(self.singletons)
        setup_globals()
        os.chdir(self.config.hydra.runtime.cwd)  # where the command was given: its modules may be there
        import_plugins(named_plugins(overrides))
        register()
        composed = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(composed):
            composed.hydra.job.id, composed.hydra.job.num = cluster_id, number
        return run_job(self.task_function, composed, "hydra.sweep.dir", "hydra.sweep.subdir", self.context)


def lost(overrides: Sequence[str], why: str) -> JobReturn:
    """What a launcher returns for a job that said nothing. why: one line."""
    return JobReturn(overrides=list(overrides), status=JobStatus.FAILED, _return_value=JobLost(why))
