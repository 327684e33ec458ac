"""The loss of Q-learning, and its gradient by hand right under it. B: transitions of a batch, n: actions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def q_targets(
    return_t: Tensor, discount_t: Tensor, next_q_target: Tensor, next_q_online: Tensor | None = None
) -> Tensor:
    """y = r + discount · max_a Q⁻(s', a) (Mnih et al. 2015), Q⁻ the target network's.

    Double (van Hasselt et al. 2016), if next_q_online is given: y = r + discount · Q⁻(s', argmax_a Q(s', a)).
    return_t, discount_t: (B,), over n steps Σ_k γ^k r and γ^n, or 0 where nothing follows; next_q_...: (B, n). -> (B,),
    constants to the gradient."""
    if next_q_online is None:
        bootstrap = next_q_target.amax(1)
    else:
        bootstrap = next_q_target.gather(1, next_q_online.argmax(1, keepdim=True)).squeeze(1)
    return torch.addcmul(return_t, discount_t, bootstrap)


def td_errors(q_tm1: Tensor, a_tm1: Tensor, target_t: Tensor) -> Tensor:
    """δ = y - Q(s, a).  q_tm1 (B, n), a_tm1 (B,) int64, target_t (B,) -> (B,)."""
    return target_t - q_tm1.gather(1, a_tm1.unsqueeze(1)).squeeze(1)


def td_loss(delta: Tensor, weights: Tensor, loss: str) -> Tensor:
    """L = 1/B Σ w ℓ(δ); ℓ(δ) = δ² if loss is `squared` (without ½), if `smooth_l1` ½ δ² for |δ| < 1, else |δ| - ½.

    delta (B,), weights (B,): importance weights (Schaul et al. 2016), or ones."""
    if loss == "squared":
        return (weights * delta.square()).mean()
    return (weights * F.smooth_l1_loss(delta, torch.zeros_like(delta), reduction="none")).mean()


def td_loss_backward(delta: Tensor, weights: Tensor, a_tm1: Tensor, actions: int, loss: str) -> Tensor:
    """∂L/∂Q(s, a) = -w ℓ'(δ) / B, and 0 for actions not taken; ℓ'(δ) = 2 δ, or δ cut to ±1.  -> d_q (B, n)."""
    slope = 2.0 * delta if loss == "squared" else torch.clamp(delta, -1.0, 1.0)
    d_taken = (weights * slope).mul_(-1.0 / len(delta))
    return delta.new_zeros(len(delta), actions).scatter_(1, a_tm1.unsqueeze(1), d_taken.unsqueeze(1))
