"""The kernels' arguments, from a configuration."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ablate.compiled.envs import ENVIRONMENTS
from ablate.compiled.head import Categorical, Head, head_of
from ablate.compiled.loop import Scratch
from ablate.compiled.network import Network, network_of
from ablate.config.schema import EnvConfig
from ablate.nn.mlp_architecture import MlpArchitecture
from ablate.types import ActionSpec


def environment_of(config: EnvConfig) -> tuple[Any, int]:
    """The environment's parameters, with env.kwargs, and the size of its state."""
    module = ENVIRONMENTS[config.id]
    defaults = module.Parameters()
    given = {key: type(getattr(defaults, key))(value) for key, value in config.kwargs.items()}
    return module.Parameters(**given), module.STATE_SIZE


class Policy(NamedTuple):
    """The network, what is made of its outputs, and room for a rollout through it."""

    head: Head
    network: Network
    scratch: Scratch


def policy_of(architecture: MlpArchitecture, action: ActionSpec, t_max: int, dtype: type = np.float32) -> Policy:
    network, activations = network_of(architecture, t_max, dtype)
    head = head_of(architecture, action, dtype)
    action_size = 1 if isinstance(head, Categorical) else len(head.centre)
    described = head.n if isinstance(head, Categorical) else 4 * action_size
    scratch = Scratch(
        activations=activations,
        deltas=np.zeros_like(activations),
        other_deltas=np.zeros_like(activations),
        described=np.zeros((t_max, described), dtype),
        actions=np.zeros((t_max, action_size), dtype),
        taken=np.zeros(action_size, dtype),
        rewards=np.zeros(t_max, dtype),
        discounts=np.zeros(t_max, dtype),
        returns=np.zeros(t_max, dtype),
        advantages=np.zeros(t_max, dtype),
        gradient=np.zeros(architecture.layout().size, dtype),
    )
    return Policy(head, network, scratch)
