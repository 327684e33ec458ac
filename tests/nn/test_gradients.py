"""backend=manual against backend=autograd, and both against torch.autograd.grad of the report's equation."""

import numpy as np
import pytest
import torch
from helpers import computers, config_of, random_rollout

from ablate.nn.adam import make_optimizer
from ablate.nn.architecture import MlpArchitecture
from ablate.nn.distributions import make_distribution
from ablate.nn.gradients import BACKENDS, LossSettings
from ablate.types import ActionSpec, Trajectory

BOX = ActionSpec(low=(-2.0,), high=(2.0,))
BOX3 = ActionSpec(low=(-1.0, -2.0, 0.0), high=(1.0, 2.0, 3.0))
DISCRETE = ActionSpec(n=5)
S1 = LossSettings(gae_lambda=1.0, value_loss_coef=1.0, entropy_coef=0.005, reduction="mean")
S2 = LossSettings(gae_lambda=0.9, value_loss_coef=0.25, entropy_coef=0.01, reduction="sum")


def architecture(action: ActionSpec, hidden: tuple[int, ...] = (200,), activation: str = "relu6") -> MlpArchitecture:
    outputs = action.n or 2 * len(action.low)
    scale = tuple((high - low) / 2 for low, high in zip(action.low, action.high, strict=True))
    centre = tuple((high + low) / 2 for low, high in zip(action.low, action.high, strict=True))
    return MlpArchitecture((3, *hidden, outputs), (3, *hidden[:-1], 100, 1), activation, not action.is_discrete,
                           centre, scale, 1e-4)  # fmt: skip


@pytest.mark.parametrize("settings", [S1, S2])
@pytest.mark.parametrize("action", [BOX, BOX3, DISCRETE])
@pytest.mark.parametrize("activation", ["relu", "relu6", "tanh", "elu"])
@pytest.mark.parametrize("hidden", [(200,), (), (32, 16, 8)])
def test_one_gradient(settings: LossSettings, action: ActionSpec, activation: str, hidden: tuple[int, ...]) -> None:
    if hidden == ():
        arch = MlpArchitecture((3, architecture(action).actor_sizes[-1]), (3, 1), activation, not action.is_discrete,
                               architecture(action).mu_centre, architecture(action).mu_scale, 1e-4)  # fmt: skip
    else:
        arch = architecture(action, hidden, activation)
    both = computers(arch, action, settings, torch.float64)
    rng = np.random.default_rng(1)
    for steps in (1, 10):
        rollout = random_rollout(rng, 3, action, steps, terminated=steps == 10)
        losses = [float(computer.compute(rollout)[0]) for computer in both.values()]
        assert losses[0] == pytest.approx(losses[1], rel=1e-12)
        torch.testing.assert_close(both["manual"].gradient, both["autograd"].gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("action", [BOX, DISCRETE])
def test_200_updates_on_the_same_rollouts(dtype: torch.dtype, tolerance: float, action: ActionSpec) -> None:
    optimizer_config = config_of().optimizer
    both = computers(architecture(action), action, S1, dtype)
    for computer in both.values():
        rng = np.random.default_rng(2)
        statistics = [torch.zeros_like(computer.parameters) for _ in optimizer_config.statistics]
        optimizer = make_optimizer(optimizer_config, computer.parameters, statistics)
        for update in range(1, 201):
            numpy_dtype = np.float64 if dtype == torch.float64 else np.float32
            rollout = random_rollout(rng, 3, action, 10, terminated=update % 7 == 0, dtype=numpy_dtype)
            computer.compute(rollout)
            optimizer.step(computer.gradient, update)
    difference = (both["manual"].parameters - both["autograd"].parameters).abs().max()
    assert difference <= tolerance


def report_gradient(flat: torch.Tensor, arch: MlpArchitecture, rollout: Trajectory) -> torch.Tensor:
    """S1's loss as the report writes it, with torch.distributions and autograd, from nothing of ours but the layout."""
    theta = flat.clone().requires_grad_()
    p = arch.layout().views(theta)
    s = torch.from_numpy(rollout.observations)

    def part(name: str, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.nn.functional.relu6(x @ p[f"{name}.0.weight"].T + p[f"{name}.0.bias"])
        return hidden @ p[f"{name}.1.weight"].T + p[f"{name}.1.bias"]

    v = part("critic", s)[:, 0]
    target = v[-1].item()
    targets = []
    for r, discount in zip(rollout.rewards[::-1], rollout.discounts[::-1], strict=True):
        target = r + discount * target
        targets.insert(0, target)
    z = part("actor", s[:-1])
    policy = torch.distributions.Normal(2.0 * torch.tanh(z[:, :1]), torch.nn.functional.softplus(z[:, 1:]) + 1e-4)
    td = torch.tensor(targets, dtype=torch.float64) - v[:-1]
    log_prob = policy.log_prob(torch.from_numpy(rollout.actions))[:, 0]
    loss = (td.square() - (log_prob * td.detach() + 0.005 * policy.entropy()[:, 0])).mean()
    return torch.autograd.grad(loss, theta)[0]


@pytest.mark.parametrize("backend", ["autograd", "manual"])
def test_gradient_is_the_reports_and_of_this_rollout_only(backend: str) -> None:
    """The trap of torch 2: gradients of earlier rollouts left in .grad, or the first one used for ever."""
    arch = architecture(BOX)
    computer = computers(arch, BOX, S1, torch.float64)[backend]
    rng = np.random.default_rng(3)
    for i in range(5):
        rollout = random_rollout(rng, 3, BOX, 10, terminated=i == 3)
        computer.compute(rollout)
        expected = report_gradient(computer.parameters, arch, rollout)
        torch.testing.assert_close(computer.gradient, expected, rtol=1e-9, atol=1e-11)
        computer.parameters.add_(0.01 * computer.gradient)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("backend", ["autograd", "manual"])
def test_on_a_gpu(backend: str) -> None:
    arch = architecture(BOX)
    rollout = random_rollout(np.random.default_rng(0), 3, BOX, 10, terminated=False)
    cpu = computers(arch, BOX, S1, torch.float64)[backend]
    gpu = BACKENDS[backend](arch, make_distribution(BOX), S1, "cuda", torch.float64)
    gpu.parameters.copy_(cpu.parameters)
    cpu.compute(rollout)
    gpu.compute(rollout)
    torch.testing.assert_close(gpu.gradient.cpu(), cpu.gradient, rtol=1e-9, atol=1e-11)
