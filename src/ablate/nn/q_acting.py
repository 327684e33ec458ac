"""Acting ε-greedily by action values, and the action values of vectors in numpy. E: environments, n: actions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ablate.nn.acting import NUMPY_ACTIVATIONS, Action
from ablate.types import ActionSpec

if TYPE_CHECKING:
    from ablate.nn.q_architecture import QArchitecture


class QActing(ABC):
    """Acts by a flat vector of parameters (P,), which may change between two calls. It remembers nothing.

    epsilon: the probability of a uniform action if actions are drawn."""

    def __init__(self, architecture: QArchitecture, action: ActionSpec, epsilon: float) -> None:
        self._n_actions, self._start, self._epsilon = architecture.actions, action.start, epsilon

    @abstractmethod
    def q_values(self, observations: np.ndarray) -> np.ndarray:
        """Observations (E, ...) as environments give them -> Q (E, n), by the current parameters."""

    def reset(self, env_index: int) -> None:  # noqa: B027 (nothing is remembered)
        """See ActingNetwork."""

    def actions(
        self, observations: Sequence[np.ndarray], streams: Sequence[np.random.Generator] | None
    ) -> list[Action]:
        """See ActingNetwork: greedy, or ε-greedy if there are streams."""
        actions = self.q_values(np.stack(observations)).argmax(1)
        for env_index, stream in enumerate(streams or ()):
            if stream.random() < self._epsilon:  # only numbers in [0, 1): kernels draw those in advance
                actions[env_index] = int(stream.random() * self._n_actions)
        return [int(action) + self._start for action in actions]


class VectorQActing(QActing):
    """For a QArchitecture of vectors, in numpy."""

    def __init__(
        self, architecture: QArchitecture, parameters: np.ndarray, action: ActionSpec, epsilon: float = 0.0
    ) -> None:
        super().__init__(architecture, action, epsilon)
        views = architecture.layout().views(parameters)
        self._dtype = parameters.dtype
        self._hidden = [
            (views[f"hidden.{i}.weight"].T, views[f"hidden.{i}.bias"]) for i in range(len(architecture.hidden))
        ]
        heads = ("value", "advantage") if architecture.dueling else ("q",)
        self._heads = [(views[f"{head}.weight"].T, views[f"{head}.bias"]) for head in heads]
        self._activation = NUMPY_ACTIVATIONS[architecture.activation]

    def q_values(self, observations: np.ndarray) -> np.ndarray:
        """(E, size) -> Q (E, n)."""
        x = observations.astype(self._dtype, copy=False)
        for weight, bias in self._hidden:
            x = self._activation(x.dot(weight) + bias)
        if len(self._heads) == 1:
            weight, bias = self._heads[0]
            return x.dot(weight) + bias
        value, advantage = (
            stream.dot(weight) + bias for stream, (weight, bias) in zip(np.split(x, 2, 1), self._heads, strict=True)
        )
        return value + (advantage - advantage.mean(1, keepdims=True))
