"""Returns and advantages equal their definitions as explicit sums."""

import numpy as np
import pytest

from ablate.rl.returns import generalised_advantages, n_step_returns

RNG = np.random.default_rng(0)


def rollout(steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    discount_t = np.where(RNG.random(steps) < 0.2, 0.0, 0.9)
    return RNG.standard_normal(steps), discount_t, RNG.standard_normal(steps + 1)


@pytest.mark.parametrize("steps", [1, 2, 10, 50])
def test_n_step_return_is_the_discounted_sum(steps: int) -> None:
    r, discount, v = rollout(steps)
    returns = n_step_returns(r.tolist(), discount.tolist(), v[-1])
    for t in range(steps):
        weights = np.concatenate(([1.0], np.cumprod(discount[t:])))
        assert returns[t] == pytest.approx(weights[:-1] @ r[t:] + weights[-1] * v[-1])


@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 0.95, 1.0])
def test_gae_is_the_sum_of_discounted_residuals(gae_lambda: float) -> None:
    """gae_i = Σ_k (Π discount · λ)^k δ_{i+k}."""
    r, discount, v = rollout(20)
    delta = r + discount * v[1:] - v[:-1]
    advantages = generalised_advantages(r.tolist(), discount.tolist(), v.tolist(), gae_lambda)
    for t in range(20):
        weights = np.concatenate(([1.0], np.cumprod(discount[t:-1] * gae_lambda)))
        assert advantages[t] == pytest.approx(weights @ delta[t:])


def test_lambda_one_is_the_n_step_return_less_the_value() -> None:
    r, discount, v = rollout(20)
    advantages = generalised_advantages(r.tolist(), discount.tolist(), v.tolist(), 1.0)
    returns = n_step_returns(r.tolist(), discount.tolist(), v[-1])
    np.testing.assert_allclose(advantages, np.array(returns) - v[:-1], atol=1e-12)
