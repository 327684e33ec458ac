"""From a batch of transitions to the gradient of Q-learning's loss: by autograd, or by hand. `Q_BACKENDS` has both.

B: transitions of a batch, n: actions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ablate.config import DQNConfig
from ablate.nn.architecture import QArchitecture
from ablate.nn.q_networks import ManualQ, TorchQ
from ablate.rl.td import q_targets, td_errors, td_loss, td_loss_backward
from ablate.types import Batch


@dataclass(frozen=True)
class QSettings:
    """The constants of the loss (see conf/algo/dqn.yaml)."""

    double: bool
    loss: str
    max_grad_value: float | None

    @classmethod
    def of(cls, algo: DQNConfig) -> QSettings:
        return cls(algo.double, str(algo.loss), algo.max_grad_value)


class QMetrics(NamedTuple):
    """What is told of an update."""

    td_errors: np.ndarray  # (B,) float32, δ = y - Q(s, a)
    q_mean: float  # mean over the batch of max_a Q(s, a)
    loss: float


class QComputer(ABC):
    """The network and the target network over flat vectors, and the gradient of the loss on a batch.

    parameters: (P,) θ, the vector handed in, or one of its own. gradient: (P,) of the last batch, and of nothing else.
    target: (P,) θ⁻, at first a copy of θ, changed by `update_target` and `set_target` only.
    observations, next_observations: what `compute` reads, to be filled: (B, H, W, C), channels last, or (B, size).
    table: (256,) of their dtype, by which uint8 pixels are written to them; None if they are written as they are.

    precision: `bf16` for bfloat16 in all layers of images but the heads; their dtype is then uint16, its bit patterns.
    dtype: of all else."""

    _mode: Callable[[], AbstractContextManager[object]]  # what torch is to track while a gradient is computed

    def __init__(
        self,
        architecture: QArchitecture,
        batch_size: int,
        settings: QSettings,
        parameters: Tensor | None = None,
        precision: str = "float32",
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if parameters is None:
            parameters = torch.zeros(architecture.layout().size, dtype=dtype, device=device)
        self.parameters, self.gradient, self.target = parameters, torch.zeros_like(parameters), parameters.clone()
        self._architecture, self._settings, self._batch_size = architecture, settings, batch_size
        has_layers = bool(architecture.convolutions or architecture.hidden)
        rounds = precision == "bf16" and len(architecture.input_shape) == 3 and has_layers
        self._dtype = torch.bfloat16 if rounds else parameters.dtype
        self._device = parameters.device
        is_scaled = architecture.scale != 1.0
        # Bytes are whole numbers in bfloat16, exactly; divided by 255 they would be rounded. So the weights are.
        self._scale = architecture.scale if rounds else 1.0
        self._allocate(is_scaled)

    def _allocate(self, are_bytes: bool) -> None:
        """The buffers of both observations, one behind the other, and the table."""
        on_cuda = self._device.type == "cuda"
        shape = self._architecture.input_shape
        if len(shape) == 3:
            shape = (*shape[1:], shape[0])
        # on the CPU the network's own input; else pinned, and bytes stay bytes on their way to the device
        dtype = torch.uint8 if on_cuda and are_bytes else self._dtype if are_bytes else self.parameters.dtype
        self._inputs = torch.zeros(2 * self._batch_size, *shape, dtype=dtype, pin_memory=on_cuda)
        self.observations, self.next_observations = np.split(_as_numpy(self._inputs), 2)
        self.table: np.ndarray | None = None
        self._divisor_is_due = False
        if are_bytes:
            values = torch.arange(256, dtype=torch.float64)
            if dtype not in (torch.uint8, torch.bfloat16):
                values = values * self._architecture.scale
            self.table = _as_numpy(values.to(dtype))
            self._divisor_is_due = on_cuda and self._scale == 1.0

    def compute(self, batch: Batch) -> tuple[float, QMetrics]:
        """Overwrite `gradient` with this batch's, whose observations are in the buffers; the loss and what is told."""
        assert len(batch.actions) == self._batch_size, (len(batch.actions), self._batch_size)
        with self._mode():
            x = self._network_input()
            actions, return_t, discount_t, weights = self._to_device(batch)
            q_tm1, next_q_online = self._online(x)
            next_q_target = self._target(x[self._batch_size :])
            target_t = q_targets(return_t, discount_t, next_q_target, next_q_online)
            delta = td_errors(q_tm1, actions, target_t)
            loss = td_loss(delta, weights, self._settings.loss)
            self._backward(loss, delta, weights, actions)
        if self._settings.max_grad_value is not None:
            self.gradient.clamp_(-self._settings.max_grad_value, self._settings.max_grad_value)
        told = QMetrics(delta.detach().cpu().numpy(), q_tm1.detach().amax(1).mean().item(), loss.item())
        return told.loss, told

    def update_target(self, tau: float = 1.0) -> None:
        """θ⁻ ← θ⁻ + tau (θ - θ⁻); 1: a copy."""
        if tau == 1.0:
            self.target.copy_(self.parameters)
        else:
            self.target.lerp_(self.parameters, tau)
        self._target_changed()

    def set_target(self, target: np.ndarray) -> None:
        """θ⁻ ← target (P,), as saved before."""
        self.target.copy_(torch.from_numpy(target))
        self._target_changed()

    def _network_input(self) -> Tensor:
        """Both observations, (2B, C, H, W) or (2B, size), where and as the network takes them."""
        x = self._inputs
        if self._device.type == "cuda":
            x = x.to(self._device, non_blocking=True)
        x = x.to(self._dtype)
        if self._divisor_is_due:
            x = x.mul_(self._architecture.scale)
        return x.permute(0, 3, 1, 2) if x.dim() == 4 else x

    def _to_device(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        like = self.parameters
        return (
            torch.from_numpy(batch.actions).to(like.device),
            torch.from_numpy(batch.returns).to(like),
            torch.from_numpy(batch.discounts).to(like),
            torch.from_numpy(batch.weights).to(like),
        )

    @abstractmethod
    def _online(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Q(s_t) (B, n), and if double Q(s_{t+n}) (B, n), by θ, of both observations (2B, ...)."""

    @abstractmethod
    def _target(self, x: Tensor) -> Tensor:
        """Q⁻ (B, n), by θ⁻."""

    @abstractmethod
    def _backward(self, loss: Tensor, delta: Tensor, weights: Tensor, actions: Tensor) -> None:
        """From the loss to `gradient`."""

    @abstractmethod
    def _target_changed(self) -> None:
        """θ⁻ is not what it was: what was derived from it has to follow."""


class AutogradQComputer(QComputer):
    """backend=autograd: torch.nn and loss.backward()."""

    _mode = torch.enable_grad

    def __init__(self, architecture: QArchitecture, *args: Any, **kwargs: Any) -> None:
        super().__init__(architecture, *args, **kwargs)
        self._network = TorchQ(architecture, self.parameters, self.gradient, self._dtype, self._scale)
        self._target_network = TorchQ(architecture, self.target, None, self._dtype, self._scale)

    def _online(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        q_tm1 = self._network(x[: self._batch_size])
        if not self._settings.double:
            return q_tm1, None
        with torch.no_grad():
            return q_tm1, self._network(x[self._batch_size :])

    def _target(self, x: Tensor) -> Tensor:
        return self._target_network(x)

    def _backward(self, loss: Tensor, delta: Tensor, weights: Tensor, actions: Tensor) -> None:
        # backward() adds to .grad; Module.zero_grad() would unhook .grad from the flat vector (torch 2 sets None)
        self.gradient.zero_()
        loss.backward()

    def _target_changed(self) -> None:
        pass  # its network reads θ⁻ itself


class ManualQComputer(QComputer):
    """backend=manual: the loss's gradient and the backward pass by hand."""

    _mode = torch.inference_mode

    def __init__(self, architecture: QArchitecture, *args: Any, **kwargs: Any) -> None:
        super().__init__(architecture, *args, **kwargs)
        self._network = ManualQ(architecture, self.parameters, self.gradient, self._dtype, self._scale)
        self._target_network = ManualQ(architecture, self.target, None, self._dtype, self._scale)

    def _online(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        self._network.refresh()
        if not self._settings.double:
            return self._network.forward(x[: self._batch_size]), None
        q = self._network.forward(x)
        return q[: self._batch_size], q[self._batch_size :]

    def _target(self, x: Tensor) -> Tensor:
        return self._target_network.forward(x)

    def _backward(self, loss: Tensor, delta: Tensor, weights: Tensor, actions: Tensor) -> None:
        n = self._architecture.actions
        self._network.backward(td_loss_backward(delta, weights, actions, n, self._settings.loss))

    def _target_changed(self) -> None:
        self._target_network.refresh()


def _as_numpy(tensor: Tensor) -> np.ndarray:
    """The same memory; of bfloat16, which numpy lacks, the bit patterns as uint16."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()


Q_BACKENDS: dict[str, type[QComputer]] = {"autograd": AutogradQComputer, "manual": ManualQComputer}
