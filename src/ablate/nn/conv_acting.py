"""The policy of a ConvArchitecture on torch, for several games side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from ablate.nn.acting import Action, draw_categorical
from ablate.nn.conv_networks import ManualConv
from ablate.types import ActionSpec

if TYPE_CHECKING:
    from ablate.nn.conv_architecture import ConvArchitecture


class ConvActing:
    """One forward pass for all games; it remembers their LSTM states. parameters: (P,) float32, may change."""

    def __init__(self, architecture: ConvArchitecture, parameters: np.ndarray, action: ActionSpec, envs: int) -> None:
        theta = torch.from_numpy(parameters)
        self._network = ManualConv(architecture, theta, torch.zeros_like(theta), rows=1, envs=envs)
        dtype = np.uint8 if architecture.scale != 1 else np.float32
        self._observations = np.zeros((envs, *architecture.input_shape), dtype)
        self._firsts = np.ones(envs, np.bool_)
        self._start = action.start

    def reset(self, env_index: int) -> None:
        """The LSTM of this game starts from 0 again."""
        self._firsts[env_index] = True

    def actions(
        self, observations: Sequence[np.ndarray], streams: Sequence[np.random.Generator] | None
    ) -> list[Action]:
        """See ActingNetwork."""
        for row, observation in zip(self._observations, observations, strict=True):
            row[:] = observation
        with torch.inference_mode():
            heads = self._network.forward(0, torch.from_numpy(self._observations), self._firsts)
            self._network.state[0] = self._network.state[1]
        self._firsts[:] = False
        logits = heads[:, :-1].numpy()
        if streams is None:
            return [self._start + int(action) for action in np.argmax(logits, 1)]
        return [self._start + draw_categorical(row, rng) for row, rng in zip(logits, streams, strict=True)]
