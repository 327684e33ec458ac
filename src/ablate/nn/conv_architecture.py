"""The convolutional actor-critic for images, with or without an LSTM: model.name=conv."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod, sqrt
from typing import TYPE_CHECKING

import numpy as np

from ablate.config.schema import ConfigError, ConvConfig
from ablate.nn.architecture_base import Architecture
from ablate.nn.convolutions import Convolution, convolutions_of, refuse_vanishing_images, sizes_of
from ablate.nn.params import ParameterLayout
from ablate.types import ActionSpec, EnvSpec

if TYPE_CHECKING:
    from torch import Tensor

    from ablate.nn.conv_acting import ConvActing
    from ablate.nn.conv_networks import ManualConv, TorchConv

# Measured: copies of the parameters in a worker (the optimizer's and shared ones among them), and by how much the
# backward pass needs more at its peak than what the rollout keeps.
PARAMETER_COPIES = 12
BACKWARD_PEAK = {"manual": 2.0, "autograd": 1.25}


@dataclass(frozen=True)
class ConvArchitecture(Architecture):
    """Convolutions, then an LSTM cell or a fully connected layer with the same activation, then actor and critic.

    layer_norm: the outputs of each convolution (after pooling) and of the fully connected layer are normalised over
    the whole layer, with a gain and a bias for each, before the activation (Ba et al. 2016).
    Images and features are stored channels-last: (height, width, channels)."""

    input_shape: tuple[int, int, int]  # channels, height, width
    convolutions: tuple[Convolution, ...]
    activation: str
    hidden: int
    recurrent: bool
    layer_norm: bool
    actions: int
    scale: float  # images are multiplied by it: 1, or 1/255 for uint8
    init_gain: float = field(default=sqrt(2), compare=False)

    @classmethod
    def build(cls, model: ConvConfig, env: EnvSpec) -> ConvArchitecture:
        """Raises ConfigError for vectors, for images of another size and for an action that is a box."""
        observation = env.observation_shape
        if not env.is_image:
            raise ConfigError(
                f"model.name={model.name}: the observation is not an image, {list(observation)}; use model=mlp"
            )
        if observation != tuple(model.input):
            raise ConfigError(
                f"model.input={list(model.input)}: the observation is {list(observation)}; "
                "choose a model and a preprocessing that fit together"
            )
        if env.action.n is None:
            raise ConfigError(f"model.name={model.name}: it needs discrete actions, but the action is a box")
        convolutions = convolutions_of(model.convolutions)
        refuse_vanishing_images(model.input, convolutions)
        return cls(
            input_shape=model.input,
            convolutions=convolutions,
            activation=str(model.activation),
            hidden=model.hidden,
            recurrent=model.recurrent,
            layer_norm=model.layer_norm,
            actions=env.action.n,
            scale=1 / 255 if env.observation_dtype == "uint8" else 1.0,
            init_gain=model.init_gain,
        )

    @property
    def is_image(self) -> bool:
        return True

    def sizes(self) -> tuple[tuple[int, int, int], ...]:
        """(channels, height, width) of the input, and after each convolution with its pooling."""
        return sizes_of(self.input_shape, self.convolutions)

    @property
    def features(self) -> int:
        """Number of outputs of the last convolution."""
        return prod(self.sizes()[-1])

    @property
    def normalised(self) -> list[str]:
        """Names of the layer normalisations, in the order of the layers."""
        if not self.layer_norm:
            return []
        return [f"conv_norm.{i}" for i in range(len(self.convolutions))] + ["hidden_norm"] * (not self.recurrent)

    def layout(self) -> ParameterLayout:
        """Convolutions are channels-last. The hidden layer's weights are stored by input and followed by their bias, so
        that all are rows of one matrix. The heads' weights are stored by output, then both biases, so that both heads
        are one layer."""
        shapes: list[tuple[str, tuple[int, ...]]] = []
        for i, ((channels, *_), layer) in enumerate(zip(self.sizes(), self.convolutions, strict=False)):
            shapes += [(f"conv.{i}.weight", (layer.channels, channels, layer.kernel, layer.kernel))]
            shapes += [(f"conv.{i}.bias", (layer.channels,))]
            if self.layer_norm:
                units = (prod(self.sizes()[i + 1]),)
                shapes += [(f"conv_norm.{i}.weight", units), (f"conv_norm.{i}.bias", units)]
        if self.recurrent:
            shapes += [("lstm.weight_ih", (4 * self.hidden, self.features)), ("lstm.bias_ih", (4 * self.hidden,))]
            shapes += [("lstm.weight_hh", (4 * self.hidden, self.hidden)), ("lstm.bias_hh", (4 * self.hidden,))]
        else:
            shapes += [("hidden.weight", (self.hidden, self.features)), ("hidden.bias", (self.hidden,))]
            if self.layer_norm:
                shapes += [("hidden_norm.weight", (self.hidden,)), ("hidden_norm.bias", (self.hidden,))]
        shapes += [("actor.weight", (self.actions, self.hidden)), ("critic.weight", (1, self.hidden))]
        shapes += [("actor.bias", (self.actions,)), ("critic.bias", (1,))]
        orders = {"conv": (0, 2, 3, 1), "lstm": (1, 0), "hidden": (1, 0), "actor": (0, 1), "critic": (0, 1)}
        return ParameterLayout(shapes, {name: orders[name.split(".")[0]] for name, shape in shapes if len(shape) > 1})

    def initialise(self, flat: np.ndarray, rng: np.random.Generator) -> None:
        """Convolutions and hidden layer U(±init_gain · √(6 / (fan_in + fan_out))) (Glorot & Bengio 2010), with fans
        over the kernel; LSTM U(±1/√hidden); heads N(0, 1), rows scaled to norm 0.01 (actor) and 1 (critic); biases 0;
        gains of layer normalisation 1.
        """
        for name, view in self.layout().views(flat).items():
            part, kind = name.split(".")[0], name.split(".")[-1]
            if kind.startswith("bias"):
                view[...] = 0.0
            elif part.endswith("norm"):
                view[...] = 1.0
            elif part in ("actor", "critic"):
                rows = rng.standard_normal(view.shape)
                norm = 0.01 if part == "actor" else 1.0
                view[...] = norm * rows / np.linalg.norm(rows, axis=1, keepdims=True)
            else:
                n_out, n_in, *kernel = view.shape
                glorot = self.init_gain * sqrt(6 / ((n_in + n_out) * prod(kernel)))
                bound = 1 / sqrt(self.hidden) if part == "lstm" else glorot
                view[...] = rng.uniform(-bound, bound, view.shape)

    def torch_network(self, parameters: Tensor, gradient: Tensor, precision: str = "float32") -> TorchConv:
        from ablate.nn.conv_networks import TorchConv

        return TorchConv(self, parameters, gradient, precision)

    def manual_network(
        self, parameters: Tensor, gradient: Tensor, rows: int, envs: int, precision: str = "float32"
    ) -> ManualConv:
        from ablate.nn.conv_networks import ManualConv

        return ManualConv(self, parameters, gradient, rows, envs, precision)

    def acting(self, parameters: np.ndarray, action: ActionSpec, envs: int = 1, epsilon: float = 0.0) -> ConvActing:
        from ablate.nn.conv_acting import ConvActing

        return ConvActing(self, parameters, action, envs)

    def memory_mb(self, backend: str, rows: int) -> int:
        sizes = self.sizes()
        numbers_per_row = float(prod(sizes[0]))
        for layer, before, after in zip(self.convolutions, sizes, sizes[1:], strict=False):
            if backend == "manual":  # the output; for pooling also the places of the maxima, in half the bits
                numbers_per_row += prod(after) * (1.0 + 0.5 * layer.pool + self.layer_norm)
            else:  # before and after the activation; for pooling the output, and the places in twice the bits
                convolved = layer.channels * prod(layer.convolved(*before[1:]))
                numbers_per_row += 2 * convolved + prod(after) * (3 * layer.pool + 2 * self.layer_norm)
        kept = BACKWARD_PEAK[backend] * rows * numbers_per_row
        return round(4 * (PARAMETER_COPIES * self.layout().size + kept) / 1e6)


NAME, build = "conv", ConvArchitecture.build  # for the registry in architecture.py
