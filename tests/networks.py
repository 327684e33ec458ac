"""Small Q-networks for tests."""

from __future__ import annotations

import numpy as np

from ablate.nn.convolutions import Convolution
from ablate.nn.q_architecture import QArchitecture

VECTOR = QArchitecture((5,), (), False, (9, 7), "relu", 4, False, 1.0)
IMAGE = QArchitecture(
    input_shape=(3, 13, 12),
    convolutions=(Convolution(6, 4, 2, 0, False), Convolution(5, 3, 1, 1, False)),
    conv_bias=False, hidden=(10,), activation="relu", actions=4, dueling=False, scale=1 / 255,
)  # fmt: skip


def random_parameters(architecture: QArchitecture, seed: int) -> np.ndarray:
    """(P,) float64, none of them 0."""
    rng = np.random.default_rng(seed)
    flat = np.zeros(architecture.layout().size)
    architecture.initialise(flat, rng)
    return flat + 0.05 * rng.standard_normal(flat.size)
