"""Acting ε-greedily by the action values of images, on torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from ablate.nn.q_acting import QActing
from ablate.nn.q_networks import ManualQ
from ablate.types import ActionSpec

if TYPE_CHECKING:
    from ablate.nn.q_architecture import QArchitecture


class ImageQActing(QActing):
    """For a QArchitecture of images: one forward pass for all E environments. parameters: (P,) float32."""

    def __init__(
        self, architecture: QArchitecture, parameters: np.ndarray, action: ActionSpec, envs: int, epsilon: float = 0.0
    ) -> None:
        super().__init__(architecture, action, epsilon)
        channels, height, width = architecture.input_shape
        self._network = ManualQ(architecture, torch.from_numpy(parameters), None)
        self._images = torch.empty(envs, height, width, channels).permute(0, 3, 1, 2)
        self._scale = architecture.scale

    @torch.inference_mode()
    def q_values(self, observations: np.ndarray) -> np.ndarray:
        """(E, C, H, W), uint8 or float32 -> Q (E, n)."""
        self._images.copy_(torch.from_numpy(observations))
        if self._scale != 1.0:
            self._images.mul_(self._scale)
        return self._network.forward(self._images).numpy()
