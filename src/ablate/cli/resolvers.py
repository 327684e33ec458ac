"""The `ablate.*` resolvers of conf/: what an option of one group depends on in another."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ablate.algos.algorithm import algorithm_named
from ablate.cli.compose import validated
from ablate.config.plugins import plugin_configurations
from ablate.config.serial import config_hash
from ablate.paths import CONF, OUTPUTS, ROOT, locate
from ablate.sweeps.study import study_name


@cache
def _is_game(env: str) -> bool:
    """Whether an option of the group `env` is a game: by what its file says it is made of."""
    path = CONF / f"env/{env}.yaml"
    made_of = OmegaConf.select(OmegaConf.load(path), "defaults", default=[]) if path.exists() else []
    return "/schema/env/atari@_here_" in made_of or any(isinstance(o, str) and _is_game(o) for o in made_of)


def _default_model(algo: str, env: str) -> str:
    """The option of the group `model` that suits this pair of options."""
    return algorithm_named(algo).default_model(env, _is_game(env))


def _suited(group: str, algo: str, env: str, *more: str) -> str:
    """The option of `group` with values for this pair: its own, or else that of games, or of all others."""
    own = "_".join((algo, env, *more))
    kind = "atari" if _is_game(env) else "gymnasium"
    return own if (CONF / group / f"{own}.yaml").exists() else "_".join((algo, kind, *more))


def _default_replay(algo: str) -> str:
    """The option of the group `replay`; for an algorithm without a replay, a name that is no option."""
    return algorithm_named(algo).default_replay()


def _registered_with(env_id: str, switch: str) -> Any:
    """What a game's id is registered with: its frame_skip, sticky_actions or full_action_space. Raises ConfigError."""
    from ablate.envs.games import registered  # imports ale-py, which only games need

    value = getattr(registered(env_id), switch)
    return list(value) if isinstance(value, tuple) else value


def _run_dir(*, _root_: DictConfig) -> str:
    """The folder of a run: the one that is resumed, or outputs/runs/<algo>-<env>/<date>_<time>_<hash>/."""
    if _root_.resume:
        return str(locate(_root_.resume))
    choices = _root_.hydra.runtime.choices
    env = choices.env if choices.env not in ("gymnasium", "atari") else _root_.env.id
    pair = re.sub(r"[^\w.-]+", "-", f"{_root_.algo.name}-{env}").lower()
    name = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{config_hash(validated(_root_))}"
    return str(_unused(OUTPUTS / "runs" / pair / name))


def _sweep_dir(now: str, *, _root_: DictConfig) -> str:
    """The folder of a sweep: outputs/sweeps/<name>, the same for the same command; other sweepers' by the time."""
    if _root_.hydra.runtime.choices["hydra/sweeper"] != "ablate":
        return str(OUTPUTS / "sweeps" / now)
    return str(OUTPUTS / "sweeps" / (_root_.sweep.name or study_name(list(_root_.hydra.overrides.task))))


def _unused(folder: Path) -> Path:
    """The folder, or with a number behind it if the same configuration was started in the same second."""
    candidate, number = folder, 2
    while candidate.exists():
        candidate, number = folder.with_name(f"{folder.name}_{number}"), number + 1
    return candidate


def _output_subdir(*, _root_: DictConfig) -> str:
    """Where Hydra writes its files: a resumed run keeps the first ones."""
    return f".hydra/resumed_{time.strftime('%Y-%m-%d_%H-%M-%S')}" if _root_.resume else ".hydra"


def _search_path() -> list[str]:
    """Where Hydra looks for configuration besides conf/: the studies, and the folders of plugins."""
    return [f"file://{folder}" for folder in (ROOT / "sweeps", *plugin_configurations())]


RESOLVERS: dict[str, Callable[..., Any]] = {
    "outputs": lambda: str(OUTPUTS),
    "search_path": _search_path,
    "model": _default_model,
    "suited": _suited,
    "replay": _default_replay,
    "beta_steps": lambda total_steps: total_steps or 1_000_000,
    "game": _registered_with,
    "run_dir": _run_dir,
    "sweep_dir": _sweep_dir,
    "output_subdir": _output_subdir,
}


def register_resolvers() -> None:
    for name, resolver in RESOLVERS.items():
        OmegaConf.register_new_resolver(f"ablate.{name}", resolver, replace=True)
