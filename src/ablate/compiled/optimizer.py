"""Adam, AMSGrad and RMSprop inside kernels, as in nn/optimizers.py, with the same bound against races."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ablate.compiled.jit import helper
from ablate.config.schema import AdamConfig, OptimizerConfig, RMSpropConfig
from ablate.nn.optimizer_bounds import adam_bound, rmsprop_bound

ADAM, AMSGRAD, RMSPROP = range(3)
# Smaller moments are set to 0: those of a unit that is never active decay to denormal numbers, which make operations
# some hundred times slower.
TINY = 1e-34


class OptimizerConstants(NamedTuple):
    """decay_1, decay_2: decay rates of the first and second moment (RMSprop has only the second)."""

    kind: int
    lr: float
    decay_1: float
    decay_2: float
    eps: float
    weight_decay: float
    largest: float  # bound of |moment / sqrt(moment)|, which can be exceeded only in a race


def optimizer_of(config: OptimizerConfig) -> OptimizerConstants:
    """The constants of a configured optimizer."""
    if isinstance(config, AdamConfig):
        kind = AMSGRAD if config.amsgrad else ADAM
        return OptimizerConstants(
            kind, config.lr, *config.betas, config.eps, config.weight_decay, adam_bound(*config.betas)
        )
    assert isinstance(config, RMSpropConfig)
    largest = rmsprop_bound(config.alpha)
    return OptimizerConstants(RMSPROP, config.lr, 0.0, config.alpha, config.eps, config.weight_decay, largest)


@helper
def step_and_pull(
    optimizer: OptimizerConstants,
    theta: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    largest_second: np.ndarray,
    gradient: np.ndarray,
    update: int,
    local: np.ndarray,
) -> None:
    """Apply the gradient (P,) as update number `update`, counted from 1, and copy the result: θ' ← θ.

    first, second, largest_second: moments (P,). RMSprop uses only the second, and only AMSGrad the largest second."""
    number = theta.dtype.type
    decay_2 = number(optimizer.decay_2)
    rest_1, rest_2 = number(1.0 - optimizer.decay_1), number(1.0 - optimizer.decay_2)
    tiny, zero = number(TINY), number(0)
    weight_decay, bound = number(optimizer.weight_decay), number(optimizer.largest)
    if optimizer.kind == RMSPROP:
        lr, eps = number(optimizer.lr), number(optimizer.eps)
        for i in range(len(theta)):
            g = gradient[i] + weight_decay * theta[i]
            v = decay_2 * second[i] + rest_2 * g * g
            v = v if v > tiny else zero
            second[i] = v
            local[i] = theta[i] - lr * min(max(g / (np.sqrt(v) + eps), -bound), bound)
            theta[i] = local[i]
        return
    correction = math.sqrt(1.0 - optimizer.decay_2**update)
    lr = number(optimizer.lr * correction / (1.0 - optimizer.decay_1**update))
    eps = number(optimizer.eps * correction)
    if optimizer.kind == ADAM:
        for i in range(len(theta)):
            g = gradient[i] + weight_decay * theta[i]
            m = first[i] + rest_1 * (g - first[i])
            m = m if abs(m) > tiny else zero
            v = decay_2 * second[i] + rest_2 * g * g
            v = v if v > tiny else zero
            first[i] = m
            second[i] = v
            local[i] = theta[i] - lr * min(max(m / (np.sqrt(v) + eps), -bound), bound)
            theta[i] = local[i]
    else:
        for i in range(len(theta)):
            g = gradient[i] + weight_decay * theta[i]
            m = first[i] + rest_1 * (g - first[i])
            m = m if abs(m) > tiny else zero
            v = decay_2 * second[i] + rest_2 * g * g
            v = v if v > tiny else zero
            largest = max(largest_second[i], v)
            first[i] = m
            second[i] = v
            largest_second[i] = largest
            local[i] = theta[i] - lr * min(max(m / (np.sqrt(largest) + eps), -bound), bound)
            theta[i] = local[i]
