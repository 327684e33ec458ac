"""The activations by their name in the configuration: as torch modules, and as hand-written pairs of functions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ablate.nn import layers

# Forward, which takes a tensor `out` to write to, and backward from the output.
ManualActivation = tuple[Callable[..., Tensor], Callable[[Tensor, Tensor], Tensor]]
TORCH_ACTIVATIONS: dict[str, type[torch.nn.Module]] = {
    "relu": torch.nn.ReLU,
    "relu6": torch.nn.ReLU6,
    "tanh": torch.nn.Tanh,
    "elu": torch.nn.ELU,
}
MANUAL_ACTIVATIONS: dict[str, ManualActivation] = {
    "relu": (layers.relu, layers.relu_backward),
    "relu6": (layers.relu6, layers.relu6_backward),
    "tanh": (layers.tanh, layers.tanh_backward),
    "elu": (layers.elu, layers.elu_backward),
}
