"""Networks for images: acting and gradients, manual against autograd, and both against the equations."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import config_of

from ablate.algos.a3c.conv_gradients import CONV_BACKENDS, ConvComputer
from ablate.algos.a3c.gradients import LossSettings
from ablate.nn import layers
from ablate.nn.architecture import architecture_of, initial_parameters
from ablate.nn.conv_architecture import ConvArchitecture
from ablate.nn.conv_networks import ManualConv
from ablate.nn.convolutions import Convolution
from ablate.types import ActionSpec, EnvSpec, Rollout

S2 = LossSettings(gae_lambda=1.0, value_loss_coef=0.25, entropy_coef=0.01, reduction="sum")
OTHER = LossSettings(gae_lambda=0.9, value_loss_coef=1.0, entropy_coef=0.02, reduction="mean")
SMALL = ConvArchitecture(
    input_shape=(2, 13, 10),
    convolutions=(Convolution(4, 3, 1, 1, True), Convolution(3, 2, 2, 1, False)),
    activation="elu", hidden=5, recurrent=True, layer_norm=False, actions=4, scale=1.0,
)  # fmt: skip


def real(model: str, actions: int = 6) -> ConvArchitecture:
    """The network in conf/model/<model>.yaml."""
    config = config_of("env=breakout", f"model={model}")
    dtype = "uint8" if model == "conv_84" else "float32"
    shape = tuple(config.model.input)  # type: ignore[attr-defined]
    architecture = architecture_of(config.model, EnvSpec(shape, ActionSpec(n=actions), None, dtype))
    assert isinstance(architecture, ConvArchitecture)
    return architecture


def random_parameters(architecture: ConvArchitecture, seed: int = 0) -> torch.Tensor:
    """float64, none of them 0."""
    rng = np.random.default_rng(seed)
    flat = np.zeros(architecture.layout().size)
    architecture.initialise(flat, rng)
    return torch.from_numpy(flat + 0.02 * rng.standard_normal(flat.size))


def both(
    architecture: ConvArchitecture,
    envs: int,
    t_max: int,
    settings: LossSettings = S2,
    dtype: torch.dtype = torch.float64,
) -> dict[str, ConvComputer]:
    made = {}
    for name, backend in CONV_BACKENDS.items():
        made[name] = backend(architecture, envs, t_max, settings, "cpu", dtype)
        made[name].parameters.copy_(random_parameters(architecture))
    return made


def random_rollout(
    architecture: ConvArchitecture, steps: int, envs: int, seed: int = 1, ends: tuple[tuple[int, int], ...] = ()
) -> Rollout:
    """ends: pairs (t, e): in environment e an episode ended with step t, counted from 1, and the next began."""
    rng = np.random.default_rng(seed)
    shape = (steps + 1, envs, *architecture.input_shape)
    images = rng.standard_normal(shape) if architecture.scale == 1.0 else rng.integers(0, 256, shape, np.uint8)
    firsts, discounts = np.zeros((steps + 1, envs), bool), np.full((steps, envs), 0.99)
    for t, e in ends:
        firsts[t, e], discounts[t - 1, e] = True, 0.0
    actions = rng.integers(architecture.actions, size=(steps, envs))
    return Rollout(images, firsts, actions, rng.standard_normal((steps, envs)), discounts)


def step_through(computer: ConvComputer, rollout: Rollout) -> tuple[np.ndarray, np.ndarray]:
    """Logits (T+1, E, n) and values (T+1, E) of all rows."""
    computer.start()
    rows = [computer.step(t, x, first) for t, (x, first) in enumerate(zip(*rollout[:2], strict=True))]
    logits, values = zip(*[(logits.copy(), values.copy()) for logits, values in rows], strict=True)
    return np.array(logits), np.array(values)


def compare(architecture: ConvArchitecture, envs: int, steps: int, ends: tuple[tuple[int, int], ...]) -> None:
    """Compare both backends over two rollouts: outputs, the loss, its parts and gradient, and the final state."""
    computers = both(architecture, envs, steps)
    for seed in (1, 2):
        rollout = random_rollout(architecture, steps, envs, seed, ends)
        (logits, values), (manual_logits, manual_values) = (step_through(c, rollout) for c in computers.values())
        np.testing.assert_allclose(manual_logits, logits, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(manual_values, values, rtol=1e-9, atol=1e-12)
        (loss, parts), (manual_loss, manual_parts) = (c.compute(rollout) for c in computers.values())
        torch.testing.assert_close((manual_loss, *manual_parts), (loss, *parts), rtol=1e-10, atol=1e-12)
        expected = architecture.layout().views(computers["autograd"].gradient)
        for name, d in architecture.layout().views(computers["manual"].gradient).items():
            assert expected[name].abs().max() > 0
            torch.testing.assert_close(d, expected[name], rtol=1e-8, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
        np.testing.assert_allclose(computers["manual"].state, computers["autograd"].state, rtol=1e-6, atol=1e-7)


ENDS = {1: ((7, 0), (20, 0)), 3: ((1, 2), (7, 0), (12, 2))}


@pytest.mark.parametrize(
    ("model", "envs"),
    [("conv_lstm_42", 1), ("conv_lstm_42", 3), ("conv_84", 1), ("conv_84", 3), ("conv_pool_lstm_80", 1),
     pytest.param("conv_pool_lstm_80", 3, marks=pytest.mark.slow)],
)  # fmt: skip
def test_manual_agrees_with_autograd_at_full_size(model: str, envs: int) -> None:
    compare(real(model), envs, 20, ENDS[envs])


def test_manual_agrees_with_autograd_without_convolutions() -> None:
    compare(replace(SMALL, convolutions=()), 3, 5, ())


@pytest.mark.parametrize("envs", [1, 3])
@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("recurrent", [True, False])
@pytest.mark.parametrize("activation", ["relu", "relu6", "tanh", "elu"])
def test_manual_agrees_with_autograd(activation: str, recurrent: bool, layer_norm: bool, envs: int) -> None:
    architecture = replace(SMALL, activation=activation, recurrent=recurrent, layer_norm=layer_norm)
    compare(architecture, envs, 20, ENDS[envs])


def test_chunks_of_the_backward_pass_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 7  # of the first layer; neither this nor the second layer's number divides 20 · 3
    monkeypatch.setattr("ablate.nn.conv_networks.CHUNK_BYTES", rows * (2 + 4) * 13 * 10 * 8)
    compare(SMALL, 3, 20, ENDS[3])


# ----------------------------------------------------------------------------- the equations


def forward(
    architecture: ConvArchitecture, theta: torch.Tensor, rollout: Rollout, e: int, state: tuple[torch.Tensor, ...]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits (T+1, n), values (T+1,) and the state before row T of one environment, image by image."""
    p = architecture.layout().views(theta)
    h, c = state
    logits, values = [], []
    for image, first in zip(rollout.observations[:, e], rollout.firsts[:, e], strict=True):
        before = torch.stack((h, c))
        if first:
            h, c = torch.zeros_like(h), torch.zeros_like(c)
        x = torch.from_numpy(image).double() * architecture.scale
        for i, layer in enumerate(architecture.convolutions):
            y = F.conv2d(x, p[f"conv.{i}.weight"], p[f"conv.{i}.bias"], layer.stride, layer.padding)
            y = F.elu(y) if architecture.activation == "elu" else F.relu(y)
            x = F.max_pool2d(y, 2) if layer.pool else y
        x = x.permute(1, 2, 0).reshape(-1)
        a = p["lstm.weight_ih"] @ x + p["lstm.bias_ih"] + p["lstm.weight_hh"] @ h + p["lstm.bias_hh"]
        i_, f_, g_, o_ = a.split(architecture.hidden)
        c = torch.sigmoid(f_) * c + torch.sigmoid(i_) * torch.tanh(g_)
        h = torch.sigmoid(o_) * torch.tanh(c)
        logits.append(p["actor.weight"] @ h + p["actor.bias"])
        values.append((p["critic.weight"] @ h + p["critic.bias"])[0])
    return torch.stack(logits), torch.stack(values), before


def reports_loss(logits: torch.Tensor, values: torch.Tensor, rollout: Rollout, e: int, s: LossSettings) -> torch.Tensor:
    """S2's loss for one environment, with its sums term by term: gae_i = Σ_k (Π discounts · λ^k) δ_{i+k}."""
    r, discount, steps = rollout.rewards[:, e], rollout.discounts[:, e], len(rollout.rewards)
    v = values.detach().numpy()
    delta = [r[i] + discount[i] * v[i + 1] - v[i] for i in range(steps)]
    policy = torch.distributions.Categorical(logits=logits[:-1])
    log_prob = policy.log_prob(torch.from_numpy(rollout.actions[:, e]))
    loss = torch.zeros((), dtype=torch.float64)
    for i in range(steps):
        gae = sum(np.prod(discount[i : i + k]) * s.gae_lambda**k * delta[i + k] for k in range(steps - i))
        n_step = sum(np.prod(discount[i : i + k]) * r[i + k] for k in range(steps - i)) + np.prod(discount[i:]) * v[-1]
        loss = loss + s.value_loss_coef * (n_step - values[i]) ** 2 - gae * log_prob[i]
        loss = loss - s.entropy_coef * policy.entropy()[i]
    return loss / steps if s.reduction == "mean" else loss


@pytest.mark.parametrize("settings", [S2, OTHER])
@pytest.mark.parametrize("backend", ["autograd", "manual"])
def test_the_gradient_is_the_reports_and_of_this_rollout_only(backend: str, settings: LossSettings) -> None:
    """Over consecutive rollouts: the state is carried over, detached, and starts from 0 with an episode."""
    computer = both(SMALL, 3, 8, settings)[backend]
    states = [torch.zeros(2, 5, dtype=torch.float64) for _ in range(3)]
    cuts: list[tuple[tuple[int, int], ...]] = [((3, 0),), (), ((5, 1), (8, 2)), ((1, 0), (6, 0))]
    next_firsts = np.zeros(3, bool)
    for seed, (steps, ends) in enumerate(zip((8, 8, 8, 6), cuts, strict=True)):
        rollout = random_rollout(SMALL, steps, 3, seed, ends)
        rollout.firsts[0] = next_firsts  # the last row of the rollout before
        logits, values = step_through(computer, rollout)
        loss, _ = computer.compute(rollout)
        theta = computer.parameters.clone().requires_grad_()
        losses = []
        for e in range(3):
            expected_logits, expected_values, state = forward(SMALL, theta, rollout, e, tuple(states[e]))
            np.testing.assert_allclose(logits[:, e], expected_logits.detach(), rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(values[:, e], expected_values.detach(), rtol=1e-9, atol=1e-12)
            losses.append(reports_loss(expected_logits, expected_values, rollout, e, settings))
            states[e] = state.detach()
        expected_loss = torch.stack(losses).mean()
        assert float(loss) == pytest.approx(expected_loss.item(), rel=1e-10)
        expected = torch.autograd.grad(expected_loss, theta)[0]
        torch.testing.assert_close(computer.gradient, expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(computer.state, torch.stack(states, 1), rtol=1e-6, atol=1e-7)
        computer.parameters.add_(0.01 * computer.gradient)
        next_firsts = rollout.firsts[-1]


@pytest.mark.parametrize("backend", ["autograd", "manual"])
def test_state_can_be_saved_and_set(backend: str) -> None:
    rollouts = [random_rollout(SMALL, 6, 2, seed, ((2, 1),)) for seed in range(2)]
    whole, resumed = both(SMALL, 2, 6)[backend], both(SMALL, 2, 6)[backend]
    step_through(whole, rollouts[0])
    step_through(resumed, rollouts[1])  # will be forgotten
    resumed.set_state(whole.state)
    logits, values = step_through(whole, rollouts[1])
    fresh_logits, _ = step_through(both(SMALL, 2, 6)[backend], rollouts[1])
    assert np.abs(fresh_logits[0] - logits[0]).max() > 1e-4  # the state matters
    for mine, expected in zip(step_through(resumed, rollouts[1]), (logits, values), strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("model", ["conv_lstm_42", "conv_84"])
def test_float32_agrees_with_float64(model: str) -> None:
    architecture = real(model)
    rollout = random_rollout(architecture, 5, 2, ends=((3, 0),))
    for name, single in both(architecture, 2, 5, dtype=torch.float32).items():
        double = both(architecture, 2, 5)[name]
        for computer in (single, double):
            step_through(computer, rollout)
            computer.compute(rollout)
        assert single.gradient.dtype == torch.float32
        scale = float(double.gradient.abs().max())
        torch.testing.assert_close(single.gradient.double(), double.gradient, rtol=1e-3, atol=1e-5 * scale)


def test_a_network_of_one_row_acts_as_the_worker_does() -> None:
    """As a policy uses it: the state after the row becomes the state before it."""
    architecture = real("conv_lstm_42")
    computer = both(architecture, 2, 9, dtype=torch.float32)["manual"]
    player = ManualConv(architecture, computer.parameters.clone(), torch.zeros_like(computer.parameters), 1, 2)
    rollout = random_rollout(architecture, 9, 2, ends=((4, 1),))
    expected_logits, expected_values = step_through(computer, rollout)
    for t in range(10):
        heads = player.forward(0, torch.from_numpy(rollout.observations[t]), rollout.firsts[t])
        player.state[0] = player.state[1]
        np.testing.assert_allclose(heads[:, :-1], expected_logits[t], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(heads[:, -1], expected_values[t], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", ["autograd", "manual"])
@pytest.mark.parametrize(("model", "layer_norm"), [("conv_84", False), ("conv_84", True), ("conv_lstm_42", True)])
def test_bfloat16_agrees_with_float32_up_to_rounding(model: str, layer_norm: bool, backend: str) -> None:
    architecture = replace(real(model), layer_norm=layer_norm)
    rollout = random_rollout(architecture, 5, 4, ends=((3, 0),))
    parameters = random_parameters(architecture)
    gradients, outputs = [], []
    for precision in ("float32", "bf16"):
        computer = CONV_BACKENDS[backend](architecture, 4, 5, S2, "cpu", torch.float32, precision)
        computer.parameters.copy_(parameters)
        outputs.append(step_through(computer, rollout))
        computer.compute(rollout)
        assert computer.gradient.dtype == torch.float32
        gradients.append(architecture.layout().views(computer.gradient))
    (logits, values), (rounded_logits, rounded_values) = outputs
    assert (rounded_logits != logits).any()
    np.testing.assert_allclose(rounded_logits, logits, atol=0.03)
    np.testing.assert_allclose(rounded_values, values, atol=0.03 * np.abs(values).max())
    for name, exact in gradients[0].items():
        rounded = gradients[1][name]
        assert F.cosine_similarity(rounded.flatten(), exact.flatten(), 0) > 0.98, name
        assert float(rounded.norm()) == pytest.approx(float(exact.norm()), rel=0.1), name


@pytest.mark.parametrize("model", ["conv_84", "conv_lstm_42"])
def test_a_processor_without_bfloat16_computes_the_same_gradient(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch multiplies bfloat16 on any processor, slowly on some. Only the order of summation differs."""
    architecture = real(model)
    rollout = random_rollout(architecture, 5, 4, ends=((3, 0),))
    gradients = []
    for as_float32 in (True, False):
        monkeypatch.setattr(layers, "BF16_AS_FLOAT32", as_float32)
        computer = CONV_BACKENDS["manual"](architecture, 4, 5, S2, "cpu", torch.float32, "bf16")
        computer.parameters.copy_(random_parameters(architecture))
        step_through(computer, rollout)
        computer.compute(rollout)
        gradients.append(architecture.layout().views(computer.gradient))
    for name, ours in gradients[0].items():
        assert F.cosine_similarity(ours.flatten(), gradients[1][name].flatten(), 0) > 0.9999, name


def test_parameters_that_were_pulled_are_rounded_again() -> None:
    architecture = replace(SMALL, recurrent=False)
    rollout = random_rollout(architecture, 5, 2)
    computer, fresh = (CONV_BACKENDS["manual"](architecture, 2, 5, S2, "cpu", torch.float32, "bf16") for _ in range(2))
    computer.parameters.copy_(random_parameters(architecture, 1))
    step_through(computer, rollout)
    for each in (computer, fresh):
        each.parameters.copy_(random_parameters(architecture, 2))
    fresh.set_state(computer.state)
    for ours, expected in zip(step_through(computer, rollout), step_through(fresh, rollout), strict=True):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("backend", ["autograd", "manual"])
@pytest.mark.parametrize("model", ["conv_lstm_42", "conv_pool_lstm_80", "conv_84"])
def test_the_gradient_on_a_gpu_is_the_same(model: str, backend: str) -> None:
    architecture = real(model)
    cpu = both(architecture, 2, 5)[backend]
    gpu = CONV_BACKENDS[backend](architecture, 2, 5, S2, "cuda", torch.float64)
    gpu.parameters.copy_(cpu.parameters)
    rollout = random_rollout(architecture, 5, 2, ends=((3, 0),))
    for computer in (cpu, gpu):
        step_through(computer, rollout)
        computer.compute(rollout)
    torch.testing.assert_close(gpu.gradient.cpu(), cpu.gradient, rtol=1e-8, atol=1e-11)


def test_initial_parameters_are_those_of_the_reports() -> None:
    architecture = real("conv_pool_lstm_80")
    flat = initial_parameters(architecture, np.random.default_rng(0))
    assert flat.dtype == np.float32
    views = architecture.layout().views(flat)
    bounds = {
        "conv.0.weight": np.sqrt(2.0 * 6 / (25 * (1 + 32))),
        "conv.1.weight": np.sqrt(2.0 * 6 / (25 * (32 + 32))),
        "conv.2.weight": np.sqrt(2.0 * 6 / (16 * (32 + 64))),
        "conv.3.weight": np.sqrt(2.0 * 6 / (9 * (64 + 64))),
        "lstm.weight_ih": 1 / np.sqrt(512), "lstm.weight_hh": 1 / np.sqrt(512),
    }  # fmt: skip
    for name, bound in bounds.items():
        largest = np.abs(views[name]).max()
        assert 0.98 * bound < largest <= bound * (1 + 1e-6)
        assert np.std(views[name]) == pytest.approx(bound / np.sqrt(3), rel=0.05)  # uniform
    np.testing.assert_allclose(np.linalg.norm(views["actor.weight"], axis=1), 0.01, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(views["critic.weight"], axis=1), 1.0, rtol=1e-5)
    for name, view in views.items():
        assert name.split(".")[-1].startswith("bias") == (not view.any())
