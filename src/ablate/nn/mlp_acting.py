"""The policy of an MlpArchitecture in numpy, one observation at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ablate.nn.acting import NUMPY_ACTIVATIONS, Action, draw_categorical, draw_gaussian
from ablate.types import ActionSpec

if TYPE_CHECKING:
    from ablate.nn.mlp_architecture import MlpArchitecture


class MlpActing:
    """Acts by a flat vector `parameters` (P,), which may change between two calls.

    Every backend acts like this, with one random number per dimension of the action. So the same parameters and the
    same stream give the same actions, whoever computes the gradients."""

    def __init__(self, architecture: MlpArchitecture, parameters: np.ndarray, action: ActionSpec) -> None:
        views = architecture.layout().views(parameters)
        self._linears = [
            (views[f"{part}.{i}.weight"], views[f"{part}.{i}.bias"])
            for part, sizes in (("torso", architecture.torso_sizes), ("actor", architecture.actor_sizes))
            for i in range(len(sizes) - 1)
        ]
        self._activation = NUMPY_ACTIVATIONS[architecture.activation]
        self._discrete = action.is_discrete
        self._start = action.start
        self._dtype = np.dtype(action.dtype or np.float32)
        self._low, self._high = np.asarray(action.low, self._dtype), np.asarray(action.high, self._dtype)
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
        """An action drawn from the policy, as training uses it: not yet clipped, and counted from 0."""
        outputs = self.outputs(observation)
        if self._discrete:
            return draw_categorical(outputs[0], rng)
        return draw_gaussian(outputs[0], outputs[1], rng)

    def mode(self, observation: np.ndarray) -> Action:
        """The most likely action."""
        outputs = self.outputs(observation)
        return int(np.argmax(outputs[0])) if self._discrete else outputs[0]

    def to_env(self, action: Action) -> Action:
        """The action as the environment takes it: of its type and clipped to its bounds, or counted from its first."""
        if self._discrete:
            return int(action) + self._start
        return np.minimum(np.maximum(np.asarray(action, self._dtype), self._low), self._high)

    def reset(self, env_index: int) -> None:
        """Nothing is remembered."""

    def actions(
        self, observations: Sequence[np.ndarray], streams: Sequence[np.random.Generator] | None
    ) -> list[Action]:
        """See ActingNetwork."""
        flat = [np.asarray(observation, np.float32).reshape(-1) for observation in observations]
        if streams is None:
            chosen = [self.mode(observation) for observation in flat]
        else:
            chosen = [self.sample(observation, rng) for observation, rng in zip(flat, streams, strict=True)]
        return [self.to_env(action) for action in chosen]
