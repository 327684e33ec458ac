"""From a batch of transitions to the gradient of Q-learning's loss: by autograd or by hand.

B: transitions of a batch; n: actions; P: parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ablate.algos.dqn.batch_buffers import BatchBuffers, RecordedWork
from ablate.algos.dqn.spec import DQNConfig
from ablate.nn.architecture import Architecture
from ablate.rl.td import q_targets, td_errors, td_loss, td_loss_backward
from ablate.types import Batch

if TYPE_CHECKING:
    from ablate.nn.q_networks import ManualQ, QInput, TorchQ


@dataclass(frozen=True)
class QSettings:
    """The constants of the loss (see conf/algo/dqn.yaml)."""

    double: bool
    loss: str
    max_grad_value: float | None

    @classmethod
    def of(cls, algo: DQNConfig) -> QSettings:
        return cls(algo.double, str(algo.loss), algo.max_grad_value)


class QComputer(ABC):
    """The network and the target network over flat vectors, and the gradient of the loss on a batch.

    parameters: (P,) θ, the caller's vector. gradient: (P,) of the last batch only.
    target: (P,) θ⁻, at first a copy of θ; only `update_target` and `set_target` change it.
    observations, next_observations: buffers that the caller fills before each `compute`: (B, H, W, C), channels-last,
    or (B, size). Their dtype is uint16 for the bit patterns of bfloat16.
    table: (256,) of the same dtype, the entry for each value of a uint8 pixel; None if observations are not uint8.

    precision: `bf16` for bfloat16 in all layers for images but the heads.
    buffers: number of batches with buffers of their own; the caller fills one while a GPU works on another.
    recorded: a GPU's work on a batch is recorded once and then launched as a whole."""

    _mode: Callable[[], AbstractContextManager[object]]  # what torch tracks while it computes a gradient
    _network: Any
    _target_network: Any

    def __init__(
        self,
        architecture: Architecture,
        batch_size: int,
        settings: QSettings,
        parameters: Tensor,
        precision: str = "float32",
        buffers: int = 1,
        recorded: bool = False,
    ) -> None:
        self.parameters, self.gradient, self.target = parameters, torch.zeros_like(parameters), parameters.clone()
        self._settings, self._batch_size = settings, batch_size
        self._make_networks(architecture, precision)
        self._input: QInput = self._network.input
        self._on_gpu = parameters.device.type == "cuda"
        self._allocate(buffers)
        self._begin_work: Callable[[], None] = RecordedWork(self._work) if recorded else self._work

    def _allocate(self, buffers: int) -> None:
        """Make the buffers and the table."""
        B, shape = self._batch_size, self._input.shape
        if len(shape) == 3:
            shape = (*shape[1:], shape[0])
        dtype = images = self.parameters.dtype
        if self._input.is_bytes:  # the CPU reads the network's input here; a GPU converts bytes itself
            images = torch.uint8 if self._on_gpu else self._input.dtype
        self._buffers = [BatchBuffers(B, shape, images, dtype, pinned=self._on_gpu) for _ in range(buffers)]
        # the buffers that the network computes on
        self._current = (
            BatchBuffers(B, shape, images, dtype, self.parameters.device) if self._on_gpu else self._buffers[0]
        )
        self.table: np.ndarray | None = None
        if self._input.is_bytes:
            values = torch.arange(256, dtype=torch.float64)
            if images != torch.uint8:
                values = values * self._input.scale
            self.table = _as_numpy(values.to(images))
        self._turn_to_next_buffers()

    def _turn_to_next_buffers(self) -> None:
        self._buffers.append(self._buffers.pop(0))
        self.observations, self.next_observations = np.split(_as_numpy(self._buffers[0].observations), 2)

    def compute(self, batch: Batch) -> BatchBuffers:
        """Overwrite `gradient` with the gradient of this batch, whose observations are in the buffers.

        Returns the buffers that will have the metrics: a GPU has only begun. They are filled again after as many
        further calls as there are buffers."""
        assert len(batch.actions) == self._batch_size, (len(batch.actions), self._batch_size)
        buffers = self._buffers[0]
        buffers.put(batch)
        if self._on_gpu:
            buffers.send(self._current)
        else:
            self._current = buffers
        self._begin_work()
        if self._on_gpu:
            buffers.fetch_metrics(self._current)
        self._turn_to_next_buffers()
        return buffers

    def _work(self) -> None:
        """From the current batch to `gradient` and the metrics."""
        with self._mode():
            x = self._network_input()
            transitions = self._current.transitions
            actions, weights = transitions.actions.long(), transitions.weights
            q_tm1, next_q_online = self._online(x)
            next_q_target = self._target(x[self._batch_size :])
            target_t = q_targets(transitions.returns, transitions.discounts, next_q_target, next_q_online)
            delta = td_errors(q_tm1, actions, target_t)
            loss = td_loss(delta, weights, self._settings.loss)
            self._backward(loss, q_tm1, delta, weights, actions)
        with torch.inference_mode():
            if self._settings.max_grad_value is not None:
                self.gradient.clamp_(-self._settings.max_grad_value, self._settings.max_grad_value)
            q_mean, grad_norm = q_tm1.amax(1).mean(), torch.linalg.vector_norm(self.gradient)
            self._current.put_metrics(delta, q_mean, loss, grad_norm)

    def update_target(self, tau: float = 1.0) -> None:
        """θ⁻ ← θ⁻ + tau (θ - θ⁻); tau=1 is a copy."""
        if tau == 1.0:
            self.target.copy_(self.parameters)
        else:
            self.target.lerp_(self.parameters, tau)
        self._target_changed()

    def set_target(self, target: np.ndarray) -> None:
        """θ⁻ ← target (P,), from a checkpoint."""
        self.target.copy_(torch.from_numpy(target))
        self._target_changed()

    def _network_input(self) -> Tensor:
        """All observations of the batch, (2B, C, H, W) or (2B, size), as the network takes them."""
        x = self._current.observations.to(self._input.dtype)
        if self._on_gpu and self._input.scale != 1.0:
            x = x.mul_(self._input.scale)
        return x.permute(0, 3, 1, 2) if x.dim() == 4 else x

    @abstractmethod
    def _make_networks(self, architecture: Architecture, precision: str) -> None:
        """The network over `parameters` and `gradient`, and the target network over `target`."""

    @abstractmethod
    def _online(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """By θ, from all observations (2B, ...): Q(s_t) (B, n), and Q(s_{t+n}) (B, n) if double."""

    @abstractmethod
    def _target(self, x: Tensor) -> Tensor:
        """Q⁻ (B, n), by θ⁻."""

    @abstractmethod
    def _backward(self, loss: Tensor, q_tm1: Tensor, delta: Tensor, weights: Tensor, actions: Tensor) -> None:
        """From the loss to `gradient`."""

    @abstractmethod
    def _target_changed(self) -> None:
        """Update what the target network derives from θ⁻, which has changed."""


class AutogradQComputer(QComputer):
    """backend=autograd: torch.nn and loss.backward()."""

    _mode = torch.enable_grad

    def _make_networks(self, architecture: Architecture, precision: str) -> None:
        self._network: TorchQ = architecture.torch_network(self.parameters, self.gradient, precision)
        self._target_network: TorchQ = architecture.torch_network(self.target, None, precision)

    def _online(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        q_tm1 = self._network(x[: self._batch_size])
        if not self._settings.double:
            return q_tm1, None
        with torch.no_grad():
            return q_tm1, self._network(x[self._batch_size :])

    def _target(self, x: Tensor) -> Tensor:
        return self._target_network(x)

    def _backward(self, loss: Tensor, q_tm1: Tensor, delta: Tensor, weights: Tensor, actions: Tensor) -> None:
        # backward() adds to .grad. Module.zero_grad() would set .grad to None, no longer a view of the vector.
        self.gradient.zero_()
        loss.backward()

    def _target_changed(self) -> None:
        """Nothing: the target network reads θ⁻ itself."""


class ManualQComputer(QComputer):
    """backend=manual: the gradient of the loss and the backward pass by hand."""

    _mode = torch.inference_mode

    def _make_networks(self, architecture: Architecture, precision: str) -> None:
        self._network: ManualQ = architecture.manual_network(self.parameters, self.gradient, precision)
        self._target_network: ManualQ = architecture.manual_network(self.target, None, precision)

    def _online(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        self._network.refresh()
        if not self._settings.double:
            return self._network.forward(x[: self._batch_size]), None
        q = self._network.forward(x)
        return q[: self._batch_size], q[self._batch_size :]

    def _target(self, x: Tensor) -> Tensor:
        return self._target_network.forward(x)

    def _backward(self, loss: Tensor, q_tm1: Tensor, delta: Tensor, weights: Tensor, actions: Tensor) -> None:
        n = q_tm1.shape[1]
        self._network.backward(td_loss_backward(delta, weights, actions, n, self._settings.loss))

    def _target_changed(self) -> None:
        self._target_network.refresh()


def _as_numpy(tensor: Tensor) -> np.ndarray:
    """The same memory. numpy has no bfloat16; its bit patterns are uint16."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()


Q_BACKENDS: dict[str, type[QComputer]] = {"autograd": AutogradQComputer, "manual": ManualQComputer}
