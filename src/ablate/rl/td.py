"""The loss of Q-learning, followed by its gradient, derived by hand. B: transitions of a batch, n: actions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def q_targets(
    return_t: Tensor, discount_t: Tensor, next_q_target: Tensor, next_q_online: Tensor | None = None
) -> Tensor:
    """y = r + discount · max_a Q⁻(s', a), with the target network Q⁻ (Mnih et al. 2015). Returns (B,).

    If next_q_online is given, Double DQN (van Hasselt et al. 2016): y = r + discount · Q⁻(s', argmax_a Q(s', a)).
    return_t: (B,) Σ_k γ^k r over n steps. discount_t: (B,) γ^n, or 0 if nothing is bootstrapped. next_q_target,
    next_q_online: (B, n). The gradient treats targets as constants."""
    if next_q_online is None:
        bootstrap = next_q_target.amax(1)
    else:
        bootstrap = next_q_target.gather(1, next_q_online.argmax(1, keepdim=True)).squeeze(1)
    return torch.addcmul(return_t, discount_t, bootstrap)


def td_errors(q_tm1: Tensor, a_tm1: Tensor, target_t: Tensor) -> Tensor:
    """δ = y - Q(s, a). q_tm1: (B, n); a_tm1: (B,) int64; target_t: (B,). Returns (B,)."""
    return target_t - q_tm1.gather(1, a_tm1.unsqueeze(1)).squeeze(1)


def td_loss(delta: Tensor, weights: Tensor, loss: str) -> Tensor:
    """L = 1/B Σ w ℓ(δ). loss=squared: ℓ(δ) = δ²; loss=smooth_l1: ℓ(δ) = ½ δ² for |δ| < 1, else |δ| - ½.

    delta: (B,). weights: (B,) importance weights (Schaul et al. 2016), or ones."""
    if loss == "squared":
        return (weights * delta.square()).mean()
    return (weights * F.smooth_l1_loss(delta, torch.zeros_like(delta), reduction="none")).mean()


def td_loss_backward(delta: Tensor, weights: Tensor, a_tm1: Tensor, actions: int, loss: str) -> Tensor:
    """∂L/∂Q(s, a) = -w ℓ'(δ) / B, and 0 for all other actions; ℓ'(δ) = 2 δ, or δ clipped to ±1. Returns (B, n)."""
    slope = 2.0 * delta if loss == "squared" else torch.clamp(delta, -1.0, 1.0)
    d_taken = (weights * slope).mul_(-1.0 / len(delta))
    return delta.new_zeros(len(delta), actions).scatter_(1, a_tm1.unsqueeze(1), d_taken.unsqueeze(1))
