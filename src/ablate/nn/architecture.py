"""A network as data: what the configuration and the environment make of it.

No torch here: the parent process reads it too."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import isfinite, prod, sqrt

import numpy as np

from ablate.config.schema import ConfigError, ConvConfig, MlpConfig, ModelConfig, QConfig
from ablate.nn.params import ParameterLayout
from ablate.types import ActionSpec, EnvSpec


@dataclass(frozen=True)
class MlpArchitecture:
    """Actor and critic on a torso that they share, or on the observation; the actor's last size holds all heads.

    Gaussian head: (mu, sigma) = (centre + scale · tanh(z[:A]), softplus(z[A:]) + sigma_min). Categorical: logits z."""

    torso_sizes: tuple[int, ...]  # (observation, hidden ...), an activation after every layer; (observation,): no torso
    actor_sizes: tuple[int, ...]  # (the torso's last, hidden ..., 2A or number of actions)
    critic_sizes: tuple[int, ...]  # (the torso's last, hidden ..., 1)
    activation: str
    gaussian: bool
    mu_centre: tuple[float, ...] = ()  # (A,)
    mu_scale: tuple[float, ...] = ()  # (A,)
    sigma_min: float = 0.0

    def layout(self) -> ParameterLayout:
        return ParameterLayout(
            (f"{part}.{i}.{kind}", shape)
            for part, sizes in (("torso", self.torso_sizes), ("actor", self.actor_sizes), ("critic", self.critic_sizes))
            for i, (n_in, n_out) in enumerate(pairwise(sizes))
            for kind, shape in (("weight", (n_out, n_in)), ("bias", (n_out,)))
        )


@dataclass(frozen=True)
class Convolution:
    """One convolution, the activation behind it, and 2 × 2 max-pooling if `pool`."""

    channels: int
    kernel: int
    stride: int
    padding: int
    pool: bool

    def convolved(self, height: int, width: int) -> tuple[int, int]:
        """Height and width behind the convolution, before any pooling."""
        height, width = ((side + 2 * self.padding - self.kernel) // self.stride + 1 for side in (height, width))
        return height, width


@dataclass(frozen=True)
class ConvArchitecture:
    """Actor and critic on convolutions, and an LSTM cell or a fully connected layer with the same activation.

    uint8 images are divided by 255. Images lie channels-last, (height, width, channels), in memory and as features."""

    input_shape: tuple[int, int, int]  # channels, height, width
    convolutions: tuple[Convolution, ...]
    activation: str
    hidden: int
    recurrent: bool
    actions: int
    scale: float  # what images are multiplied by: 1, or 1/255 for uint8

    def sizes(self) -> tuple[tuple[int, int, int], ...]:
        """(channels, height, width) of the input and behind each convolution with its pooling."""
        return _sizes(self.input_shape, self.convolutions)

    @property
    def features(self) -> int:
        """What the convolutions give, flattened."""
        return prod(self.sizes()[-1])

    def layout(self) -> ParameterLayout:
        """Convolutions channels-last; the weights of the hidden layer by input, each followed by its bias, so that they
        are rows of one matrix; the heads by output, weights and then biases, so that both are one layer."""
        shapes: list[tuple[str, tuple[int, ...]]] = []
        for i, ((channels, *_), layer) in enumerate(zip(self.sizes(), self.convolutions, strict=False)):
            shapes += [(f"conv.{i}.weight", (layer.channels, channels, layer.kernel, layer.kernel))]
            shapes += [(f"conv.{i}.bias", (layer.channels,))]
        if self.recurrent:
            shapes += [("lstm.weight_ih", (4 * self.hidden, self.features)), ("lstm.bias_ih", (4 * self.hidden,))]
            shapes += [("lstm.weight_hh", (4 * self.hidden, self.hidden)), ("lstm.bias_hh", (4 * self.hidden,))]
        else:
            shapes += [("hidden.weight", (self.hidden, self.features)), ("hidden.bias", (self.hidden,))]
        shapes += [("actor.weight", (self.actions, self.hidden)), ("critic.weight", (1, self.hidden))]
        shapes += [("actor.bias", (self.actions,)), ("critic.bias", (1,))]
        orders = {"conv": (0, 2, 3, 1), "lstm": (1, 0), "hidden": (1, 0), "actor": (0, 1), "critic": (0, 1)}
        return ParameterLayout(shapes, {name: orders[name.split(".")[0]] for name, shape in shapes if len(shape) > 1})

    def initialise(self, flat: np.ndarray, rng: np.random.Generator, gain: float) -> None:
        """Convolutions and hidden layer U(±gain · √(6 / (fan_in + fan_out))) (Glorot & Bengio 2010), fans counted over
        the kernel; LSTM U(±1/√hidden); heads N(0, 1), rows scaled to norm 0.01 (actor) and 1 (critic); biases 0."""
        for name, view in self.layout().views(flat).items():
            part, kind = name.split(".")[0], name.split(".")[-1]
            if kind.startswith("bias"):
                view[...] = 0.0
            elif part in ("actor", "critic"):
                rows = rng.standard_normal(view.shape)
                norm = 0.01 if part == "actor" else 1.0
                view[...] = norm * rows / np.linalg.norm(rows, axis=1, keepdims=True)
            else:
                n_out, n_in, *kernel = view.shape
                bound = 1 / sqrt(self.hidden) if part == "lstm" else gain * sqrt(6 / ((n_in + n_out) * prod(kernel)))
                view[...] = rng.uniform(-bound, bound, view.shape)


@dataclass(frozen=True)
class QArchitecture:
    """Values Q(s, a) of discrete actions: convolutions, of images, and fully connected layers, with one activation.

    Dueling (Wang et al. 2016, eq. 9): Q = V + A - mean_a A, each on a last hidden layer of its own; both are one layer
    of twice the width here, V's units first. Images lie channels-last, (height, width, channels), in memory and as
    features."""

    input_shape: tuple[int, ...]  # channels, height, width; or (size,) of a vector
    convolutions: tuple[Convolution, ...]
    conv_bias: bool
    hidden: tuple[int, ...]  # widths
    activation: str
    actions: int
    dueling: bool
    scale: float  # what images are multiplied by: 1, or 1/255 for uint8

    def sizes(self) -> tuple[tuple[int, int, int], ...]:
        """(channels, height, width) of an image and behind each convolution."""
        channels, height, width = self.input_shape
        return _sizes((channels, height, width), self.convolutions)

    @property
    def widths(self) -> tuple[int, ...]:
        """Units of each hidden layer, those of both streams in the last."""
        return (*self.hidden[:-1], 2 * self.hidden[-1]) if self.dueling else self.hidden

    def layout(self) -> ParameterLayout:
        """Convolutions channels-last, hidden layers, and then the heads: `q`, or `value` and `advantage`."""
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

    def initialise(self, flat: np.ndarray, rng: np.random.Generator, gain: float) -> None:
        """Weights N(0, gain² / fan_in); biases 0 (He et al. 2015: √2 keeps the variance of a ReLU's inputs)."""
        for name, view in self.layout().views(flat).items():
            std = 0.0 if name.endswith("bias") else gain / sqrt(prod(view.shape[1:]))
            view[...] = std * rng.standard_normal(view.shape)


Architecture = MlpArchitecture | ConvArchitecture | QArchitecture


def initial_parameters(model: ModelConfig, architecture: Architecture, rng: np.random.Generator) -> np.ndarray:
    """(P,) float32, drawn as the model says."""
    layout = architecture.layout()
    flat = np.zeros(layout.size, np.float32)
    if isinstance(architecture, ConvArchitecture):
        assert isinstance(model, ConvConfig)
        architecture.initialise(flat, rng, model.init_gain)
    elif isinstance(architecture, QArchitecture):
        assert isinstance(model, QConfig)
        architecture.initialise(flat, rng, model.init_gain)
    else:
        assert isinstance(model, MlpConfig)
        layout.initialise(flat, rng, model.init_std)
    return flat


def architecture_of(model: ModelConfig, env: EnvSpec) -> Architecture:
    """The network that `model` describes, with the inputs and outputs of `env`. ConfigError if they don't fit."""
    if isinstance(model, QConfig):
        return _q_architecture(model, env)
    if isinstance(model, ConvConfig):
        return _conv_architecture(model, env)
    assert isinstance(model, MlpConfig), model
    if len(env.observation_shape) != 1:
        raise ConfigError(
            f"model.name={model.name}: the observation is an image, {list(env.observation_shape)}; "
            "use a model of convolutions, as model=conv_lstm_42"
        )
    action = env.action
    outputs = action.n if action.n is not None else 2 * len(action.low)
    centre, scale = ((), ()) if action.is_discrete else _mu_range(model.mu_scale, action)
    torso = (env.observation_size, *model.torso_hidden)
    return MlpArchitecture(
        torso_sizes=torso,
        actor_sizes=(torso[-1], *model.actor_hidden, outputs),
        critic_sizes=(torso[-1], *model.critic_hidden, 1),
        activation=str(model.activation),
        gaussian=not action.is_discrete,
        mu_centre=centre,
        mu_scale=scale,
        sigma_min=model.sigma_min,
    )


def _conv_architecture(model: ConvConfig, env: EnvSpec) -> ConvArchitecture:
    observation = env.observation_shape
    if len(observation) != 3:
        raise ConfigError(f"model.name={model.name}: the observation is no image, {list(observation)}; use model=mlp")
    if observation != tuple(model.input):
        raise ConfigError(
            f"model.input={list(model.input)}: the observation is {list(observation)}; "
            "choose a model and a preprocessing that fit together"
        )
    if env.action.n is None:
        raise ConfigError(f"model.name={model.name}: it chooses among discrete actions, and the action is a box")
    architecture = ConvArchitecture(
        input_shape=model.input,
        convolutions=tuple(Convolution(c.channels, c.kernel, c.stride, c.padding, c.pool) for c in model.convolutions),
        activation=str(model.activation),
        hidden=model.hidden,
        recurrent=model.recurrent,
        actions=env.action.n,
        scale=1 / 255 if env.observation_dtype == "uint8" else 1.0,
    )
    _refuse_nothing_left(architecture)
    return architecture


def _q_architecture(model: QConfig, env: EnvSpec) -> QArchitecture:
    observation, is_image = env.observation_shape, len(env.observation_shape) == 3
    if env.action.n is None:
        raise ConfigError(
            "algo=dqn: it chooses among discrete actions, and this environment's is a box; use another one, "
            "as env=cartpole, or algo=a3c"
        )
    if is_image and model.input is None:
        raise ConfigError(
            f"model.input=null: the observation is an image, {list(observation)}; "
            "use a model of convolutions, as model=dqn_84"
        )
    if not is_image and (model.input is not None or model.convolutions):
        key = "model.convolutions" if model.input is None else f"model.input={list(model.input)}"
        raise ConfigError(f"{key}: the observation is no image, {list(observation)}; use model=dqn_mlp")
    if model.input is not None and observation != tuple(model.input):
        raise ConfigError(
            f"model.input={list(model.input)}: the observation is {list(observation)}; "
            "choose a model and a preprocessing that fit together"
        )
    if any(layer.pool for layer in model.convolutions):
        raise ConfigError(f"model.convolutions: model.name={model.name} has no pooling; use strides, not pool=true")
    if model.dueling and not model.hidden:
        raise ConfigError(
            "model.dueling=true: the last hidden layer exists twice, and model.hidden=[] has none; give a width"
        )
    architecture = QArchitecture(
        input_shape=observation,
        convolutions=tuple(Convolution(c.channels, c.kernel, c.stride, c.padding, c.pool) for c in model.convolutions),
        conv_bias=model.conv_bias,
        hidden=tuple(model.hidden),
        activation=str(model.activation),
        actions=env.action.n,
        dueling=model.dueling,
        scale=1 / 255 if is_image and env.observation_dtype == "uint8" else 1.0,
    )
    if is_image:
        _refuse_nothing_left(architecture)
    return architecture


def _sizes(
    input_shape: tuple[int, int, int], convolutions: tuple[Convolution, ...]
) -> tuple[tuple[int, int, int], ...]:
    """(channels, height, width) of the input and behind each convolution with its pooling."""
    sizes = [input_shape]
    for layer in convolutions:
        height, width = layer.convolved(*sizes[-1][1:])
        sizes.append((layer.channels, height // 2, width // 2) if layer.pool else (layer.channels, height, width))
    return tuple(sizes)


def _refuse_nothing_left(architecture: ConvArchitecture | QArchitecture) -> None:
    sizes = architecture.sizes()
    for i, (_, height, width) in enumerate(sizes[1:]):
        if min(height, width) < 1:
            raise ConfigError(
                f"model.convolutions: nothing is left of {list(sizes[i][1:])} pixels behind convolution {i} "
                f"({_in_words(architecture.convolutions[i])}); use fewer, smaller kernels and strides, or more padding"
            )


def _in_words(layer: Convolution) -> str:
    pooled = ", pooled" if layer.pool else ""
    return f"kernel {layer.kernel}, stride {layer.stride}, padding {layer.padding}{pooled}"


def _mu_range(mu_scale: float | None, action: ActionSpec) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Centre and half width of mu's range: the action's bounds, unless the scale is given."""
    bounded = all(isfinite(bound) for bound in action.low + action.high)
    if not bounded and mu_scale is None:
        raise ConfigError("model.mu_scale=null: the action has no bounds to take the scale from; give a number")
    centre = tuple((low + high) / 2 if bounded else 0.0 for low, high in zip(action.low, action.high, strict=True))
    scale = tuple(mu_scale or (high - low) / 2 for low, high in zip(action.low, action.high, strict=True))
    return centre, scale
