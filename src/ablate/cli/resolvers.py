"""The schema and the `ablate.*` resolvers of conf/: how the default option of a group depends on other options."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from ablate.algos.algorithm import algorithm_named
from ablate.cli.folders import option_folders, search_path
from ablate.cli.hydra_private import typed_overrides
from ablate.config.schema import SCHEMAS, Config, EnvConfig
from ablate.config.serial import config_hash
from ablate.config.validation import validate
from ablate.paths import OUTPUTS, locate
from ablate.sweeps.study import study_name


def _option_file(group: str, option: str) -> Path | None:
    """The YAML file of an option; None if there is none."""
    paths = (folder / group / f"{option}.yaml" for folder in option_folders())
    return next((path for path in paths if path.exists()), None)


@cache
def _env_kind(env: str) -> str:
    """The schema of an option of the group `env` (gymnasium, ...). A file may inherit it from another file."""
    path = _option_file("env", env)
    defaults = OmegaConf.select(OmegaConf.load(path), "defaults", default=[]) if path else []
    for entry in defaults:
        if schema := re.fullmatch(r"/schema/env/(\w+)@_here_", str(entry)):
            return schema[1]
    bases = [entry for entry in defaults if isinstance(entry, str) and entry != "_self_"]
    return _env_kind(bases[0]) if bases else "gymnasium"


def _has_images(env: str) -> bool:
    """Whether the observations of an option of the group `env` are images."""
    env_class: type[EnvConfig] = SCHEMAS["env"][_env_kind(env)]
    return env_class.has_images


def _default_model(algo: str, env: str) -> str:
    """The option of the group `model` for this algorithm and environment."""
    return algorithm_named(algo).default_model(_has_images(env))


def _default_optimizer(algo: str, env: str) -> str:
    """The option of the group `optimizer` for this algorithm and environment."""
    return algorithm_named(algo).default_optimizer(_has_images(env))


def _default_replay(algo: str) -> str:
    """The option of the group `replay`. An algorithm without a replay has `none`, for which there is no file."""
    return algorithm_named(algo).default_replay()


def _suited(group: str, algo: str, env: str, *more: str) -> str:
    """The option of `group` with values for this algorithm and environment, or else for this kind of environment."""
    own = "_".join((algo, env, *more))
    return own if _option_file(group, own) else "_".join((algo, _env_kind(env), *more))


def _suited_to_model(group: str, algo: str, env: str, *, _root_: DictConfig) -> str:
    """As `_suited`, also for the network. Hydra knows an option only if it was chosen: else it is the default one."""
    return _suited(group, algo, env, _root_.get("model") or _default_model(algo, env))


def _suited_to_optimizer(group: str, algo: str, env: str, *, _root_: DictConfig) -> str:
    """As `_suited_to_model`, for the optimizer."""
    return _suited(group, algo, env, _root_.get("optimizer") or _default_optimizer(algo, env))


def _registered_with(env_id: str, switch: str) -> Any:
    """The value of frame_skip, sticky_actions or full_action_space in a game's registration. Raises ConfigError."""
    from ablate.envs.games import registered  # imports ale-py, which only games need

    value = getattr(registered(env_id), switch)
    return list(value) if isinstance(value, tuple) else value


def _run_dir(*, _root_: DictConfig) -> str:
    """The folder of a run: the one that is resumed, or outputs/runs/<algo>-<env>/<date>_<time>_<hash>/."""
    if _root_.resume:
        return str(locate(_root_.resume))
    choices = _root_.hydra.runtime.choices
    env = choices.env if choices.env not in SCHEMAS["env"] else _root_.env.id
    pair = re.sub(r"[^\w.-]+", "-", f"{_root_.algo.name}-{env}").lower()
    name = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{config_hash(validate(_root_))}"
    return str(OUTPUTS / "runs" / pair / name)


def _sweep_dir(now: str, *, _root_: DictConfig) -> str:
    """The folder of a sweep: outputs/sweeps/<name>, the same for the same command.

    now: the folder's name, with the time, if the sweeper is not ours."""
    if _root_.hydra.runtime.choices["hydra/sweeper"] != "ablate":
        return str(OUTPUTS / "sweeps" / now)
    return str(OUTPUTS / "sweeps" / (_root_.sweep.name or study_name(typed_overrides(_root_.hydra))))


def _output_subdir(*, _root_: DictConfig) -> str:
    """The subfolder for Hydra's files. A resumed run gets a new one, so that it keeps the files of its first start."""
    return f".hydra/resumed_{time.strftime('%Y-%m-%d_%H-%M-%S')}" if _root_.resume else ".hydra"


def _help(*, _root_: DictConfig) -> str:
    """What --help shows between its first lines and its examples."""
    from ablate.cli.help_page import help_text

    return help_text(_root_, _option_file)


RESOLVERS: dict[str, Callable[..., Any]] = {
    "outputs": lambda: str(OUTPUTS),
    "search_path": search_path,
    "model": _default_model,
    "optimizer": _default_optimizer,
    "suited": _suited,
    "suited_to_model": _suited_to_model,
    "suited_to_optimizer": _suited_to_optimizer,
    "replay": _default_replay,
    "beta_steps": lambda total_steps: total_steps or 1_000_000,
    "game": _registered_with,
    "run_dir": _run_dir,
    "sweep_dir": _sweep_dir,
    "output_subdir": _output_subdir,
    "help": _help,
}


def register() -> None:
    """Register the schema and the resolvers with Hydra. Plugins must be imported first: they add to the schema."""
    _store("config_schema", Config)
    for group, options in SCHEMAS.items():
        for name, schema in options.items():
            _store(name, schema, f"schema/{group}")
    for name, resolver in RESOLVERS.items():
        OmegaConf.register_new_resolver(f"ablate.{name}", resolver, replace=True)


@cache  # storing all takes 30 ms, and a program may register before each configuration that it composes
def _store(name: str, schema: type, group: str | None = None) -> None:
    ConfigStore.instance().store(name, schema, group)
