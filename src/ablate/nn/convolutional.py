"""Acting with a network of images, and from a rollout to the gradient of A3C's loss: by autograd, or by hand.

T: steps of a rollout, up to t_max; E: environments side by side; n: actions. `CONV_BACKENDS` has both."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ablate.nn.architecture import ConvArchitecture
from ablate.nn.conv_networks import ManualConv, TorchConv
from ablate.nn.distributions import Categorical
from ablate.nn.gradients import LossSettings
from ablate.rl.losses import A3CMetrics, a3c_loss, a3c_loss_backward
from ablate.rl.returns import generalised_advantages, n_step_returns
from ablate.types import Rollout


class ConvComputer(ABC):
    """A local network over one flat vector that acts in E environments, and turns what came of it into a gradient.

    parameters: (P,) the local ones, to be pulled into between a rollout's `compute` and the next `start`.
    gradient: (P,) of the last rollout, and of nothing else."""

    _mode: Callable[[], AbstractContextManager[object]]  # what torch is to track while a gradient is computed
    _states: Tensor  # (t_max + 2, 2, E, hidden): h and c of the LSTM before each row, and behind the last

    def __init__(
        self,
        architecture: ConvArchitecture,
        envs: int,
        t_max: int,
        settings: LossSettings,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        size = architecture.layout().size
        self.parameters = torch.zeros(size, dtype=dtype, device=device)
        self.gradient = torch.zeros(size, dtype=dtype, device=device)
        self._distribution = Categorical()
        self._gae_lambda = settings.gae_lambda
        c_v, beta, reduction = settings.value_loss_coef, settings.entropy_coef, settings.reduction
        self._loss = partial(a3c_loss, value_loss_coef=c_v, entropy_coef=beta, reduction=reduction)
        self._loss_backward = partial(a3c_loss_backward, value_loss_coef=c_v, entropy_coef=beta, reduction=reduction)
        self._row = 0  # the row stepped last

    def start(self) -> None:
        """A new rollout: its row 0 has the observations of the row stepped last, and begins from the same state."""
        self._states[0] = self._states[self._row]
        self._row = 0

    @torch.inference_mode()
    def step(self, t: int, observations: np.ndarray, firsts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row t of the rollout, 0 ... T: observations (E, C, H, W) and firsts (E,) -> logits (E, n) and values (E,).

        firsts: where an episode starts, and the LSTM from 0. What is returned is valid until row t comes again."""
        logits, values = self._step(t, torch.from_numpy(observations), firsts)
        self._row = t
        return logits.cpu().numpy(), values.cpu().numpy()

    def compute(self, rollout: Rollout) -> tuple[Tensor, A3CMetrics]:
        """Overwrite `gradient` with this rollout's, all rows of which have been stepped; the loss and its parts.

        Reduced over time as the settings say, and a mean over the environments."""
        assert len(rollout.rewards) == self._row, (len(rollout.rewards), self._row)
        with self._mode():
            actions = torch.from_numpy(rollout.actions).to(self.parameters.device)  # (T, E)
            logits, values = self._outputs(rollout)  # (T, E, n), (T+1, E)
            advantage_t, return_t = self._targets(rollout, values.detach())
            log_prob_t = self._distribution.log_prob((logits,), actions)
            entropy_t = self._distribution.entropy((logits,))
            loss, metrics = self._loss(log_prob_t, entropy_t, values[:-1], advantage_t, return_t)
            self._backward(loss, logits, actions, values[:-1], advantage_t, return_t, rollout.firsts[:-1])
        return loss.detach(), A3CMetrics(*(metric.detach() for metric in metrics))

    @property
    def state(self) -> np.ndarray:
        """(2, E, hidden) float32, h and c of the LSTM that the next rollout starts from; (2, E, 0) without an LSTM."""
        return self._states[self._row].float().cpu().numpy().copy()

    def set_state(self, state: np.ndarray) -> None:
        """Make the next rollout start from what `state` gave."""
        self._row = 0
        self._states[0] = torch.from_numpy(state)

    @abstractmethod
    def _step(self, t: int, images: Tensor, firsts: np.ndarray) -> tuple[Tensor, Tensor]:
        """Logits (E, n) and values (E,) of row t; sets the state before row t + 1."""

    @abstractmethod
    def _outputs(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Logits (T, E, n) and values (T+1, E), the last row's as constants."""

    @abstractmethod
    def _backward(
        self,
        loss: Tensor,
        logits: Tensor,
        actions: Tensor,
        v_t: Tensor,
        advantage_t: Tensor,
        return_t: Tensor,
        firsts: np.ndarray,
    ) -> None:
        """From the loss to `gradient`."""

    def _targets(self, rollout: Rollout, values: Tensor) -> tuple[Tensor, Tensor]:
        """Advantages and returns, each (T, E), from values (T+1, E), as constants."""
        v = values.cpu().numpy()
        r_t, discount_t = list(rollout.rewards.astype(v.dtype)), list(rollout.discounts.astype(v.dtype))
        return_t = n_step_returns(r_t, discount_t, v[-1])
        advantage_t = generalised_advantages(r_t, discount_t, list(v), self._gae_lambda)
        targets = torch.from_numpy(np.array((advantage_t, return_t), v.dtype)).to(values.device)
        return targets[0], targets[1]


class AutogradConvComputer(ConvComputer):
    """backend=autograd: torch.nn and loss.backward(); needs the forward pass once more, over the whole rollout."""

    _mode = torch.enable_grad

    def __init__(
        self, architecture: ConvArchitecture, envs: int, t_max: int, settings: LossSettings, *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(architecture, envs, t_max, settings, *args, **kwargs)
        self._network = TorchConv(architecture, self.parameters, self.gradient)
        self._states = self.parameters.new_zeros(t_max + 2, 2, envs, architecture.hidden * architecture.recurrent)
        self._bootstrap = self.parameters.new_zeros(envs)  # values of the row stepped last

    def _step(self, t: int, images: Tensor, firsts: np.ndarray) -> tuple[Tensor, Tensor]:
        rows = images.to(self.parameters).unsqueeze(0)
        logits, values, self._states[t + 1] = self._network(rows, firsts[None], self._states[t])
        self._bootstrap.copy_(values[0])
        return logits[0], values[0]

    def _outputs(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        images = torch.from_numpy(rollout.observations[:-1]).to(self.parameters)
        logits, values, _ = self._network(images, rollout.firsts[:-1], self._states[0])
        return logits, torch.cat((values, self._bootstrap[None]))

    def _backward(self, loss: Tensor, *_: object) -> None:
        # backward() adds to .grad; Module.zero_grad() would unhook .grad from the flat vector (torch 2 sets None)
        self.gradient.zero_()
        loss.backward()


class ManualConvComputer(ConvComputer):
    """backend=manual: the loss's gradient and the backward pass by hand, on what the steps have kept."""

    _mode = torch.inference_mode

    def __init__(
        self, architecture: ConvArchitecture, envs: int, t_max: int, settings: LossSettings, *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(architecture, envs, t_max, settings, *args, **kwargs)
        self._network = ManualConv(architecture, self.parameters, self.gradient, t_max + 1, envs)
        self._states = self._network.state

    def _step(self, t: int, images: Tensor, firsts: np.ndarray) -> tuple[Tensor, Tensor]:
        heads = self._network.forward(t, images, firsts)
        return heads[:, :-1], heads[:, -1]

    def _outputs(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        heads = self._network.heads[: len(rollout.firsts)]
        return heads[:-1, :, :-1], heads[..., -1]

    def _backward(
        self,
        loss: Tensor,
        logits: Tensor,
        actions: Tensor,
        v_t: Tensor,
        advantage_t: Tensor,
        return_t: Tensor,
        firsts: np.ndarray,
    ) -> None:
        d_log_prob, d_entropy, d_values = self._loss_backward(v_t, advantage_t, return_t)
        (d_logits,) = self._distribution.backward((logits,), actions, d_log_prob, d_entropy)
        self._network.backward(d_logits, d_values, firsts)


CONV_BACKENDS: dict[str, type[ConvComputer]] = {"autograd": AutogradConvComputer, "manual": ManualConvComputer}
