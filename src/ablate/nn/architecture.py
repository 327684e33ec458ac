"""The kinds of networks by `model.name`, and the network that a configuration describes."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

import numpy as np

import ablate.nn
from ablate.config.schema import ConfigError, ModelConfig
from ablate.nn.architecture_base import Architecture
from ablate.types import EnvSpec

# From the configuration of the model, of the class that config.schema has for its name, and the environment.
Build = Callable[[Any, EnvSpec], Architecture]
ARCHITECTURES: dict[str, Build] = {}
for _module in pkgutil.iter_modules(ablate.nn.__path__):  # each <kind>_architecture.py is found by itself
    if _module.name.endswith("_architecture"):
        _kind = importlib.import_module(f"ablate.nn.{_module.name}")
        ARCHITECTURES[_kind.NAME] = _kind.build


def register_architecture(name: str, build: Build) -> None:
    """Let `model.name=<name>` mean the network that `build(model, env)` gives.

    `build` raises ConfigError if model and environment don't fit. Raises ValueError if the name is taken."""
    if ARCHITECTURES.setdefault(name, build) != build:
        raise ValueError(f"model.name={name} is registered already")


def architecture_of(model: ModelConfig, env: EnvSpec) -> Architecture:
    """The network that `model` describes, with inputs and outputs for `env`. Raises ConfigError if they don't fit."""
    if model.name not in ARCHITECTURES:
        raise ConfigError(f"model.name={model.name}: there is no such network; use one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[model.name](model, env)


def initial_parameters(architecture: Architecture, rng: np.random.Generator) -> np.ndarray:
    """(P,) float32, drawn as the model's configuration says."""
    flat = np.zeros(architecture.layout().size, np.float32)
    architecture.initialise(flat, rng)
    return flat
