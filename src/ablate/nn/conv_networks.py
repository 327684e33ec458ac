"""The networks of images, once on torch.nn and once on the hand-written layers, over the same flat parameter vector.

Both write gradients into a flat vector that the caller hands in, laid out like the parameters. R, T: rows and steps of
a rollout; E: environments side by side; n: actions. Images lie channels-last in memory, where the convolutions are
fastest, and so do the features that they give."""

from __future__ import annotations

from itertools import chain
from math import prod

import numpy as np
import torch
from torch import Tensor

from ablate.nn import layers
from ablate.nn.architecture import ConvArchitecture
from ablate.nn.networks import ACTIVATIONS, MODULES
from ablate.nn.recurrent import FullyConnected, Lstm

CHUNK_BYTES = 3 << 19  # of a convolution's input and output: as many rows at a time as stay in the cache


class TorchConv(torch.nn.Module):
    """The actor-critic of ConvArchitecture on torch.nn; its parameters and their .grad are views of flat vectors."""

    def __init__(self, architecture: ConvArchitecture, parameters: Tensor, gradient: Tensor) -> None:
        super().__init__()
        activation = MODULES[architecture.activation]
        channels = [size[0] for size in architecture.sizes()]
        # on `meta` nothing is allocated or initialised: the parameters are views of the flat vector
        self.conv = torch.nn.ModuleList(
            torch.nn.Conv2d(n_in, layer.channels, layer.kernel, layer.stride, layer.padding, device="meta")
            for n_in, layer in zip(channels, architecture.convolutions, strict=False)
        )
        self._behind = [
            torch.nn.Sequential(activation(), *([torch.nn.MaxPool2d(2)] if layer.pool else []))
            for layer in architecture.convolutions
        ]
        features, hidden = architecture.features, architecture.hidden
        self._recurrent, self._scale = architecture.recurrent, architecture.scale
        if architecture.recurrent:
            self.lstm = torch.nn.LSTMCell(features, hidden, device="meta")
        else:
            self.hidden = torch.nn.Linear(features, hidden, device="meta")
            self._activation = activation()
        self.actor = torch.nn.Linear(hidden, architecture.actions, device="meta")
        self.critic = torch.nn.Linear(hidden, 1, device="meta")
        layout = architecture.layout()
        gradients = layout.views(gradient)
        for name, view in layout.views(parameters).items():
            module, _, kind = name.rpartition(".")
            parameter = torch.nn.Parameter(view)
            parameter.grad = gradients[name]
            setattr(self.get_submodule(module), kind, parameter)

    def forward(self, images: Tensor, firsts: np.ndarray, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(T, E, C, H, W), (T, E) bool, (2, E, hidden) -> logits (T, E, n), values (T, E), the state behind them.

        firsts: the state starts from 0 with this row."""
        x = images.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        if self._scale != 1.0:
            x = x * self._scale
        for convolution, behind in zip(self.conv, self._behind, strict=True):
            x = behind(convolution(x))
        x = x.permute(0, 2, 3, 1).reshape(*images.shape[:2], -1)
        if self._recurrent:
            x, state = self._through_time(x, firsts, state)
        else:
            x = self._activation(self.hidden(x))
        return self.actor(x), self.critic(x).squeeze(-1), state

    def _through_time(self, xs: Tensor, firsts: np.ndarray, state: Tensor) -> tuple[Tensor, Tensor]:
        h, c = state
        hs = []
        for x, first in zip(xs, firsts, strict=True):
            if first.any():
                keeps = torch.from_numpy(~first).to(h).unsqueeze(-1)
                h, c = keeps * h, keeps * c
            h, c = self.lstm(x, (h, c))
            hs.append(h)
        return torch.stack(hs), torch.stack((h, c))


class ManualConv:
    """The same on layers.py: forward a row at a time, which is kept; backward over all rows, by the chain rule.

    state: (R + 1, 2, E, hidden), h and c of the LSTM before row t; a rollout starts from row 0's."""

    def __init__(
        self, architecture: ConvArchitecture, parameters: Tensor, gradient: Tensor, rows: int, envs: int
    ) -> None:
        layout = architecture.layout()
        views, gradients = layout.views(parameters), layout.views(gradient)
        self._architecture = architecture
        self._weights = [views[f"conv.{i}.weight"] for i in range(len(architecture.convolutions))]
        self._biases = [views[f"conv.{i}.bias"] for i in range(len(architecture.convolutions))]
        self._d_weights = [gradients[f"conv.{i}.weight"] for i in range(len(architecture.convolutions))]
        self._d_biases = [gradients[f"conv.{i}.bias"] for i in range(len(architecture.convolutions))]
        self._activation, self._activation_backward = ACTIVATIONS[architecture.activation]

        first, last = ("lstm.weight_ih", "lstm.bias_hh") if architecture.recurrent else ("hidden.weight", "hidden.bias")
        width = architecture.hidden * (4 if architecture.recurrent else 1)
        weight, d_weight = (layout.block(flat, first, last).view(-1, width) for flat in (parameters, gradient))
        self._hidden: Lstm | FullyConnected
        if architecture.recurrent:
            self._hidden = Lstm(weight, d_weight, rows, envs)
        else:
            self._hidden = FullyConnected(weight, d_weight, rows, envs, ACTIVATIONS[architecture.activation])
        self.state = self._hidden.state

        heads = [
            (layout.block(flat, "actor.weight", "critic.weight").view(-1, architecture.hidden),
             layout.block(flat, "actor.bias", "critic.bias"))
            for flat in (parameters, gradient)
        ]  # fmt: skip
        (self._w_heads, self._b_heads), (self._d_w_heads, self._d_b_heads) = heads
        self.heads = parameters.new_zeros(rows, envs, architecture.actions + 1)  # logits and value

        # (R, E, C, H, W) the images, and behind each convolution with activation and pooling
        self._xs = [_channels_last(parameters.new_zeros(rows, envs, h * w * c), (c, h, w))
                    for c, h, w in architecture.sizes()[:-1]]  # fmt: skip
        self._xs.append(_channels_last(self._hidden.x, architecture.sizes()[-1]))
        self._indices: list[Tensor | None] = [
            torch.zeros_like(x, dtype=torch.int32) if layer.pool else None
            for x, layer in zip(self._xs[1:], architecture.convolutions, strict=True)
        ]
        # channels, height and width behind each convolution, before pooling
        self._convolved = [
            (layer.channels, *layer.convolved(*size[1:]))
            for size, layer in zip(architecture.sizes(), architecture.convolutions, strict=False)
        ]
        self._chunks = [
            max(1, CHUNK_BYTES // (parameters.element_size() * (prod(x) + prod(y))))
            for x, y in zip(architecture.sizes(), self._convolved, strict=False)
        ]

    def forward(self, t: int, images: Tensor, firsts: np.ndarray) -> Tensor:
        """Row t: images (E, C, H, W), firsts (E,) bool -> logits and value (E, n + 1), valid until row t comes back."""
        x = self._xs[0][t].copy_(images)
        if self._architecture.scale != 1.0:
            x.mul_(self._architecture.scale)
        for i, layer in enumerate(self._architecture.convolutions):
            y = layers.conv2d(x, self._weights[i], self._biases[i], layer.stride, layer.padding)
            indices = self._indices[i]
            if indices is not None:  # before the activation, which is monotonic: the largest stays the largest
                y, at = layers.max_pool2d(y)
                indices[t].copy_(at)
            x = self._activation(y, out=self._xs[i + 1][t])
        self._hidden.forward(t, firsts)
        return torch.addmm(self._b_heads, self._hidden.y[t], self._w_heads.T, out=self.heads[t])

    def backward(self, d_logits: Tensor, d_values: Tensor, firsts: np.ndarray) -> None:
        """From d_logits (T, E, n), d_values (T, E) and firsts (T, E) of the rows kept to the gradient."""
        steps, envs = d_values.shape
        d_heads = torch.cat((d_logits, d_values.unsqueeze(-1)), -1).flatten(0, 1)
        torch.mm(d_heads.T, self._hidden.y[:steps].flatten(0, 1), out=self._d_w_heads)
        torch.sum(d_heads, 0, out=self._d_b_heads)
        d_y = torch.mm(d_heads, self._w_heads).view(steps, envs, -1)
        d_features = self._hidden.backward(d_y, firsts).flatten(0, 1)
        for d in chain(self._d_weights, self._d_biases):
            d.zero_()
        d = _channels_last(d_features, self._architecture.sizes()[-1])
        self._backward_convolution(len(self._weights) - 1, d, 0)

    def _backward_convolution(self, i: int, d_y: Tensor, first: int) -> None:
        """Add to the gradient what d_y gives, that of layer i's output for some rows of (T · E) from `first` on.

        Each layer takes as many rows at a time as its chunk says, and hands them on to the layer below it."""
        layer, weight, indices = self._architecture.convolutions[i], self._weights[i], self._indices[i]
        for start in range(first, first + len(d_y), self._chunks[i]):
            d = d_y[start - first : start - first + self._chunks[i]]
            rows = slice(start, start + len(d))
            x, y = (xs.flatten(0, 1)[rows] for xs in self._xs[i : i + 2])
            d = self._activation_backward(d, y)
            self._d_biases[i].add_(d.sum((0, 2, 3)))
            if indices is not None:
                d = layers.max_pool2d_backward(d, indices.flatten(0, 1)[rows].long(), (len(d), *self._convolved[i]))
            self._d_weights[i].add_(layers.conv2d_backward_weight(d, x, weight.shape, layer.stride, layer.padding))
            if i > 0:
                d_x = layers.conv2d_backward_x(d, weight, x.shape, layer.stride, layer.padding)
                self._backward_convolution(i - 1, d_x, start)


def _channels_last(flat: Tensor, size: tuple[int, int, int]) -> Tensor:
    """(..., height · width · channels) seen as images (..., channels, height, width)."""
    channels, height, width = size
    return flat.unflatten(-1, (height, width, channels)).movedim(-1, -3)
