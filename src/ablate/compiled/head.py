"""Policies inside kernels: from the actor's outputs z to a distribution, an action, and the policy's part of the loss.

The type of the head, GaussianHead or CategoricalHead, decides which functions a kernel calls when it is compiled."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ablate.compiled.jit import implements
from ablate.nn.mlp_architecture import MlpArchitecture
from ablate.types import ActionSpec

HALF_LOG_2_PI = 0.5 * math.log(2.0 * math.pi)


class GaussianHead(NamedTuple):
    """(mu, sigma) = (centre + scale · tanh(z[:A]), softplus(z[A:]) + sigma_min)."""

    centre: np.ndarray  # (A,)
    scale: np.ndarray  # (A,)
    low: np.ndarray  # (A,) bounds of the environment's actions, rounded inwards
    high: np.ndarray  # (A,)
    sigma_min: float


class CategoricalHead(NamedTuple):
    """softmax(z) over n actions."""

    n: int


Head = GaussianHead | CategoricalHead


def head_of(architecture: MlpArchitecture, action: ActionSpec, dtype: type) -> Head:
    """The head for these actions."""
    if action.n is not None:
        return CategoricalHead(action.n)
    return GaussianHead(
        np.asarray(architecture.mu_centre, dtype),
        np.asarray(architecture.mu_scale, dtype),
        _rounded(action.low, dtype, np.inf),
        _rounded(action.high, dtype, -np.inf),
        architecture.sigma_min,
    )


def _rounded(bounds: tuple[float, ...], dtype: type, inwards: float) -> np.ndarray:
    """The bounds in `dtype`, rounded inwards: the nearest number to a bound of a float64 box can lie outside of it."""
    exact = np.asarray(bounds, np.float64)
    rounded: np.ndarray = np.asarray(bounds, dtype)
    outside = rounded < exact if inwards > 0 else rounded > exact
    return np.where(outside, np.nextafter(rounded, dtype(inwards)), rounded)


def draws(head: Any) -> int:
    """How many random numbers the draw of one action uses."""
    raise NotImplementedError


def compute_dist_params(head: Any, z: np.ndarray, dist_params: np.ndarray) -> bool:
    """Write the parameters of the distribution, which the other functions read. Returns False if z is not finite.

    dist_params: mu, sigma, ∂mu/∂z, ∂sigma/∂z, each (A,), in one row; or log p (n,)."""
    raise NotImplementedError


def draw(head: Any, dist_params: np.ndarray, draws: np.ndarray, action: np.ndarray) -> None:
    """Write an action: (A,) from standard normal draws (A,), or its index as a float from one uniform draw (1,)."""
    raise NotImplementedError


def mode(head: Any, dist_params: np.ndarray, action: np.ndarray) -> None:
    """Write the most likely action."""
    raise NotImplementedError


def to_env(head: Any, action: np.ndarray, env_action: np.ndarray) -> None:
    """Write the action as the environment takes it, clipped to the bounds."""
    raise NotImplementedError


def log_prob(head: Any, dist_params: np.ndarray, action: np.ndarray) -> tuple[float, float]:
    """Returns (log π(a|s), entropy)."""
    raise NotImplementedError


def policy_backward(
    head: Any, dist_params: np.ndarray, action: np.ndarray, d_log_prob: float, d_entropy: float, d_z: np.ndarray
) -> None:
    """Write ∂L/∂z (outputs,), given d_log_prob = ∂L/∂log π(a|s) and d_entropy = ∂L/∂H(π)."""
    raise NotImplementedError


@implements(draws, GaussianHead)
def _(head):
    return len(head.centre)


@implements(draws, CategoricalHead)
def _(head):
    return 1


@implements(compute_dist_params, GaussianHead)
def _(head, z, dist_params):
    n = len(head.centre)
    one, zero = z.dtype.type(1), z.dtype.type(0)
    for i in range(n):
        tanh = np.tanh(z[i])
        x = z[n + i]
        e = np.exp(-abs(x))  # never overflows
        dist_params[i] = head.centre[i] + head.scale[i] * tanh
        dist_params[n + i] = max(x, zero) + np.log1p(e) + z.dtype.type(head.sigma_min)
        dist_params[2 * n + i] = head.scale[i] * (one - tanh * tanh)
        dist_params[3 * n + i] = (one if x >= zero else e) / (one + e)
    return True  # a NaN will appear in the loss


@implements(compute_dist_params, CategoricalHead)
def _(head, z, dist_params):
    """log p_j = z_j - max - log Σ exp(z - max)."""
    largest = z[0]
    for j in range(head.n):
        largest = max(largest, z[j])
    total = z.dtype.type(0)
    for j in range(head.n):
        total += np.exp(z[j] - largest)
    log_total = np.log(total)
    for j in range(head.n):
        dist_params[j] = z[j] - largest - log_total
    return math.isfinite(log_total)


@implements(draw, GaussianHead)
def _(head, dist_params, draws, action):
    n = len(head.centre)
    for i in range(n):
        action[i] = dist_params[i] + dist_params[n + i] * draws[i]


@implements(draw, CategoricalHead)
def _(head, dist_params, draws, action):
    """Inverse transform sampling."""
    total = 0.0
    for j in range(head.n):
        total += math.exp(dist_params[j])
    threshold, cumulative, j = draws[0] * total, 0.0, 0
    while j < head.n - 1:
        cumulative += math.exp(dist_params[j])
        if cumulative > threshold:
            break
        j += 1
    action[0] = j


@implements(mode, GaussianHead)
def _(head, dist_params, action):
    for i in range(len(head.centre)):
        action[i] = dist_params[i]


@implements(mode, CategoricalHead)
def _(head, dist_params, action):
    best = 0
    for j in range(head.n):
        if dist_params[j] > dist_params[best]:
            best = j
    action[0] = best


@implements(to_env, GaussianHead)
def _(head, action, env_action):
    for i in range(len(head.centre)):
        env_action[i] = min(max(action[i], head.low[i]), head.high[i])


@implements(to_env, CategoricalHead)
def _(head, action, env_action):
    env_action[0] = action[0]


@implements(log_prob, GaussianHead)
def _(head, dist_params, action):
    n = len(head.centre)
    log_prob, entropy = 0.0, 0.0
    for i in range(n):
        x = (action[i] - dist_params[i]) / dist_params[n + i]
        log_sigma = np.log(dist_params[n + i])
        log_prob -= 0.5 * x * x + log_sigma + HALF_LOG_2_PI
        entropy += 0.5 + HALF_LOG_2_PI + log_sigma
    return log_prob, entropy


@implements(log_prob, CategoricalHead)
def _(head, dist_params, action):
    entropy = 0.0
    for j in range(head.n):
        entropy -= np.exp(dist_params[j]) * dist_params[j]
    return float(dist_params[int(action[0])]), entropy


@implements(policy_backward, GaussianHead)
def _(head, dist_params, action, d_log_prob, d_entropy, d_z):
    """x = (a - mu) / sigma: ∂mu = ∂log π · x / sigma, ∂sigma = (∂log π (x² - 1) + ∂H) / sigma."""
    n = len(head.centre)
    one = d_z.dtype.type(1)
    for i in range(n):
        inverse = one / dist_params[n + i]
        x = (action[i] - dist_params[i]) * inverse
        d_z[i] = dist_params[2 * n + i] * d_log_prob * x * inverse
        d_z[n + i] = dist_params[3 * n + i] * inverse * (d_log_prob * (x * x - one) + d_entropy)


@implements(policy_backward, CategoricalHead)
def _(head, dist_params, action, d_log_prob, d_entropy, d_z):
    """∂z_j = ([j = a] - p_j) ∂log π - p_j (log p_j + H) ∂H."""
    entropy = d_z.dtype.type(0)
    for j in range(head.n):
        entropy -= np.exp(dist_params[j]) * dist_params[j]
    for j in range(head.n):
        p = np.exp(dist_params[j])
        d_z[j] = -p * (d_log_prob + (dist_params[j] + entropy) * d_entropy)
    d_z[int(action[0])] += d_log_prob
