"""Bounds on an optimizer's quotient, which no serial order of updates can exceed.

Without locks, a process can see another's gradient in the first moment but not yet in the second. It would then divide
by ε. The optimizers clamp the quotient to these bounds."""

from __future__ import annotations

import math

ROUNDING = 1.001  # allowance for rounding


def adam_bound(beta1: float, beta2: float) -> float:
    """The bound in |m| ≤ bound · √v, by Cauchy-Schwarz over the sums of gradients; infinite if β₁² ≥ β₂."""
    if beta1 * beta1 >= beta2:
        return math.inf
    return ROUNDING * (1 - beta1) / math.sqrt((1 - beta2) * (1 - beta1 * beta1 / beta2))


def rmsprop_bound(alpha: float) -> float:
    """The bound in |g| ≤ bound · √v, since v ≥ (1 - α) g²."""
    return ROUNDING / math.sqrt(1 - alpha)
