"""Policies as distributions over actions: log-probability, entropy, and their gradients by hand.

`outputs` come from a network's policy head: (mu, sigma), each (T, A), or (logits,), with logits (T, n)."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from ablate.nn import layers
from ablate.types import ActionSpec

Outputs = tuple[Tensor, ...]


class Distribution(Protocol):
    """Backward gives the gradient with respect to each of `outputs`, for d_log_prob (T,) and one d_entropy."""

    def log_prob(self, outputs: Outputs, action: Tensor) -> Tensor: ...  # (T,)
    def entropy(self, outputs: Outputs) -> Tensor: ...  # (T,)
    def backward(self, outputs: Outputs, action: Tensor, d_log_prob: Tensor, d_entropy: float) -> Outputs: ...


class Gaussian:
    """Independent normals, a ~ Normal(mu, sigma)."""

    _half_log_2_pi = 0.5 * math.log(2 * math.pi)

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


class Categorical:
    """One of n actions, with probabilities softmax(logits)."""

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


def make_distribution(action: ActionSpec) -> Distribution:
    """Categorical for discrete actions, Gaussian for a box."""
    return Categorical() if action.is_discrete else Gaussian()
