"""Acting with a network, and drawing actions from distributions, in numpy.

At batch size 1 a torch call costs more than its arithmetic. Without torch, outside programs can play a saved policy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

Action = np.ndarray | int
NUMPY_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.minimum(np.maximum(x, 0), 6),
    "tanh": np.tanh,
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
}


class ActingNetwork(Protocol):
    """A network that acts in E environments side by side. Some kinds have further methods for training."""

    def reset(self, env_index: int) -> None:
        """Forget the episode in this environment: a new one begins."""
        ...

    def actions(
        self, observations: Sequence[np.ndarray], streams: Sequence[np.random.Generator] | None
    ) -> list[Action]:
        """One action per environment, as its `step` takes it, for one preprocessed observation per environment.

        streams: one random stream per environment, to draw the actions with; None: the most likely actions."""
        ...


def draw_gaussian(mu: np.ndarray, sigma: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """a ~ Normal(mu, sigma), each (A,). Raises FloatingPointError if one is not finite."""
    action = (mu + sigma * rng.standard_normal(len(mu))).astype(mu.dtype)
    if not all(map(math.isfinite, action.tolist())):  # for so few numbers faster than numpy
        raise FloatingPointError(f"action {action}")
    return action


def draw_categorical(logits: np.ndarray, rng: np.random.Generator) -> int:
    """a ~ softmax(logits) (n,): the inverse of the cumulative distribution at one uniform draw.

    Raises FloatingPointError if a logit is not a number."""
    z = logits.astype(np.float64)
    cumulative = np.cumsum(np.exp(z - z.max()))
    if not math.isfinite(cumulative[-1]):
        raise FloatingPointError(f"logits {logits}")
    return int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
