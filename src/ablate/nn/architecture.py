"""A network as data: what the configuration and the environment make of it.

No torch here: the parent process reads it too."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import isfinite

from ablate.config import ConfigError, MlpConfig, ModelConfig
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


def architecture_of(model: ModelConfig, env: EnvSpec) -> MlpArchitecture:
    """The network that `model` describes, with the inputs and outputs of `env`."""
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


def _mu_range(mu_scale: float | None, action: ActionSpec) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Centre and half width of mu's range: the action's bounds, unless the scale is given."""
    bounded = all(isfinite(bound) for bound in action.low + action.high)
    if not bounded and mu_scale is None:
        raise ConfigError("model.mu_scale=null: the action has no bounds to take the scale from; give a number")
    centre = tuple((low + high) / 2 if bounded else 0.0 for low, high in zip(action.low, action.high, strict=True))
    scale = tuple(mu_scale or (high - low) / 2 for low, high in zip(action.low, action.high, strict=True))
    return centre, scale
