"""The network of ConvArchitecture twice, over the same flat parameters: on torch.nn, and on the hand-written layers.

Both write gradients into a flat vector from the caller, with the layout of the parameters. R, T: rows and steps of a
rollout; E: environments side by side; n: actions. Images and features are stored channels-last in memory, because
convolutions are fastest there. With precision=bf16 the convolutions and the fully connected layer compute in bfloat16,
on rounded parameters; normalisation, LSTM and heads compute in the dtype of the parameters."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ablate.nn import layers
from ablate.nn.activations import MANUAL_ACTIVATIONS, TORCH_ACTIVATIONS, ManualActivation
from ablate.nn.convolutions import Convolution
from ablate.nn.layer_norm import ManualLayerNorm
from ablate.nn.recurrent import FullyConnected, Lstm

if TYPE_CHECKING:
    from ablate.nn.conv_architecture import ConvArchitecture

CHUNK_BYTES = 3 << 19  # a convolution's input and output for one chunk of rows: they stay in the cache


class TorchConv(torch.nn.Module):
    """The network on torch.nn; its parameters and their .grad are views of the flat vectors.

    state_size: numbers in each of h and c of the LSTM, 0 without an LSTM."""

    def __init__(
        self, architecture: ConvArchitecture, parameters: Tensor, gradient: Tensor, precision: str = "float32"
    ) -> None:
        super().__init__()
        activation = TORCH_ACTIVATIONS[architecture.activation]
        channels = [size[0] for size in architecture.sizes()]
        # on `meta` nothing is allocated or initialised: the parameters are views of the flat vector
        self.conv = torch.nn.ModuleList(
            torch.nn.Conv2d(n_in, layer.channels, layer.kernel, layer.stride, layer.padding, device="meta")
            for n_in, layer in zip(channels, architecture.convolutions, strict=False)
        )
        self._pools = [torch.nn.MaxPool2d(2) if layer.pool else None for layer in architecture.convolutions]
        self._activation = activation()
        self._rounded = precision == "bf16"
        features, hidden = architecture.features, architecture.hidden
        units = [prod(size) for size in architecture.sizes()[1:]] if architecture.layer_norm else []
        self.conv_norm = torch.nn.ModuleList(torch.nn.LayerNorm(n, device="meta") for n in units)
        self.hidden_norm: torch.nn.Module | None = None
        self._recurrent, self._scale = architecture.recurrent, architecture.scale
        self.state_size = hidden if architecture.recurrent else 0
        if architecture.recurrent:
            self.lstm = torch.nn.LSTMCell(features, hidden, device="meta")
        else:
            self.hidden = torch.nn.Linear(features, hidden, device="meta")
            if architecture.layer_norm:
                self.hidden_norm = torch.nn.LayerNorm(hidden, device="meta")
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
        """(T, E, C, H, W), (T, E) bool, (2, E, hidden) -> logits (T, E, n), values (T, E), the state after them.

        firsts: an episode starts with this row, and the state from 0."""
        x = images.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        if self._scale != 1.0:
            x = x * self._scale
        with torch.autocast(x.device.type, torch.bfloat16) if self._rounded else nullcontext():
            for i, convolution in enumerate(self.conv):
                x = self._convolve(i, convolution, x)
            x = x.permute(0, 2, 3, 1).reshape(*images.shape[:2], -1)
            if not self._recurrent:
                x = self.hidden(x)
                x = self._activation(x if self.hidden_norm is None else self.hidden_norm(x.to(images.dtype)))
        x = x.to(images.dtype)
        if self._recurrent:
            x, state = self._through_time(x, firsts, state)
        return self.actor(x), self.critic(x).squeeze(-1), state

    def _convolve(self, i: int, convolution: torch.nn.Module, x: Tensor) -> Tensor:
        x = convolution(x)
        if (pool := self._pools[i]) is not None:
            x = pool(x)
        if self.conv_norm:
            features = x.permute(0, 2, 3, 1)
            normed = self.conv_norm[i](features.flatten(1).to(self.actor.weight.dtype))
            x = normed.view(features.shape).permute(0, 3, 1, 2)
        return self._activation(x)

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
    """The network on layers.py: forward one row at a time, each of which is kept; backward over all rows.

    state: (R + 1, 2, E, hidden), h and c of the LSTM before row t; a rollout starts from row 0. The last dimension is 0
    without an LSTM. heads: (R, E, n + 1), logits and value of each row. With precision=bf16 the network computes with a
    rounded copy of the parameters; call `refresh` whenever they have changed."""

    def __init__(
        self,
        architecture: ConvArchitecture,
        parameters: Tensor,
        gradient: Tensor,
        rows: int,
        envs: int,
        precision: str = "float32",
    ) -> None:
        layout, sizes, hidden = architecture.layout(), architecture.sizes(), architecture.hidden
        activation = MANUAL_ACTIVATIONS[architecture.activation]
        views, gradients = layout.views(parameters), layout.views(gradient)
        weights, self._rounding = parameters, None
        self._scale, self._weight_scale = architecture.scale, 1.0
        if precision == "bf16":
            weights = torch.empty_like(parameters, dtype=torch.bfloat16)
            below = layout.starts["lstm.weight_ih" if architecture.recurrent else "actor.weight"]
            self._rounding = weights[:below], parameters[:below]
            if architecture.convolutions:
                # Whole bytes are exact in bfloat16, but bytes / 255 would be rounded: the first weights are scaled.
                self._scale, self._weight_scale = 1.0, architecture.scale
        body = layout.views(weights)
        norms = {
            name: ManualLayerNorm(
                [views[f"{name}.weight"], views[f"{name}.bias"]],
                [gradients[f"{name}.weight"], gradients[f"{name}.bias"]],
                rows * envs,
            )
            for name in architecture.normalised
        }
        self._hidden: Lstm | FullyConnected
        if architecture.recurrent:
            blocks = [layout.block(flat, "lstm.weight_ih", "lstm.bias_hh") for flat in (parameters, gradient)]
            weight, d_weight = (block.view(-1, 4 * hidden) for block in blocks)
            self._hidden = Lstm(weight, d_weight, rows, envs)
        else:
            blocks = [layout.block(flat, "hidden.weight", "hidden.bias") for flat in (weights, gradient)]
            weight, d_weight = (block.view(-1, hidden) for block in blocks)
            self._hidden = FullyConnected(weight, d_weight, rows, envs, activation, norms.get("hidden_norm"))
        self.state = self._hidden.state

        self._w_heads, self._d_w_heads = (
            layout.block(flat, "actor.weight", "critic.weight").view(-1, hidden) for flat in (parameters, gradient)
        )
        self._b_heads, self._d_b_heads = (
            layout.block(flat, "actor.bias", "critic.bias") for flat in (parameters, gradient)
        )
        self.heads = parameters.new_zeros(rows, envs, architecture.actions + 1)

        # (R, E, C, H, W): the images, and the output of each convolution; the last one is the hidden layer's input
        xs = [_channels_last(weights.new_zeros(rows, envs, prod(size)), size) for size in sizes[:-1]]
        xs.append(_channels_last(self._hidden.x, sizes[-1]))
        self._images, self._last_size = xs[0], sizes[-1]
        self._convolutions: list[_ManualConvolution] = []
        self._d_convolutions = gradient[
            : layout.starts["lstm.weight_ih" if architecture.recurrent else "hidden.weight"]
        ]
        for i, layer in enumerate(architecture.convolutions):
            names = (f"conv.{i}.weight", f"conv.{i}.bias")
            self._convolutions.append(
                _ManualConvolution(
                    layer, activation, [body[name] for name in names], [gradients[name] for name in names],
                    norms.get(f"conv_norm.{i}"), xs[i], xs[i + 1], self._convolutions[-1] if i else None,
                )
            )  # fmt: skip
        if self._weight_scale != 1.0:
            self._first = body["conv.0.weight"], views["conv.0.weight"], gradients["conv.0.weight"]
        self.refresh()

    def refresh(self) -> None:
        """Round the parameters again, if the network computes with a rounded copy."""
        if self._rounding is not None:
            rounded, exact = self._rounding
            rounded.copy_(exact)
        if self._weight_scale != 1.0:
            rounded, exact, _ = self._first
            rounded.copy_(exact * self._weight_scale)

    def forward(self, t: int, images: Tensor, firsts: np.ndarray) -> Tensor:
        """Row t: images (E, C, H, W), firsts (E,) bool -> logits and value (E, n + 1), valid until row t recurs."""
        x = self._images[t].copy_(images)
        if self._scale != 1.0:
            x.mul_(self._scale)
        for convolution in self._convolutions:
            convolution.forward(t)
        self._hidden.forward(t, firsts)
        return torch.addmm(self._b_heads, self._hidden.y[t], self._w_heads.T, out=self.heads[t])

    def backward(self, d_logits: Tensor, d_values: Tensor, firsts: np.ndarray) -> None:
        """From d_logits (T, E, n), d_values (T, E) and firsts (T, E) of the kept rows to the gradient."""
        steps, envs = d_values.shape
        d_heads = torch.cat((d_logits, d_values.unsqueeze(-1)), -1).flatten(0, 1)
        torch.mm(d_heads.T, self._hidden.y[:steps].flatten(0, 1), out=self._d_w_heads)
        torch.sum(d_heads, 0, out=self._d_b_heads)
        d_y = torch.mm(d_heads, self._w_heads).view(steps, envs, -1)
        d_features = self._hidden.backward(d_y, firsts).flatten(0, 1)
        if self._convolutions:
            self._d_convolutions.zero_()
            self._convolutions[-1].backward(_channels_last(d_features, self._last_size), 0)
        if self._weight_scale != 1.0:
            self._first[-1].mul_(self._weight_scale)


class _ManualConvolution:
    """One convolution with its pooling, normalisation and activation, and what its backward pass needs of each row.

    parameters, gradients: weight and bias; the parameters' dtype is the one it computes in. x, y: (R, E, C, H, W), the
    buffers of input and output. below: the convolution whose output is x, if any."""

    def __init__(
        self,
        layer: Convolution,
        activation: ManualActivation,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        norm: ManualLayerNorm | None,
        x: Tensor,
        y: Tensor,
        below: _ManualConvolution | None,
    ) -> None:
        self._layer, self._norm, self._below = layer, norm, below
        self._activation, self._activation_backward = activation
        (self._weight, self._bias), (self._d_weight, self._d_bias) = parameters, gradients
        self._xs, self._ys = x.flatten(0, 1), y.flatten(0, 1)  # (R · E, C, H, W)
        self._envs = x.shape[1]
        self._convolved = (layer.channels, *layer.convolved(x.shape[-2], x.shape[-1]))  # before pooling
        # The place of each pooled pixel in its plane. int16 takes a quarter of the memory of torch's int64.
        dtype = torch.int16 if prod(self._convolved[1:]) < 1 << 15 else torch.int64
        self._indices = torch.zeros_like(self._ys, dtype=dtype) if layer.pool else None
        # All views of a row, made once: with few environments slicing costs as much as the arithmetic.
        kept = [None] * len(y) if self._indices is None else self._indices.unflatten(0, y.shape[:2]).unbind()
        self._rows = list(zip(x.unbind(), y.unbind(), kept, strict=True))
        self._windowed = layers.WindowedWeightGradient(layer.kernel, layer.stride, layer.padding)
        self._chunk = max(1, CHUNK_BYTES // (x.element_size() * (prod(x.shape[2:]) + prod(self._convolved))))

    def forward(self, t: int) -> None:
        """Row t, from x to y."""
        x, y, kept = self._rows[t]
        z = layers.conv2d(x, self._weight, self._bias, self._layer.stride, self._layer.padding)
        if kept is not None:  # Pooling comes first: activations are monotonic, so the largest stays the largest.
            z, indices = layers.max_pool2d(z)
            kept.copy_(indices)
        if self._norm is not None:
            z = _as_images(self._norm.forward(_as_features(z), t * self._envs), z)
        self._activation(z.to(y.dtype), out=y)

    def backward(self, d_y: Tensor, first: int) -> None:
        """Add to the gradient of this convolution and all below. d_y: of the output's rows (T · E) from `first` on.

        It goes through all layers with one chunk of rows at a time, so that their data stay in the cache."""
        stride, padding = self._layer.stride, self._layer.padding
        for at in range(0, len(d_y), self._chunk):
            d = d_y[at : at + self._chunk]
            rows = slice(first + at, first + at + len(d))
            x = self._xs[rows]
            d = self._activation_backward(d, self._ys[rows])
            if self._norm is not None:
                d = _as_images(self._norm.backward(_as_features(d), rows.start), d)
            d = d.to(self._weight.dtype)
            self._d_bias.add_(d.sum((0, 2, 3)))
            if self._indices is not None:
                d = layers.max_pool2d_backward(d, self._indices[rows].long(), (len(d), *self._convolved))
            self._d_weight.add_(self._weight_gradient(d, x))
            if self._below is not None:
                d_x = layers.conv2d_backward_x(d, self._weight, x.shape, stride, padding)
                self._below.backward(d_x, rows.start)

    def _weight_gradient(self, d_y: Tensor, x: Tensor) -> Tensor:
        if x.dtype != torch.bfloat16:
            return layers.conv2d_backward_weight(d_y, x, self._weight.shape, self._layer.stride, self._layer.padding)
        d_weight = torch.empty_like(self._weight)
        self._windowed(d_y, x, d_weight)
        return d_weight


def _as_features(images: Tensor) -> Tensor:
    """Images (N, C, H, W) as rows (N, H · W · C)."""
    return images.permute(0, 2, 3, 1).flatten(1)


def _as_images(features: Tensor, like: Tensor) -> Tensor:
    """Rows (N, H · W · C) as images (N, C, H, W), the shape of `like`."""
    _, channels, height, width = like.shape
    return _channels_last(features, (channels, height, width))


def _channels_last(flat: Tensor, size: tuple[int, int, int]) -> Tensor:
    """View (..., height · width · channels) as images (..., channels, height, width)."""
    channels, height, width = size
    return flat.unflatten(-1, (height, width, channels)).movedim(-1, -3)
