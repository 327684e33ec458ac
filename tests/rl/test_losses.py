"""The loss over several environments is the mean of their losses."""

import pytest
import torch

from ablate.rl.losses import a3c_loss, a3c_loss_backward


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_loss_of_environments_is_the_mean_of_their_losses(reduction: str) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(5, 7, 3, dtype=torch.float64, generator=generator).unbind()  # each (T, E)
    log_prob, entropy, v = (x.clone().requires_grad_() for x in rows[:3])
    constants = {"value_loss_coef": 0.5, "entropy_coef": 0.03, "reduction": reduction}
    loss, metrics = a3c_loss(log_prob, entropy, v, *rows[3:], **constants)  # type: ignore[arg-type]
    alone = [a3c_loss(*(x[:, e] for x in (log_prob, entropy, v, *rows[3:])), **constants) for e in range(3)]  # type: ignore[arg-type]
    torch.testing.assert_close(loss, torch.stack([of_one for of_one, _ in alone]).mean())
    for part, *parts in zip(metrics, *(of_one for _, of_one in alone), strict=True):
        torch.testing.assert_close(part, torch.stack(parts).mean())

    expected = torch.autograd.grad(loss, [log_prob, entropy, v])
    d_log_prob, d_entropy, d_v = a3c_loss_backward(v.detach(), *rows[3:], **constants)  # type: ignore[arg-type]
    torch.testing.assert_close((d_log_prob, d_v), (expected[0], expected[2]))
    torch.testing.assert_close(torch.full_like(expected[1], d_entropy), expected[1])
