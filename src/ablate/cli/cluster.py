"""The code that the launchers for clusters share: the cells of each job, running them on a node, reporting their loss.

A job runs its cells one after another (`sweep.cells_per_job`). Each cell is judged by its own cell.json. So a job
that is run again skips the cells that have ended, and the cells that a lost job had not started run in another one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig

from ablate.algos.algorithm import algorithm_of
from ablate.cli.arguments import import_named
from ablate.cli.compose import CellComposer, folder_of_cell, plan_job
from ablate.cli.hydra_private import failed_job, returned_by
from ablate.cli.resolvers import register
from ablate.config.derived import devices
from ablate.config.schema import Config
from ablate.records.run_files import Attempt
from ablate.runs.run import RunFailed
from ablate.sweeps.cell import NOT_STARTED, STOP, attempts_of, objective
from ablate.sweeps.cell_process import close_server, mend_server
from ablate.sweeps.packs import JOB_S, pack

JOB_MB = 300  # memory of the process that watches the cell's process; measured: 160 to 220
SERVER_MB = (
    350  # memory of the process from which the cells of a job are forked; measured: 195 with kernels, 310 with torch
)


class JobLost(Exception):
    """A job ended without a result: its machine died, or the cluster killed it."""


class Needs(NamedTuple):
    """The resources that a job requests from the cluster."""

    cpus: int
    gpus: int
    memory_mb: int

    @classmethod
    def of(cls, config: Config) -> Needs:
        """What a job with one such cell needs."""
        gpus = len({device for device in devices(config) if device.startswith("cuda")})
        algorithm = algorithm_of(config)
        return cls(algorithm.cores(config), gpus, algorithm.memory_mb(config) + JOB_MB)

    def with_server(self) -> Needs:
        """For a job with several cells: with the process from which they are forked."""
        return self._replace(memory_mb=self.memory_mb + SERVER_MB)


class JobCell(NamedTuple):
    """A cell of a job."""

    number: int  # among all cells of the launch
    overrides: list[str]
    attempts: int  # at this cell before the job was submitted


class Job(NamedTuple):
    """Cells that run one after another, and what they need."""

    cells: list[JobCell]
    needs: Needs


def cells_of_jobs(configs: Sequence[Config], cells_per_job: int | None, launcher: Mapping[str, Any]) -> list[list[int]]:
    """The indices of the cells of each job. launcher: its configuration; a job may take half of Slurm's time limit."""
    limit_s = 60 * launcher["timeout_min"] - launcher["signal_delay_s"] if "timeout_min" in launcher else 2 * JOB_S
    return pack([(config, Needs.of(config)) for config in configs], cells_per_job, min(JOB_S, limit_s / 2))


class Launch(NamedTuple):
    """The data that all jobs of a launch share. It is pickled and sent to the machines that run the jobs."""

    context: HydraContext
    config: DictConfig
    singletons: dict[Any, Any]

    @classmethod
    def of(cls, context: HydraContext, config: DictConfig) -> Launch:
        return cls(context, config, Singleton.get_state())

    @property
    def folder(self) -> Path:
        """The sweep's folder."""
        return Path(self.config.hydra.sweep.dir).absolute()

    @property
    def stopped(self) -> bool:
        """Whether the sweep is being stopped, so that queued jobs must not start."""
        return (self.folder / STOP).exists()

    def jobs(self, overrides: Sequence[Sequence[str]], first: int) -> list[Job]:
        """The jobs that run these cells, of which the first has the number `first`. Raises ConfigError.

        Cells of another sweeper, which do not name their folder, have a job each."""
        configs = self._configs(overrides)
        own = all(folder_of_cell(some) for some in overrides)
        per_job = self.config.sweep.cells_per_job if own else 1
        jobs = []
        for indices in cells_of_jobs(configs, per_job, self.config.hydra.launcher):
            cells = [JobCell(first + i, list(overrides[i]), len(self._attempts(overrides[i]))) for i in indices]
            needs = Needs.of(configs[indices[0]])
            jobs.append(Job(cells, needs.with_server() if len(cells) > 1 else needs))
        return jobs

    def _configs(self, jobs: Sequence[Sequence[str]]) -> list[Config]:
        """The resolved configurations. Those that differ only in seed and folder are composed once."""
        known: dict[tuple[str, ...], Config] = {}
        configs = []
        for overrides in jobs:
            arm = tuple(o for o in overrides if not o.startswith(("seed=", "hydra.")))
            if arm not in known:
                composed = self.context.config_loader.load_sweep_config(self.config, list(overrides))
                known[arm] = plan_job(composed, overrides, here=False).config
            configs.append(known[arm])
        return configs

    def run(self, cells: Sequence[JobCell], cluster_id: str) -> Iterator[JobReturn]:
        """Run the cells of a job on the node that the cluster chose. Cells that have ended in it before are skipped.

        Ends early after a cell that a signal interrupted: most likely the whole job is to end."""
        Singleton.set_state(self.singletons)
        setup_globals()
        os.chdir(self.config.hydra.runtime.cwd)  # the user's own modules may be there
        composer = CellComposer(self.context.config_loader, self.config, cluster_id)
        try:
            for cell in cells:
                if self.stopped:  # without composing the cell: a thousand may be queued
                    yield lost(cell.overrides, NOT_STARTED.reason)
                elif (ended := self._ended(cell)) is not None:
                    yield ended
                else:
                    yield returned_by(cell.overrides, partial(self._run, cell, composer, len(cells) > 1))
                    if not self.stopped and any(attempt.outcome == "interrupted" for attempt in self._since(cell)[-1:]):
                        return
        finally:
            close_server()

    def _run(self, cell: JobCell, composer: CellComposer, fork: bool) -> float:
        """Run one cell. fork: from a server that has the imports of the cells before it."""
        import_named(cell.overrides)
        register()
        composed = composer.compose(cell.overrides, cell.number)
        if fork:
            mend_server(composed.config)
        return composed.run(self.folder)

    def after(self, job: Job, results: Sequence[JobReturn]) -> tuple[dict[int, JobReturn], list[Job]]:
        """The results of a job's cells by number, and a job for the cells that it left to others."""
        returns = {cell.number: result for cell, result in zip(job.cells, results, strict=False)}
        return self._with_rest(job, returns)

    def after_loss(self, job: Job, reason: str) -> tuple[dict[int, JobReturn], list[Job]]:
        """The same for a job that was lost: the cell that it ran is lost, or all if it had not started any."""
        attempts = {cell.number: self._since(cell) for cell in job.cells}
        started = [cell for cell in job.cells if attempts[cell.number]]
        return self._with_rest(
            job,
            {cell.number: self._ended(cell) or lost(cell.overrides, reason) for cell in started or job.cells},
        )

    def _with_rest(self, job: Job, returns: dict[int, JobReturn]) -> tuple[dict[int, JobReturn], list[Job]]:
        rest = [cell for cell in job.cells if cell.number not in returns]
        if self.stopped:
            return {**returns, **{cell.number: lost(cell.overrides, NOT_STARTED.reason) for cell in rest}}, []
        rest = [cell._replace(attempts=len(self._attempts(cell.overrides))) for cell in rest]
        return returns, [job._replace(cells=rest)] if rest else []

    def _attempts(self, overrides: Sequence[str]) -> list[Attempt]:
        folder = folder_of_cell(overrides)
        return attempts_of(self.folder / folder) if folder else []

    def _since(self, cell: JobCell) -> list[Attempt]:
        """The attempts at a cell since its job was submitted."""
        return self._attempts(cell.overrides)[cell.attempts :]

    def _ended(self, cell: JobCell) -> JobReturn | None:
        """What the cell returned if it has completed or failed since its job was submitted, else None."""
        attempts = self._since(cell)
        if not attempts or attempts[-1].outcome not in ("completed", "failed"):
            return None
        if attempts[-1].outcome == "failed":
            return failed_job(cell.overrides, RunFailed(attempts[-1].reason))
        return returned_by(cell.overrides, partial(objective, self.folder / folder_of_cell(cell.overrides)))


def lost(overrides: Sequence[str], reason: str) -> JobReturn:
    """The value that a launcher returns for a job without a result. reason: one line."""
    return failed_job(overrides, JobLost(reason))
