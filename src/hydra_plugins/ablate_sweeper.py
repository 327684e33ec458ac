"""hydra/sweeper=ablate, the default: plan a study and run its missing cells."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

TARGET = {"_target_": "hydra_plugins.ablate_sweeper.AblateSweeper"}
ConfigStore.instance().store(group="hydra/sweeper", name="ablate", node=TARGET, provider="ablate")


class AblateSweeper(Sweeper):
    """Train one cell per arm and seed. Completed cells are skipped: to resume a sweep, repeat its command."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context, self._task_function, self._config = hydra_context, task_function, config

    def _study_file(self) -> Path | None:
        """The file of sweep=<name>, from the folders in which Hydra looks for options."""
        runtime = self._config.hydra.runtime
        name = runtime.choices.get("sweep")
        paths = [Path(source.path, "sweep", f"{name}.yaml") for source in runtime.config_sources if source.path]
        return next((path for path in paths if name and path.is_file()), None)

    def sweep(self, arguments: list[str]) -> None:
        # Hydra imports every plugin, also for --help, so heavy modules are imported here.
        from ablate.cli.arguments import refuse_unmakeable
        from ablate.cli.compose import plan_arms
        from ablate.cli.detached import start
        from ablate.cli.hydra_private import result_of
        from ablate.config.serial import quoted
        from ablate.config.validation import sweep_settings
        from ablate.records.caller import tell_caller
        from ablate.sweeps import plan as planning
        from ablate.sweeps import run as sweep
        from ablate.sweeps.detached import is_detached
        from ablate.sweeps.resources import MachineCapacity
        from ablate.sweeps.study import expand, with_equal_looks

        settings = sweep_settings(self._config)
        if settings.detach and not settings.dry_run and not is_detached():
            return start()
        study = expand(arguments, settings, self._config.seed)
        launcher = self._config.hydra.runtime.choices["hydra/launcher"]
        local = launcher in ("local", "basic")
        folder = Path(self._config.hydra.sweep.dir).absolute()
        configs, notes = plan_arms(study, self._context.config_loader, self._config, local, folder)
        study, configs = with_equal_looks(replace(study, source=self._study_file()), configs)
        plan = planning.make_plan(study, configs, folder)
        for note in notes:
            print(f"note      {note}", file=sys.stderr)
        refuse_unmakeable("hydra.sweep.dir", plan.folder)  # also a dry run must find that it cannot be made
        if not study.settings.dry_run:
            sweep.refuse_folder(plan.folder)  # before the probes of `estimate` take time, or slow down another sweep
        todo = [plan.configs[cell.arm] for cell in plan.to_run]
        parallel = None
        if launcher == "local" and todo:
            parallel = MachineCapacity.of_this_machine(study.settings.parallel).at_once(todo)
        elif launcher == "basic":
            parallel = 1
        print(
            planning.describe(plan, launcher, parallel, planning.estimate(plan) if local and todo else None), flush=True
        )
        if study.settings.dry_run:
            return

        master = self._config.copy()
        with open_dict(master):
            master.hydra.sweep.dir = str(plan.folder)

        def launch(jobs: Any) -> list[Any]:
            OmegaConf.save(master, plan.folder / "multirun.yaml")
            chosen = Plugins.instance().instantiate_launcher(
                hydra_context=self._context, task_function=self._task_function, config=master
            )
            return [result_of(job) for job in chosen.launch(jobs, initial_job_idx=0)]

        overrides = {arm.name: arm.overrides for arm in study.arms}

        def job_overrides(cell: planning.Cell) -> list[str]:
            folders = {"hydra.sweep.dir": plan.folder, "hydra.sweep.subdir": cell.folder.relative_to(plan.folder)}
            settings = {"time_limit_s": study.settings.time_limit_s, "fork": study.settings.fork}
            return [
                *overrides[cell.arm],
                f"seed={cell.seed}",
                *(f"sweep.{key}={'null' if value is None else value}" for key, value in settings.items()),
                "hydra.mode=MULTIRUN",
                *(f"{key}={quoted(str(value))}" for key, value in folders.items()),
            ]

        tell_caller(plan.folder)
        sweep.run(plan, launch, job_overrides)
