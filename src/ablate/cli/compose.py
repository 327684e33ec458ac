"""Composing configurations with Hydra and planning their runs: in one place, for one run, a job, and a study's arms."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from ablate.cli.messages import REFUSALS, explain
from ablate.config.schema import Config, ConfigError, SweepConfig
from ablate.config.validation import sweep_settings, validate
from ablate.runs.plan import Resolved, plan
from ablate.sweeps.study import Study

WORTH_SHARING = 4  # arms


def validated(composed: DictConfig) -> Config:
    """The checked configuration of what Hydra composed. Raises ConfigError."""
    return validate(_without_hydra(composed))


def validated_sweep(composed: DictConfig) -> SweepConfig:
    """The checked settings of a sweep in what Hydra composed, without what its arms will add. Raises ConfigError."""
    return sweep_settings(_without_hydra(composed))


def plan_run(composed: DictConfig, overrides: Sequence[str]) -> Resolved:
    """The plan of the one run that Hydra composed from these overrides. Raises ConfigError."""
    return plan(validated(composed), list(overrides))


def plan_job(composed: DictConfig, overrides: Sequence[str], here: bool = True) -> Resolved:
    """The plan of a job of a sweep. here: it shall run on this machine. Raises ConfigError, also for resume=."""
    config = validated(composed)
    if config.resume:
        raise ConfigError(f"resume={config.resume}: a sweep starts new runs; resume one run at a time")
    return plan(config, list(overrides), here)


def _without_hydra(composed: DictConfig) -> DictConfig:
    """The configuration as the program sees it: as composed, without Hydra's own node."""
    task = composed.copy()
    OmegaConf.set_struct(task, False)
    task.pop("hydra", None)
    return task


def resolve(study: Study, loader: Any, master: DictConfig, here: bool) -> dict[str, Config]:
    """Each arm's resolved configuration. loader: Hydra's. here: the cells will run on this machine.

    Raises ConfigError."""
    configs = {}
    composer = _Composer(loader, master, [list(arm.overrides) for arm in study.arms])
    for arm in study.arms:
        try:
            configs[arm.name] = plan_job(composer.compose(list(arm.overrides)), arm.overrides, here).config
        except REFUSALS as error:
            where = f"sweep.arms.{arm.name}: " if study.settings.arms else ""
            raise ConfigError(where + explain(error, arm.overrides)) from error
    return configs


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
