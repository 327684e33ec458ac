"""From a composed configuration to checked dataclasses, and what must not be combined.

OmegaConf checks names and types while Hydra composes; pydantic checks the ranges; `validate` walks the result for
keys that the schema does not know (stock Hydra accepts `+wokers=8`) and for settings that contradict each other."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import ValidationError

from ablate.config.choices import Precision, ScheduleKind
from ablate.config.derived import devices
from ablate.config.plugins import refuse_unknown_plugins
from ablate.config.schema import (
    LARGEST,
    SCHEMAS,
    Config,
    ConfigError,
    EvaluationConfig,
    LoggerConfig,
    SweepConfig,
)

REFERENCE = re.compile(r"\$\{([\w.]+)\}")  # to another key


def validate(composed: DictConfig) -> Config:
    """Turn a composed configuration into checked dataclasses.

    Raises ConfigError for unknown keys, missing values, types, ranges and contradictions."""
    _refuse_unknown(composed)
    config: Config = _build(composed, "")
    refuse_unknown_plugins(config.plugins)
    refuse_contradictions(config)
    return config


def sweep_settings(composed: DictConfig) -> SweepConfig:
    """The checked `sweep` node of a composed configuration, whose other values may be swept over and not be there.

    Raises ConfigError, also for any unknown key."""
    _refuse_unknown(composed)
    settings: SweepConfig = _build(composed.sweep, "sweep.")
    return settings


# Words of other programs for our keys.
SYNONYMS = {
    "model.hidden": ("width", "widths", "units", "hidden_size", "hidden_sizes", "hidden_dim", "hidden_layers", "layers",
                     "layer_sizes", "net_arch", "features"),
    "optimizer.lr": ("learning_rate", "step_size"),
    "algo.gamma": ("discount", "discount_factor"),
    "algo.gae_lambda": ("lambda", "lam", "lambda_"),
    "algo.entropy_coef": ("ent_coef", "entropy", "beta"),
    "algo.value_loss_coef": ("vf_coef", "value_coef"),
    "algo.t_max": ("n_steps", "num_steps", "rollout_length"),
    "replay.capacity": ("buffer_size", "memory_size"),
    "total_steps": ("total_timesteps", "timesteps", "steps", "num_frames"),
    "max_episodes": ("episodes", "n_episodes", "num_episodes"),
    "workers": ("n_workers", "num_workers", "num_processes"),
    "envs_per_worker": ("n_envs", "num_envs"),
}  # fmt: skip


def suggest(word: str, known: list[str]) -> str:
    """`; did you mean X?` for the nearest known word, or nothing."""
    group, _, last = word.rpartition(".")
    if synonyms := [key for key, words in SYNONYMS.items() if last in words and key in known]:
        return f"; did you mean {synonyms[0]}?"
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


def boolean_keys() -> set[str]:
    """Every dotted key whose value is true or false."""
    parts: dict[str, list[type]] = {f"{group}.": [*options.values()] for group, options in SCHEMAS.items()}
    parts |= {"": [Config], "evaluation.": [EvaluationConfig], "logger.": [LoggerConfig], "sweep.": [SweepConfig]}
    return {
        prefix + name
        for prefix, kinds in parts.items()
        for kind in kinds
        for name, hint in get_type_hints(kind).items()
        if hint is bool
    }


def _walk(node: DictConfig, prefix: str) -> Iterator[tuple[str, bool]]:
    """Yield (dotted key, whether the schema knows it) for all keys; free-form dictionaries are not entered."""
    object_type = OmegaConf.get_type(node)
    if not is_dataclass(object_type):
        return
    known = {f.name for f in fields(object_type)}
    for key in map(str, node):
        yield f"{prefix}{key}", key in known
        if key in known and not OmegaConf.is_interpolation(node, key) and not OmegaConf.is_missing(node, key):
            child = node[key]
            if isinstance(child, DictConfig):
                yield from _walk(child, f"{prefix}{key}.")


def _refuse_unknown(composed: DictConfig) -> None:
    for key, known in _walk(composed, ""):
        if not known and key != "hydra":  # Hydra's own node, which is no part of our schema
            value = OmegaConf.select(composed, key)
            raise ConfigError(f"{key}={value}: no such key{suggest(key, known_keys(composed))}")


def _build(node: DictConfig, prefix: str) -> Any:
    """The checked dataclass of one structured node, children first, so that an error can name the whole key."""
    object_type: Any = OmegaConf.get_type(node)
    values: dict[str, Any] = {}
    for item in fields(object_type):
        key = f"{prefix}{item.name}"
        try:
            if OmegaConf.is_missing(node, item.name):  # resolves interpolations
                raise ConfigError(f"{key}: no value; give {key}=<value>")
            child = node[item.name]
            if isinstance(child, DictConfig) and is_dataclass(OmegaConf.get_type(child)):
                child = _build(child, f"{key}.")
            elif isinstance(child, DictConfig | ListConfig):
                child = OmegaConf.to_container(child, resolve=True, throw_on_missing=True)
        except MissingMandatoryValue as error:
            raise ConfigError(f"{error.full_key}: no value; it is needed") from error
        except OmegaConfBaseException as error:  # from an interpolation; not every such error names its key
            text = OmegaConf.to_container(node, resolve=False)[item.name]  # type: ignore[call-overload, index]
            raise ConfigError(f"{key}={text}: {str(error).splitlines()[0]}") from error
        values[item.name] = child
    try:
        return object_type(**values)
    except ValidationError as error:
        raw: Any = OmegaConf.to_container(node, resolve=False)
        sources = {name: found[1] for name, text in raw.items() if (found := REFERENCE.fullmatch(str(text)))}
        raise refusal(error, prefix, values, sources) from error


def refusal(
    error: ValidationError, prefix: str, values: dict[str, Any], sources: dict[str, str] | None = None
) -> ConfigError:
    """What pydantic says of the first wrong value in `values`, the keys of one node, in our words.

    sources: the keys that values are taken from, if the node only refers to them."""
    first = error.errors()[0]
    at = [str(part) for part in first["loc"] if not (isinstance(part, str) and "[" in part)]
    name = at[0] if at else ""
    message = first["msg"][0].lower() + first["msg"][1:]
    if len(at) > 1 and first["type"] == "missing":
        message = f"too few values: the first is element 0, and element {at[1]} is missing"
    elif len(at) > 1:
        message = f"element {at[1]}: {message}"
    key = (sources or {}).get(name, f"{prefix}{name}")
    return ConfigError(f"{key}={values.get(name)}: {message}")


@contextmanager
def plain_errors() -> Iterator[None]:
    """Raise a refusal as a ValueError with the same line, for those who call from Python."""
    try:
        yield
    except ConfigError as error:
        raise ValueError(str(error)) from None


def refuse_contradictions(config: Config) -> None:
    """Raise ConfigError for settings that do not go together."""
    for key, value in (("resume", config.resume), ("load", config.load)):
        if value is not None and not value.strip():
            raise ConfigError(f"{key}={value}: it is empty; give a run's folder, or null")
    if config.resume and config.load:
        raise ConfigError(
            f"load={config.load}: resume= goes on with a run, load= starts a new one from its parameters; give one"
        )
    if config.resume:  # these keys are joined with those of the run, and then checked again
        return
    if config.precision == Precision.bf16 and not config.model.takes_images:
        raise ConfigError(
            "precision=bf16: only layers of images compute in bf16, and this network has none; use auto or float32"
        )
    if config.max_episodes is None and config.total_steps is None:
        raise ConfigError("max_episodes=null total_steps=null: the run would never end; give at least one of them")
    optimizer = config.optimizer
    if optimizer.schedule == ScheduleKind.linear and optimizer.decay_steps is None and optimizer.decay_episodes is None:
        raise ConfigError(
            "optimizer.schedule=linear: it needs an end; give optimizer.decay_steps or optimizer.decay_episodes"
        )
    for key, limit in (("decay_steps", optimizer.decay_steps), ("decay_episodes", optimizer.decay_episodes)):
        if limit is not None and limit > LARGEST:
            raise ConfigError(f"optimizer.{key}={limit}: it must be at most {LARGEST}")
    config.algo.refuse(config)
    given = devices(config)
    if not given or not all(re.fullmatch(r"cpu|cuda(:\d+)?", str(device)) for device in given):
        raise ConfigError(f"device={config.device}: not a device; use cpu, cuda, cuda:<index>, or a list of them")
    if "max_episode_steps" in config.env.kwargs:
        limit = config.env.kwargs["max_episode_steps"]
        raise ConfigError(f"env.kwargs.max_episode_steps={limit}: the time limit's home is env.max_ep_step")
