"""Returns and advantages of one rollout. For such short sequences, plain loops are faster than array operations."""

from __future__ import annotations

from collections.abc import Sequence


def n_step_returns(r_t: Sequence[float], discount_t: Sequence[float], bootstrap_value: float) -> list[float]:
    """R_tm1 = r_t + discount_t · R_t, from R_T = V(s_T) backwards (Mnih et al. 2016, Algorithm S3).

    r_t, discount_t: (T,) for t = 1 ... T. Returns (T,), for the states s_0 ... s_{T-1}."""
    returns = [0.0] * len(r_t)
    return_t = bootstrap_value
    for t in range(len(r_t) - 1, -1, -1):
        return_t = r_t[t] + discount_t[t] * return_t
        returns[t] = return_t
    return returns


def generalised_advantages(
    r_t: Sequence[float], discount_t: Sequence[float], values: Sequence[float], gae_lambda: float
) -> list[float]:
    """gae_tm1 = δ_t + discount_t · λ · gae_t; δ_t = r_t + discount_t · V(s_t) - V(s_tm1) (Schulman et al. 2016).

    r_t, discount_t: (T,); values: (T+1,), V(s_0) ... V(s_T). Returns (T,): for λ = 1, the n-step return minus V."""
    advantages = [0.0] * len(r_t)
    advantage_t = 0.0
    for t in range(len(r_t) - 1, -1, -1):
        delta_t = r_t[t] + discount_t[t] * values[t + 1] - values[t]
        advantage_t = delta_t + discount_t[t] * gae_lambda * advantage_t
        advantages[t] = advantage_t
    return advantages
