"""Whether the kernels can do what a configuration asks for. No import of Numba: the parent process looks here."""

from __future__ import annotations

import math

from ablate.compiled.envs import ENVIRONMENTS
from ablate.config.schema import Config, ConfigError, EnvConfig


def why_not(config: Config) -> str:
    """What of the configuration has no kernel, in words; empty if everything has."""
    if config.model.name != "mlp":
        return f"model={config.model.name} has no kernel"
    if config.device not in ("cpu", ["cpu"]):
        return f"device={config.device}: kernels run on the CPU"
    module = ENVIRONMENTS.get(config.env.id)
    if module is None:
        return f"{config.env.id} has no kernel (there are: {', '.join(sorted(ENVIRONMENTS))})"
    unknown = [key for key in config.env.kwargs if key not in module.Parameters._fields]
    return f"{config.env.id} has no kernel with {', '.join(unknown)}" if unknown else ""


def check_arguments(env: EnvConfig) -> None:
    """Raise ConfigError for what gymnasium's constructor would take as it is, to fail in the first step."""
    module = ENVIRONMENTS.get(env.id)
    defaults = module.Parameters._field_defaults if module else {}
    for key in env.kwargs.keys() & defaults.keys():
        value = env.kwargs[key]
        if isinstance(defaults[key], bool):
            fits, needed = value in (True, False), "true or false"
        else:
            fits, needed = type(value) in (int, float) and math.isfinite(value), "a finite number"
        if not fits:
            raise ConfigError(f"env.kwargs.{key}={value}: not {needed}")
