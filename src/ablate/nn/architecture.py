"""The kinds of networks by `model.name`, and the network that a configuration describes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ablate.config.schema import ConfigError, ModelConfig
from ablate.nn.architecture_base import Architecture
from ablate.nn.conv_architecture import ConvArchitecture
from ablate.nn.mlp_architecture import MlpArchitecture
from ablate.nn.q_architecture import QArchitecture
from ablate.types import EnvSpec

# From the configuration of the model, of the class that config.schema has for its name, and the environment.
Build = Callable[[Any, EnvSpec], Architecture]
ARCHITECTURES: dict[str, Build] = {
    "mlp": MlpArchitecture.build,
    "conv": ConvArchitecture.build,
    "q": QArchitecture.build,
}


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
