"""Acting by action values: in numpy for vectors, on torch for images."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import IMAGE, VECTOR, random_parameters

from ablate.nn.q_architecture import QArchitecture
from ablate.nn.q_networks import TorchQ
from ablate.types import ActionSpec

E = 3


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("activation", ["relu", "relu6", "tanh", "elu"])
@pytest.mark.parametrize("base", [VECTOR, IMAGE, replace(IMAGE, scale=1.0, conv_bias=True)])
def test_action_values_equal_those_of_the_torch_network(base: QArchitecture, activation: str, dueling: bool) -> None:
    architecture = replace(base, activation=activation, dueling=dueling)
    rng = np.random.default_rng(3)
    shape = (E, *architecture.input_shape)
    observations = rng.integers(0, 256, shape, np.uint8) if architecture.scale != 1 else rng.standard_normal(shape)
    observations = observations if architecture.scale != 1 else observations.astype(np.float32)
    parameters = random_parameters(architecture, 0).astype(np.float32)
    acting = architecture.acting(parameters, ActionSpec(n=architecture.actions), E)
    for seed in (0, 1):  # it uses the current parameters
        parameters[:] = random_parameters(architecture, seed)
        network = TorchQ(architecture, torch.from_numpy(parameters), None)
        x = torch.from_numpy(observations).float() * architecture.scale
        actual = acting.q_values(observations)
        assert actual.dtype == np.float32
        np.testing.assert_allclose(actual, network(x).numpy(), rtol=1e-4, atol=1e-4)


def test_acting_on_vectors_does_not_import_torch() -> None:
    code = (
        "import sys, numpy as np\n"
        "from ablate.nn.q_architecture import QArchitecture\n"
        "from ablate.types import ActionSpec\n"
        "a = QArchitecture((4,), (), False, (8,), 'relu', 2, False, 1.0)\n"
        "acting = a.acting(np.zeros(a.layout().size, np.float32), ActionSpec(n=2))\n"
        "q = acting.q_values(np.zeros((1, 4), np.float32))\n"
        "assert q.shape == (1, 2)\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
