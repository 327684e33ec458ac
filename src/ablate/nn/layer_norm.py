"""Layer normalisation by hand, with what its backward pass needs of each row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ablate.nn import layers


class ManualLayerNorm:
    """y = w x̂ + b with x̂ = (x - μ) / √(σ² + ε), μ and σ² over a row (Ba et al. 2016). N: rows, n: units.

    parameters, gradients: w and b, each (n,). rows: how many rows are kept."""

    def __init__(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor], rows: int) -> None:
        (self._weight, self._bias), (self._d_weight, self._d_bias) = parameters, gradients
        self._x_hat = self._weight.new_zeros(rows, len(self._weight))
        self._scale = self._weight.new_zeros(rows, 1)

    def clear(self) -> None:
        """Set the gradients to 0; `backward` adds to them."""
        self._d_weight.zero_()
        self._d_bias.zero_()

    def forward(self, x: Tensor, first: int) -> Tensor:
        """x (N, n), which becomes rows first to first + N - 1 -> y (N, n), in the dtype of the parameters."""
        rows = slice(first, first + len(x))
        x_hat, self._scale[rows] = layers.layer_norm(x.to(self._weight.dtype))
        self._x_hat[rows] = x_hat
        return torch.addcmul(self._bias, x_hat, self._weight)

    def backward(self, d_y: Tensor, first: int) -> Tensor:
        """d_y (N, n) of the rows from `first` on -> d_x (N, n). Adds to the gradients."""
        rows = slice(first, first + len(d_y))
        self._d_weight.add_((d_y * self._x_hat[rows]).sum(0))
        self._d_bias.add_(d_y.sum(0))
        return layers.layer_norm_backward(d_y * self._weight, self._x_hat[rows], self._scale[rows])
