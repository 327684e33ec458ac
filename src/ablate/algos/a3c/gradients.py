"""From a rollout to the gradient of A3C's loss: by autograd, or by hand. `BACKENDS` has both."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ablate.algos.a3c.spec import A3CConfig
from ablate.nn.architecture import MlpArchitecture
from ablate.nn.distributions import Distribution, Outputs
from ablate.nn.mlp_networks import ManualMlp, TorchMlp
from ablate.rl.losses import A3CMetrics, a3c_loss, a3c_loss_backward
from ablate.rl.returns import generalised_advantages, n_step_returns
from ablate.types import Trajectory


@dataclass(frozen=True)
class LossSettings:
    """The constants of the loss (see conf/algo/a3c.yaml)."""

    gae_lambda: float
    value_loss_coef: float
    entropy_coef: float
    reduction: str

    @classmethod
    def of(cls, algo: A3CConfig) -> LossSettings:
        return cls(algo.gae_lambda, algo.value_loss_coef, algo.entropy_coef, str(algo.loss_reduction))


class GradientComputer(ABC):
    """A local network over one flat vector that turns rollouts into gradients of A3C's loss, by autograd or by hand.

    parameters: (P,) the local ones, to be pulled into. gradient: (P,) of the last rollout, and of nothing else."""

    by_hand: bool  # the backward pass, and then torch tracks nothing; else loss.backward()

    def __init__(
        self, size: int, distribution: Distribution, settings: LossSettings, device: str, dtype: torch.dtype
    ) -> None:
        self.parameters = torch.zeros(size, dtype=dtype, device=device)
        self.gradient = torch.zeros(size, dtype=dtype, device=device)
        self._distribution = distribution
        self._gae_lambda = settings.gae_lambda
        c_v, beta, reduction = settings.value_loss_coef, settings.entropy_coef, settings.reduction
        self._loss = partial(a3c_loss, value_loss_coef=c_v, entropy_coef=beta, reduction=reduction)
        self._loss_backward = partial(a3c_loss_backward, value_loss_coef=c_v, entropy_coef=beta, reduction=reduction)
        self._mode = torch.inference_mode if self.by_hand else torch.enable_grad
        self._on_cpu = device == "cpu"

    def compute(self, rollout: Any) -> tuple[Tensor, A3CMetrics]:
        """Overwrite `gradient` with this rollout's, a Trajectory or a Rollout; returns the loss and its parts.

        Reduced over time as the settings say, and a mean over the environments."""
        with self._mode():
            actions = self._to_device(rollout.actions)  # (T, A) or (T,); (T, E)
            outputs, values = self._outputs(rollout)  # (T, ...), (T+1,); (T, E, n), (T+1, E)
            v_t = values[:-1]
            advantage_t, return_t = self._targets(rollout, values.detach())
            log_prob_t = self._distribution.log_prob(outputs, actions)
            entropy_t = self._distribution.entropy(outputs)
            loss, metrics = self._loss(log_prob_t, entropy_t, v_t, advantage_t, return_t)
            if self.by_hand:
                d_log_prob, d_entropy, d_values = self._loss_backward(v_t, advantage_t, return_t)
                d_outputs = self._distribution.backward(outputs, actions, d_log_prob, d_entropy)
                self._backward(d_outputs, d_values, rollout)
            else:
                # backward() adds to .grad; Module.zero_grad() would unhook .grad from the flat vector (torch 2: None)
                self.gradient.zero_()
                loss.backward()
        return loss.detach(), metrics

    @abstractmethod
    def _outputs(self, rollout: Any) -> tuple[Outputs, Tensor]:
        """The policy's outputs for the rollout's T steps, and T+1 values, of which the last is a constant."""

    def _backward(self, d_outputs: Outputs, d_values: Tensor, rollout: Any) -> None:
        """By hand only: from the gradients of what `_outputs` gave, of the T steps, to `gradient`."""
        raise NotImplementedError

    def _to_device(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self._on_cpu else tensor.to(self.parameters.device)

    def _targets(self, rollout: Any, values: Tensor) -> tuple[Tensor, Tensor]:
        """Advantages and returns, each shaped like the rewards, from values (T+1,) or (T+1, E), as constants."""
        v = values.cpu().numpy()
        r_t, discount_t, v_t = _rows(rollout.rewards), _rows(rollout.discounts), _rows(v)
        return_t = n_step_returns(r_t, discount_t, v_t[-1])
        advantage_t = generalised_advantages(r_t, discount_t, v_t, self._gae_lambda)
        targets = self._to_device(np.array((advantage_t, return_t), v.dtype))
        return targets[0], targets[1]


def _rows(x: np.ndarray) -> list[Any]:
    """x[0], x[1], ...: numbers, which Python is quicker with than numpy, or arrays (E,)."""
    return x.tolist() if x.ndim == 1 else list(x)


class MlpComputer(GradientComputer):
    """Of networks of vectors, which act elsewhere (nn/acting.py)."""

    _network: TorchMlp | ManualMlp

    def __init__(
        self,
        architecture: MlpArchitecture,
        distribution: Distribution,
        settings: LossSettings,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(architecture.layout().size, distribution, settings, device, dtype)
        network = ManualMlp if self.by_hand else TorchMlp
        self._network = network(architecture, self.parameters, self.gradient)

    def _outputs(self, rollout: Trajectory) -> tuple[Outputs, Tensor]:
        return self._network.forward(self._to_device(rollout.observations))

    def _backward(self, d_outputs: Outputs, d_values: Tensor, rollout: Trajectory) -> None:
        assert isinstance(self._network, ManualMlp)
        self._network.backward(d_outputs, d_values)


class AutogradComputer(MlpComputer):
    """backend=autograd: torch.nn and loss.backward()."""

    by_hand = False


class ManualComputer(MlpComputer):
    """backend=manual: the loss's gradient and the backward pass by hand."""

    by_hand = True


BACKENDS: dict[str, type[MlpComputer]] = {"autograd": AutogradComputer, "manual": ManualComputer}
