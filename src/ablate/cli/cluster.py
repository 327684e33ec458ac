"""The code that the launchers for clusters share: a job's resources, running it on a node, reporting its loss."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from ablate.algos.algorithm import algorithm_of
from ablate.cli.arguments import import_named
from ablate.cli.compose import plan_job
from ablate.cli.hydra_private import failed_job
from ablate.cli.resolvers import register
from ablate.config.derived import devices
from ablate.sweeps.cell import STOP

JOB_MB = 300  # memory of the process that watches the cell's process; measured: 160 to 220


class JobLost(Exception):
    """A job ended without a result: its machine died, or the cluster killed it."""


class Needs(NamedTuple):
    """The resources that a job requests from the cluster."""

    cpus: int
    gpus: int
    memory_mb: int


class Jobs(NamedTuple):
    """The data that all jobs of a launch share. It is pickled and sent to the machines that run the jobs."""

    context: HydraContext
    task_function: TaskFunction
    config: DictConfig
    singletons: dict[Any, Any]

    @classmethod
    def of(cls, context: HydraContext, task_function: TaskFunction, config: DictConfig) -> Jobs:
        return cls(context, task_function, config, Singleton.get_state())

    @property
    def folder(self) -> Path:
        """The sweep's folder."""
        return Path(self.config.hydra.sweep.dir).absolute()

    @property
    def stopped(self) -> bool:
        """Whether the sweep is being stopped, so that queued jobs must not start."""
        return (self.folder / STOP).exists()

    def needs(self, jobs: Sequence[Sequence[str]]) -> list[Needs]:
        """The resources of each job, from its resolved configuration. Raises ConfigError.

        Jobs that differ only in seed and folder need the same, so only one job per arm is composed."""
        known: dict[tuple[str, ...], Needs] = {}
        needs = []
        for overrides in jobs:
            arm = tuple(o for o in overrides if not o.startswith(("seed=", "hydra.")))
            if arm not in known:
                composed = self.context.config_loader.load_sweep_config(self.config, list(overrides))
                config = plan_job(composed, overrides, here=False).config
                gpus = len({device for device in devices(config) if device.startswith("cuda")})
                algorithm = algorithm_of(config)
                known[arm] = Needs(algorithm.cores(config), gpus, algorithm.memory_mb(config) + JOB_MB)
            needs.append(known[arm])
        return needs

    def run(self, overrides: Sequence[str], number: int, cluster_id: str) -> JobReturn:
        """Run one job on the node that the cluster chose, as Hydra's basic launcher does for a local job."""
        Singleton.set_state(self.singletons)
        setup_globals()
        os.chdir(self.config.hydra.runtime.cwd)  # the user's own modules may be there
        import_named(overrides)
        register()
        composed = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(composed):
            composed.hydra.job.id, composed.hydra.job.num = cluster_id, number
        return run_job(self.task_function, composed, "hydra.sweep.dir", "hydra.sweep.subdir", self.context)


def lost(overrides: Sequence[str], reason: str) -> JobReturn:
    """The value that a launcher returns for a job without a result. reason: one line."""
    return failed_job(overrides, JobLost(reason))
