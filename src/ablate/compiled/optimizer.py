"""Adam, AMSGrad and RMSprop inside kernels, as in nn/optimizers.py, with the same bound against races."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ablate.compiled.jit import helper
from ablate.config.choices import ScheduleKind
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
    eps_inside_root: bool  # RMSprop
    lr_end: float
    decay_steps: int  # of the linear schedule, from lr to lr_end; 0: see decay_episodes
    decay_episodes: int  # ... if the schedule follows the episodes; 0: the learning rate is constant


def optimizer_of(config: OptimizerConfig) -> OptimizerConstants:
    """The constants of the configuration."""
    if isinstance(config, AdamConfig):
        kind, decays, largest = AMSGRAD if config.amsgrad else ADAM, config.betas, adam_bound(*config.betas)
        inside = False
    else:
        assert isinstance(config, RMSpropConfig)
        kind, decays, largest = RMSPROP, (0.0, config.alpha), rmsprop_bound(config.alpha)
        inside = config.eps_inside_root
    follows_steps = config.decay_steps is not None
    decays_at_all = config.schedule != ScheduleKind.constant
    return OptimizerConstants(
        kind,
        config.lr,
        *decays,
        config.eps,
        config.weight_decay,
        largest,
        inside,
        config.lr_end,
        (config.decay_steps or 0) * decays_at_all,
        (config.decay_episodes or 0) * (decays_at_all and not follows_steps),
    )


@helper
def learning_rate(optimizer: OptimizerConstants, steps: int, episodes: int) -> float:
    """The step size after these steps and episodes of all workers, as `OptimizerConfig.learning_rate`."""
    at, total = steps, optimizer.decay_steps
    if total == 0:
        at, total = episodes, optimizer.decay_episodes
    if total == 0:
        return optimizer.lr
    return optimizer.lr + (optimizer.lr_end - optimizer.lr) * min(1.0, at / total)


@helper
def step_and_pull(
    optimizer: OptimizerConstants,
    theta: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    largest_second: np.ndarray,
    gradient: np.ndarray,
    update: int,
    learning_rate: float,
    local: np.ndarray,
) -> None:
    """Apply gradient (P,) as update number `update`, counted from 1, with this step size. Copy the result: θ' ← θ.

    first, second, largest_second: moments (P,). RMSprop uses only the second, and only AMSGrad the largest second."""
    number = theta.dtype.type
    decay_2 = number(optimizer.decay_2)
    rest_1, rest_2 = number(1.0 - optimizer.decay_1), number(1.0 - optimizer.decay_2)
    tiny, zero = number(TINY), number(0)
    weight_decay, bound = number(optimizer.weight_decay), number(optimizer.largest)
    if optimizer.kind == RMSPROP:
        lr, eps = number(learning_rate), number(optimizer.eps)
        for i in range(len(theta)):
            g = gradient[i] + weight_decay * theta[i]
            v = decay_2 * second[i] + rest_2 * g * g
            v = v if v > tiny else zero
            second[i] = v
            root = np.sqrt(v + eps) if optimizer.eps_inside_root else np.sqrt(v) + eps
            local[i] = theta[i] - lr * min(max(g / root, -bound), bound)
            theta[i] = local[i]
        return
    correction = math.sqrt(1.0 - optimizer.decay_2**update)
    lr = number(learning_rate * correction / (1.0 - optimizer.decay_1**update))
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
