"""From a rollout to the gradient of A3C's loss: by autograd, or by hand. `BACKENDS` has both."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ablate.config import A3CConfig
from ablate.nn.architecture import MlpArchitecture
from ablate.nn.distributions import Distribution, Outputs
from ablate.nn.networks import ManualMlp, TorchMlp
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
    """A local network over one flat vector that turns rollouts into gradients.

    parameters: (P,) the local ones, to be pulled into. gradient: (P,) of the last rollout, and of nothing else."""

    _network: TorchMlp | ManualMlp
    _mode: Callable[[], AbstractContextManager[object]]  # what torch is to track during the forward pass

    def __init__(
        self,
        architecture: MlpArchitecture,
        distribution: Distribution,
        settings: LossSettings,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        size = architecture.layout().size
        self.parameters = torch.zeros(size, dtype=dtype, device=device)
        self.gradient = torch.zeros(size, dtype=dtype, device=device)
        self._distribution = distribution
        self._gae_lambda = settings.gae_lambda
        c_v, beta, reduction = settings.value_loss_coef, settings.entropy_coef, settings.reduction
        self._loss = partial(a3c_loss, value_loss_coef=c_v, entropy_coef=beta, reduction=reduction)
        self._loss_backward = partial(a3c_loss_backward, value_loss_coef=c_v, entropy_coef=beta, reduction=reduction)
        self._on_cpu = device == "cpu"

    def compute(self, trajectory: Trajectory) -> tuple[Tensor, A3CMetrics]:
        """Overwrite `gradient` with this rollout's; returns the loss and its parts."""
        with self._mode():
            observations = self._to_device(trajectory.observations)  # (T+1, observation)
            actions = self._to_device(trajectory.actions)  # (T, A) or (T,)
            outputs, values = self._network.forward(observations)  # (T, ...), (T+1,)
            advantage_t, return_t = self._targets(trajectory, values.detach())
            log_prob_t = self._distribution.log_prob(outputs, actions)
            entropy_t = self._distribution.entropy(outputs)
            loss, metrics = self._loss(log_prob_t, entropy_t, values[:-1], advantage_t, return_t)
            self._backward(loss, outputs, actions, values[:-1], advantage_t, return_t)
        return loss.detach(), metrics

    @abstractmethod
    def _backward(
        self, loss: Tensor, outputs: Outputs, actions: Tensor, v_t: Tensor, advantage_t: Tensor, return_t: Tensor
    ) -> None:
        """From the loss to `gradient`."""

    def _to_device(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self._on_cpu else tensor.to(self.parameters.device)

    def _targets(self, trajectory: Trajectory, values: Tensor) -> tuple[Tensor, Tensor]:
        """Advantages and returns, each (T,), from values (T+1,), as constants."""
        v = values.tolist()
        r_t, discount_t = trajectory.rewards.tolist(), trajectory.discounts.tolist()
        return_t = n_step_returns(r_t, discount_t, v[-1])
        advantage_t = generalised_advantages(r_t, discount_t, v, self._gae_lambda)
        targets = values.new_tensor((advantage_t, return_t))
        return targets[0], targets[1]


class AutogradComputer(GradientComputer):
    """backend=autograd: torch.nn and loss.backward()."""

    _mode = torch.enable_grad

    def __init__(self, architecture: MlpArchitecture, *args: Any, **kwargs: Any) -> None:
        super().__init__(architecture, *args, **kwargs)
        self._network = TorchMlp(architecture, self.parameters, self.gradient)

    def _backward(self, loss: Tensor, *_: object) -> None:
        # backward() adds to .grad; Module.zero_grad() would unhook .grad from the flat vector (torch 2 sets None)
        self.gradient.zero_()
        loss.backward()


class ManualComputer(GradientComputer):
    """backend=manual: the loss's gradient and the backward pass by hand."""

    _mode = torch.inference_mode

    def __init__(self, architecture: MlpArchitecture, *args: Any, **kwargs: Any) -> None:
        super().__init__(architecture, *args, **kwargs)
        self._network: ManualMlp = ManualMlp(architecture, self.parameters, self.gradient)

    def _backward(
        self, loss: Tensor, outputs: Outputs, actions: Tensor, v_t: Tensor, advantage_t: Tensor, return_t: Tensor
    ) -> None:
        d_log_prob, d_entropy, d_values = self._loss_backward(v_t, advantage_t, return_t)
        d_outputs = self._distribution.backward(outputs, actions, d_log_prob, d_entropy)
        self._network.backward(d_outputs, d_values)


BACKENDS: dict[str, type[GradientComputer]] = {"autograd": AutogradComputer, "manual": ManualComputer}
