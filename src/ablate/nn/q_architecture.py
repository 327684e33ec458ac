"""The network of action values Q(s, a), for vectors or images: model.name=q."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from math import prod, sqrt
from typing import TYPE_CHECKING

import numpy as np

from ablate.config.schema import ConfigError, QConfig
from ablate.nn.architecture_base import Architecture
from ablate.nn.convolutions import Convolution, convolutions_of, refuse_vanishing_images, sizes_of
from ablate.nn.params import ParameterLayout
from ablate.nn.q_acting import QActing, VectorQActing
from ablate.types import ActionSpec, EnvSpec

if TYPE_CHECKING:
    from torch import Tensor

    from ablate.nn.q_networks import ManualQ, TorchQ


@dataclass(frozen=True)
class QArchitecture(Architecture):
    """Q(s, a) of discrete actions: convolutions (images only), then fully connected layers, all with one activation.

    Dueling (Wang et al. 2016, eq. 9): Q = V + A - mean_a A. V and A have a last hidden layer each; here these are one
    layer of twice the width, with V's units first. Images and features are stored channels-last: (height, width,
    channels)."""

    input_shape: tuple[int, ...]  # (channels, height, width) of an image, or (size,) of a vector
    convolutions: tuple[Convolution, ...]
    conv_bias: bool
    hidden: tuple[int, ...]  # widths
    activation: str
    actions: int
    dueling: bool
    scale: float  # the input is multiplied by it: images by 1/255, vectors by 1
    init_gain: float = field(default=sqrt(2), compare=False)

    @classmethod
    def build(cls, model: QConfig, env: EnvSpec) -> QArchitecture:
        """Raises ConfigError if the action is a box, or if the model's layers and input don't fit the observation."""
        observation, is_image = env.observation_shape, env.is_image
        if env.action.n is None:
            raise ConfigError(
                "algo=dqn: it needs discrete actions, but this environment's action is a box; use another environment, "
                "such as env=cartpole, or algo=a3c"
            )
        if is_image and model.input is None:
            raise ConfigError(
                f"model.input=null: the observation is an image, {list(observation)}; "
                "use a model with convolutions, such as model=dqn_84"
            )
        if not is_image and (model.input is not None or model.convolutions):
            key = "model.convolutions" if model.input is None else f"model.input={list(model.input)}"
            raise ConfigError(f"{key}: the observation is not an image, {list(observation)}; use model=dqn_mlp")
        if model.input is not None and observation != tuple(model.input):
            raise ConfigError(
                f"model.input={list(model.input)}: the observation is {list(observation)}; "
                "choose a model and a preprocessing that fit together"
            )
        if any(layer.pool for layer in model.convolutions):
            raise ConfigError(
                f"model.convolutions: model.name={model.name} has no pooling; use strides instead of pool=true"
            )
        if model.dueling and not model.hidden:
            raise ConfigError(
                "model.dueling=true: it needs the last hidden layer twice, but model.hidden=[] has none; give a width"
            )
        convolutions = convolutions_of(model.convolutions)
        if model.input is not None:
            refuse_vanishing_images(model.input, convolutions)
        if is_image and env.observation_dtype != "uint8":
            raise ConfigError(
                f"algo=dqn: its replay keeps images as bytes, but these are {env.observation_dtype}; use a "
                "preprocessing without running normalisation, such as preprocessing=nature_84, or algo=a3c"
            )
        return cls(
            input_shape=observation,
            convolutions=convolutions,
            conv_bias=model.conv_bias,
            hidden=tuple(model.hidden),
            activation=str(model.activation),
            actions=env.action.n,
            dueling=model.dueling,
            scale=1 / 255 if is_image else 1.0,
            init_gain=model.init_gain,
        )

    @property
    def is_image(self) -> bool:
        return len(self.input_shape) == 3

    def sizes(self) -> tuple[tuple[int, int, int], ...]:
        """(channels, height, width) of an image, and after each convolution."""
        channels, height, width = self.input_shape
        return sizes_of((channels, height, width), self.convolutions)

    @property
    def widths(self) -> tuple[int, ...]:
        """Units of each hidden layer; the last one holds both streams if dueling."""
        return (*self.hidden[:-1], 2 * self.hidden[-1]) if self.dueling else self.hidden

    def layout(self) -> ParameterLayout:
        """Convolutions (channels-last), hidden layers, and then the heads: `q`, or `value` and `advantage`."""
        shapes: list[tuple[str, tuple[int, ...]]] = []
        features = prod(self.input_shape)
        if self.convolutions:
            sizes = self.sizes()
            features = prod(sizes[-1])
            for i, ((channels, *_), layer) in enumerate(zip(sizes, self.convolutions, strict=False)):
                shapes += [(f"conv.{i}.weight", (layer.channels, channels, layer.kernel, layer.kernel))]
                shapes += [(f"conv.{i}.bias", (layer.channels,))] if self.conv_bias else []
        for i, (n_in, n_out) in enumerate(pairwise((features, *self.widths))):
            shapes += [(f"hidden.{i}.weight", (n_out, n_in)), (f"hidden.{i}.bias", (n_out,))]
        last = self.hidden[-1] if self.hidden else features
        heads = {"value": 1, "advantage": self.actions} if self.dueling else {"q": self.actions}
        for head, n_out in heads.items():
            shapes += [(f"{head}.weight", (n_out, last)), (f"{head}.bias", (n_out,))]
        return ParameterLayout(shapes, {name: (0, 2, 3, 1) for name, shape in shapes if len(shape) == 4})

    def initialise(self, flat: np.ndarray, rng: np.random.Generator) -> None:
        """Weights N(0, init_gain² / fan_in); biases 0. A gain of √2 keeps a ReLU's input variance (He et al. 2015)."""
        for name, view in self.layout().views(flat).items():
            std = 0.0 if name.endswith("bias") else self.init_gain / sqrt(prod(view.shape[1:]))
            view[...] = std * rng.standard_normal(view.shape)

    def torch_network(self, parameters: Tensor, gradient: Tensor | None, precision: str = "float32") -> TorchQ:
        from ablate.nn.q_networks import TorchQ

        return TorchQ(self, parameters, gradient, precision)

    def manual_network(self, parameters: Tensor, gradient: Tensor | None, precision: str = "float32") -> ManualQ:
        from ablate.nn.q_networks import ManualQ

        return ManualQ(self, parameters, gradient, precision)

    def acting(self, parameters: np.ndarray, action: ActionSpec, envs: int = 1, epsilon: float = 0.0) -> QActing:
        if not self.is_image:
            return VectorQActing(self, parameters, action, epsilon)
        from ablate.nn.q_image_acting import ImageQActing  # imports torch

        return ImageQActing(self, parameters, action, envs, epsilon)


NAME, build = "q", QArchitecture.build  # for the registry in architecture.py
