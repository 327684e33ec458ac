"""From a batch of transitions to the gradient of Q-learning's loss: by autograd, or by hand. `Q_BACKENDS` has both.

B: transitions of a batch, n: actions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ablate.algos.dqn.batch_buffers import Recorded, Slot
from ablate.algos.dqn.spec import DQNConfig
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


class QComputer(ABC):
    """The network and the target network over flat vectors, and the gradient of the loss on a batch.

    parameters: (P,) θ, the vector handed in, or one of its own. gradient: (P,) of the last batch, and of nothing else.
    target: (P,) θ⁻, at first a copy of θ, changed by `update_target` and `set_target` only.
    observations, next_observations: what `compute` reads, to be filled before each: (B, H, W, C), channels last, or
    (B, size).
    table: (256,) of their dtype, by which uint8 pixels are written to them; None if they are written as they are.

    precision: `bf16` for bfloat16 in all layers of images but the heads; their dtype is then uint16, its bit patterns.
    dtype: of all else. slots: batches with buffers of their own: while a GPU works on one, another can be filled.
    recorded: a GPU's work on a batch is recorded once, and started as a whole."""

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
        slots: int = 1,
        recorded: bool = False,
    ) -> None:
        if parameters is None:
            parameters = torch.zeros(architecture.layout().size, dtype=dtype, device=device)
        self.parameters, self.gradient, self.target = parameters, torch.zeros_like(parameters), parameters.clone()
        self._architecture, self._settings, self._batch_size = architecture, settings, batch_size
        has_layers = bool(architecture.convolutions or architecture.hidden)
        rounds = precision == "bf16" and len(architecture.input_shape) == 3 and has_layers
        self._dtype = torch.bfloat16 if rounds else parameters.dtype
        self._on_gpu = parameters.device.type == "cuda"
        # Bytes are whole numbers in bfloat16, exactly; divided by 255 they would be rounded. So the weights are.
        self._scale = architecture.scale if rounds else 1.0
        self._allocate(architecture.scale != 1.0, slots)
        self._begin: Callable[[], None] = Recorded(self._work) if recorded else self._work

    def _allocate(self, are_bytes: bool, slots: int) -> None:
        """The slots, and the table."""
        B, shape = self._batch_size, self._architecture.input_shape
        if len(shape) == 3:
            shape = (*shape[1:], shape[0])
        # on the CPU the network's own input; to a GPU bytes go as bytes
        images = torch.uint8 if self._on_gpu and are_bytes else self._dtype if are_bytes else self.parameters.dtype
        numbers = self.parameters.dtype
        self._slots = [Slot(B, shape, images, numbers, pinned=self._on_gpu) for _ in range(slots)]
        self._at_work = Slot(B, shape, images, numbers, self.parameters.device) if self._on_gpu else self._slots[0]
        self.table: np.ndarray | None = None
        self._divisor_is_due = False
        if are_bytes:
            values = torch.arange(256, dtype=torch.float64)
            if images not in (torch.uint8, torch.bfloat16):
                values = values * self._architecture.scale
            self.table = _as_numpy(values.to(images))
            self._divisor_is_due = self._on_gpu and self._scale == 1.0
        self._turn_to_next_slot()

    def _turn_to_next_slot(self) -> None:
        self._slots.append(self._slots.pop(0))
        self.observations, self.next_observations = np.split(_as_numpy(self._slots[0].observations), 2)

    def compute(self, batch: Batch) -> Slot:
        """Overwrite `gradient` with this batch's, whose observations are in the buffers. Returns what has its metrics.

        A GPU has only begun with it; the slot is filled anew after as many further calls as there are slots."""
        assert len(batch.actions) == self._batch_size, (len(batch.actions), self._batch_size)
        slot = self._slots[0]
        slot.put(batch)
        if self._on_gpu:
            slot.send(self._at_work)
        else:
            self._at_work = slot
        self._begin()
        if self._on_gpu:
            slot.fetch(self._at_work.told)
        self._turn_to_next_slot()
        return slot

    def _work(self) -> None:
        """From the batch at work to `gradient`, and to what is told."""
        with self._mode():
            x = self._network_input()
            actions, return_t, discount_t, weights = self._at_work.numbers
            actions = actions.long()
            q_tm1, next_q_online = self._online(x)
            next_q_target = self._target(x[self._batch_size :])
            target_t = q_targets(return_t, discount_t, next_q_target, next_q_online)
            delta = td_errors(q_tm1, actions, target_t)
            loss = td_loss(delta, weights, self._settings.loss)
            self._backward(loss, delta, weights, actions)
        with torch.inference_mode():
            if self._settings.max_grad_value is not None:
                self.gradient.clamp_(-self._settings.max_grad_value, self._settings.max_grad_value)
            q_mean, grad_norm = q_tm1.amax(1).mean(), torch.linalg.vector_norm(self.gradient)
            torch.cat((delta, torch.stack((q_mean, loss, grad_norm))), out=self._at_work.told)

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
        """Both observations, (2B, C, H, W) or (2B, size), as the network takes them."""
        x = self._at_work.observations.to(self._dtype)
        if self._divisor_is_due:
            x = x.mul_(self._architecture.scale)
        return x.permute(0, 3, 1, 2) if x.dim() == 4 else x

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
