"""backend=manual against backend=autograd, and both against torch.autograd.grad of the report's equation."""

import numpy as np
import pytest
import torch
from helpers import computers, config_of, random_rollout

from ablate.algos.a3c.gradients import BACKENDS, LossSettings
from ablate.nn.distributions import make_distribution
from ablate.nn.mlp_architecture import MlpArchitecture
from ablate.nn.optimizers import make_optimizer
from ablate.types import ActionSpec, Trajectory

BOX = ActionSpec(low=(-2.0,), high=(2.0,))
BOX3 = ActionSpec(low=(-1.0, -2.0, 0.0), high=(1.0, 2.0, 3.0))
DISCRETE = ActionSpec(n=5)
S1 = LossSettings(gae_lambda=1.0, value_loss_coef=1.0, entropy_coef=0.005, reduction="mean")
S2 = LossSettings(gae_lambda=0.9, value_loss_coef=0.25, entropy_coef=0.01, reduction="sum")


def architecture(
    action: ActionSpec,
    actor: tuple[int, ...] = (200,),
    critic: tuple[int, ...] = (100,),
    activation: str = "relu6",
    torso: tuple[int, ...] = (),
) -> MlpArchitecture:
    """An architecture for observations of 3 numbers, from the widths of its hidden layers."""
    shared = (3, *torso)
    outputs = action.n or 2 * len(action.low)
    scale = tuple((high - low) / 2 for low, high in zip(action.low, action.high, strict=True))
    centre = tuple((high + low) / 2 for low, high in zip(action.low, action.high, strict=True))
    return MlpArchitecture(shared, (shared[-1], *actor, outputs), (shared[-1], *critic, 1), activation,
                           not action.is_discrete, centre, scale, 1e-4)  # fmt: skip


def check_gradients(arch: MlpArchitecture, action: ActionSpec, settings: LossSettings) -> None:
    both = computers(arch, action, settings, torch.float64)
    rng = np.random.default_rng(1)
    for steps in (1, 10):
        rollout = random_rollout(rng, 3, action, steps, terminated=steps == 10)
        losses = [float(computer.compute(rollout)[0]) for computer in both.values()]
        assert losses[0] == pytest.approx(losses[1], rel=1e-12)
        torch.testing.assert_close(both["manual"].gradient, both["autograd"].gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("settings", [S1, S2])
@pytest.mark.parametrize("action", [BOX, BOX3, DISCRETE])
@pytest.mark.parametrize("activation", ["relu", "relu6", "tanh", "elu"])
@pytest.mark.parametrize(("actor", "critic"), [((200,), (100,)), ((), ()), ((32, 16, 8), (32, 16, 100))])
def test_manual_agrees_with_autograd(
    settings: LossSettings, action: ActionSpec, activation: str, actor: tuple[int, ...], critic: tuple[int, ...]
) -> None:
    check_gradients(architecture(action, actor, critic, activation), action, settings)


@pytest.mark.parametrize("action", [BOX3, DISCRETE])
@pytest.mark.parametrize("activation", ["relu", "relu6", "tanh", "elu"])
@pytest.mark.parametrize("torso", [(32,), (2,), (16, 16), (4, 64, 8)])
@pytest.mark.parametrize(("actor", "critic"), [((), ()), ((8,), ()), ((), (200,)), ((64, 2), (5, 5, 5))])
def test_manual_agrees_with_autograd_with_a_torso(
    action: ActionSpec, activation: str, torso: tuple[int, ...], actor: tuple[int, ...], critic: tuple[int, ...]
) -> None:
    check_gradients(architecture(action, actor, critic, activation, torso), action, S2)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("action", [BOX, DISCRETE])
def test_backends_agree_after_200_updates_on_the_same_rollouts(
    dtype: torch.dtype, tolerance: float, action: ActionSpec
) -> None:
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
            optimizer.step(computer.gradient, update, optimizer_config.lr)
    difference = (both["manual"].parameters - both["autograd"].parameters).abs().max()
    assert difference <= tolerance


def report_gradient(flat: torch.Tensor, arch: MlpArchitecture, rollout: Trajectory) -> torch.Tensor:
    """The gradient of S1's loss, by torch.distributions and autograd. Only the layout is from our code."""
    theta = flat.clone().requires_grad_()
    p = arch.layout().views(theta)
    s = torch.from_numpy(rollout.observations)

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def part(name: str, x: torch.Tensor) -> torch.Tensor:
        return linear(f"{name}.1", torch.nn.functional.relu6(linear(f"{name}.0", x)))

    x = torch.nn.functional.relu6(linear("torso.0", s)) if "torso.0.weight" in p else s
    v = part("critic", x)[:, 0]
    target = v[-1].item()
    targets = []
    for r, discount in zip(rollout.rewards[::-1], rollout.discounts[::-1], strict=True):
        target = r + discount * target
        targets.insert(0, target)
    z = part("actor", x[:-1])
    policy = torch.distributions.Normal(2.0 * torch.tanh(z[:, :1]), torch.nn.functional.softplus(z[:, 1:]) + 1e-4)
    td = torch.tensor(targets, dtype=torch.float64) - v[:-1]
    log_prob = policy.log_prob(torch.from_numpy(rollout.actions))[:, 0]
    loss = (td.square() - (log_prob * td.detach() + 0.005 * policy.entropy()[:, 0])).mean()
    return torch.autograd.grad(loss, theta)[0]


@pytest.mark.parametrize("backend", ["autograd", "manual"])
@pytest.mark.parametrize("torso", [(), (32,)])
def test_the_gradient_is_the_reports_and_of_this_rollout_only(backend: str, torso: tuple[int, ...]) -> None:
    """torch 2 makes it easy to keep gradients of earlier rollouts in .grad, or to use only the first one."""
    arch = architecture(BOX, torso=torso)
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
def test_the_gradient_on_a_gpu_is_the_same(backend: str) -> None:
    arch = architecture(BOX)
    rollout = random_rollout(np.random.default_rng(0), 3, BOX, 10, terminated=False)
    cpu = computers(arch, BOX, S1, torch.float64)[backend]
    gpu = BACKENDS[backend](arch, make_distribution(BOX), S1, "cuda", torch.float64)
    gpu.parameters.copy_(cpu.parameters)
    cpu.compute(rollout)
    gpu.compute(rollout)
    torch.testing.assert_close(gpu.gradient.cpu(), cpu.gradient, rtol=1e-9, atol=1e-11)
