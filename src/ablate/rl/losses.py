"""The actor-critic loss of A3C, followed by its gradient, derived by hand."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class A3CMetrics(NamedTuple):
    """The parts of the loss, reduced over the rollout, unweighted."""

    policy_loss: Tensor
    value_loss: Tensor
    entropy: Tensor


def a3c_loss(
    log_prob_t: Tensor,
    entropy_t: Tensor,
    v_t: Tensor,
    advantage_t: Tensor,
    return_t: Tensor,
    *,
    value_loss_coef: float,
    entropy_coef: float,
    reduction: str,
) -> tuple[Tensor, A3CMetrics]:
    """L = reduce(c_v (R - V)² - log π(a|s) · A - β H(π)); reduce: mean or sum over time, then mean over environments.

    All inputs are (T,), or (T, E) for the rollouts of E environments. The gradient treats advantage and return as
    constants (Mnih et al. 2016, Algorithm S3)."""
    metrics = A3CMetrics(
        policy_loss=-_reduce(log_prob_t * advantage_t, reduction),
        value_loss=_reduce((return_t - v_t).square(), reduction),
        entropy=_reduce(entropy_t, reduction),
    )
    loss = metrics.policy_loss + value_loss_coef * metrics.value_loss - entropy_coef * metrics.entropy
    return loss, metrics


def a3c_loss_backward(
    v_t: Tensor,
    advantage_t: Tensor,
    return_t: Tensor,
    *,
    value_loss_coef: float,
    entropy_coef: float,
    reduction: str,
) -> tuple[Tensor, float, Tensor]:
    """∂L/∂log π_t = -A_t w, ∂L/∂H_t = -β w (the same for all t), ∂L/∂V_t = -2 c_v (R_t - V_t) w.

    w = 1/(T E) for the mean and 1/E for the sum."""
    w = (1.0 if reduction == "mean" else len(v_t)) / v_t.numel()
    return -w * advantage_t, -w * entropy_coef, (-2.0 * w * value_loss_coef) * (return_t - v_t)


def _reduce(x_t: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        return x_t.mean()
    return x_t.sum() if x_t.dim() == 1 else x_t.sum(0).mean()
