"""The hidden layer of ManualConv over the rows of a rollout: an LSTM cell, or fully connected.

Both keep what their backward needs in buffers that are allocated once, so that nothing is computed twice. Both have all
weights and biases as rows of one matrix, so that the gradient is one product over the whole rollout. R: rows, one per
step and one for the bootstrap observation; T < R: steps; E: environments side by side."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ablate.nn import layers
from ablate.nn.activations import ManualActivation
from ablate.nn.layer_norm import ManualLayerNorm


class Lstm:
    """An LSTM cell: a = W_ih x + b_ih + W_hh h_tm1 + b_hh, in blocks i, f, g, o; i, f, o = sigmoid(a_i, a_f, a_o),
    g = tanh(a_g), c = f c_tm1 + i g, h = o tanh(c). Backward goes through time over the rollout.

    weight, d_weight: (features + 1 + hidden + 1, 4 · hidden), the rows of W_ihᵀ, b_ih, W_hhᵀ, b_hh.
    x: (R, E, features), the buffer into which the caller writes each row's features. y: (R, E, hidden), the output.
    state: (R + 1, 2, E, hidden), h and c before row t; a rollout starts from row 0."""

    def __init__(self, weight: Tensor, d_weight: Tensor, rows: int, envs: int) -> None:
        inputs, hidden = len(weight), weight.shape[1] // 4
        features = inputs - hidden - 2
        self._weight, self._d_weight = weight, d_weight
        self._w_x, self._w_h = weight[:features], weight[features + 1 : -1]
        self._z = weight.new_ones(rows, envs, inputs)  # x, 1, h_tm1, 1
        self._gates = weight.new_zeros(rows, envs, 4, hidden)  # i, f, g, o
        self._tanh_c = weight.new_zeros(rows, envs, hidden)
        self.state = weight.new_zeros(rows + 1, 2, envs, hidden)
        self._slopes = weight.new_zeros(rows, envs, 4, hidden)  # with respect to the pre-activations, see backward
        self._slope_c = weight.new_zeros(rows, envs, hidden)
        self.x = self._z[..., :features]
        self.y = self.state[1:, 0]
        self._h_tm1 = self._z[..., features + 1 : -1]
        # All views of a row, made once: with few environments slicing costs as much as the arithmetic.
        self._forward_views = [
            (self._z[t], self._h_tm1[t], *self.state[t], gates.flatten(1), gates[:, :2], *gates.unbind(1),
             self._tanh_c[t], *self.state[t + 1])
            for t, gates in enumerate(self._gates)
        ]  # fmt: skip

    def forward(self, t: int, firsts: np.ndarray) -> None:
        """Row t, from the features in x[t]. firsts: (E,) whether the state starts from 0."""
        z, z_h, h_tm1, c_tm1, a, a_if, i, f, g, o, tanh_c, h, c = self._forward_views[t]
        z_h.copy_(h_tm1)
        cut = torch.from_numpy(firsts) if firsts.any() else None
        if cut is not None:
            z_h[cut] = 0.0
        torch.mm(z, self._weight, out=a)
        layers.sigmoid(a_if, out=a_if)
        if cut is not None:
            f[cut] = 0.0  # forgets c_tm1, and no gradient passes through a closed gate
        layers.tanh(g, out=g)
        layers.sigmoid(o, out=o)
        torch.mul(f, c_tm1, out=c).addcmul_(i, g)
        layers.tanh(c, out=tanh_c)
        torch.mul(o, tanh_c, out=h)

    def backward(self, d_y: Tensor, firsts: np.ndarray) -> Tensor:
        """d_y (T, E, hidden), firsts (T, E) -> d_x (T, E, features). No gradient passes a first row.

        ∂c_t = ∂h_t o (1 - tanh²c) + f_{t+1} ∂c_{t+1}; ∂a_i = ∂c g i(1-i), ∂a_f = ∂c c_tm1 f(1-f), ∂a_g = ∂c i (1-g²),
        ∂a_o = ∂h tanh(c) o(1-o), ∂h_tm1 = ∂a W_hh. All factors of ∂c and ∂h are computed first, for all rows."""
        steps = len(d_y)
        i, f, g, o = self._gates[:steps].unbind(2)
        tanh_c, slopes, slope_c = self._tanh_c[:steps], self._slopes[:steps], self._slope_c[:steps]
        sigmoids = self._gates[:steps]
        torch.addcmul(sigmoids, sigmoids, sigmoids, value=-1.0, out=slopes)  # y (1 - y), right for the sigmoids
        slopes[:, :, 0].mul_(g)
        slopes[:, :, 1].mul_(self.state[:steps, 1])
        torch.addcmul(i, i * g, g, value=-1.0, out=slopes[:, :, 2])
        slopes[:, :, 3].mul_(tanh_c)
        torch.addcmul(o, o * tanh_c, tanh_c, value=-1.0, out=slope_c)

        d_a = slopes  # overwritten, row by row
        d_h, d_c = d_y[steps - 1].clone(), torch.zeros_like(d_y[0])
        for t in range(steps - 1, -1, -1):
            d_c.addcmul_(d_h, slope_c[t])
            d_a[t, :, :3].mul_(d_c.unsqueeze(1))
            d_a[t, :, 3].mul_(d_h)
            if t > 0:
                d_h = torch.mm(d_a[t].flatten(1), self._w_h.T)
                d_c.mul_(f[t])
                if firsts[t].any():
                    d_h[torch.from_numpy(firsts[t])] = 0.0
                d_h.add_(d_y[t - 1])

        d_a = d_a.view(-1, d_a.shape[2] * d_a.shape[3])
        torch.mm(self._z[:steps].flatten(0, 1).T, d_a, out=self._d_weight)
        return torch.mm(d_a, self._w_x.T).view(steps, -1, len(self._w_x))


class FullyConnected:
    """y = activation(W x + b), or activation(norm(W x + b)). Its state is empty.

    weight, d_weight: (features + 1, hidden), the rows of Wᵀ and b. The product is computed in the dtype of `weight`,
    which may be bfloat16; the rest in the dtype of `d_weight`."""

    def __init__(
        self,
        weight: Tensor,
        d_weight: Tensor,
        rows: int,
        envs: int,
        activation: ManualActivation,
        norm: ManualLayerNorm | None = None,
    ) -> None:
        self._weight, self._d_weight, self._norm, self._envs = weight, d_weight, norm, envs
        self._d_product = d_weight if weight.dtype == d_weight.dtype else torch.empty_like(weight)
        self._activation, self._activation_backward = activation
        self._z = weight.new_ones(rows, envs, len(weight))  # x, 1
        self.x = self._z[..., :-1]
        self.y = d_weight.new_zeros(rows, envs, weight.shape[1])
        self.state = d_weight.new_zeros(rows + 1, 2, envs, 0)

    def forward(self, t: int, firsts: np.ndarray) -> None:
        """Row t, from the features in x[t]."""
        a = layers.matmul(self._z[t], self._weight)
        if self._norm is not None:
            a = self._norm.forward(a, t * self._envs)
        self._activation(a.to(self.y.dtype), out=self.y[t])

    def backward(self, d_y: Tensor, firsts: np.ndarray) -> Tensor:
        """d_y (T, E, hidden) -> d_x (T, E, features)."""
        steps = len(d_y)
        d_a = self._activation_backward(d_y, self.y[:steps]).flatten(0, 1)
        if self._norm is not None:
            self._norm.clear()
            d_a = self._norm.backward(d_a, 0)
        d_a = d_a.to(self._weight.dtype)
        layers.matmul(self._z[:steps].flatten(0, 1).T, d_a, out=self._d_product)
        if self._d_product is not self._d_weight:
            self._d_weight.copy_(self._d_product)
        return layers.matmul(d_a, self._weight[:-1].T).view(steps, -1, len(self._weight) - 1)
