"""The hand-written optimizers against torch.optim, step by step."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ablate.config.schema import AdamConfig, RMSpropConfig
from ablate.nn.optimizers import Adam, FusedAdam, Optimizer, RMSprop
from ablate.types import Counters

SIZE, STEPS = 257, 300
ADAM = AdamConfig(lr=1e-4, betas=(0.96, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False)
MAX_DIFFERENCE = {torch.float64: 1e-12, torch.float32: 1e-6}


def make_gradients(dtype: torch.dtype) -> Tensor:
    """(STEPS, SIZE): scales from 1e-6 to 1e2 along the vector, rising and falling in time, some exactly 0."""
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(STEPS, SIZE, generator=generator, dtype=torch.float64)
    gradients *= torch.logspace(-6, 2, SIZE, dtype=torch.float64)
    gradients *= torch.linspace(0, 6.28, STEPS, dtype=torch.float64).cos().abs()[:, None]
    gradients[:, ::50] = 0.0
    return gradients.to(dtype)


def make_parameters(dtype: torch.dtype) -> Tensor:
    return torch.linspace(-2.0, 2.0, SIZE, dtype=torch.float64).to(dtype)


def check_against_torch(
    optimizer: Optimizer, parameters: Tensor, reference: torch.optim.Optimizer, theta: Tensor
) -> None:
    for update, gradient in enumerate(make_gradients(parameters.dtype), start=1):
        gradient_before = gradient.clone()
        lr = reference.param_groups[0]["lr"] = 1e-4 * (1 + update % 3)  # a schedule changes it between two steps
        optimizer.step(gradient, update, lr)
        assert torch.equal(gradient, gradient_before)
        theta.grad = gradient
        reference.step()
        difference = (parameters - theta.detach()).abs().max().item()
        assert difference <= MAX_DIFFERENCE[parameters.dtype], f"{difference} at update {update}"
    assert not torch.equal(parameters, make_parameters(parameters.dtype))


@pytest.mark.parametrize("kind", [Adam, FusedAdam])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize(
    ("lr", "betas", "eps"),
    [(1e-4, (0.96, 0.999), 1e-8), (1e-3, (0.9, 0.999), 1.5e-4), (1e-3, (0.0, 0.5), 1e-8)],
)
def test_adam_equals_torch(
    kind: type[Adam | FusedAdam],
    dtype: torch.dtype,
    weight_decay: float,
    amsgrad: bool,
    lr: float,
    betas: tuple[float, float],
    eps: float,
) -> None:
    parameters, theta = make_parameters(dtype), make_parameters(dtype).requires_grad_()
    moments = torch.zeros(3, SIZE, dtype=dtype)
    config = AdamConfig(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad)
    optimizer = kind(config, parameters, list(moments[: len(config.statistics)]))
    reference = torch.optim.Adam([theta], lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad)
    check_against_torch(optimizer, parameters, reference, theta)
    state = reference.state[theta]
    torch.testing.assert_close(moments[0], state["exp_avg"])
    torch.testing.assert_close(moments[1], state["exp_avg_sq"])
    if amsgrad:
        torch.testing.assert_close(moments[2], state["max_exp_avg_sq"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize(("alpha", "eps"), [(0.99, 1e-8), (0.95, 0.1)])
def test_rmsprop_equals_torch(dtype: torch.dtype, weight_decay: float, alpha: float, eps: float) -> None:
    parameters, theta = make_parameters(dtype), make_parameters(dtype).requires_grad_()
    square_avg = torch.zeros(SIZE, dtype=dtype)
    config = RMSpropConfig(lr=1e-4, alpha=alpha, eps=eps, weight_decay=weight_decay)
    optimizer = RMSprop(config, parameters, [square_avg])
    reference = torch.optim.RMSprop([theta], lr=1e-4, alpha=alpha, eps=eps, weight_decay=weight_decay)
    check_against_torch(optimizer, parameters, reference, theta)
    torch.testing.assert_close(square_avg, reference.state[theta]["square_avg"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rmsprop_has_eps_inside_the_root_as_in_the_paper(dtype: torch.dtype) -> None:
    """Mnih et al. 2016, eq. S2 and S3: g ← α g + (1 - α) Δθ², θ ← θ - η Δθ / √(g + ε), number by number."""
    alpha, eps, lr = 0.99, 0.1, 7e-4
    parameters, square_avg = make_parameters(dtype), torch.zeros(SIZE, dtype=dtype)
    config = RMSpropConfig(lr=lr, alpha=alpha, eps=eps, weight_decay=0.0, eps_inside_root=True)
    optimizer = RMSprop(config, parameters, [square_avg])
    theta, g = make_parameters(torch.float64).tolist(), [0.0] * SIZE
    for update, gradient in enumerate(make_gradients(dtype)[:50], start=1):
        optimizer.step(gradient, update, lr)
        for i, change in enumerate(gradient.tolist()):
            g[i] = alpha * g[i] + (1 - alpha) * change**2
            theta[i] -= lr * change / math.sqrt(g[i] + eps)
    difference = (parameters.double() - torch.tensor(theta, dtype=torch.float64)).abs().max().item()
    assert difference <= 10 * MAX_DIFFERENCE[dtype]


@pytest.mark.parametrize(
    ("steps", "episodes", "expected"), [(0, 0, 1e-3), (500, 3, 6e-4), (1000, 9, 2e-4), (2000, 0, 2e-4)]
)
def test_a_linear_schedule_follows_the_steps(steps: int, episodes: int, expected: float) -> None:
    config = RMSpropConfig(
        lr=1e-3,
        alpha=0.9,
        eps=1e-8,
        weight_decay=0.0,
        schedule="linear",
        lr_end=2e-4,
        decay_steps=1000,
        decay_episodes=10,
    )
    assert config.learning_rate(Counters(7, steps, episodes)) == pytest.approx(expected)
    by_episodes = replace(config, decay_steps=None)
    assert by_episodes.learning_rate(Counters(7, steps, 5)) == pytest.approx(6e-4)
    assert replace(config, schedule="constant").learning_rate(Counters(7, steps, episodes)) == 1e-3


def make_optimizers(tensors: Sequence[Tensor] | Tensor, lr: float) -> list[Optimizer]:
    """Adam over the first four of six vectors (or rows), RMSprop over the other two."""
    adam = AdamConfig(lr=lr, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1, amsgrad=True)
    rmsprop = RMSpropConfig(lr=lr, alpha=0.9, eps=1e-8, weight_decay=0.1)
    return [Adam(adam, tensors[0], tensors[1:4]), RMSprop(rmsprop, tensors[4], tensors[5:])]


def test_optimizers_change_the_callers_tensors_in_place() -> None:
    buffer = torch.zeros(6, SIZE).share_memory_()
    tensors = [buffer[row] for row in range(6)]
    pointers = [tensor.data_ptr() for tensor in tensors]
    optimizers = make_optimizers(tensors, lr=0.1)
    for update in range(1, 4):
        for optimizer in optimizers:
            optimizer.step(torch.ones(SIZE), update, 0.1)
    assert [tensor.data_ptr() for tensor in tensors] == pointers
    assert buffer.is_shared()
    assert (buffer != 0.0).all()


def test_two_optimizers_on_the_same_memory_act_as_one() -> None:
    """Workers take turns, each with its own object. Moments and count are shared."""
    alone, shared = torch.zeros(6, SIZE), torch.zeros(6, SIZE)
    workers = [make_optimizers(shared, 0.01), make_optimizers(shared, 0.01)]
    for update, gradient in enumerate(make_gradients(torch.float32)[:20], start=1):
        for optimizer in workers[update % 2]:
            optimizer.step(gradient, update, 0.01)
    for optimizer in make_optimizers(alone, 0.01):
        for update, gradient in enumerate(make_gradients(torch.float32)[:20], start=1):
            optimizer.step(gradient, update, 0.01)
    assert alone.any(dim=1).all()
    assert torch.equal(alone, shared)


def test_a_second_moment_lost_in_a_race_does_not_divide_by_epsilon() -> None:
    """Another process's gradient is in the first moment, but its square is lost. Unbounded, the step would be ~1e4."""
    theta, exp_avg, exp_avg_sq = torch.zeros(3, SIZE)
    exp_avg += 1.0
    adam = Adam(ADAM, theta, [exp_avg, exp_avg_sq])
    adam.step(torch.zeros(SIZE), 1, 1e-4)
    assert theta.abs().max() < 1e-3


def test_statistics_that_do_not_fit_are_refused() -> None:
    theta, rmsprop = torch.zeros(SIZE), RMSpropConfig(lr=0.1, alpha=0.9, eps=1e-8, weight_decay=0.0)
    with pytest.raises(ValueError, match=r"shape \(1,\).*shape \(257,\)"):
        RMSprop(rmsprop, theta, [torch.zeros(1)])
    with pytest.raises(ValueError, match=r"float64.*float32"):
        Adam(ADAM, theta, [torch.zeros(SIZE), torch.zeros(SIZE, dtype=torch.float64)])
