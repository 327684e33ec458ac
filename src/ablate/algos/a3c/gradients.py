"""From a rollout to the gradient of A3C's loss: by autograd or by hand.

T: steps of a rollout; A: dimensions of an action; E: environments side by side; P: parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ablate.algos.a3c.spec import A3CConfig
from ablate.nn.architecture import Architecture
from ablate.nn.distributions import Distribution, Outputs
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
    """A worker's local network over one flat vector, which turns rollouts into gradients of A3C's loss.

    parameters: (P,) the local ones, into which the worker pulls. gradient: (P,) of the last rollout only."""

    by_hand: bool  # True: the backward pass is written by hand, and torch tracks nothing; False: loss.backward()

    def __init__(
        self,
        architecture: Architecture,
        distribution: Distribution,
        settings: LossSettings,
        device: str,
        dtype: torch.dtype,
    ) -> None:
        size = architecture.layout().size
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
        """Overwrite `gradient` with the gradient of a Trajectory or a Rollout. Returns the loss and its parts.

        The loss is reduced over time as the settings say, and averaged over the environments."""
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
                # backward() adds to .grad. Module.zero_grad() would set .grad to None, no longer a view of the vector.
                self.gradient.zero_()
                loss.backward()
        return loss.detach(), metrics

    @abstractmethod
    def _outputs(self, rollout: Any) -> tuple[Outputs, Tensor]:
        """The policy's outputs for the rollout's T steps, and T+1 values; the last value is a constant."""

    @abstractmethod
    def _backward(self, d_outputs: Outputs, d_values: Tensor, rollout: Any) -> None:
        """By hand only: from the gradients with respect to the outputs and values of the T steps to `gradient`."""

    def _to_device(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self._on_cpu else tensor.to(self.parameters.device)

    def _targets(self, rollout: Any, values: Tensor) -> tuple[Tensor, Tensor]:
        """Advantages and returns, shaped like the rewards, from values (T+1,) or (T+1, E). They are constants."""
        v = values.cpu().numpy()
        r_t, discount_t, v_t = _rows(rollout.rewards), _rows(rollout.discounts), _rows(v)
        return_t = n_step_returns(r_t, discount_t, v_t[-1])
        advantage_t = generalised_advantages(r_t, discount_t, v_t, self._gae_lambda)
        targets = self._to_device(np.array((advantage_t, return_t), v.dtype))
        return targets[0], targets[1]


def _rows(x: np.ndarray) -> list[Any]:
    """x[0], x[1], ...: arrays (E,), or Python floats, with which plain loops are faster than with numpy's."""
    return x.tolist() if x.ndim == 1 else list(x)


class MlpComputer(GradientComputer):
    """For networks of vectors. The worker acts in numpy instead (nn/mlp_acting.py)."""

    def __init__(
        self,
        architecture: Architecture,
        distribution: Distribution,
        settings: LossSettings,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(architecture, distribution, settings, device, dtype)
        make_network = architecture.manual_network if self.by_hand else architecture.torch_network
        self._network = make_network(self.parameters, self.gradient)

    def _outputs(self, rollout: Trajectory) -> tuple[Outputs, Tensor]:
        return self._network.forward(self._to_device(rollout.observations))

    def _backward(self, d_outputs: Outputs, d_values: Tensor, rollout: Trajectory) -> None:
        self._network.backward(d_outputs, d_values)


class AutogradComputer(MlpComputer):
    """backend=autograd: torch.nn and loss.backward()."""

    by_hand = False


class ManualComputer(MlpComputer):
    """backend=manual: the gradient of the loss and the backward pass by hand."""

    by_hand = True


BACKENDS: dict[str, type[MlpComputer]] = {"autograd": AutogradComputer, "manual": ManualComputer}
