"""Whether there are kernels for a configuration. This module must not import Numba: the parent process uses it."""

from __future__ import annotations

import math
from dataclasses import fields

from ablate.compiled.envs import ENVIRONMENTS, find_environment
from ablate.config.schema import Config, ConfigError, EnvConfig


def why_not(config: Config, network: str, known: frozenset[str]) -> str:
    """Which part of the configuration (network, device, environment, algorithm) has no kernel; empty if all have one.

    network: the model.name that has kernels. known: the keys of the algorithm that its kernels compute with, or that
    make no difference to them. So a key that is added later is not silently ignored."""
    if config.model.name != network:
        return f"model={config.model.name} has no kernel"
    if config.device not in ("cpu", ["cpu"]):
        return f"device={config.device}: kernels run on the CPU"
    module = find_environment(config.env.id)
    if module is None:
        return f"{config.env.id} has no kernel (there are: {', '.join(sorted(ENVIRONMENTS))})"
    if unknown := [key for key in config.env.kwargs if key not in module.Parameters._fields]:
        return f"{config.env.id} has no kernel with {', '.join(unknown)}"
    for key in fields(config.algo):
        if key.name not in known and (value := getattr(config.algo, key.name)) != key.default:
            return f"algo.{key.name}={value} has no kernel"
    return ""


def check_arguments(env: EnvConfig) -> None:
    """Raise ConfigError for a wrong type in env.kwargs: gymnasium's constructor would accept it, and a step would fail.

    Call it after the environment was made once, which imports the module of an id like `my_module:MyEnv-v0`."""
    module = find_environment(env.id)
    defaults = module.Parameters._field_defaults if module else {}
    for key in env.kwargs.keys() & defaults.keys():
        value = env.kwargs[key]
        if isinstance(defaults[key], bool):
            fits, needed = value in (True, False), "true or false"
        else:
            fits, needed = type(value) in (int, float) and math.isfinite(value), "a finite number"
        if not fits:
            raise ConfigError(f"env.kwargs.{key}={value}: not {needed}")
