"""Whether there are kernels for a configuration. This module must not import Numba: the parent process uses it."""

from __future__ import annotations

import math

from ablate.compiled.envs import ENVIRONMENTS, find_environment
from ablate.config.schema import Config, ConfigError, EnvConfig


def why_not(config: Config, network: str) -> str:
    """Which part of the configuration (network, device, environment) has no kernel; empty if all parts have one.

    network: the model.name that has kernels."""
    if config.model.name != network:
        return f"model={config.model.name} has no kernel"
    if config.device not in ("cpu", ["cpu"]):
        return f"device={config.device}: kernels run on the CPU"
    module = find_environment(config.env.id)
    if module is None:
        return f"{config.env.id} has no kernel (there are: {', '.join(sorted(ENVIRONMENTS))})"
    unknown = [key for key in config.env.kwargs if key not in module.Parameters._fields]
    return f"{config.env.id} has no kernel with {', '.join(unknown)}" if unknown else ""


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
