"""The LSTM over a rollout against torch's, which runs each stretch between two episode ends separately."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ablate.nn.recurrent import Lstm


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def reference(weight: Tensor, features: int, hidden: int) -> torch.nn.LSTM:
    """torch's LSTM with the weights that are rows of `weight`."""
    module = torch.nn.LSTM(features, hidden, dtype=torch.float64)
    with torch.no_grad():
        module.weight_ih_l0.copy_(weight[:features].T)
        module.bias_ih_l0.copy_(weight[features])
        module.weight_hh_l0.copy_(weight[features + 1 : -1].T)
        module.bias_hh_l0.copy_(weight[-1])
    return module


@pytest.mark.parametrize("scale", [1.0, 1e3])
@pytest.mark.parametrize(("envs", "features", "hidden"), [(1, 1, 1), (1, 288, 256), (3, 7, 4)])
def test_rollout_matches_torch(envs: int, features: int, hidden: int, scale: float) -> None:
    steps = 20
    weight = randn(features + 1 + hidden + 1, 4 * hidden) / np.sqrt(features + hidden)
    d_weight = torch.zeros_like(weight)
    lstm = Lstm(weight, d_weight, steps + 1, envs)
    xs, state, d_y = scale * randn(steps, envs, features, seed=1), randn(2, envs, hidden, seed=2), None
    firsts = np.zeros((steps, envs), bool)
    firsts[0, -1] = firsts[7, 0] = firsts[8, 0] = firsts[15, -1] = True

    lstm.state[0] = state
    for t in range(steps):
        lstm.x[t] = xs[t]
        lstm.forward(t, firsts[t])
    d_y = randn(steps, envs, hidden, seed=3)
    d_xs = lstm.backward(d_y, firsts)

    module, xs = reference(weight, features, hidden), xs.requires_grad_()
    loss = torch.zeros((), dtype=torch.float64)
    for e in range(envs):
        carried = tuple(part[None, e] for part in state)
        starts = sorted({0, *np.flatnonzero(firsts[:, e]).tolist()})
        for start, end in zip(starts, [*starts[1:], steps], strict=True):
            if firsts[start, e]:
                carried = tuple(torch.zeros_like(part) for part in carried)
            ys, carried = module(xs[start:end, e], carried)
            torch.testing.assert_close(lstm.y[start:end, e], ys.detach(), rtol=1e-9, atol=1e-12)
            loss = loss + (d_y[start:end, e] * ys).sum()
            carried = tuple(part.detach() for part in carried)
        torch.testing.assert_close(lstm.state[steps, :, e], torch.cat(carried), rtol=1e-9, atol=1e-12)
    loss.backward()  # every stretch but the first starts from 0: no gradient passes between them
    assert xs.grad is not None
    torch.testing.assert_close(d_xs, xs.grad, rtol=1e-8, atol=1e-11)
    gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
    expected = [gradients["weight_ih_l0"].T, gradients["bias_ih_l0"][None],
                gradients["weight_hh_l0"].T, gradients["bias_hh_l0"][None]]  # fmt: skip
    largest = float(torch.cat(expected).abs().max())
    torch.testing.assert_close(d_weight, torch.cat(expected), rtol=1e-8, atol=1e-13 * max(1.0, largest))
