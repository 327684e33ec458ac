"""Targets and loss of Q-learning equal plain loops, and the gradient by hand equals autograd."""

import numpy as np
import pytest
import torch

from ablate.rl.td import q_targets, td_errors, td_loss, td_loss_backward

B, N = 7, 4


def random(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return 2.0 * torch.randn(*shape, dtype=torch.float64, generator=generator)  # |δ| is on both sides of 1

    return {
        "q": normal(B, N), "next_q": normal(B, N), "online": normal(B, N), "returns": normal(B),
        "discounts": torch.tensor([0.99, 0.0, 0.99**3, 0.99, 0.9, 0.0, 0.5], dtype=torch.float64),
        "weights": torch.rand(B, dtype=torch.float64, generator=generator),
        "actions": torch.randint(N, (B,), generator=generator),
    }  # fmt: skip


@pytest.mark.parametrize("double", [False, True])
def test_targets_follow_the_equation(double: bool) -> None:
    x = random()
    targets = q_targets(x["returns"], x["discounts"], x["next_q"], x["online"] if double else None)
    expected = []
    for b in range(B):
        chooser = (x["online"] if double else x["next_q"])[b].tolist()
        best = chooser.index(max(chooser))
        expected.append(float(x["returns"][b]) + float(x["discounts"][b]) * float(x["next_q"][b, best]))
    np.testing.assert_allclose(targets, expected, rtol=1e-14)
    assert targets[1] == x["returns"][1]  # the episode ends there


def test_double_differs_where_the_networks_disagree() -> None:
    target, online = torch.tensor([[3.0, 1.0]]), torch.tensor([[0.0, 2.0]])
    r, discount = torch.tensor([0.5]), torch.tensor([0.5])
    assert q_targets(r, discount, target) == 2.0
    assert q_targets(r, discount, target, online) == 1.0


def test_td_errors_are_targets_minus_values() -> None:
    x = random()
    errors = td_errors(x["q"], x["actions"], x["returns"])
    expected = [float(x["returns"][b]) - float(x["q"][b, int(x["actions"][b])]) for b in range(B)]
    np.testing.assert_allclose(errors, expected, rtol=1e-14)


@pytest.mark.parametrize("loss", ["smooth_l1", "squared"])
def test_the_loss_and_its_gradient_equal_loops_and_autograd(loss: str) -> None:
    x = random()
    q = x["q"].clone().requires_grad_()
    delta = td_errors(q, x["actions"], x["returns"])
    assert delta.abs().min() < 1 < delta.abs().max()
    value = td_loss(delta, x["weights"], loss)
    expected = 0.0
    for w, d in zip(x["weights"].tolist(), delta.tolist(), strict=True):
        smooth = d * d / 2 if abs(d) < 1 else abs(d) - 1 / 2
        expected += w * (d * d if loss == "squared" else smooth) / B
    assert value.item() == pytest.approx(expected, rel=1e-13)

    (by_autograd,) = torch.autograd.grad(value, q)
    by_hand = td_loss_backward(delta.detach(), x["weights"], x["actions"], N, loss)
    torch.testing.assert_close(by_hand, by_autograd, rtol=1e-13, atol=0)
