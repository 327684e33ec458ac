"""Layers as pairs of plain functions, each backward right under its forward, without autograd.

Torch is only an array library here: call these under `torch.inference_mode()`. Gradients have the prefix `d_`: `d_y` is
∂L/∂y, shaped like y, for a scalar loss L; in equations it is g. A backward takes the input or the output of its
forward, whichever is cheaper.

Small networks such as Pendulum's run 10^5 times, and a torch call costs more than its arithmetic. So operations are
in-place, but only on temporaries of the same function, never on arguments (except `out`, which takes the result).
Masks are made with sign and clamp, because a boolean mask costs several times as much.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ablate.nn.precision import cpu_multiplies_bf16

# Torch multiplies bfloat16 many times slower than float32 on a processor that does not do it in hardware.
BF16_AS_FLOAT32 = not cpu_multiplies_bf16()

# ----------------------------------------------------------------------------------- affine layers


def _as_float32(x: Tensor) -> bool:
    return x.dtype == torch.bfloat16 and BF16_AS_FLOAT32 and x.device.type == "cpu"


def _products(operation: Callable[..., Tensor], x: Tensor, *operands: Any) -> Tensor:
    """operation(x, *operands), whose elements are sums of products; bfloat16 is multiplied in float32 if need be.

    The rounding is that of a processor with bfloat16. It sums in float32, in which a product of two such numbers is
    exact, and rounds the sum. Only the order of the summation differs."""
    if not _as_float32(x):
        return operation(x, *operands)
    wide = (operand.float() if isinstance(operand, Tensor) else operand for operand in operands)
    return operation(x.float(), *wide).to(x.dtype)


def matmul(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """A B.  a (N, K), b (K, M) -> (N, M)."""
    if out is None:
        return _products(torch.mm, a, b)
    return out.copy_(_products(torch.mm, a, b)) if _as_float32(a) else torch.mm(a, b, out=out)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Affine map of each row: y = x Wᵀ + b.  x (N, in), weight (out, in), bias (out,) -> y (N, out)."""
    return _products(F.linear, x, weight, bias)


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, padding: int = 0) -> Tensor:
    """Cross-correlation, as every "convolution" here, with stride s and p zeros of padding on each side:

    y[n, o, u, v] = b[o] + Σ_{c,i,j} W[o, c, i, j] · x[n, c, u s + i - p, v s + j - p].
    x (N, C, H, W), weight (O, C, kh, kw), bias (O,) -> y (N, O, H', W') with H' = ⌊(H + 2p - kh) / s⌋ + 1,
    W' = ⌊(W + 2p - kw) / s⌋ + 1.
    """
    return _products(F.conv2d, x, weight, bias, stride, padding)


def conv2d_backward_x(d_y: Tensor, weight: Tensor, x_shape: Sequence[int], stride: int, padding: int) -> Tensor:
    """∂x: the transposed convolution of g with W.  d_y (N, O, H', W'), weight (O, C, kh, kw) -> d_x of x_shape."""
    # Heights H to H + stride - 1 all give the same H'; the output padding says which of them x had.
    rest = _rest(x_shape, weight.shape, stride, padding)
    return _products(F.conv_transpose2d, d_y, weight, None, stride, padding, rest)


def conv2d_backward_weight(d_y: Tensor, x: Tensor, weight_shape: Sequence[int], stride: int, padding: int) -> Tensor:
    """∂W[o, c, i, j] = Σ_{n,u,v} g[n, o, u, v] · x[n, c, u s + i - p, v s + j - p]: x convolved with g, dilated.

    d_y (N, O, H', W'), x (N, C, H, W) -> d_weight of weight_shape (O, C, kh, kw)."""
    n_out, n_in, height, width = weight_shape
    if n_in == 1:  # one matrix product over a copy of all windows of x, which is small
        windows = F.pad(x, (padding,) * 4).unfold(2, height, stride).unfold(3, width, stride)  # (N, 1, H', W', kh, kw)
        columns = windows.permute(4, 5, 1, 0, 2, 3).reshape(height * width, -1)  # (kh · kw, N · H' · W')
        d_weight = torch.mm(columns, d_y.permute(0, 2, 3, 1).reshape(-1, n_out))
        return d_weight.view(height, width, 1, n_out).permute(3, 2, 0, 1)
    # A convolution sums over channels, ∂W over the batch; so batch and channels change places. The dilated g fits into
    # x at as many positions as W has elements, plus `rest` more, which are cut off. Storing the summed axis innermost
    # halves the time, including the copies.
    x_t = x.transpose(0, 1).contiguous(memory_format=torch.channels_last)
    g_t = d_y.transpose(0, 1).contiguous(memory_format=torch.channels_last)
    return F.conv2d(x_t, g_t, padding=padding, dilation=stride)[:, :, :height, :width].transpose(0, 1)


class WindowedWeightGradient:
    """∂W[o, i, j, c] = Σ g[o] x[i, j, c] over all windows of x, as one matrix product over a copy of the windows.

    In bfloat16 this is faster than a convolution; in float32 that depends on the processor. The copy is allocated once,
    so each layer has its own object."""

    def __init__(self, kernel: int, stride: int, padding: int) -> None:
        self._kernel, self._stride, self._padding = kernel, stride, padding
        self._windows: Tensor | None = None

    def __call__(self, d_y: Tensor, x: Tensor, out: Tensor) -> None:
        """d_y (N, O, H', W'), x (N, C, H, W) -> out (O, C, k, k), stored channels-last."""
        x = F.pad(x, (self._padding,) * 4) if self._padding else x
        windows = x.unfold(2, self._kernel, self._stride).unfold(3, self._kernel, self._stride)
        windows = windows.permute(0, 2, 3, 4, 5, 1)  # (N, H', W', k, k, C)
        if self._windows is None or len(self._windows) < len(windows):
            self._windows = x.new_empty(windows.shape, dtype=torch.float32 if _as_float32(x) else x.dtype)
        columns = self._windows[: len(windows)].copy_(windows).flatten(3).flatten(0, 2)
        d_rows = d_y.permute(0, 2, 3, 1).reshape(len(columns), -1)
        matmul(d_rows.T, columns, out=out.permute(0, 2, 3, 1).view(-1, columns.shape[1]))


def _rest(x_shape: Sequence[int], weight_shape: Sequence[int], stride: int, padding: int) -> tuple[int, int]:
    """Rows and columns at the end of the padded x that no window reaches: from 0 to stride - 1."""
    height, width = ((x_shape[d] + 2 * padding - weight_shape[d]) % stride for d in (-2, -1))
    return height, width


def max_pool2d(x: Tensor) -> tuple[Tensor, Tensor]:
    """y[n, c, u, v] = the largest of x in the 2 × 2 window at (2u, 2v); an odd last row or column is left out.

    x (N, C, H, W) -> y (N, C, ⌊H/2⌋, ⌊W/2⌋), and the index of each in its plane, int64 (the first of equals)."""
    return F.max_pool2d(x, 2, return_indices=True)


def max_pool2d_backward(d_y: Tensor, indices: Tensor, x_shape: tuple[int, ...]) -> Tensor:
    """∂x: g at the index of the largest, else 0.  d_y, indices (N, C, H', W') -> d_x of x_shape."""
    return F.max_unpool2d(d_y, indices, [2, 2], output_size=x_shape)


# ------------------------------------------------------------------------------- normalisation


def layer_norm(x: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """x̂_j = (x_j - μ) r with r = 1 / √(Σ_j (x_j - μ)² / n + ε), over the last dim (Ba et al. 2016, without its gain).

    x (N, n) -> x̂ (N, n), r (N, 1)."""
    centred = x - x.mean(-1, keepdim=True)
    scale = centred.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
    return centred.mul_(scale), scale


def layer_norm_backward(d_y: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    """∂x_j = r (g_j - Σ_k g_k / n - x̂_j Σ_k g_k x̂_k / n).  d_y, y (N, n), scale (N, 1) -> d_x (N, n)."""
    along = (d_y * y).mean(-1, keepdim=True)
    return (d_y - d_y.mean(-1, keepdim=True)).sub_(y * along).mul_(scale)


# ----------------------------------------------------------------- activations, element by element


def relu(x: Tensor, out: Tensor | None = None) -> Tensor:
    """y = max(x, 0)."""
    return torch.clamp(x, min=0.0, out=out)


def relu_backward(d_y: Tensor, y: Tensor) -> Tensor:
    """∂x = g for y > 0, else 0."""
    d_x: Tensor = torch.ops.aten.threshold_backward(d_y, y, 0)
    return d_x


def relu6(x: Tensor, out: Tensor | None = None) -> Tensor:
    """y = min(max(x, 0), 6)."""
    return torch.clamp(x, 0.0, 6.0, out=out)


def relu6_backward(d_y: Tensor, y: Tensor) -> Tensor:
    """∂x = g for 0 < y < 6, else 0."""
    return (6.0 - y).mul_(y).sign_().mul_(d_y)  # y (6 - y) ≥ 0, and 0 only at the two ends


def elu(x: Tensor, alpha: float = 1.0, out: Tensor | None = None) -> Tensor:
    """y = x for x > 0, else α (exp(x) - 1)."""
    # One of the two terms is always 0; clamped first, the exponential can't overflow.
    return torch.clamp(x, min=0.0, out=out).add_(torch.clamp(x, max=0.0).expm1_(), alpha=alpha)


def elu_backward(d_y: Tensor, y: Tensor, alpha: float = 1.0) -> Tensor:
    """∂x = g for y > 0, else g α exp(x) = g (y + α)."""
    slope = torch.clamp(y, max=0.0).add_(alpha)
    if alpha != 1.0:  # with α = 1 the slope is 1 there already
        slope.masked_fill_(y > 0.0, 1.0)
    return slope.mul_(d_y)


def tanh(x: Tensor, out: Tensor | None = None) -> Tensor:
    """y = (exp(x) - exp(-x)) / (exp(x) + exp(-x)); by torch, which saturates and can't overflow."""
    return torch.tanh(x, out=out)


def tanh_backward(d_y: Tensor, y: Tensor) -> Tensor:
    """∂x = g (1 - y²)."""
    return torch.addcmul(d_y, d_y, y * y, value=-1.0)


def sigmoid(x: Tensor, out: Tensor | None = None) -> Tensor:
    """y = 1 / (1 + exp(-x)); by torch, which can't overflow: if exp(-x) is infinite, y is 0."""
    return torch.sigmoid(x, out=out)


def softplus(x: Tensor) -> Tensor:
    """y = log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|)): no exponential of a positive number."""
    return torch.abs(x).neg_().exp_().log1p_().add_(torch.clamp(x, min=0.0))


def softplus_backward(d_y: Tensor, y: Tensor) -> Tensor:
    """∂x = g sigmoid(x) = g (1 - exp(-y))."""
    return torch.neg(y).expm1_().mul_(d_y).neg_()  # expm1, as y is tiny for x << 0


# ---------------------------------------------------- categorical distributions, over the last dim


def softmax(logits: Tensor) -> Tensor:
    """p_j = exp(z_j - max z) / Σ_k exp(z_k - max z).  logits (..., A) -> p (..., A)."""
    p = (logits - logits.amax(dim=-1, keepdim=True)).exp_()
    return p.div_(p.sum(dim=-1, keepdim=True))


def log_softmax(logits: Tensor) -> Tensor:
    """log p_j = (z_j - max z) - log Σ_k exp(z_k - max z).  logits (..., A) -> log_p (..., A)."""
    shifted = logits - logits.amax(dim=-1, keepdim=True)
    return shifted.sub_(shifted.exp().sum(dim=-1, keepdim=True).log_())


def entropy(p: Tensor, log_p: Tensor) -> Tensor:
    """H = -Σ_j p_j log p_j.  p, log_p (..., A) -> H (...)."""
    return (p * log_p).sum(dim=-1).neg_()


def entropy_backward(d_h: Tensor, p: Tensor, log_p: Tensor) -> Tensor:
    """∂z_j = -g p_j (log p_j + H).  d_h (...), p, log_p (..., A) -> d_logits (..., A)."""
    h = entropy(p, log_p)
    return (log_p + h.unsqueeze(-1)).mul_(p).mul_(d_h.unsqueeze(-1)).neg_()


def log_prob_backward(d_log_prob: Tensor, p: Tensor, action: Tensor) -> Tensor:
    """Gradient of log p_a, the log-probability of the action taken: ∂z_j = g ([j = a] - p_j).

    d_log_prob (...), p (..., A), action (...) int64 -> d_logits (..., A).
    """
    one_hot = torch.zeros_like(p).scatter_(-1, action.unsqueeze(-1), 1.0)
    return one_hot.sub_(p).mul_(d_log_prob.unsqueeze(-1))
