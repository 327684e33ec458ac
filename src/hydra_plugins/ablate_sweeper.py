"""hydra/sweeper=ablate, the default: plan a study and run its missing cells."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

if TYPE_CHECKING:  # Hydra imports every plugin, also for --help, so heavy modules are imported where they are needed
    from ablate.sweeps.plan import Cell, Estimate, SweepPlan
    from ablate.sweeps.search import Search
    from ablate.sweeps.study import Study

TARGET = {"_target_": "hydra_plugins.ablate_sweeper.AblateSweeper"}
ConfigStore.instance().store(group="hydra/sweeper", name="ablate", node=TARGET, provider="ablate")


class AblateSweeper(Sweeper):
    """Train one cell per arm and seed. Completed cells are skipped: to resume a sweep, repeat its command."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context, self._task_function, self._config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> None:
        from ablate.cli.detached import start
        from ablate.config.validation import sweep_settings
        from ablate.sweeps.detached import is_detached
        from ablate.sweeps.search import search_of
        from ablate.sweeps.study import expand

        settings = sweep_settings(self._config)
        if settings.detach and not settings.dry_run and settings.search.trials is None and not is_detached():
            return start()
        folder = Path(self._config.hydra.sweep.dir).absolute()
        if search := search_of(arguments, settings, self._config.seed):
            self._search(search, folder)
        else:
            self._run(self._plan(expand(arguments, settings, self._config.seed), folder))

    def _plan(self, study: Study, folder: Path, notes: bool = True) -> SweepPlan:
        """The plan of a study whose requested folder is this one. Raises ConfigError. notes: print what to know."""
        from ablate.cli.arguments import refuse_unmakeable
        from ablate.cli.compose import plan_arms
        from ablate.sweeps import run as sweep
        from ablate.sweeps.comparable import with_equal_evaluations
        from ablate.sweeps.plan import make_plan

        local = self._launcher in ("local", "basic")
        study, configs, told = plan_arms(study, self._context.config_loader, self._config, local, folder)
        study, configs = with_equal_evaluations(replace(study, source=self._study_file()), configs)
        plan = make_plan(study, configs, folder)
        refuse_unmakeable("hydra.sweep.dir", plan.folder)  # also a dry run must find that it cannot be made
        if not study.settings.dry_run:
            sweep.refuse_folder(plan.folder)  # before the probes of `estimate` take time, or slow down another sweep
        for note in told if notes else ():
            print(f"note      {note}", file=sys.stderr)
        return plan

    def _run(self, plan: SweepPlan) -> None:
        self._describe(plan)
        if not plan.study.settings.dry_run:
            self._train(plan)

    def _describe(self, plan: SweepPlan) -> tuple[Estimate | None, int | None]:
        """Print the plan. Returns what its cells are expected to take, and how many run at once, if known."""
        from ablate.sweeps import plan as planning

        parallel = self._parallel(plan)
        expected = planning.estimate(plan) if self._launcher in ("local", "basic") and plan.to_run else None
        print(planning.describe(plan, self._launcher, parallel, expected, self._cells_of_jobs(plan)), flush=True)
        return expected, parallel

    def _train(self, plan: SweepPlan) -> None:
        from ablate.records.caller import tell_caller
        from ablate.sweeps import run as sweep

        tell_caller(plan.folder)
        sweep.run(plan, *self._jobs(plan))

    def _search(self, search: Search, folder: Path) -> None:
        """Run the trials of a search, then the study that compares the best one with the default."""
        from ablate.cli.compose import plan_arms
        from ablate.records.caller import tell_caller
        from ablate.sweeps import run as sweep
        from ablate.sweeps.cell import STOP
        from ablate.sweeps.cell_process import close_server
        from ablate.sweeps.environments import references_of
        from ablate.sweeps.search import TRIALS, describe, first_trials, run_trials

        local = self._launcher in ("local", "basic")
        # A value that no trial can have is refused now, and not by the batch that draws it.
        loader = self._context.config_loader
        plan_arms(search.ends, loader, self._config, local, folder / TRIALS)
        comparison, configs, _ = plan_arms(search.comparison(search.anything), loader, self._config, local, folder)
        references_of(comparison.settings, comparison.crossed, configs)  # the same for what only the comparison needs
        first = self._plan(first_trials(search, folder), folder / TRIALS)
        print(describe(search, *self._describe(first)), flush=True)
        if search.settings.dry_run:
            return
        (folder / TRIALS / STOP).unlink(missing_ok=True)  # of the last start
        try:
            study = run_trials(
                search,
                folder,
                lambda trials: self._plan(trials, folder / TRIALS, notes=False),
                lambda plan: sweep.run(plan, *self._jobs(plan)),
            )
            sweep.judge(folder / TRIALS, prints=False)
            sweep.refuse_stopped(folder / TRIALS)
            if study:
                plan = self._plan(study, folder)
                self._describe(plan)
                sweep.refuse_stopped(folder / TRIALS)
                self._train(plan)
        finally:
            close_server()
            tell_caller(folder / TRIALS)  # if there was no comparison

    @property
    def _launcher(self) -> str:
        return str(self._config.hydra.runtime.choices["hydra/launcher"])

    def _parallel(self, plan: SweepPlan) -> int | None:
        """How many of the missing cells run at once; None if that is not known."""
        from ablate.sweeps.resources import MachineCapacity

        todo = [plan.configs[cell.arm] for cell in plan.to_run]
        if self._launcher == "local" and todo:
            return MachineCapacity.of_this_machine(plan.study.settings.parallel).at_once(todo)
        return 1 if self._launcher == "basic" else None

    def _cells_of_jobs(self, plan: SweepPlan) -> list[int]:
        """How many of the missing cells each job of a cluster runs; empty for a launcher of this machine."""
        from ablate.cli.cluster import cells_of_jobs

        per_job = plan.study.settings.cells_per_job
        if self._launcher in ("slurm", "ray"):
            todo = [plan.configs[cell.arm] for cell in plan.to_run]
            return [len(cells) for cells in cells_of_jobs(todo, per_job, self._config.hydra.launcher)]
        if per_job is not None:
            note = "is not used: only hydra/launcher=slurm and ray run several cells in one job"
            print(f"note      sweep.cells_per_job={per_job} {note}", file=sys.stderr)
        return []

    def _jobs(self, plan: SweepPlan) -> tuple[Callable[[Any], list[Any]], Callable[[Cell], list[str]]]:
        """What runs jobs with the Hydra launcher in the plan's folder, and the overrides of a cell's job."""
        from ablate.cli.hydra_private import result_of
        from ablate.config.serial import quoted
        from ablate.paths import portable

        master, study = self._config.copy(), plan.study
        with open_dict(master):
            master.hydra.sweep.dir = str(plan.folder)
        overrides = {arm.name: arm.overrides for arm in study.arms}

        def launch(jobs: Any) -> list[Any]:
            (plan.folder / "multirun.yaml").write_text(portable(OmegaConf.to_yaml(master)))
            chosen = Plugins.instance().instantiate_launcher(
                hydra_context=self._context, task_function=self._task_function, config=master
            )
            return [result_of(job) for job in chosen.launch(jobs, initial_job_idx=0)]

        def job_overrides(cell: Cell) -> list[str]:
            folders = {"hydra.sweep.dir": plan.folder, "hydra.sweep.subdir": cell.folder.relative_to(plan.folder)}
            settings = {"time_limit_s": study.settings.time_limit_s, "fork": study.settings.fork}
            return [
                *overrides[cell.arm],
                f"seed={cell.seed}",
                *(f"sweep.{key}={'null' if value is None else value}" for key, value in settings.items()),
                "hydra.mode=MULTIRUN",
                *(f"{key}={quoted(str(value))}" for key, value in folders.items()),
            ]

        return launch, job_overrides

    def _study_file(self) -> Path | None:
        """The file of sweep=<name>, from the folders in which Hydra looks for options."""
        runtime = self._config.hydra.runtime
        name = runtime.choices.get("sweep")
        paths = [Path(source.path, "sweep", f"{name}.yaml") for source in runtime.config_sources if source.path]
        return next((path for path in paths if name and path.is_file()), None)
