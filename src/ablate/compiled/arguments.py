"""The kernels' arguments, from a configuration."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ablate.compiled.envs import ENVIRONMENTS
from ablate.compiled.head import Categorical, Head, head_of
from ablate.compiled.loop import Algorithm, Scratch
from ablate.compiled.network import Network, network_of
from ablate.config.choices import LossReduction
from ablate.config.schema import A3CConfig, Config, EnvConfig
from ablate.nn.mlp_architecture import MlpArchitecture
from ablate.types import ActionSpec


def environment_of(config: EnvConfig) -> tuple[Any, int]:
    """The environment's parameters, with env.kwargs, and the size of its state."""
    module = ENVIRONMENTS[config.id]
    defaults = module.Parameters()
    given = {key: type(getattr(defaults, key))(value) for key, value in config.kwargs.items()}
    return module.Parameters(**given), module.STATE_SIZE


def algorithm_of(config: Config, evaluates: bool) -> Algorithm:
    algo = config.algo
    assert isinstance(algo, A3CConfig)
    return Algorithm(
        t_max=algo.t_max,
        gamma=algo.gamma,
        gae_lambda=algo.gae_lambda,
        entropy_coef=algo.entropy_coef,
        value_loss_coef=algo.value_loss_coef,
        mean=algo.loss_reduction == LossReduction.mean,
        max_grad_norm=math.inf if algo.max_grad_norm is None else algo.max_grad_norm,
        bootstrap_truncated=algo.bootstrap_truncated,
        lock_updates=algo.lock_updates,
        reward_shift=float(config.env.reward_shift),
        reward_scale=float(config.env.reward_scale),
        max_ep_step=config.env.max_ep_step or 0,
        max_episodes=config.max_episodes or 0,
        total_steps=config.total_steps or 0,
        log_interval=config.log_interval,
        evaluate_every=(config.evaluation.every_steps or 0) if evaluates else 0,
    )


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
