"""A network as data: what the configuration and the environment make of it.

No torch here: the parent process reads it too."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import isfinite, prod

from ablate.config import ConfigError, ConvConfig, MlpConfig, ModelConfig
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


@dataclass(frozen=True)
class ConvArchitecture:
    """Actor and critic on convolutions, and an LSTM cell or a fully connected layer with the same activation.

    uint8 images are divided by 255."""

    input_shape: tuple[int, int, int]  # channels, height, width
    convolutions: tuple[Convolution, ...]
    activation: str
    hidden: int
    recurrent: bool
    actions: int
    scale: float  # what images are multiplied by: 1, or 1/255 for uint8

    def sizes(self) -> tuple[tuple[int, int, int], ...]:
        """(channels, height, width) of the input and behind each convolution with its pooling."""
        sizes = [self.input_shape]
        for layer in self.convolutions:
            _, *sides = sizes[-1]
            sides = [(side + 2 * layer.padding - layer.kernel) // layer.stride + 1 for side in sides]
            height, width = (side // 2 for side in sides) if layer.pool else sides
            sizes.append((layer.channels, height, width))
        return tuple(sizes)

    @property
    def features(self) -> int:
        """What the convolutions give, flattened."""
        return prod(self.sizes()[-1])

    def layout(self) -> ParameterLayout:
        shapes: list[tuple[str, tuple[int, ...]]] = []
        for i, ((channels, *_), layer) in enumerate(zip(self.sizes(), self.convolutions, strict=False)):
            shapes += [(f"conv.{i}.weight", (layer.channels, channels, layer.kernel, layer.kernel))]
            shapes += [(f"conv.{i}.bias", (layer.channels,))]
        if self.recurrent:
            shapes += [("lstm.weight_ih", (4 * self.hidden, self.features)), ("lstm.bias_ih", (4 * self.hidden,))]
            shapes += [("lstm.weight_hh", (4 * self.hidden, self.hidden)), ("lstm.bias_hh", (4 * self.hidden,))]
        else:
            shapes += [("hidden.weight", (self.hidden, self.features)), ("hidden.bias", (self.hidden,))]
        shapes += [("actor.weight", (self.actions, self.hidden)), ("actor.bias", (self.actions,))]
        shapes += [("critic.weight", (1, self.hidden)), ("critic.bias", (1,))]
        return ParameterLayout(shapes)


def architecture_of(model: ModelConfig, env: EnvSpec) -> MlpArchitecture | ConvArchitecture:
    """The network that `model` describes, with the inputs and outputs of `env`. Raises ConfigError if it does not fit."""
    if isinstance(model, ConvConfig):
        return _conv_architecture(model, env)
    assert isinstance(model, MlpConfig), model
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
    assert env.action.n is not None and env.observation_shape == tuple(model.input)
    return ConvArchitecture(
        input_shape=model.input,
        convolutions=tuple(Convolution(c.channels, c.kernel, c.stride, c.padding, c.pool) for c in model.convolutions),
        activation=str(model.activation),
        hidden=model.hidden,
        recurrent=model.recurrent,
        actions=env.action.n,
        scale=1 / 255 if env.observation_dtype == "uint8" else 1.0,
    )


def _mu_range(mu_scale: float | None, action: ActionSpec) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Centre and half width of mu's range: the action's bounds, unless the scale is given."""
    bounded = all(isfinite(bound) for bound in action.low + action.high)
    if not bounded and mu_scale is None:
        raise ConfigError("model.mu_scale=null: the action has no bounds to take the scale from; give a number")
    centre = tuple((low + high) / 2 if bounded else 0.0 for low, high in zip(action.low, action.high, strict=True))
    scale = tuple(mu_scale or (high - low) / 2 for low, high in zip(action.low, action.high, strict=True))
    return centre, scale
