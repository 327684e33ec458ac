"""hydra/launcher=local, the default: run as many cells at once on this machine as its cores and memory allow."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from ablate.cli.compose import CellJob

TARGET = {"_target_": "hydra_plugins.ablate_local_launcher.LocalLauncher"}
ConfigStore.instance().store(group="hydra/launcher", name="local", node=TARGET, provider="ablate")


class LocalLauncher(Launcher):
    """Each cell is a process, watched by a thread of this process. No job function is pickled."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context, self._config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from ablate.cli.compose import CellComposer
        from ablate.cli.hydra_private import failed_job
        from ablate.runs.run import RunFailed
        from ablate.sweeps.cell import NOT_STARTED, STOP
        from ablate.sweeps.cell_process import mend_server
        from ablate.sweeps.resources import MachineCapacity

        capacity = MachineCapacity.of_this_machine(self._config.sweep.parallel)
        composer = CellComposer(self._context.config_loader, self._config)
        waiting = deque(enumerate(job_overrides))
        prepared: tuple[int, CellJob] | None = None
        returns: dict[int, JobReturn] = {}
        ended: queue.SimpleQueue[int] = queue.SimpleQueue()
        running = 0
        stop = Path(self._config.hydra.sweep.dir) / STOP
        while waiting or prepared or running:
            if waiting and stop.exists():
                for index, overrides in waiting:
                    returns[index] = failed_job(overrides, RunFailed(NOT_STARTED.reason))
                waiting.clear()
            if prepared is None and waiting:  # compose the next cell while others run
                index, overrides = waiting.popleft()
                prepared = index, composer.compose(overrides, initial_job_idx + index)
            if prepared and capacity.take(prepared[0], prepared[1].config):
                (index, cell), prepared = prepared, None
                mend_server(cell.config)
                returns[index] = job = JobReturn(cell.overrides, task_name=self._config.hydra.job.name)
                threading.Thread(target=self._run, args=(index, cell, job, ended), daemon=True).start()
                running += 1
                continue
            capacity.release(ended.get())
            running -= 1
        return [returns[index] for index in sorted(returns)]

    def _run(self, index: int, cell: CellJob, job: JobReturn, ended: queue.SimpleQueue[int]) -> None:
        try:
            job.return_value = cell.run(Path(self._config.hydra.sweep.dir))
            job.status = JobStatus.COMPLETED
        except Exception as error:
            job.return_value = error
            job.status = JobStatus.FAILED
        finally:
            ended.put(index)
