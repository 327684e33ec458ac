"""The fully connected actor-critic for vectors: model.name=mlp."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np

from ablate.config.schema import ConfigError, MlpConfig
from ablate.nn.architecture_base import Architecture
from ablate.nn.mlp_acting import MlpActing
from ablate.nn.params import ParameterLayout
from ablate.types import ActionSpec, EnvSpec

if TYPE_CHECKING:
    from torch import Tensor

    from ablate.nn.mlp_networks import ManualMlp, TorchMlp


LARGEST_FLOAT32 = 3.4028234663852886e38  # some programs write it for no bound


@dataclass(frozen=True)
class MlpArchitecture(Architecture):
    """Actor and critic, both on a shared torso or, without a torso, on the observation.

    Gaussian head: (mu, sigma) = (centre + scale · tanh(z[:A]), softplus(z[A:]) + sigma_min), z the actor's outputs.
    Categorical head: z are the logits."""

    torso_sizes: tuple[int, ...]  # (observation, hidden ...), an activation after each layer; (observation,): no torso
    actor_sizes: tuple[int, ...]  # (last of the torso, hidden ..., 2A or number of actions)
    critic_sizes: tuple[int, ...]  # (last of the torso, hidden ..., 1)
    activation: str
    gaussian: bool
    mu_centre: tuple[float, ...] = ()  # (A,)
    mu_scale: tuple[float, ...] = ()  # (A,)
    sigma_min: float = 0.0
    init_std: float = field(default=0.1, compare=False)

    @classmethod
    def build(cls, model: MlpConfig, env: EnvSpec) -> MlpArchitecture:
        """Raises ConfigError for images, and for an action without bounds if model.mu_scale is null."""
        if env.is_image:
            raise ConfigError(
                f"model.name={model.name}: the observation is an image, {list(env.observation_shape)}; "
                "use a model with convolutions, such as model=conv_lstm_42"
            )
        action = env.action
        outputs = action.n if action.n is not None else 2 * len(action.low)
        centre, scale = ((), ()) if action.is_discrete else _mu_range(model.mu_scale, action)
        torso = (env.observation_size, *model.torso_hidden)
        return cls(
            torso_sizes=torso,
            actor_sizes=(torso[-1], *model.actor_hidden, outputs),
            critic_sizes=(torso[-1], *model.critic_hidden, 1),
            activation=str(model.activation),
            gaussian=not action.is_discrete,
            mu_centre=centre,
            mu_scale=scale,
            sigma_min=model.sigma_min,
            init_std=model.init_std,
        )

    @property
    def is_image(self) -> bool:
        return False

    def layout(self) -> ParameterLayout:
        return ParameterLayout(
            (f"{part}.{i}.{kind}", shape)
            for part, sizes in (("torso", self.torso_sizes), ("actor", self.actor_sizes), ("critic", self.critic_sizes))
            for i, (n_in, n_out) in enumerate(pairwise(sizes))
            for kind, shape in (("weight", (n_out, n_in)), ("bias", (n_out,)))
        )

    def initialise(self, flat: np.ndarray, rng: np.random.Generator) -> None:
        """Weights N(0, init_std²), biases 0."""
        self.layout().initialise(flat, rng, self.init_std)

    def torch_network(self, parameters: Tensor, gradient: Tensor) -> TorchMlp:
        from ablate.nn.mlp_networks import TorchMlp

        return TorchMlp(self, parameters, gradient)

    def manual_network(self, parameters: Tensor, gradient: Tensor) -> ManualMlp:
        from ablate.nn.mlp_networks import ManualMlp

        return ManualMlp(self, parameters, gradient)

    def acting(self, parameters: np.ndarray, action: ActionSpec, envs: int = 1, epsilon: float = 0.0) -> MlpActing:
        return MlpActing(self, parameters, action)


def _mu_range(mu_scale: float | None, action: ActionSpec) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Centre and half width of the range of mu, each (A,), decided for each dimension by its own bounds.

    Two bounds give both; if all dimensions have two, `mu_scale` replaces their half widths. One bound is an end of the
    range, no bound leaves its centre at 0; then `mu_scale` is the half width."""
    bounds = list(zip(action.low, action.high, strict=True))
    has_bounds = [(low > -LARGEST_FLOAT32, high < LARGEST_FLOAT32) for low, high in bounds]
    bounded = [all(has) for has in has_bounds]
    if not all(bounded) and action.dtype == "" and any(map(isfinite, action.low + action.high)):
        raise ConfigError(
            "model.name=mlp: this checkpoint was saved when an action without bounds changed the range of "
            "all; train again"
        )
    if not all(bounded) and mu_scale is None:
        raise ConfigError(
            f"model.mu_scale=null: dimension {bounded.index(False)} of the action does not have two bounds to take the "
            "scale from; give a number"
        )
    centre, scale = [], []
    for (low, high), (has_low, has_high) in zip(bounds, has_bounds, strict=True):
        by_bounds = has_low and has_high and (mu_scale is None or not all(bounded))
        half = (high - low) / 2 if by_bounds else mu_scale
        assert half is not None
        scale.append(half)
        if has_low and has_high:
            centre.append((low + high) / 2)
        else:
            centre.append(low + half if has_low else high - half if has_high else 0.0)
    return tuple(centre), tuple(scale)


NAME, build = "mlp", MlpArchitecture.build  # for the registry in architecture.py
