"""The arguments of kernels, from a configuration."""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ablate.compiled import dynamics
from ablate.compiled.envs import find_environment
from ablate.compiled.head import CategoricalHead, Head, head_of
from ablate.compiled.loop import Scratch
from ablate.compiled.network import Network, network_of
from ablate.config.schema import EnvConfig
from ablate.nn.mlp_architecture import MlpArchitecture
from ablate.types import ActionSpec


def environment_of(config: EnvConfig) -> tuple[ModuleType, Any]:
    """The module of a kernel environment, and its Parameters with env.kwargs."""
    module = find_environment(config.id)
    assert module is not None, "see support.why_not"
    dynamics.add(module)
    defaults = module.Parameters()
    given = {key: type(getattr(defaults, key))(value) for key, value in config.kwargs.items()}
    return module, module.Parameters(**given)


class PolicyArguments(NamedTuple):
    """The network, the policy's distribution over actions, and memory for a rollout."""

    head: Head
    network: Network
    scratch: Scratch


def policy_of(
    architecture: MlpArchitecture, action: ActionSpec, t_max: int, dtype: type = np.float32
) -> PolicyArguments:
    """The arguments for a policy, with memory for rollouts of up to t_max steps."""
    network, activations = network_of(architecture, t_max, dtype)
    head = head_of(architecture, action, dtype)
    action_size = 1 if isinstance(head, CategoricalHead) else len(head.centre)
    n_dist_params = head.n if isinstance(head, CategoricalHead) else 4 * action_size
    scratch = Scratch(
        activations=activations,
        deltas=np.zeros_like(activations),
        other_deltas=np.zeros_like(activations),
        dist_params=np.zeros((t_max, n_dist_params), dtype),
        actions=np.zeros((t_max, action_size), dtype),
        env_action=np.zeros(action_size, dtype),
        rewards=np.zeros(t_max, dtype),
        discounts=np.zeros(t_max, dtype),
        returns=np.zeros(t_max, dtype),
        advantages=np.zeros(t_max, dtype),
        gradient=np.zeros(architecture.layout().size, dtype),
    )
    return PolicyArguments(head, network, scratch)
