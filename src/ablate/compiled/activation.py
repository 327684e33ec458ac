"""Activation functions inside kernels. Identity, ReLU and ReLU6 are clamps. Tanh and ELU follow a clamp without limits.

A clamp keeps NaN, because the check for divergence must see it."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ablate.compiled.jit import leaf

CLAMP, TANH, ELU = range(3)


class ActivationConstants(NamedTuple):
    """min(max(x, low), high), followed by the function of `kind` if it is not CLAMP."""

    kind: int
    low: float
    high: float


ACTIVATIONS = {
    "relu": ActivationConstants(CLAMP, 0.0, math.inf),
    "relu6": ActivationConstants(CLAMP, 0.0, 6.0),
    "tanh": ActivationConstants(TANH, -math.inf, math.inf),
    "elu": ActivationConstants(ELU, -math.inf, math.inf),
}
IDENTITY = ActivationConstants(CLAMP, -math.inf, math.inf)


@leaf
def clamp(x: float, low: float, high: float) -> float:
    y = low if x < low else x
    return high if y > high else y


@leaf
def activate(kind: int, y: np.ndarray) -> None:
    """y ← activation(y) for TANH and ELU, in place."""
    if kind == TANH:
        for i in range(len(y)):
            y[i] = np.tanh(y[i])
    elif kind == ELU:
        for i in range(len(y)):
            y[i] = y[i] if y[i] > 0 else np.expm1(y[i])


@leaf
def activate_backward(activation: ActivationConstants, d_y: np.ndarray, y: np.ndarray) -> None:
    """d_y ← d_y · activation', in place, computed from the activation's output y."""
    zero, one = y.dtype.type(0), y.dtype.type(1)
    low, high = y.dtype.type(activation.low), y.dtype.type(activation.high)
    if activation.kind == TANH:
        for i in range(len(y)):
            d_y[i] *= one - y[i] * y[i]
    elif activation.kind == ELU:
        for i in range(len(y)):
            d_y[i] *= one if y[i] > zero else y[i] + one
    else:
        for i in range(len(y)):
            d_y[i] = d_y[i] if (y[i] > low) & (y[i] < high) else zero
