"""Acting with a network for images, and from a rollout to the gradient of A3C's loss: by autograd or by hand.

T: steps of a rollout, up to t_max; E: environments side by side; n: actions."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ablate.algos.a3c.gradients import GradientComputer, LossSettings
from ablate.nn.architecture import Architecture
from ablate.nn.distributions import Categorical, Outputs
from ablate.types import Rollout

if TYPE_CHECKING:
    from ablate.nn.conv_networks import ManualConv, TorchConv


class ConvComputer(GradientComputer):
    """A worker's local network: it acts in E environments, then computes the gradient of their rollout.

    Per rollout: `start`, `step` for each row 0 ... T, `compute`. Pull parameters only between `compute` and `start`."""

    _network: Any
    _states: Tensor  # (t_max + 2, 2, E, hidden): h and c of the LSTM before each row, and after the last

    def __init__(
        self,
        architecture: Architecture,
        envs: int,
        t_max: int,
        settings: LossSettings,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        precision: str = "float32",
    ) -> None:
        super().__init__(architecture, Categorical(), settings, device, dtype)
        self._row = 0  # the last row that was stepped
        self._build(architecture, envs, t_max, precision)

    def start(self) -> None:
        """Begin a rollout. Its row 0 has the observations of the last row stepped, and starts from the same state."""
        self._states[0] = self._states[self._row]
        self._row = 0

    @torch.inference_mode()
    def step(self, t: int, observations: np.ndarray, firsts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row t of the rollout, 0 ... T: observations (E, C, H, W) and firsts (E,) -> logits (E, n) and values (E,).

        firsts: an episode starts with this row, and the LSTM from 0. The results are valid until row t comes again."""
        logits, values = self._step(t, torch.from_numpy(observations), firsts)
        self._row = t
        return logits.cpu().numpy(), values.cpu().numpy()

    @property
    def state(self) -> np.ndarray:
        """(2, E, hidden) float32, h and c of the LSTM that the next rollout starts from; (2, E, 0) without an LSTM."""
        return self._states[self._row].float().cpu().numpy().copy()

    def set_state(self, state: np.ndarray) -> None:
        """Let the next rollout start from a state that was saved."""
        self._row = 0
        self._states[0] = torch.from_numpy(state)

    def _backward(self, d_outputs: Outputs, d_values: Tensor, rollout: Rollout) -> None:
        (d_logits,) = d_outputs
        self._network.backward(d_logits, d_values, rollout.firsts[:-1])

    @abstractmethod
    def _build(self, architecture: Architecture, envs: int, t_max: int, precision: str) -> None:
        """Make the network over the flat vectors, and the states."""

    @abstractmethod
    def _step(self, t: int, images: Tensor, firsts: np.ndarray) -> tuple[Tensor, Tensor]:
        """Logits (E, n) and values (E,) of row t. Sets the state before row t + 1."""


class AutogradConvComputer(ConvComputer):
    """backend=autograd: torch.nn and loss.backward(). It repeats the forward pass once, over the whole rollout."""

    by_hand = False

    def _build(self, architecture: Architecture, envs: int, t_max: int, precision: str) -> None:
        self._network: TorchConv = architecture.torch_network(self.parameters, self.gradient, precision)
        self._states = self.parameters.new_zeros(t_max + 2, 2, envs, self._network.state_size)
        self._bootstrap = self.parameters.new_zeros(envs)  # values of the last row stepped

    def _step(self, t: int, images: Tensor, firsts: np.ndarray) -> tuple[Tensor, Tensor]:
        rows = images.to(self.parameters).unsqueeze(0)
        logits, values, self._states[t + 1] = self._network(rows, firsts[None], self._states[t])
        self._bootstrap.copy_(values[0])
        return logits[0], values[0]

    def _outputs(self, rollout: Rollout) -> tuple[Outputs, Tensor]:
        assert len(rollout.rewards) == self._row, (len(rollout.rewards), self._row)
        images = torch.from_numpy(rollout.observations[:-1]).to(self.parameters)
        logits, values, _ = self._network(images, rollout.firsts[:-1], self._states[0])
        return (logits,), torch.cat((values, self._bootstrap[None]))


class ManualConvComputer(ConvComputer):
    """backend=manual: the gradient of the loss and the backward pass by hand, from what the steps have kept."""

    by_hand = True

    def _build(self, architecture: Architecture, envs: int, t_max: int, precision: str) -> None:
        self._network: ManualConv = architecture.manual_network(
            self.parameters, self.gradient, t_max + 1, envs, precision
        )
        self._states = self._network.state

    def start(self) -> None:
        super().start()
        self._network.refresh()

    def _step(self, t: int, images: Tensor, firsts: np.ndarray) -> tuple[Tensor, Tensor]:
        heads = self._network.forward(t, images, firsts)
        return heads[:, :-1], heads[:, -1]

    def _outputs(self, rollout: Rollout) -> tuple[Outputs, Tensor]:
        assert len(rollout.rewards) == self._row, (len(rollout.rewards), self._row)
        heads = self._network.heads[: len(rollout.firsts)]
        return (heads[:-1, :, :-1],), heads[..., -1]


CONV_BACKENDS: dict[str, type[ConvComputer]] = {"autograd": AutogradConvComputer, "manual": ManualConvComputer}
