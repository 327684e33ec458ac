"""The loss of Q-learning and its gradient inside kernels, as in rl/td.py. B: transitions of a batch."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ablate.compiled.jit import helper
from ablate.compiled.q_network import QNetwork, backward, forward, put_d_q


class QLossConstants(NamedTuple):
    """The constants of the loss; see conf/algo/dqn.yaml."""

    double: bool
    squared: bool  # the loss; False: smooth_l1
    max_grad_value: float  # inf: no clipping


class BatchArrays(NamedTuple):
    """One batch, and the errors that the update found."""

    slots: np.ndarray  # (B,) int64, of s_t
    next_slots: np.ndarray  # (B,) int64, of s_{t+n}
    actions: np.ndarray  # (B,) int64
    returns: np.ndarray  # (B,)
    discounts: np.ndarray  # (B,)
    weights: np.ndarray  # (B,)
    td_errors: np.ndarray  # (B,), written by `compute_gradient`
    d_taken: np.ndarray  # (B,) ∂L/∂Q(s, a), written by it


class QScratch(NamedTuple):
    """Memory for one update. Activations begin with the observations; see q_network.py."""

    activations: np.ndarray  # of s_t
    next_activations: np.ndarray  # of s_{t+n}
    deltas: np.ndarray
    chosen: np.ndarray  # (B,) int64, actions at s_{t+n}
    gradient: np.ndarray  # (P,)
    local: np.ndarray  # (P,) where the optimizer copies the parameters to


def q_scratch_of(network: QNetwork, batch_size: int, parameters: int, dtype: type) -> tuple[BatchArrays, QScratch]:
    """Memory for batches of this size."""
    B, count = batch_size, network.rows * batch_size
    batch = BatchArrays(
        slots=np.zeros(B, np.int64),
        next_slots=np.zeros(B, np.int64),
        actions=np.zeros(B, np.int64),
        returns=np.zeros(B, dtype),
        discounts=np.zeros(B, dtype),
        weights=np.zeros(B, dtype),
        td_errors=np.zeros(B, dtype),
        d_taken=np.zeros(B, dtype),
    )
    return batch, QScratch(
        activations=np.zeros(count, dtype),
        next_activations=np.zeros(count, dtype),
        deltas=np.zeros(count, dtype),
        chosen=np.zeros(B, np.int64),
        gradient=np.zeros(parameters, dtype),
        local=np.zeros(parameters, dtype),
    )


@helper
def compute_gradient(
    network: QNetwork,
    constants: QLossConstants,
    theta: np.ndarray,
    target: np.ndarray,
    batch: BatchArrays,
    scratch: QScratch,
) -> tuple[float, float]:
    """Write the gradient (P,), clipped, and the TD errors δ. Returns (loss, ‖gradient‖).

    L = 1/B Σ w ℓ(δ), δ = R + γⁿ Q⁻(s', a') - Q(s, a), with a' = argmax_a' of Q⁻(s', ·), or of Q(s', ·) if double."""
    B = len(batch.actions)
    forward(network, theta, scratch.activations, B)
    if constants.double:
        forward(network, theta, scratch.next_activations, B)
        choose(network, scratch.next_activations, scratch.chosen)
        forward(network, target, scratch.next_activations, B)
    else:
        forward(network, target, scratch.next_activations, B)
        choose(network, scratch.next_activations, scratch.chosen)
    loss = td_loss(network, constants.squared, batch, scratch)
    put_d_q(network, scratch.deltas, batch.actions, batch.d_taken)
    backward(network, theta, scratch.gradient, scratch.activations, scratch.deltas, B)
    return loss, clamped_norm(scratch.gradient, constants.max_grad_value)


@helper
def choose(network: QNetwork, activations: np.ndarray, chosen: np.ndarray) -> None:
    """Write the action of the largest value in each column, the first of several."""
    columns = len(chosen)
    q = network.q * columns
    for i in range(columns):
        best, largest = 0, activations[q + i]
        for j in range(1, network.actions):
            value = activations[q + j * columns + i]
            if value > largest:
                best, largest = j, value
        chosen[i] = best


@helper
def td_loss(network: QNetwork, squared: bool, batch: BatchArrays, scratch: QScratch) -> float:
    """Write δ and ∂L/∂Q(s, a) = -w ℓ'(δ) / B. Returns the loss."""
    B, q = len(batch.actions), network.q * len(batch.actions)
    number = batch.returns.dtype.type
    half, one, two, scale = number(0.5), number(1), number(2), number(-1.0 / B)
    loss = number(0)
    for i in range(B):
        target_t = batch.returns[i] + batch.discounts[i] * scratch.next_activations[q + scratch.chosen[i] * B + i]
        delta = target_t - scratch.activations[q + batch.actions[i] * B + i]
        if squared:
            cost, slope = delta * delta, two * delta
        elif abs(delta) < one:
            cost, slope = half * delta * delta, delta
        else:
            cost, slope = abs(delta) - half, (one if delta > 0 else -one) if delta == delta else delta
        loss += batch.weights[i] * cost
        batch.td_errors[i] = delta
        batch.d_taken[i] = batch.weights[i] * slope * scale
    return float(loss / B)


@helper
def clamped_norm(gradient: np.ndarray, largest: float) -> float:
    """Clip each element to ± largest. Returns the norm after that; it is not finite if an element was not."""
    total = gradient.dtype.type(0)
    if math.isfinite(largest):
        bound = gradient.dtype.type(largest)
        for i in range(len(gradient)):
            g = gradient[i]
            gradient[i] = bound if g > bound else (-bound if g < -bound else g)
    for i in range(len(gradient)):
        total += gradient[i] * gradient[i]
    return float(np.sqrt(total))


@helper
def mean_of_largest(network: QNetwork, activations: np.ndarray, columns: int) -> float:
    """1/B Σ max_a Q(s, a)."""
    q, total = network.q * columns, 0.0
    for i in range(columns):
        largest = activations[q + i]
        for j in range(1, network.actions):
            largest = max(largest, activations[q + j * columns + i])
        total += largest
    return total / columns
