"""hydra/launcher=local, the default: run as many cells at once on this machine as its cores and memory allow."""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

if TYPE_CHECKING:
    from ablate.config.schema import Config


TARGET = {"_target_": "hydra_plugins.ablate_local_launcher.LocalLauncher"}
ConfigStore.instance().store(group="hydra/launcher", name="local", node=TARGET, provider="ablate")


class LocalLauncher(Launcher):
    """Each cell is a process, watched by a thread of this process. No job function is pickled."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context, self._config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from ablate.cli.compose import plan_job
        from ablate.cli.hydra_private import failed_job
        from ablate.runs.run import RunFailed
        from ablate.sweeps.cell import NOT_STARTED, STOP
        from ablate.sweeps.resources import MachineCapacity

        capacity = MachineCapacity.of_this_machine(self._config.sweep.parallel)
        waiting = deque(enumerate(job_overrides))
        prepared: tuple[int, Any, JobReturn] | None = None
        returns: dict[int, JobReturn] = {}
        ended: queue.SimpleQueue[int] = queue.SimpleQueue()
        running = 0
        stop = Path(self._config.hydra.sweep.dir) / STOP
        while waiting or prepared or running:
            if waiting and stop.exists():  # do not compose them: that takes 0.1 s each
                for index, overrides in waiting:
                    returns[index] = failed_job(overrides, RunFailed(NOT_STARTED.reason))
                waiting.clear()
            if prepared is None and waiting:  # compose the next cell while others run
                index, overrides = waiting.popleft()
                composed, job = self._compose(list(overrides), initial_job_idx + index)
                config = plan_job(composed, list(job.overrides or []), folder=stop.parent).config
                prepared = (index, config, job)
            if prepared and capacity.take(prepared[0], prepared[1]):
                index, config, job = prepared
                prepared, returns[index] = None, job
                threading.Thread(target=self._run, args=(index, config, job, ended), daemon=True).start()
                running += 1
                continue
            capacity.release(ended.get())
            running -= 1
        return [returns[index] for index in sorted(returns)]

    def _compose(self, overrides: list[str], number: int) -> tuple[DictConfig, JobReturn]:
        """The job's configuration, and its record as Hydra's run_job would make it."""
        composed = self._context.config_loader.load_sweep_config(self._config, overrides)
        with open_dict(composed):
            composed.hydra.job.id = composed.hydra.job.num = number
            folder = Path(composed.hydra.sweep.dir) / composed.hydra.sweep.subdir
            composed.hydra.runtime.output_dir = str(folder.absolute())
        from ablate.cli.hydra_private import typed_overrides

        task = composed.copy()
        with open_dict(task):
            del task["hydra"]
        job = JobReturn(typed_overrides(composed.hydra), task, composed, os.getcwd(), composed.hydra.job.name)
        return composed, job

    def _run(self, index: int, config: Config, job: JobReturn, ended: queue.SimpleQueue[int]) -> None:
        from ablate.cli.hydra_private import save_config
        from ablate.sweeps.cell import run_as_job

        try:
            hydra = job.hydra_cfg.hydra  # type: ignore[union-attr]
            folder = Path(hydra.runtime.output_dir)
            parts: dict[str, Any] = {"config": job.cfg, "hydra": job.hydra_cfg, "overrides": hydra.overrides.task}
            for name, part in parts.items():
                save_config(part, f"{name}.yaml", folder / hydra.output_subdir)
            job.return_value = run_as_job(config, list(job.overrides or []), folder, Path(hydra.sweep.dir))
            job.status = JobStatus.COMPLETED
        except Exception as error:
            job.return_value = error
            job.status = JobStatus.FAILED
        finally:
            ended.put(index)
