"""A configuration as plain JSON values, and back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from ablate.config.choices import Precision
from ablate.config.plugins import refuse_unknown_plugins
from ablate.config.schema import SCHEMAS, Config, ConfigError
from ablate.config.validation import validate

# Keys that do not change the records of a cell.
NOT_COMPARED = ("seed", "resume", "figures", "logger", "checkpoint_every_seconds", "hang_timeout_s")
RENAMED = {"algo.policy_update": "algo.train_freq"}  # old key -> new key; old files and commands stay valid


def to_dict(config: Config) -> dict[str, Any]:
    """A run's configuration as plain JSON values."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    del values["sweep"]
    if not values["plugins"]:  # so that the hash of a run without plugins is what it was before there were any
        del values["plugins"]
    if values["model"].get("hidden", "") is None:  # of model=mlp; the same holds for it
        del values["model"]["hidden"]
    return values


def with_new_name(override: str) -> str:
    """The override key=value with the name that its key has today."""
    key, equals, value = override.partition("=")
    bare = key.lstrip("+~")
    return f"{key.removesuffix(bare)}{RENAMED[bare]}{equals}{value}" if bare in RENAMED else override


def with_new_names(values: dict[str, Any]) -> dict[str, Any]:
    """Stored values with the keys of today: renamed ones, and those that were added later with what they were then.

    Raises ConfigError if they are no configuration."""
    for key in ("algo", "env", "evaluation", "logger", "model", "optimizer", "replay"):
        part = values.get(key, {})
        if not (isinstance(part, dict) or (part is None and key == "replay")):
            raise ConfigError(f"stored configuration: {key}={part}: a group of keys is needed")
    optimizer = values.get("optimizer")
    if optimizer is not None and "schedule" not in optimizer:  # stored before there were schedules
        limits = {"decay_steps": values.get("total_steps"), "decay_episodes": values.get("max_episodes")}
        optimizer = {**optimizer, "schedule": "constant", "lr_end": 0.0, **limits}
        if optimizer.get("name") == "rmsprop":
            optimizer["eps_inside_root"] = False
        values = {**values, "optimizer": optimizer}
        if (model := values.get("model", {})).get("name") == "conv":  # A3C's: they had no normalisation and no bf16
            values = {**values, "model": {**model, "layer_norm": False}, "precision": "float32"}
    for old, new in RENAMED.items():
        group, _, key = old.partition(".")
        if key in (inner := values.get(group) or {}):
            inner = {new.partition(".")[2] if name == key else name: value for name, value in inner.items()}
            values = {**values, group: inner}
    return values


def read_config(where: Path | str, values: dict[str, Any]) -> Config:
    """The checked configuration that a file holds. where: the file, for errors. Raises ConfigError."""
    try:
        return from_dict(values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def from_dict(values: dict[str, Any]) -> Config:
    """The checked configuration from the result of `to_dict`, as files store it. Raises ConfigError."""
    values = with_new_names(values)
    refuse_unknown_plugins(values.get("plugins") or [])
    schema = OmegaConf.structured(Config)
    for group, options in SCHEMAS.items():
        if group == "replay" and values.get(group) is None:
            continue
        name = values.get(group, {}).get("name")
        if not isinstance(name, str) or name not in options:
            raise ConfigError(f"{group}.name={name}: not one of {', '.join(options)}")
        schema[group] = OmegaConf.structured(options[name])
    try:
        return validate(OmegaConf.merge(schema, _plain(values)))  # type: ignore[arg-type]
    except ConfigKeyError as error:
        raise ConfigError(f"stored configuration: {error.full_key}: this version has no such key") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"stored configuration: {str(error).splitlines()[0]}") from error


def _plain(value: Any) -> Any:
    """Stored values in a form that OmegaConf takes as they are. It would resolve a text like `${oc.env:HOME}`.

    A backslash keeps `${` as text; those that are before it already must be doubled."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", value)
    return value


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The result of `to_dict` with dotted keys: {"env": {"id": 1}} as {"env.id": 1}. An empty dictionary is a value."""
    dotted: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, dict) and value
        dotted |= flat(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return dotted


def flat_stored(values: dict[str, Any]) -> dict[str, Any]:
    """A stored configuration with dotted keys. Keys have today's names, and those that were added later their default.

    Raises ConfigError if it is no configuration."""
    return flat(_with_later_keys(with_new_names(values)))


def differing_keys(ours: dict[str, Any], needed: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The keys in which two stored configurations differ, each with both values.

    Only keys that change the records count, and the seed. Raises ConfigError if they are no configurations."""
    here, there = flat_stored(ours), flat_stored(needed)
    compared = (key for key in sorted({*here, *there}) if key == "seed" or key.split(".")[0] not in NOT_COMPARED)
    return {key: (here.get(key), there.get(key)) for key in compared if here.get(key) != there.get(key)}


def differing_key(ours: dict[str, Any], needed: dict[str, Any]) -> str | None:
    """The first key in which a stored configuration is not the one that a cell needs; None if it is.

    precision=auto: the machine of the cell decides it. Raises ConfigError if they are no configurations."""
    if needed.get("precision") == Precision.auto:
        needed = {**needed, "precision": with_new_names(ours).get("precision", Precision.auto)}
    return next(iter(differing_keys(ours, needed)), None)


def _with_later_keys(values: dict[str, Any]) -> dict[str, Any]:
    """Stored values with the defaults of the keys that they lack."""
    values = {**_defaults_of(Config), **values}
    schemas: dict[str, Any] = {f.name: f.default_factory for f in fields(Config) if is_dataclass(f.default_factory)}
    schemas |= {group: options.get(str((values.get(group) or {}).get("name"))) for group, options in SCHEMAS.items()}
    for group, schema in schemas.items():
        if schema is not None and values.get(group) is not None:
            values[group] = {**_defaults_of(schema), **values[group]}
    return values


@cache
def _defaults_of(schema: type[Any]) -> dict[str, Any]:
    """The keys of a schema that have a default, with it; without groups of keys."""
    keys = {f.name: f.default for f in fields(schema) if f.default not in (dataclasses.MISSING, MISSING)}
    keys |= {f.name: f.default_factory() for f in fields(schema) if f.default_factory in (list, dict)}
    return {name: json.loads(json.dumps(default)) for name, default in keys.items()}


def config_hash(config: Config) -> str:
    """Eight hexadecimal digits that name the configuration: the same for the same experiment."""
    return digest(to_dict(config))


def digest(values: Any) -> str:
    """Eight hexadecimal digits that name plain JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def quoted(value: str) -> str:
    """The value in quotes, so that Hydra's override grammar accepts any character in it.

    Hydra takes a backslash for an escape only before a quote."""
    escaped = re.sub(r"(\\*)('|\Z)", lambda match: match[1] * 2 + match[2].replace("'", "\\'"), value)
    return f"'{escaped}'"
