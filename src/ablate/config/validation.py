"""From a composed configuration to checked dataclasses, and what must not be combined.

OmegaConf checks names and types while Hydra composes; pydantic checks the ranges; `validate` walks the result for
keys that the schema does not know (stock Hydra accepts `+wokers=8`) and for settings that contradict each other."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue
from pydantic import ValidationError

from ablate.config.choices import Backend, Precision
from ablate.config.derived import devices
from ablate.config.schema import (
    A3CConfig,
    AtariConfig,
    Config,
    ConfigError,
    DQNConfig,
    PrioritizedConfig,
    QConfig,
    SweepConfig,
)


def validate(composed: DictConfig) -> Config:
    """Turn a composed configuration into checked dataclasses.

    Raises ConfigError for unknown keys, missing values, types, ranges and contradictions."""
    _refuse_unknown(composed)
    config: Config = _build(composed, "")
    refuse_contradictions(config)
    return config


def sweep_settings(composed: DictConfig) -> SweepConfig:
    """The checked `sweep` node of a composed configuration, whose other values may be swept over and not be there.

    Raises ConfigError, also for any unknown key."""
    _refuse_unknown(composed)
    settings: SweepConfig = _build(composed.sweep, "sweep.")
    return settings


def suggest(word: str, known: list[str]) -> str:
    """`; did you mean X?` for the nearest known word, or nothing."""
    group = word.rpartition(".")[0]
    neighbours = [name for name in known if name.rpartition(".")[0] == group]
    namesakes = [name for name in known if name.rpartition(".")[2] == word.rpartition(".")[2]]
    if namesakes and not (group and difflib.get_close_matches(word, neighbours, n=1, cutoff=0.9)):
        return f"; did you mean {namesakes[0]}?"  # a right name in the wrong place: gamma for algo.gamma
    nearest = difflib.get_close_matches(word, neighbours, n=1, cutoff=0.6)
    nearest = nearest or difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def known_keys(composed: DictConfig) -> list[str]:
    """Every dotted key that the schema of this composition knows."""
    return [key for key, known in _walk(composed, "") if known]


def _walk(node: DictConfig, prefix: str) -> Iterator[tuple[str, bool]]:
    """Yield (dotted key, whether the schema knows it) for all keys; free-form dictionaries are not entered."""
    object_type = OmegaConf.get_type(node)
    if not is_dataclass(object_type):
        return
    known = {f.name for f in fields(object_type)}
    for key in map(str, node):
        yield f"{prefix}{key}", key in known
        if key in known and not OmegaConf.is_missing(node, key):
            child = node._get_node(key)
            if isinstance(child, DictConfig) and not child._is_none():
                yield from _walk(child, f"{prefix}{key}.")


def _refuse_unknown(composed: DictConfig) -> None:
    for key, known in _walk(composed, ""):
        if not known:
            value = OmegaConf.select(composed, key)
            raise ConfigError(f"{key}={value}: no such key{suggest(key, known_keys(composed))}")


def _build(node: DictConfig, prefix: str) -> Any:
    """The checked dataclass of one structured node, children first, so that an error can name the whole key."""
    object_type: Any = OmegaConf.get_type(node)
    values: dict[str, Any] = {}
    for item in fields(object_type):
        key = f"{prefix}{item.name}"
        if OmegaConf.is_missing(node, item.name):
            raise ConfigError(f"{key}: no value; give {key}=<value>")
        child = node[item.name]
        if isinstance(child, DictConfig) and is_dataclass(OmegaConf.get_type(child)):
            values[item.name] = _build(child, f"{key}.")
        elif isinstance(child, DictConfig | ListConfig):
            try:
                values[item.name] = OmegaConf.to_container(child, resolve=True, throw_on_missing=True)
            except MissingMandatoryValue as error:
                raise ConfigError(f"{error.full_key}: no value; it is needed") from error
        else:
            values[item.name] = child
    try:
        return object_type(**values)
    except ValidationError as error:
        first = error.errors()[0]
        at = [str(part) for part in first["loc"] if not (isinstance(part, str) and "[" in part)]
        name = at[0] if at else ""
        message = first["msg"][0].lower() + first["msg"][1:]
        if len(at) > 1 and first["type"] == "missing":
            message = f"too few values: the first is element 0, and element {at[1]} is missing"
        elif len(at) > 1:
            message = f"element {at[1]}: {message}"
        raise ConfigError(f"{prefix}{name}={values.get(name)}: {message}") from error


def refuse_contradictions(config: Config) -> None:
    """Raise ConfigError for settings that do not go together."""
    if config.resume and config.load:
        raise ConfigError(
            f"load={config.load}: resume= goes on with a run, load= starts a new one from its parameters; give one"
        )
    if config.max_episodes is None and config.total_steps is None:
        raise ConfigError("max_episodes=null total_steps=null: the run would never end; give at least one of them")
    (_refuse_of_dqn if isinstance(config.algo, DQNConfig) else _refuse_of_a3c)(config)
    given = devices(config)
    if not given or not all(re.fullmatch(r"cpu|cuda(:\d+)?", str(device)) for device in given):
        raise ConfigError(f"device={config.device}: not a device; use cpu, cuda, cuda:<index>, or a list of them")
    if "max_episode_steps" in config.env.kwargs:
        limit = config.env.kwargs["max_episode_steps"]
        raise ConfigError(f"env.kwargs.max_episode_steps={limit}: the time limit's home is env.max_ep_step")


def _refuse_of_a3c(config: Config) -> None:
    """Raise ConfigError for what A3C does not have, or cannot do."""
    assert isinstance(config.algo, A3CConfig)
    if config.algo.lock_updates and config.schedule == "interleaved":
        raise ConfigError(
            "algo.lock_updates=true: nothing races under schedule=interleaved; drop it or use schedule=async"
        )
    if isinstance(config.model, QConfig):
        raise ConfigError("model.name=q: A3C needs an actor and a critic; use model=mlp or model=conv_lstm_42")
    if config.model.name == "conv" and config.env.name != "atari":
        raise ConfigError(f"env.id={config.env.id}: no images; this network needs them (env=atari), use model=mlp")
    if config.model.name != "conv" and config.env.name == "atari":
        raise ConfigError(
            f"env.id={config.env.id}: its observations are images; use model=conv_lstm_42 or another conv_*"
        )
    if config.envs_per_worker > 1 and config.model.name != "conv":
        raise ConfigError(
            f"envs_per_worker={config.envs_per_worker}: only networks of images step several at once; "
            "use 1, and more workers"
        )
    if isinstance(config.env, AtariConfig) and config.env.threads:
        raise ConfigError(f"env.threads={config.env.threads}: of DQN's games; A3C plays on more cores with workers=")
    if config.replay is not None:
        raise ConfigError(f"replay={config.replay.name}: A3C learns from each step once; a replay is DQN's (algo=dqn)")
    if config.save_replay:
        raise ConfigError("save_replay=true: A3C has no replay; drop it, or use algo=dqn")
    if config.precision == Precision.bf16:
        raise ConfigError("precision=bf16: A3C computes in float32; drop it, or use algo=dqn")


def _refuse_of_dqn(config: Config) -> None:
    """Raise ConfigError for what DQN does not have, or cannot do."""
    assert isinstance(config.algo, DQNConfig)
    algo, replay, envs = config.algo, config.replay, config.envs_per_worker
    if config.workers not in (None, 1):
        raise ConfigError(f"workers={config.workers}: DQN has one learner; use 1, and envs_per_worker for more games")
    if not isinstance(config.model, QConfig):
        raise ConfigError(
            f"model.name={config.model.name}: a network of actor and critic; DQN needs one of action values: "
            "model=dqn_mlp, model=dqn_84 or model=dqn_early"
        )
    images = bool(config.model.convolutions)
    if images != (config.env.name == "atari"):
        right = "model=dqn_mlp" if images else "model=dqn_84"
        kind = "no images" if images else "images"
        raise ConfigError(f"env.id={config.env.id}: its observations are {kind}; use {right}")
    if replay is None:
        raise ConfigError("replay=null: DQN learns from a replay; use replay=uniform or replay=prioritized")
    if config.backend == Backend.compiled:
        raise ConfigError("backend=compiled: DQN has no such kernels; use backend=manual or autograd")
    if len(devices(config)) > 1:
        raise ConfigError(f"device={config.device}: DQN has one learner; give one device")
    if algo.cuda_graph and devices(config) == ["cpu"]:
        raise ConfigError(
            f"algo.cuda_graph=true: of updates on a GPU; drop it, or use device=cuda (device={config.device})"
        )
    if algo.warmup_steps < algo.batch_size:
        raise ConfigError(
            f"algo.warmup_steps={algo.warmup_steps}: the first batch of algo.batch_size={algo.batch_size} is drawn "
            "from what the warm-up left; use at least as many steps"
        )
    if algo.warmup_steps < algo.n_step * envs:
        raise ConfigError(
            f"algo.warmup_steps={algo.warmup_steps}: {envs} environments have not taken the algo.n_step={algo.n_step} "
            f"steps of a transition by then; use {algo.n_step * envs} or more"
        )
    if config.precision == Precision.bf16 and not images:
        raise ConfigError("precision=bf16: of layers of images, and this network has none; use auto or float32")
    if max(envs, algo.policy_update) % min(envs, algo.policy_update):
        raise ConfigError(
            f"envs_per_worker={envs}: {envs} environments give {envs} steps at once, and an update follows every "
            f"algo.policy_update={algo.policy_update}; one must be a multiple of the other"
        )
    if isinstance(replay, PrioritizedConfig) and replay.beta_end < replay.beta_start:
        raise ConfigError(f"replay.beta_end={replay.beta_end}: below replay.beta_start={replay.beta_start}")
