"""From a rollout to the gradient of A3C's loss: by autograd, or by hand. One function, `make_gradient_computer`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ablate.config import A3CConfig
from ablate.nn.architecture import MlpArchitecture
from ablate.nn.distributions import Distribution, NumpyOutputs
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


class Batch(NamedTuple):
    """A rollout on the device: what both backends start from."""

    observations: Tensor  # (T+1, observation)
    actions: Tensor  # (T, A) or (T,)


class GradientComputer(Protocol):
    """A local network over one flat vector: it acts, and turns rollouts into gradients."""

    parameters: Tensor  # (P,) the local parameters, to be pulled into
    gradient: Tensor  # (P,) of the last rollout, and of nothing else

    def policy(self, observation: np.ndarray) -> NumpyOutputs:
        """The policy's outputs for one observation (1, observation), without the leading 1."""
        ...

    def compute(self, trajectory: Trajectory) -> tuple[Tensor, A3CMetrics]:
        """Overwrite `gradient` with this rollout's; returns the loss and its parts."""
        ...


def make_gradient_computer(
    backend: str,
    architecture: MlpArchitecture,
    distribution: Distribution,
    settings: LossSettings,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> GradientComputer:
    """The gradient computer of `backend` (autograd or manual), its parameters still all zero."""
    computer = {"autograd": AutogradComputer, "manual": ManualComputer}[backend]
    return computer(architecture, distribution, settings, device, dtype)


class _Computer:
    """What the two have in common: the vectors, the batch on the device, the targets."""

    def __init__(
        self,
        architecture: MlpArchitecture,
        distribution: Distribution,
        settings: LossSettings,
        device: str,
        dtype: torch.dtype,
    ) -> None:
        size = architecture.layout().size
        self.parameters = torch.zeros(size, dtype=dtype, device=device)
        self.gradient = torch.zeros(size, dtype=dtype, device=device)
        self._distribution = distribution
        self._settings = settings
        self._on_cpu = device == "cpu"

    def _to_device(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self._on_cpu else tensor.to(self.parameters.device)

    def _batch(self, trajectory: Trajectory) -> Batch:
        return Batch(self._to_device(trajectory.observations), self._to_device(trajectory.actions))

    def _targets(self, trajectory: Trajectory, values: Tensor) -> tuple[Tensor, Tensor]:
        """Advantages and returns, each (T,), from values (T+1,), as constants."""
        v = values.tolist()
        r_t, discount_t = trajectory.rewards.tolist(), trajectory.discounts.tolist()
        return_t = n_step_returns(r_t, discount_t, v[-1])
        advantage_t = generalised_advantages(r_t, discount_t, v, self._settings.gae_lambda)
        targets = values.new_tensor((advantage_t, return_t))
        return targets[0], targets[1]

    @staticmethod
    def _numpy(outputs: tuple[Tensor, ...]) -> NumpyOutputs:
        return tuple(output[0].cpu().numpy() for output in outputs)


class AutogradComputer(_Computer):
    """backend=autograd: torch.nn and loss.backward()."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self._network = TorchMlp(args[0], self.parameters, self.gradient)  # type: ignore[arg-type]

    @torch.no_grad()
    def policy(self, observation: np.ndarray) -> NumpyOutputs:
        return self._numpy(self._network.policy(self._to_device(observation)))

    def compute(self, trajectory: Trajectory) -> tuple[Tensor, A3CMetrics]:
        # backward() adds to .grad, and Module.zero_grad() would unhook .grad from the flat vector (torch 2 sets None)
        self.gradient.zero_()
        observations, actions = self._batch(trajectory)
        values = self._network.value(observations)
        outputs = self._network.policy(observations[:-1])
        advantage_t, return_t = self._targets(trajectory, values.detach())
        loss, metrics = a3c_loss(
            self._distribution.log_prob(outputs, actions),
            self._distribution.entropy(outputs),
            values[:-1],
            advantage_t,
            return_t,
            value_loss_coef=self._settings.value_loss_coef,
            entropy_coef=self._settings.entropy_coef,
            reduction=self._settings.reduction,
        )
        loss.backward()
        return loss.detach(), metrics


class ManualComputer(_Computer):
    """backend=manual: forward, the loss's gradient and backward by hand."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self._network = ManualMlp(args[0], self.parameters, self.gradient)  # type: ignore[arg-type]

    @torch.inference_mode()
    def policy(self, observation: np.ndarray) -> NumpyOutputs:
        return self._numpy(self._network.policy(self._to_device(observation)))

    @torch.inference_mode()
    def compute(self, trajectory: Trajectory) -> tuple[Tensor, A3CMetrics]:
        observations, actions = self._batch(trajectory)
        values = self._network.value(observations)
        outputs = self._network.policy(observations[:-1])
        advantage_t, return_t = self._targets(trajectory, values)
        settings = self._settings
        loss, metrics = a3c_loss(
            self._distribution.log_prob(outputs, actions),
            self._distribution.entropy(outputs),
            values[:-1],
            advantage_t,
            return_t,
            value_loss_coef=settings.value_loss_coef,
            entropy_coef=settings.entropy_coef,
            reduction=settings.reduction,
        )
        d_log_prob, d_entropy, d_values = a3c_loss_backward(
            values[:-1],
            advantage_t,
            return_t,
            value_loss_coef=settings.value_loss_coef,
            entropy_coef=settings.entropy_coef,
            reduction=settings.reduction,
        )
        self._network.policy_backward(
            self._distribution.backward(outputs, actions, d_log_prob, d_entropy)
        )
        self._network.value_backward(d_values)
        return loss, metrics
