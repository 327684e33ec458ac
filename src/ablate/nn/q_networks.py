"""The network of QArchitecture twice, over the same flat parameters: on torch.nn, and on the hand-written layers.

Both write gradients into a flat vector from the caller, with the layout of the parameters. B: rows, n: actions.
Images and features are stored channels-last in memory. The heads compute in the dtype of the parameters. With
precision=bf16 the layers below them compute in bfloat16, on rounded parameters."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ablate.nn import layers
from ablate.nn.activations import MANUAL_ACTIVATIONS, TORCH_ACTIVATIONS
from ablate.nn.convolutions import Convolution

if TYPE_CHECKING:
    from ablate.nn.q_architecture import QArchitecture


class QInput(NamedTuple):
    """How a network of action values takes its observations."""

    shape: tuple[int, ...]  # (channels, height, width), or (size,)
    dtype: torch.dtype  # of the input, and of all layers below the heads
    is_bytes: bool  # observations are uint8 images
    scale: float  # the caller multiplies bytes by it; 1 if there are no bytes, or if the network scales them
    weight_scale: float  # the network multiplies its first layer's weights by it

    @classmethod
    def of(cls, architecture: QArchitecture, parameters: Tensor, precision: str) -> QInput:
        """In bfloat16 whole bytes are exact, but bytes / 255 would be rounded; so the weights are scaled instead."""
        shape, scale = architecture.input_shape, architecture.scale
        has_layers = bool(architecture.convolutions or architecture.hidden)
        if precision == "bf16" and architecture.is_image and has_layers:
            return cls(shape, torch.bfloat16, scale != 1.0, 1.0, scale)
        return cls(shape, parameters.dtype, scale != 1.0, scale, 1.0)


class TorchQ(torch.nn.Module):
    """The network on torch.nn; its parameters and their .grad are views of the flat vectors.

    gradient: None for a network that has no backward pass. precision: `bf16` computes by autocast."""

    def __init__(
        self, architecture: QArchitecture, parameters: Tensor, gradient: Tensor | None, precision: str = "float32"
    ) -> None:
        super().__init__()
        layout = architecture.layout()
        gradients = None if gradient is None else layout.views(gradient)
        for name, view in layout.views(parameters).items():
            parameter = torch.nn.Parameter(view, requires_grad=gradients is not None)
            parameter.grad = None if gradients is None else gradients[name]
            self.register_parameter(name.replace(".", "_"), parameter)
        self.input = QInput.of(architecture, parameters, precision)
        self._convolutions = architecture.convolutions
        self._hidden, self._dueling = len(architecture.hidden), architecture.dueling
        self._activation = TORCH_ACTIVATIONS[architecture.activation]()

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) or vectors (B, size) -> Q (B, n)."""
        rounded = self.input.dtype == torch.bfloat16
        with torch.autocast(x.device.type, torch.bfloat16) if rounded else nullcontext():
            for i, layer in enumerate(self._convolutions):
                weight, bias = self._layer(f"conv_{i}", i == 0)
                x = self._activation(F.conv2d(x, weight, bias, layer.stride, layer.padding))
            x = x.permute(0, 2, 3, 1).flatten(1) if x.dim() == 4 else x
            for i in range(self._hidden):
                x = self._activation(F.linear(x, *self._layer(f"hidden_{i}", i == 0 and not self._convolutions)))
        if not self._dueling:
            weight, bias = self._layer("q", False)
            return F.linear(x.to(weight.dtype), weight, bias)
        value_stream, advantage_stream = x.to(self.get_parameter("value_weight").dtype).chunk(2, 1)
        value = F.linear(value_stream, *self._layer("value", False))
        advantage = F.linear(advantage_stream, *self._layer("advantage", False))
        return value + advantage - advantage.mean(1, keepdim=True)

    def _layer(self, name: str, is_first: bool) -> tuple[Tensor, Tensor | None]:
        weight, bias = getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias", None)
        scale = self.input.weight_scale
        return (weight * scale if is_first and scale != 1.0 else weight), bias


class ManualQ:
    """The network on layers.py: forward, and backward by the chain rule, without autograd.

    gradient: None for a network that has no backward pass. With precision=bf16 the network computes with a rounded copy
    of the parameters; call `refresh` whenever they have changed."""

    def __init__(
        self, architecture: QArchitecture, parameters: Tensor, gradient: Tensor | None, precision: str = "float32"
    ) -> None:
        layout = architecture.layout()
        heads = ("value", "advantage") if architecture.dueling else ("q",)
        self.input = QInput.of(architecture, parameters, precision)
        self._parameters, self._dtype, self._scale = parameters, self.input.dtype, self.input.weight_scale
        below = layout.starts[f"{heads[0]}.weight"]  # number of parameters below the heads
        weights, d_weights = parameters, gradient
        self._rounding = self._d_rounding = None  # pairs (rounded, exact)
        if self._dtype != parameters.dtype:
            weights = torch.empty_like(parameters, dtype=self._dtype)
            self._rounding = weights[:below], parameters[:below]
            if gradient is not None:
                d_weights = torch.empty_like(weights)
                self._d_rounding = d_weights[:below], gradient[:below]
        body, exact = layout.views(weights), layout.views(parameters)
        d_body, d_exact = ({} if flat is None else layout.views(flat) for flat in (d_weights, gradient))
        first = next(iter(body))
        self._first, self._d_first = (body[first], exact[first]), d_exact.get(first)

        self._activation, self._activation_backward = MANUAL_ACTIVATIONS[architecture.activation]
        self._in_place = architecture.activation != "elu"  # the forward of elu needs its input twice
        self._convolutions = [
            _Convolution(
                layer, body[f"conv.{i}.weight"], body.get(f"conv.{i}.bias"),
                d_body.get(f"conv.{i}.weight"), d_body.get(f"conv.{i}.bias"),
            )
            for i, layer in enumerate(architecture.convolutions)
        ]  # fmt: skip
        self._hidden = [_Linear(body, d_body, f"hidden.{i}") for i in range(len(architecture.hidden))]
        self._dueling = architecture.dueling
        self._heads = [_Linear(exact, d_exact, name) for name in heads]
        self._xs: list[Tensor] = []  # input of each layer, and of the heads
        self._image_size = architecture.sizes()[-1] if architecture.is_image else None
        self.refresh()

    def refresh(self) -> None:
        """Round the parameters again, if the network computes with a rounded copy."""
        if self._rounding is not None:
            rounded, exact = self._rounding
            rounded.copy_(exact)
        if self._scale != 1.0:
            rounded, exact = self._first
            rounded.copy_(exact * self._scale)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) or vectors (B, size) -> Q (B, n). Keeps what `backward` needs."""
        self._xs = [x]
        for convolution in self._convolutions:
            x = self._activate(convolution.forward(x))
            self._xs.append(x)
        if self._image_size is not None:
            x = x.permute(0, 2, 3, 1).flatten(1)
            self._xs[-1] = x
        for linear in self._hidden:
            x = self._activate(linear.forward(x))
            self._xs.append(x)
        x = self._xs[-1] = x.to(self._parameters.dtype)
        if not self._dueling:
            return self._heads[0].forward(x)
        value, advantage = (head.forward(part) for head, part in zip(self._heads, x.chunk(2, 1), strict=True))
        return (value - advantage.mean(1, keepdim=True)).add(advantage)

    def backward(self, d_q: Tensor) -> None:
        """From d_q (M, n) of the first M rows of the last forward to the gradient; the other rows have none."""
        rows = len(d_q)
        *xs, x = (x[:rows] for x in self._xs)
        if self._dueling:
            d_value, d_advantage = d_q.sum(1, keepdim=True), d_q - d_q.mean(1, keepdim=True)
            d_streams = [
                head.backward(d_y, stream)
                for head, d_y, stream in zip(self._heads, (d_value, d_advantage), x.chunk(2, 1), strict=True)
            ]
            d_x = torch.cat(d_streams, 1)
        else:
            d_x = self._heads[0].backward(d_q, x)
        depth = len(self._convolutions)
        d_x = d_x.to(self._dtype)
        above = x.to(self._dtype)
        for i in range(len(self._hidden) - 1, -1, -1):
            d_x = self._activation_backward(d_x, above)
            above = xs[depth + i]
            d_x = self._hidden[i].backward(d_x, above, to_input=depth + i > 0)
        if self._convolutions:
            assert self._image_size is not None
            d_x, above = (_as_images(flat, self._image_size) for flat in (d_x, above))
        for i in range(depth - 1, -1, -1):
            d_x = self._activation_backward(d_x, above)
            above = xs[i]
            d_x = self._convolutions[i].backward(d_x, above, to_input=i > 0)
        if self._d_rounding is not None:
            rounded, exact = self._d_rounding
            exact.copy_(rounded)
        if self._scale != 1.0:
            assert self._d_first is not None
            self._d_first.mul_(self._scale)

    def _activate(self, z: Tensor) -> Tensor:
        return self._activation(z, out=z) if self._in_place else self._activation(z)


class _Linear:
    """A fully connected layer, and views of its gradient."""

    def __init__(self, views: dict[str, Tensor], gradients: dict[str, Tensor], name: str) -> None:
        self._weight, self._bias = views[f"{name}.weight"], views[f"{name}.bias"]
        self._d_weight, self._d_bias = gradients.get(f"{name}.weight"), gradients.get(f"{name}.bias")

    def forward(self, x: Tensor) -> Tensor:
        return layers.linear(x, self._weight, self._bias)

    def backward(self, d_y: Tensor, x: Tensor, *, to_input: bool = True) -> Tensor:
        """d_y (B, out), x (B, in) -> d_x (B, in), if to_input."""
        assert self._d_weight is not None
        assert self._d_bias is not None
        layers.matmul(d_y.T, x, out=self._d_weight)
        torch.sum(d_y, 0, out=self._d_bias)
        return layers.matmul(d_y, self._weight) if to_input else d_y


class _Convolution:
    """A convolution, and views of its gradient."""

    def __init__(
        self,
        layer: Convolution,
        weight: Tensor,
        bias: Tensor | None,
        d_weight: Tensor | None,
        d_bias: Tensor | None,
    ) -> None:
        self._layer = layer
        self._weight, self._bias, self._d_weight, self._d_bias = weight, bias, d_weight, d_bias
        self._windowed = layers.WindowedWeightGradient(layer.kernel, layer.stride, layer.padding)

    def forward(self, x: Tensor) -> Tensor:
        return layers.conv2d(x, self._weight, self._bias, self._layer.stride, self._layer.padding)

    def backward(self, d_y: Tensor, x: Tensor, *, to_input: bool) -> Tensor:
        """d_y (B, O, H', W'), x (B, C, H, W) -> d_x like x, if to_input."""
        assert self._d_weight is not None
        stride, padding = self._layer.stride, self._layer.padding
        if d_y.dtype == torch.bfloat16 or d_y.device.type != "cpu":
            self._windowed(d_y, x, self._d_weight)
        else:
            self._d_weight.copy_(layers.conv2d_backward_weight(d_y, x, self._weight.shape, stride, padding))
        if self._d_bias is not None:
            torch.sum(d_y, (0, 2, 3), out=self._d_bias)
        return layers.conv2d_backward_x(d_y, self._weight, x.shape, stride, padding) if to_input else d_y


def _as_images(flat: Tensor, size: tuple[int, int, int]) -> Tensor:
    """View (B, height · width · channels) as images (B, channels, height, width)."""
    channels, height, width = size
    return flat.unflatten(1, (height, width, channels)).permute(0, 3, 1, 2)
