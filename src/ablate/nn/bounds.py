"""What an optimizer's quotient cannot exceed in any serial order of updates.

Lock-free, a process can see another's gradient in the first moment and not yet in the second, and would divide by ε."""

from __future__ import annotations

import math

ROUNDING = 1.001  # room for rounding


def adam_bound(beta1: float, beta2: float) -> float:
    """|m| ≤ bound · √v, by Cauchy-Schwarz over the gradients that both are sums of; no bound if β₁² ≥ β₂."""
    if beta1 * beta1 >= beta2:
        return math.inf
    return ROUNDING * (1 - beta1) / math.sqrt((1 - beta2) * (1 - beta1 * beta1 / beta2))


def rmsprop_bound(alpha: float) -> float:
    """v ≥ (1 - α) g², whose root bounds |g| / √v."""
    return ROUNDING / math.sqrt(1 - alpha)
