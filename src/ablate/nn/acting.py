"""The actor for one observation, action values of some, and drawing from a distribution, in numpy.

At batch size 1 a torch call costs more than its arithmetic; and a saved policy can be played without torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np

from ablate.nn.architecture import MlpArchitecture, QArchitecture
from ablate.types import ActionSpec

Action = np.ndarray | int


class Actor:
    """The policy part of an MlpArchitecture over a flat vector (P,), which may change between two calls.

    Every backend acts through it, and it takes one number per dimension of the action from the stream: the same
    parameters and stream give the same actions whoever computes the gradients."""

    def __init__(self, architecture: MlpArchitecture, action: ActionSpec, parameters: np.ndarray) -> None:
        views = architecture.layout().views(parameters)
        self._linears = [
            (views[f"{part}.{i}.weight"], views[f"{part}.{i}.bias"])
            for part, sizes in (("torso", architecture.torso_sizes), ("actor", architecture.actor_sizes))
            for i in range(len(sizes) - 1)
        ]
        self._activation = _ACTIVATIONS[architecture.activation]
        self._discrete = action.is_discrete
        self._start = action.start
        self._low, self._high = np.asarray(action.low, np.float32), np.asarray(action.high, np.float32)
        self._dimensions = len(action.low)
        self._mu_centre = np.asarray(architecture.mu_centre, parameters.dtype)
        self._mu_scale = np.asarray(architecture.mu_scale, parameters.dtype)
        self._sigma_min = architecture.sigma_min

    def outputs(self, observation: np.ndarray) -> tuple[np.ndarray, ...]:
        """(observation,) -> mu (A,) and sigma (A,), or logits (n,)."""
        x = observation
        for weight, bias in self._linears[:-1]:
            x = self._activation(weight.dot(x) + bias)
        weight, bias = self._linears[-1]
        z = weight.dot(x) + bias
        if self._discrete:
            return (z,)
        mu = self._mu_centre + self._mu_scale * np.tanh(z[: self._dimensions])
        return mu, np.logaddexp(0.0, z[self._dimensions :], dtype=z.dtype) + self._sigma_min

    def sample(self, observation: np.ndarray, rng: np.random.Generator) -> Action:
        """An action drawn from the policy, as training sees it: not yet clipped, counted from 0."""
        outputs = self.outputs(observation)
        if self._discrete:
            return draw_categorical(outputs[0], rng)
        return draw_gaussian(outputs[0], outputs[1], rng)

    def mode(self, observation: np.ndarray) -> Action:
        """The most likely action."""
        outputs = self.outputs(observation)
        return int(np.argmax(outputs[0])) if self._discrete else outputs[0]

    def to_env(self, action: Action) -> Action:
        """The action as the environment takes it: clipped to its bounds, or counted from its first action."""
        if self._discrete:
            return int(action) + self._start
        return np.minimum(np.maximum(action, self._low), self._high)


class QActor(Protocol):
    """What an actor of Q-learning needs of a network."""

    def q_values(self, observations: np.ndarray) -> np.ndarray:
        """E observations as environments give them, side by side -> Q (E, n); by the parameters as they are now."""
        ...


class VectorQActor:
    """A QArchitecture of vectors over a flat vector (P,), which may change between two calls."""

    def __init__(self, architecture: QArchitecture, parameters: np.ndarray) -> None:
        views = architecture.layout().views(parameters)
        self._dtype = parameters.dtype
        self._hidden = [
            (views[f"hidden.{i}.weight"].T, views[f"hidden.{i}.bias"]) for i in range(len(architecture.hidden))
        ]
        heads = ("value", "advantage") if architecture.dueling else ("q",)
        self._heads = [(views[f"{head}.weight"].T, views[f"{head}.bias"]) for head in heads]
        self._activation = _ACTIVATIONS[architecture.activation]

    def q_values(self, observations: np.ndarray) -> np.ndarray:
        """(E, size) -> Q (E, n)."""
        x = observations.astype(self._dtype, copy=False)
        for weight, bias in self._hidden:
            x = self._activation(x.dot(weight) + bias)
        if len(self._heads) == 1:
            weight, bias = self._heads[0]
            return x.dot(weight) + bias
        value, advantage = (
            part.dot(weight) + bias for part, (weight, bias) in zip(np.split(x, 2, 1), self._heads, strict=True)
        )
        return value + (advantage - advantage.mean(1, keepdims=True))


def make_q_actor(architecture: QArchitecture, parameters: np.ndarray, envs: int) -> QActor:
    """For E environments side by side. Torch is imported for images only."""
    if len(architecture.input_shape) == 1:
        return VectorQActor(architecture, parameters)
    from ablate.nn.q_networks import ImageActor

    return ImageActor(architecture, parameters, envs)


def draw_gaussian(mu: np.ndarray, sigma: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """a ~ Normal(mu, sigma), each (A,)."""
    return (mu + sigma * rng.standard_normal(len(mu))).astype(mu.dtype)


def draw_categorical(logits: np.ndarray, rng: np.random.Generator) -> int:
    """a ~ softmax(logits) (n,): the inverse of the cumulative distribution at one uniform draw.

    Raises FloatingPointError for logits that are no numbers."""
    z = logits.astype(np.float64)
    cumulative = np.cumsum(np.exp(z - z.max()))
    if not math.isfinite(cumulative[-1]):
        raise FloatingPointError(f"logits {logits}")
    return int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))


_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.minimum(np.maximum(x, 0), 6),
    "tanh": np.tanh,
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
}
