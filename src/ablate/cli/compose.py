"""Compose configurations with Hydra and plan their runs: a single run, a job of a sweep, a study's arms."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from ablate.cli.arguments import check_overrides, complete_arguments, import_named
from ablate.cli.hydra_private import apply_overrides, is_group
from ablate.cli.messages import REFUSALS, explain
from ablate.cli.resolvers import register
from ablate.config.schema import Config, ConfigError
from ablate.config.validation import validate
from ablate.paths import CONF, OUTPUTS
from ablate.runs.plan import Resolved, plan
from ablate.sweeps.study import Study

WORTH_SHARING = 4  # sharing saves time for at least this many arms with the same options


def compose_config(overrides: Sequence[str]) -> Config:
    """The configuration of `python src/run.py <overrides>`, for programs outside Hydra. Raises ConfigError."""
    import_named(overrides)
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return validate(compose("config", complete_arguments(list(overrides))))


def compose_and_plan(overrides: Sequence[str]) -> Resolved:
    """The plan of `python src/run.py <overrides>`, for programs outside Hydra. Raises ConfigError."""
    return plan(compose_config(overrides), list(overrides))


def plan_job(composed: DictConfig, overrides: Sequence[str], here: bool = True, folder: Path = OUTPUTS) -> Resolved:
    """The plan of a sweep's job that Hydra composed from these overrides.

    here: whether the job will run on this machine. folder: the sweep's. Raises ConfigError, also for resume=."""
    config = validate(composed)
    if config.resume:
        raise ConfigError(f"resume={config.resume}: a sweep starts new runs; resume one run at a time")
    return plan(config, list(overrides), here, folder)


def plan_arms(
    study: Study, loader: Any, master: DictConfig, here: bool, folder: Path
) -> tuple[dict[str, Config], list[str]]:
    """The resolved configuration of each arm, by the arm's name, and notes on them.

    loader: Hydra's configuration loader. master: the sweep's configuration. here: whether the cells will run on this
    machine. folder: the sweep's. Raises ConfigError."""
    configs = {}
    composer = _Composer(loader, master, [list(arm.overrides) for arm in study.arms])
    notes: dict[str, None] = {}
    for arm in study.arms:
        try:
            check_overrides(arm.overrides)
            planned = plan_job(composer.compose(list(arm.overrides)), arm.overrides, here, folder)
            configs[arm.name] = planned.config
            notes[planned.limit_note] = None
        except REFUSALS as error:
            prefix = f"sweep.arms.{arm.name}: " if study.settings.arms else ""
            raise ConfigError(prefix + explain(error, arm.overrides)) from error
    return configs, list(filter(None, notes))


class _Composer:
    """Compose many arms faster than with one call of `load_sweep_config` per arm.

    A call takes 0.2 s, mostly to read the files of the chosen options. Arms with the same options share one call; then
    a function of Hydra sets the values of each arm. As a check, the first of these arms is also composed by
    `load_sweep_config`. If the two results differ, all arms with these options are composed by `load_sweep_config`."""

    def __init__(self, loader: Any, master: DictConfig, arms: list[list[str]]) -> None:
        self._loader, self._master = loader, master
        self._times = Counter(self._parts(arm)[0] for arm in arms)
        self._shared: dict[tuple[str, ...], DictConfig | None] = {}

    def compose(self, overrides: list[str]) -> DictConfig:
        """The arm's configuration, possibly without Hydra's own node."""
        choices, values = self._parts(overrides)
        if self._times[choices] < WORTH_SHARING:
            return self._loader.load_sweep_config(self._master, overrides)
        if choices not in self._shared:
            whole = _without_hydra(self._loader.load_sweep_config(self._master, overrides))
            shared = _without_hydra(self._loader.load_sweep_config(self._master, list(choices)))
            same = OmegaConf.to_container(_with(shared, values)) == OmegaConf.to_container(whole)
            self._shared[choices] = shared if same else None
        if (shared_part := self._shared[choices]) is None:
            return self._loader.load_sweep_config(self._master, overrides)
        return _with(shared_part, values)

    def _parts(self, overrides: list[str]) -> tuple[tuple[str, ...], list[Override]]:
        """Split the overrides into those that may choose an option of a group, and those that only set a value."""
        parsed = OverridesParser.create().parse_overrides(overrides)
        keys = [key for key in self._master if not is_group(self._master, str(key))]
        values = [o for o in parsed if o.package is None and ("." in o.key_or_group or o.key_or_group in keys)]
        return tuple(o.input_line or "" for o in parsed if o not in values), values


def _without_hydra(composed: DictConfig) -> DictConfig:
    with open_dict(composed):
        del composed["hydra"]
    return composed


def _with(composed: DictConfig, values: list[Override]) -> DictConfig:
    arm = copy.deepcopy(composed)
    apply_overrides(values, arm)
    return arm
