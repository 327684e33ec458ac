"""A network as data: what every kind of network answers for itself.

This module and the architectures do without torch, because the parent process reads them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ablate.config.schema import ConfigError
from ablate.nn.params import ParameterLayout
from ablate.types import ActionSpec

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Architecture(ABC):
    """The shape of a network, from the configuration and the environment. Subclasses are frozen dataclasses.

    Two runs have the same network if their architectures are equal. How parameters are initialised is a field with
    `compare=False`. P: number of parameters. Torch is imported inside the methods that need it."""

    @property
    @abstractmethod
    def is_image(self) -> bool:
        """Whether observations are images (channels, height, width), not vectors (size,)."""

    @abstractmethod
    def layout(self) -> ParameterLayout:
        """Names, shapes and places of the parameters in the flat vector (P,)."""

    @abstractmethod
    def initialise(self, flat: np.ndarray, rng: np.random.Generator) -> None:
        """Draw the initial parameters into `flat` (P,)."""

    # The signatures of the following three are those that the algorithm uses; see its gradient computer and its actor.

    @abstractmethod
    def torch_network(self, parameters: Tensor, gradient: Any, *args: Any, **kwargs: Any) -> Any:
        """The network on torch.nn, for backend=autograd.

        Its parameters are views of `parameters` (P,), and their .grad are views of `gradient` (P,)."""

    def manual_network(self, parameters: Tensor, gradient: Any, *args: Any, **kwargs: Any) -> Any:
        """The network with a backward pass written by hand, for backend=manual. Raises ConfigError if it has none."""
        raise ConfigError(f"backend=manual: {type(self).__name__} has no hand-written network; use backend=autograd")

    @property
    def has_manual_network(self) -> bool:
        return type(self).manual_network is not Architecture.manual_network

    @abstractmethod
    def acting(self, parameters: np.ndarray, action: ActionSpec, envs: int = 1, epsilon: float = 0.0) -> Any:
        """The ActingNetwork of `parameters` (P,), for `envs` environments side by side.

        `parameters` may change between two calls. epsilon: the probability of a uniform action, if the network has no
        distribution to draw from."""

    def memory_mb(self, backend: str, rows: int) -> int:
        """Megabytes of one worker's network and of a kept rollout with `rows` observations; 0 if that is negligible."""
        return 0
