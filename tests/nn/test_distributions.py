"""Distributions against torch.distributions, gradients against autograd."""

import pytest
import torch

from ablate.nn.distributions import make_distribution
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
def test_log_prob_and_entropy_equal_torchs(action: ActionSpec) -> None:
    outputs, taken = outputs_of(action)
    ours = make_distribution(action)
    if action.is_discrete:
        reference: torch.distributions.Distribution = torch.distributions.Categorical(logits=outputs[0])
    else:
        reference = torch.distributions.Independent(torch.distributions.Normal(*outputs), 1)
    torch.testing.assert_close(ours.log_prob(outputs, taken), reference.log_prob(taken))
    torch.testing.assert_close(ours.entropy(outputs), reference.entropy())


@pytest.mark.parametrize("action", [BOX, DISCRETE])
def test_backward_equals_autograds(action: ActionSpec) -> None:
    outputs, taken = outputs_of(action)
    outputs = tuple(output.requires_grad_() for output in outputs)
    ours = make_distribution(action)
    weights = torch.randn(len(taken), dtype=torch.float64)
    (ours.log_prob(outputs, taken) @ weights - 0.3 * ours.entropy(outputs).sum()).backward()
    detached = tuple(output.detach() for output in outputs)
    for output, gradient in zip(outputs, ours.backward(detached, taken, weights, -0.3), strict=True):
        torch.testing.assert_close(gradient, output.grad, rtol=1e-10, atol=1e-10)
