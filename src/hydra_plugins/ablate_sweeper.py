"""Hydra's door to `ablate.sweep`: hydra/sweeper=ablate, the default."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

TARGET = {"_target_": "hydra_plugins.ablate_sweeper.AblateSweeper"}
ConfigStore.instance().store(group="hydra/sweeper", name="ablate", node=TARGET, provider="ablate")

WORTH_SHARING = 4  # arms


class _Composer:
    """`load_sweep_config` for many arms: it takes 0.2 s, nearly all of it to read the files of the chosen options.

    Arms with the same options share that, and Hydra's own function puts their values in. The first of them is also
    composed as a whole: should the two differ, none is composed in this way."""

    def __init__(self, loader: Any, master: DictConfig, arms: list[list[str]]) -> None:
        self._loader, self._master = loader, master
        self._times = Counter(self._parts(arm)[0] for arm in arms)
        self._shared: dict[tuple[str, ...], DictConfig | None] = {}

    def compose(self, overrides: list[str]) -> DictConfig:
        """The arm's configuration, perhaps without Hydra's own node."""
        choices, values = self._parts(overrides)
        if self._times[choices] < WORTH_SHARING:
            return self._loader.load_sweep_config(self._master, overrides)
        if choices not in self._shared:
            whole = _task(self._loader.load_sweep_config(self._master, overrides))
            shared = _task(self._loader.load_sweep_config(self._master, list(choices)))
            same = OmegaConf.to_container(_with(shared, values)) == OmegaConf.to_container(whole)
            self._shared[choices] = shared if same else None
        if (found := self._shared[choices]) is None:
            return self._loader.load_sweep_config(self._master, overrides)
        return _with(found, values)

    def _parts(self, overrides: list[str]) -> tuple[tuple[str, ...], list[Override]]:
        """What may choose an option of a group, and what can only be the value of a key."""
        parsed = OverridesParser.create().parse_overrides(overrides)
        keys = [key for key in self._master if not OmegaConf.is_config(self._master._get_node(key))]
        values = [o for o in parsed if o.package is None and ("." in o.key_or_group or o.key_or_group in keys)]
        return tuple(o.input_line or "" for o in parsed if o not in values), values


def _task(composed: DictConfig) -> DictConfig:
    with open_dict(composed):
        del composed["hydra"]
    return composed


def _with(composed: DictConfig, values: list[Override]) -> DictConfig:
    arm = copy.deepcopy(composed)
    ConfigLoaderImpl._apply_overrides_to_config(values, arm)
    return arm


class AblateSweeper(Sweeper):
    """Arms x seeds into cells; completed ones are skipped, so that repeating the command is the resume."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context, self._task_function, self._config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> None:
        # Hydra imports every plugin, also for --help: what is heavy is imported here.
        from ablate import command_line, experiment, sweep
        from ablate.config import ConfigError
        from ablate.resources import Room
        from ablate.study import expand

        study = expand(arguments, command_line.validated_sweep(self._config), self._config.seed)
        launcher = self._config.hydra.runtime.choices["hydra/launcher"]
        local = launcher in ("local", "basic")
        configs = {}
        composer = _Composer(self._context.config_loader, self._config, [list(arm.overrides) for arm in study.arms])
        for arm in study.arms:
            try:
                config = command_line.validated(composer.compose(list(arm.overrides)))
                command_line.refuse_resume(config)
                configs[arm.name] = experiment.plan(config, list(arm.overrides), here=local).config
            except command_line.REFUSALS as error:
                where = f"sweep.arms.{arm.name}: " if study.settings.arms else ""
                raise ConfigError(where + command_line.explain(error, arm.overrides)) from error
        plan = sweep.make_plan(study, configs, Path(self._config.hydra.sweep.dir).absolute())
        todo = [plan.configs[cell.arm] for cell in plan.to_run]
        parallel = None
        if launcher == "local" and todo:
            parallel = Room.of(study.settings.parallel).at_once(todo)
        elif launcher == "basic":
            parallel = 1
        print(sweep.describe(plan, launcher, parallel, sweep.estimate(plan) if local and todo else None), flush=True)
        if study.settings.dry_run:
            return

        master = self._config.copy()
        with open_dict(master):
            master.hydra.sweep.dir = str(plan.folder)

        def launch(jobs: Any) -> Any:
            OmegaConf.save(master, plan.folder / "multirun.yaml")
            chosen = Plugins.instance().instantiate_launcher(
                hydra_context=self._context, task_function=self._task_function, config=master
            )
            return chosen.launch(jobs, initial_job_idx=0)

        overrides = {arm.name: arm.overrides for arm in study.arms}

        def job_overrides(cell: sweep.Cell) -> list[str]:
            folders = {"hydra.sweep.dir": plan.folder, "hydra.sweep.subdir": cell.folder.relative_to(plan.folder)}
            limit = study.settings.time_limit_s
            return [
                *overrides[cell.arm],
                f"seed={cell.seed}",
                f"sweep.time_limit_s={'null' if limit is None else limit}",
                "hydra.mode=MULTIRUN",
                *(f"{key}={command_line.quoted(str(value))}" for key, value in folders.items()),
            ]

        sweep.run(plan, launch, job_overrides)
