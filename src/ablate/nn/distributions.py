"""Policies as distributions over actions: log-probability and entropy, their gradients by hand, and drawing.

`outputs` is what a network's policy part gives: (mu, sigma), each (T, A), or (logits,), (T, n).
Drawing works on numpy outputs of one observation, without the T axis; it takes one number per dimension of the action
from the stream, so that every backend can draw the same."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ablate.nn import layers
from ablate.types import ActionSpec

Outputs = tuple[Tensor, ...]
NumpyOutputs = tuple[np.ndarray, ...]


class Distribution(Protocol):
    def log_prob(self, outputs: Outputs, action: Tensor) -> Tensor: ...  # (T,)
    def entropy(self, outputs: Outputs) -> Tensor: ...  # (T,)
    def backward(self, outputs: Outputs, action: Tensor, d_log_prob: Tensor, d_entropy: float) -> Outputs: ...
    def sample(self, outputs: NumpyOutputs, rng: np.random.Generator) -> np.ndarray | int: ...
    def mode(self, outputs: NumpyOutputs) -> np.ndarray | int: ...
    def to_env(self, action: np.ndarray | int) -> np.ndarray | int: ...


class Gaussian:
    """Independent normals, a ~ Normal(mu, sigma); the environment gets the action clipped to its bounds."""

    _half_log_2_pi = 0.5 * math.log(2 * math.pi)

    def __init__(self, action: ActionSpec) -> None:
        self._low = np.asarray(action.low, np.float32)
        self._high = np.asarray(action.high, np.float32)

    def log_prob(self, outputs: Outputs, action: Tensor) -> Tensor:
        """Σ_A -(a - mu)² / 2 sigma² - log sigma - log √(2π)."""
        mu, sigma = outputs
        return (-0.5 * ((action - mu) / sigma).square() - sigma.log() - self._half_log_2_pi).sum(-1)

    def entropy(self, outputs: Outputs) -> Tensor:
        """Σ_A 1/2 + log √(2π) + log sigma."""
        return (0.5 + self._half_log_2_pi + outputs[1].log()).sum(-1)

    def backward(self, outputs: Outputs, action: Tensor, d_log_prob: Tensor, d_entropy: float) -> Outputs:
        """z = (a - mu) / sigma: d_mu = d_log_prob · z / sigma, d_sigma = (d_log_prob (z² - 1) + d_entropy) / sigma."""
        mu, sigma = outputs
        inverse = sigma.reciprocal()
        z = (action - mu) * inverse
        d_log_prob = d_log_prob.unsqueeze(-1)
        d_mu = d_log_prob * z * inverse
        d_sigma = inverse * (d_log_prob * (z * z - 1.0) + d_entropy)
        return d_mu, d_sigma

    def sample(self, outputs: NumpyOutputs, rng: np.random.Generator) -> np.ndarray:
        mu, sigma = outputs
        return (mu + sigma * rng.standard_normal(len(mu))).astype(mu.dtype)

    def mode(self, outputs: NumpyOutputs) -> np.ndarray:
        return outputs[0]

    def to_env(self, action: np.ndarray | int) -> np.ndarray:
        return np.minimum(np.maximum(action, self._low), self._high)


class Categorical:
    """One of n actions, with probabilities softmax(logits)."""

    def __init__(self, action: ActionSpec) -> None:
        self._start = action.start

    def log_prob(self, outputs: Outputs, action: Tensor) -> Tensor:
        """log p_a."""
        return torch.log_softmax(outputs[0], -1).gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self, outputs: Outputs) -> Tensor:
        """-Σ_j p_j log p_j."""
        log_p = torch.log_softmax(outputs[0], -1)
        return -(log_p.exp() * log_p).sum(-1)

    def backward(self, outputs: Outputs, action: Tensor, d_log_prob: Tensor, d_entropy: float) -> Outputs:
        """∂/∂z = ([j = a] - p_j) · d_log_prob - p_j (log p_j + H) · d_entropy."""
        log_p = layers.log_softmax(outputs[0])
        p = log_p.exp()
        d_h = torch.full_like(d_log_prob, d_entropy)
        return (layers.log_prob_backward(d_log_prob, p, action) + layers.entropy_backward(d_h, p, log_p),)

    def sample(self, outputs: NumpyOutputs, rng: np.random.Generator) -> int:
        """The inverse of the cumulative distribution at one uniform draw."""
        logits = outputs[0].astype(np.float64)
        cumulative = np.cumsum(np.exp(logits - logits.max()))
        return int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))

    def mode(self, outputs: NumpyOutputs) -> int:
        return int(np.argmax(outputs[0]))

    def to_env(self, action: np.ndarray | int) -> int:
        return int(action) + self._start


def make_distribution(action: ActionSpec) -> Distribution:
    return Categorical(action) if action.is_discrete else Gaussian(action)
