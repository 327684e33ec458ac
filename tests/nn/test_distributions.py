"""Distributions against torch.distributions, gradients against autograd, draws against the analytic distribution."""

import numpy as np
import pytest
import torch
from scipy import stats

from ablate.nn.distributions import Categorical, Gaussian, make_distribution
from ablate.types import ActionSpec

BOX = ActionSpec(low=(-2.0, -1.0), high=(2.0, 1.0))
DISCRETE = ActionSpec(n=4, start=3)


def outputs_of(action: ActionSpec, rows: int = 7) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    torch.manual_seed(0)
    if action.is_discrete:
        return (torch.randn(rows, 4, dtype=torch.float64),), torch.randint(4, (rows,))
    mu, sigma = torch.randn(rows, 2, dtype=torch.float64), torch.rand(rows, 2, dtype=torch.float64) + 0.1
    return (mu, sigma), torch.randn(rows, 2, dtype=torch.float64)


@pytest.mark.parametrize("action", [BOX, DISCRETE])
def test_log_prob_and_entropy_are_torchs(action: ActionSpec) -> None:
    outputs, taken = outputs_of(action)
    ours = make_distribution(action)
    if action.is_discrete:
        reference: torch.distributions.Distribution = torch.distributions.Categorical(logits=outputs[0])
    else:
        reference = torch.distributions.Independent(torch.distributions.Normal(*outputs), 1)
    torch.testing.assert_close(ours.log_prob(outputs, taken), reference.log_prob(taken))
    torch.testing.assert_close(ours.entropy(outputs), reference.entropy())


@pytest.mark.parametrize("action", [BOX, DISCRETE])
def test_backward_is_autograds(action: ActionSpec) -> None:
    outputs, taken = outputs_of(action)
    outputs = tuple(output.requires_grad_() for output in outputs)
    ours = make_distribution(action)
    weights = torch.randn(len(taken), dtype=torch.float64)
    (ours.log_prob(outputs, taken) @ weights - 0.3 * ours.entropy(outputs).sum()).backward()
    detached = tuple(output.detach() for output in outputs)
    for output, gradient in zip(outputs, ours.backward(detached, taken, weights, -0.3), strict=True):
        torch.testing.assert_close(gradient, output.grad, rtol=1e-10, atol=1e-10)


def test_categorical_draws_follow_the_probabilities() -> None:
    logits = np.array([0.3, -1.0, 2.0, 0.0])
    p = np.exp(logits) / np.exp(logits).sum()
    rng = np.random.default_rng(0)
    draws = [Categorical(DISCRETE).sample((logits,), rng) for _ in range(20_000)]
    assert stats.chisquare(np.bincount(draws, minlength=4), p * len(draws)).pvalue > 1e-3


def test_categorical_never_draws_an_impossible_action() -> None:
    rng = np.random.default_rng(0)
    logits = np.array([-1e30, 0.0, -1e30, -1e30], np.float32)
    assert {Categorical(DISCRETE).sample((logits,), rng) for _ in range(1000)} == {1}


def test_gaussian_draws_follow_the_normal_distribution() -> None:
    rng = np.random.default_rng(0)
    mu, sigma = np.array([0.5, -1.0]), np.array([2.0, 0.3])
    draws = np.array([Gaussian(BOX).sample((mu, sigma), rng) for _ in range(5000)])
    for i in range(2):
        assert stats.kstest(draws[:, i], "norm", (mu[i], sigma[i])).pvalue > 1e-3


def test_what_the_environment_gets() -> None:
    np.testing.assert_array_equal(Gaussian(BOX).to_env(np.array([5.0, -0.5])), [2.0, -0.5])
    assert Categorical(DISCRETE).to_env(2) == 5
