"""Each hand-written pair against torch.nn.functional and autograd, in float64."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ablate.nn import layers
from ablate.nn.layer_norm import ManualLayerNorm


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def autograd(function: Callable[..., Tensor], d_y: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """The reference: gradients of `function` with respect to each of its inputs, by autograd."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    return torch.autograd.grad(function(*leaves), leaves, d_y)


def assert_close(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


# ----------------------------------------------------------------------------------- affine layers


@pytest.mark.parametrize(("batch", "n_in", "n_out"), [(1, 1, 1), (1, 3, 200), (10, 200, 1), (7, 288, 5)])
def test_linear_is_a_matrix_product(batch: int, n_in: int, n_out: int) -> None:
    x, weight, bias = randn(batch, n_in), randn(n_out, n_in, seed=1), randn(n_out, seed=2)
    assert_close(layers.linear(x, weight, bias), x @ weight.T + bias)


def check_conv2d(
    batch: int,
    channels: tuple[int, int],
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: int,
    padding: int,
) -> Tensor:
    """Compare the pair with autograd; return the output."""
    n_in, n_out = channels
    x, weight, bias = randn(batch, n_in, *size), randn(n_out, n_in, *kernel, seed=1), randn(n_out, seed=2)

    def reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(x, weight, bias, stride, padding)

    y = layers.conv2d(x, weight, bias, stride, padding)
    assert_close(y, reference(x, weight, bias))
    assert_close(layers.conv2d(x, weight, None, stride, padding), y - bias[:, None, None])
    d_y = randn(*y.shape, seed=3)
    d_x, d_weight, _ = autograd(reference, d_y, x, weight, bias)
    assert_close(layers.conv2d_backward_x(d_y, weight, x.shape, stride, padding), d_x)
    assert_close(layers.conv2d_backward_weight(d_y, x, weight.shape, stride, padding), d_weight)
    if kernel[0] == kernel[1]:
        windowed = weight.new_empty(n_out, *kernel, n_in).permute(0, 3, 1, 2)
        layers.WindowedWeightGradient(kernel[0], stride, padding)(d_y, x, windowed)
        assert_close(windowed, d_weight)
    return y


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("padding", [0, 1, 2, 4])
@pytest.mark.parametrize("kernel", [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (2, 3), (5, 1)])
@pytest.mark.parametrize("size", [(5, 5), (6, 9), (11, 8), (12, 7)])
def test_conv2d_matches_autograd_whether_or_not_the_stride_divides(
    stride: int, padding: int, kernel: tuple[int, int], size: tuple[int, int]
) -> None:
    check_conv2d(3, (2, 4), size, kernel, stride, padding)


@settings(max_examples=50)
@given(
    batch=st.integers(1, 4),
    channels=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    extra=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    stride=st.integers(1, 6),
    padding=st.integers(0, 3),
)
def test_conv2d_matches_autograd_on_any_geometry(
    batch: int,
    channels: tuple[int, int],
    kernel: tuple[int, int],
    extra: tuple[int, int],
    stride: int,
    padding: int,
) -> None:
    height, width = (max(1, k - 2 * padding) + e for k, e in zip(kernel, extra, strict=True))
    check_conv2d(batch, channels, (height, width), kernel, stride, padding)


@pytest.mark.parametrize("as_float32", [True, False])
def test_bfloat16_rounds_the_exact_sums_once(as_float32: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the processor multiplies bfloat16 or not. Exact: the same products in float64."""
    monkeypatch.setattr(layers, "BF16_AS_FLOAT32", as_float32)

    def windowed(d_y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        out = torch.empty_like(weight, memory_format=torch.channels_last)
        layers.WindowedWeightGradient(3, 2, 1)(d_y, x, out)
        return out

    def product_into(a: Tensor, b: Tensor) -> Tensor:
        return layers.matmul(a, b, out=a.new_empty(len(a), b.shape[1]))

    x, weight, d_y = randn(4, 5, 9, 9), randn(6, 5, 3, 3, seed=1), randn(4, 6, 5, 5, seed=2)
    a, b = randn(7, 300), randn(300, 8, seed=1)
    operations: list[tuple[Callable[..., Tensor], list[Tensor]]] = [
        (layers.matmul, [a, b]),
        (product_into, [a, b]),
        (layers.linear, [a, b.T, randn(8, seed=2)]),
        (lambda x, w, bias: layers.conv2d(x, w, bias, 2, 1), [x, weight, randn(6, seed=3)]),
        (lambda d_y, w: layers.conv2d_backward_x(d_y, w, x.shape, 2, 1), [d_y, weight]),
        (windowed, [d_y, x, weight]),
    ]
    for operation, operands in operations:
        rounded = [operand.bfloat16() for operand in operands]
        actual = operation(*rounded)
        exact = operation(*(operand.double() for operand in rounded))
        assert actual.dtype == torch.bfloat16
        torch.testing.assert_close(actual.double(), exact, rtol=2**-7.9, atol=1e-5)  # half a unit: up to 2^-8


def test_conv2d_on_the_riverraid_stack() -> None:
    sizes = [42]
    for n_in in (1, 32, 32, 32):
        y = check_conv2d(2, (n_in, 32), (sizes[-1], sizes[-1]), (3, 3), 2, 1)
        sizes.append(y.shape[-1])
    assert sizes == [42, 21, 11, 6, 3]


def test_conv2d_on_the_breakout_stack() -> None:
    sizes = [84]
    for n_in, n_out, kernel, stride in ((4, 32, 8, 4), (32, 64, 4, 2), (64, 64, 3, 1)):
        y = check_conv2d(2, (n_in, n_out), (sizes[-1], sizes[-1]), (kernel, kernel), stride, 0)
        sizes.append(y.shape[-1])
    assert sizes == [84, 20, 9, 7]


def pool_reference(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 2)


@pytest.mark.parametrize("size", [(2, 2), (2, 3), (7, 4), (19, 19)])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_max_pool_matches_autograd(size: tuple[int, int], memory: torch.memory_format) -> None:
    x = randn(3, 2, *size).contiguous(memory_format=memory)
    y, indices = layers.max_pool2d(x)
    assert_close(y, pool_reference(x))
    d_y = randn(*y.shape, seed=1)
    assert_close(layers.max_pool2d_backward(d_y, indices, tuple(x.shape)), autograd(pool_reference, d_y, x)[0])


def test_the_first_of_equal_maxima_has_the_gradient() -> None:
    """An empty screen is full of ties: one of them gets the gradient, and the same one as in torch."""
    windows = [[0, 0, 0, 0], [1, 2, 2, 0], [3, 1, 3, 1], [0, 5, 0, 5], [-1, -1, -1, -1]]
    x = torch.tensor(windows, dtype=torch.float64).view(5, 1, 2, 2)
    y, indices = layers.max_pool2d(x)
    assert y.flatten().tolist() == [0, 2, 3, 5, -1]
    d_y = torch.arange(1.0, 6.0, dtype=torch.float64).view(5, 1, 1, 1)
    d_x = layers.max_pool2d_backward(d_y, indices, (5, 1, 2, 2))
    expected = [[1, 0, 0, 0], [0, 2, 0, 0], [3, 0, 0, 0], [0, 4, 0, 0], [5, 0, 0, 0]]
    assert d_x.view(5, 4).tolist() == expected
    assert_close(d_x, autograd(pool_reference, d_y, x)[0])


# ------------------------------------------------------------------------------- normalisation


@pytest.mark.parametrize(("rows", "n"), [(1, 2), (3, 7), (5, 288)])
def test_layer_norm_matches_torch_and_autograd(rows: int, n: int) -> None:
    x, weight, bias, d_y = randn(rows, n) * 3 + 2, randn(n, seed=1), randn(n, seed=2), randn(rows, n, seed=3)

    def reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.layer_norm(x, (n,), weight, bias)

    gradients = torch.ones(2, n, dtype=torch.float64)
    norm = ManualLayerNorm([weight, bias], list(gradients), rows + 2)
    norm.clear()
    parts = torch.cat([norm.forward(part, first) for part, first in ((x[:1], 2), (x[1:], 3))])
    assert_close(parts, reference(x, weight, bias))
    d_x, d_weight, d_bias = autograd(reference, d_y, x, weight, bias)
    assert_close(torch.cat([norm.backward(d_y[:1], 2), norm.backward(d_y[1:], 3)]), d_x)
    assert_close(gradients, torch.stack((d_weight, d_bias)))


def test_layer_norm_of_equal_numbers_is_its_bias() -> None:
    norm = ManualLayerNorm([randn(4), randn(4, seed=1)], [torch.zeros(4), torch.zeros(4)], 1)
    assert_close(norm.forward(torch.full((1, 4), 3.0, dtype=torch.float64), 0)[0], randn(4, seed=1))


# ------------------------------------------------------------------------------------- activations

EXTREMES = [0.0, -0.0, 1e-300, -1e-300, 1e-9, -1e-9, 6.0, 6.0 - 1e-15, 6.0 + 1e-15, 37.0, -37.0]
EXTREMES += [709.0, -709.0, 745.0, -745.0, 746.0, -746.0, 1e3, -1e3]


def softplus_reference(x: Tensor) -> Tensor:
    # torch's own softplus goes linear above a threshold, which is off by more than 1e-9
    return torch.logaddexp(x, torch.zeros_like(x))


# name: (forward, backward from the output, reference)
ACTIVATIONS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], Callable[..., Tensor]]] = {
    "relu": (layers.relu, layers.relu_backward, F.relu),
    "relu6": (layers.relu6, layers.relu6_backward, F.relu6),
    "elu": (layers.elu, layers.elu_backward, F.elu),
    "elu, alpha 0.3": (
        lambda x: layers.elu(x, 0.3),
        lambda d_y, y: layers.elu_backward(d_y, y, 0.3),
        lambda x: F.elu(x, 0.3),
    ),
    "tanh": (layers.tanh, layers.tanh_backward, torch.tanh),
    "softplus": (layers.softplus, layers.softplus_backward, softplus_reference),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(), (1,), (10, 200), (2, 3, 5, 7)])
def test_activation_matches_autograd(name: str, shape: tuple[int, ...]) -> None:
    forward, backward, reference = ACTIVATIONS[name]
    x, d_y = 4.0 * randn(*shape), randn(*shape, seed=1)
    x_before, d_y_before = x.clone(), d_y.clone()
    y = forward(x)
    y_before = y.clone()
    assert_close(y, reference(x))
    assert_close(backward(d_y, y), autograd(reference, d_y, x)[0])
    # the in-place arithmetic never reaches an argument
    assert torch.equal(x, x_before)
    assert torch.equal(d_y, d_y_before)
    assert torch.equal(y, y_before)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_is_finite_and_right_on_extreme_inputs(name: str) -> None:
    forward, backward, reference = ACTIVATIONS[name]
    x = torch.tensor(EXTREMES, dtype=torch.float64)
    y = forward(x)
    d_x = backward(torch.ones_like(x), y)
    assert torch.isfinite(y).all()
    assert torch.isfinite(d_x).all()
    assert_close(y, reference(x))
    assert_close(d_x, autograd(reference, torch.ones_like(x), x)[0])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_in_float32_agrees_with_float64(name: str) -> None:
    forward, backward, _ = ACTIVATIONS[name]
    x = torch.tensor([*EXTREMES, *np.linspace(-120.0, 120.0, 101)], dtype=torch.float32)
    y = forward(x)
    y64 = forward(x.double())
    assert y.dtype == torch.float32
    torch.testing.assert_close(y.double(), y64, rtol=1e-6, atol=1e-7)
    d_x = backward(torch.ones_like(x), y)
    torch.testing.assert_close(d_x.double(), backward(torch.ones_like(y64), y64), rtol=1e-5, atol=1e-6)


def test_sigmoid_is_right_everywhere() -> None:
    for x in (*EXTREMES, *np.linspace(-50.0, 50.0, 101)):
        y = layers.sigmoid(torch.tensor([x] * 17, dtype=torch.float64))  # enough for vector instructions
        expected = 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))
        np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-300)


@settings(max_examples=200)
@given(st.floats(-745.0, 36.0))
def test_softplus_keeps_its_relative_precision(x: float) -> None:
    exp_x = math.exp(x)
    tensor = torch.tensor([x], dtype=torch.float64)
    softplus = layers.softplus(tensor)
    assert softplus.item() == pytest.approx(math.log1p(exp_x), rel=1e-12, abs=1e-320)
    d_x = layers.softplus_backward(torch.ones(1, dtype=torch.float64), softplus)
    assert d_x.item() == pytest.approx(exp_x / (1.0 + exp_x), rel=1e-12, abs=1e-320)


# ----------------------------------------------------------------------- categorical distributions


def entropy_reference(logits: Tensor) -> Tensor:
    return -(F.softmax(logits, dim=-1) * F.log_softmax(logits, dim=-1)).sum(dim=-1)


def check_categorical(logits: Tensor) -> None:
    p, log_p = layers.softmax(logits), layers.log_softmax(logits)
    assert_close(p, F.softmax(logits, dim=-1))
    assert_close(log_p, F.log_softmax(logits, dim=-1))
    assert_close(p.sum(dim=-1), torch.ones_like(p[..., 0]))

    d_h = randn(*logits.shape[:-1], seed=2)
    assert_close(layers.entropy(p, log_p), entropy_reference(logits))
    assert_close(layers.entropy_backward(d_h, p, log_p), autograd(entropy_reference, d_h, logits)[0])

    action = torch.arange(d_h.numel()).reshape(d_h.shape) % logits.shape[-1]
    d_logits = layers.log_prob_backward(d_h, p, action)
    assert_close(
        d_logits,
        autograd(lambda z: F.log_softmax(z, dim=-1).gather(-1, action.unsqueeze(-1)).squeeze(-1), d_h, logits)[0],
    )


@pytest.mark.parametrize("shape", [(1,), (3,), (20, 18), (1, 1), (4, 5, 6)])
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 30.0, 1e3])
def test_categorical_matches_autograd(shape: tuple[int, ...], scale: float) -> None:
    check_categorical(scale * randn(*shape))


@settings(max_examples=100)
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=8))
def test_categorical_matches_autograd_on_any_logits(logits: list[float]) -> None:
    check_categorical(torch.tensor(logits, dtype=torch.float64))


@pytest.mark.parametrize("shift", [1e3, -1e3])
def test_categorical_is_finite_at_certainty(shift: float) -> None:
    logits = torch.tensor([[1e3, -1e3, 0.0], [745.0, -745.0, -745.0]], dtype=torch.float64) + shift
    check_categorical(logits)
    p, log_p = layers.softmax(logits), layers.log_softmax(logits)
    assert torch.equal(layers.entropy(p, log_p).abs(), torch.zeros(2, dtype=torch.float64))
    d_logits = layers.entropy_backward(torch.ones(2, dtype=torch.float64), p, log_p)
    assert torch.equal(d_logits.abs(), torch.zeros(2, 3, dtype=torch.float64))


# ---------------------------------------------------------- against finite differences, as a whole


class ConvElu(torch.autograd.Function):
    """A convolution and an ELU with hand-written backwards, in a form that gradcheck accepts."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = layers.elu(layers.conv2d(x, weight, bias, 2, 1))
        ctx.save_for_backward(x, weight, y)
        return y

    @staticmethod
    def backward(ctx: Any, *d_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight, y = ctx.saved_tensors
        d_y = layers.elu_backward(d_outputs[0], y)
        d_x = layers.conv2d_backward_x(d_y, weight, x.shape, 2, 1)
        return d_x, layers.conv2d_backward_weight(d_y, x, weight.shape, 2, 1), d_y.sum((0, 2, 3))


class PooledSoftmaxEntropy(torch.autograd.Function):
    """The entropy of a policy whose logits are pooled pixels, with a hand-written backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y, indices = layers.max_pool2d(x)
        p, log_p = layers.softmax(y.flatten(1)), layers.log_softmax(y.flatten(1))
        ctx.save_for_backward(indices, p, log_p)
        ctx.shapes = x.shape, y.shape
        return layers.entropy(p, log_p)

    @staticmethod
    def backward(ctx: Any, *d_outputs: Tensor) -> Tensor:
        indices, p, log_p = ctx.saved_tensors
        d_logits = layers.entropy_backward(d_outputs[0], p, log_p)
        return layers.max_pool2d_backward(d_logits.view(ctx.shapes[1]), indices, tuple(ctx.shapes[0]))


def test_composed_layers_pass_gradcheck() -> None:
    inputs = [randn(2, 2, 6, 7), randn(3, 2, 3, 3, seed=1), randn(3, seed=2)]
    assert torch.autograd.gradcheck(ConvElu.apply, [tensor.requires_grad_() for tensor in inputs])
    inputs = [randn(2, 1, 6, 7), randn(3, 1, 3, 3, seed=1), randn(3, seed=2)]
    assert torch.autograd.gradcheck(ConvElu.apply, [tensor.requires_grad_() for tensor in inputs])
    assert torch.autograd.gradcheck(PooledSoftmaxEntropy.apply, [randn(2, 2, 5, 4).requires_grad_()])
