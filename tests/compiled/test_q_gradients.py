"""Gradients of DQN's kernels, compared with backend=autograd in float64, and many updates with torch.optim."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import config_of

from ablate.algos.dqn.gradients import AutogradQComputer, QSettings
from ablate.compiled.gemm import SMALL, gemm
from ablate.compiled.jit import kernel
from ablate.compiled.optimizer import optimizer_of, step_and_pull
from ablate.compiled.q_network import QNetwork, q_network_of
from ablate.compiled.q_update import (
    BatchArrays,
    QLossConstants,
    QScratch,
    compute_gradient,
    mean_of_largest,
    q_scratch_of,
)
from ablate.nn.q_architecture import QArchitecture
from ablate.types import Batch

TOLERANCE = {np.float32: 1e-4, np.float64: 1e-9}  # relative to the largest number
# Widths: observation, hidden layers, actions; and whether the network is dueling.
NETWORKS = {
    "default": (4, (120, 84), 2, False),
    "dueling": (4, (120, 84), 2, True),
    "no hidden layers": (3, (), 5, False),
    "deep": (6, (16, 33, 7, 40), 3, False),
    "deep and dueling": (6, (16, 33, 7, 20), 3, True),
    "narrow": (2, (1,), 3, False),
    "narrow and dueling": (1, (1,), 2, True),
    "square": (5, (5, 5), 5, False),
}
LOSSES = [
    QSettings(double=False, loss="smooth_l1", max_grad_value=None),
    QSettings(double=True, loss="squared", max_grad_value=None),
    QSettings(double=True, loss="smooth_l1", max_grad_value=0.01),
]
each_dtype = pytest.mark.parametrize("dtype", [np.float64, np.float32])


@kernel
def gradient_of(
    network: QNetwork, constants: QLossConstants, theta: Any, target: Any, batch: BatchArrays, scratch: QScratch
) -> tuple[float, float, float]:
    """The loss, the gradient's norm, and the mean of the largest values. `scratch` holds the gradient."""
    loss, norm = compute_gradient(network, constants, theta, target, batch, scratch)
    return loss, norm, mean_of_largest(network, scratch.activations, len(batch.actions))


@kernel
def product(c, a, a_row, a_transposed, b, b_row, b_transposed, m, k, n):  # type: ignore[no-untyped-def]
    gemm(c, 0, a, 0, a_row, a_transposed, b, 0, b_row, b_transposed, m, k, n)


@kernel
def step(optimizer, theta, first, second, largest, gradient, update, lr, local):  # type: ignore[no-untyped-def]
    step_and_pull(optimizer, theta, first, second, largest, gradient, update, lr, local)


def architecture_of(network: str, activation: str = "relu") -> QArchitecture:
    size, hidden, actions, dueling = NETWORKS[network]
    return QArchitecture((size,), (), False, hidden, activation, actions, dueling, 1.0)


def parameters_of(architecture: QArchitecture, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    theta = np.zeros(architecture.layout().size)
    architecture.initialise(theta, rng)
    return theta + 0.1 * rng.standard_normal(len(theta))  # biases, too


class Learning:
    """The same batches for the kernels and for autograd. dtype: of the kernels."""

    def __init__(self, architecture: QArchitecture, settings: QSettings, size: int, dtype: type) -> None:
        theta, target = (parameters_of(architecture, seed) for seed in (0, 1))
        self.computer = AutogradQComputer(architecture, size, settings, torch.tensor(theta))
        self.computer.set_target(target)
        self.network = q_network_of(architecture)
        largest = np.inf if settings.max_grad_value is None else settings.max_grad_value
        self.constants = QLossConstants(settings.double, settings.loss == "squared", largest)
        self.theta, self.target = theta.astype(dtype), target.astype(dtype)
        self.batch, self.scratch = q_scratch_of(self.network, size, len(theta), dtype)
        for array in self.scratch:
            array[:] = -1 if array.dtype == np.int64 else np.nan  # must be written before it is read
        self._rng, self._size = np.random.default_rng(2), size

    def draw(self) -> None:
        """The next batch for both; its numbers are exact in float32."""
        rng, size, (observation,) = self._rng, self._size, self.computer._input.shape
        rows = self.network.rows * size
        for buffer, memory in (
            (self.computer.observations, self.scratch.activations),
            (self.computer.next_observations, self.scratch.next_activations),
        ):
            values = rng.standard_normal((size, observation)).astype(np.float32)
            buffer[:] = values
            assert len(memory) == rows
            memory[: values.size] = values.T.ravel()
        drawn = Batch(
            np.zeros((size, 1), np.int64),
            np.zeros((size, 1), np.int64),
            rng.integers(self.network.actions, size=size),
            (2 * rng.standard_normal(size)).astype(np.float32),
            rng.choice([0.0, 0.99, 0.99**3], size).astype(np.float32),
            rng.uniform(0.1, 1, size).astype(np.float32),
        )
        for name in ("actions", "returns", "discounts", "weights"):
            getattr(self.batch, name)[:] = getattr(drawn, name)
        self.expected = self.computer.compute(drawn).metrics()

    def compute(self) -> tuple[float, float, float]:
        return gradient_of(self.network, self.constants, self.theta, self.target, self.batch, self.scratch)


def assert_close(ours: Any, theirs: Any, dtype: type, name: str = "") -> None:
    margin = TOLERANCE[dtype] * np.abs(theirs).max(initial=0.0)
    np.testing.assert_allclose(ours, theirs, 0, margin + 1e-30, err_msg=name)


@each_dtype
@pytest.mark.parametrize("activation", ["relu", "relu6", "tanh", "elu"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_gradient_equals_autograds(network: str, activation: str, dtype: type) -> None:
    architecture = architecture_of(network, activation)
    for settings in LOSSES:
        for size in (32, 1, 7):
            made = Learning(architecture, settings, size, dtype)
            for _ in range(2):  # the second gradient must not contain the first
                made.draw()
                loss, norm, q_mean = made.compute()
                expected = made.expected
                assert_close([loss, norm, q_mean], [expected.loss, expected.grad_norm, expected.q_mean], dtype)
                assert_close(made.batch.td_errors, expected.td_errors, dtype)
                gradients = architecture.layout().views(made.computer.gradient)
                for name, view in architecture.layout().views(made.scratch.gradient).items():
                    assert_close(view, gradients[name].numpy(), dtype, name)


@each_dtype
@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("optimizer.amsgrad=true", "optimizer.weight_decay=0.01"),
        ("optimizer=rmsprop",),
    ],
)
def test_100_updates_equal_those_of_torchs_optimizer(overrides: tuple[str, ...], dtype: type) -> None:
    """As in the loop: each update changes the parameters, and the target network follows every 10."""
    config = config_of("algo=dqn", "env=cartpole", "optimizer.lr=1e-4", "optimizer.eps=1e-4", *overrides)
    made = Learning(architecture_of("dueling"), LOSSES[1], 16, dtype)
    parameters, optimizer = made.computer.parameters, config.optimizer
    arguments = {"lr": optimizer.lr, "eps": optimizer.eps, "weight_decay": optimizer.weight_decay}
    theirs: torch.optim.Optimizer
    if optimizer.name == "adam":
        theirs = torch.optim.Adam([parameters], betas=optimizer.betas, amsgrad=optimizer.amsgrad, **arguments)  # type: ignore[attr-defined]
    else:
        theirs = torch.optim.RMSprop([parameters], alpha=optimizer.alpha, **arguments)  # type: ignore[attr-defined]
    constants = optimizer_of(optimizer)
    moments = [np.zeros_like(made.theta) for _ in range(3)]
    for update in range(1, 101):
        made.draw()
        made.compute()
        parameters.grad = made.computer.gradient
        theirs.step()
        step(constants, made.theta, *moments, made.scratch.gradient, update, optimizer.lr, made.scratch.local)
        if update % 10 == 0:
            made.target[:] = made.theta
            made.computer.update_target()
    assert_close(made.theta, parameters.numpy(), dtype)
    assert np.abs(made.theta - parameters_of(architecture_of("dueling"), 0)).max() > 5e-3  # it has moved


@each_dtype
@pytest.mark.parametrize("transposed", [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 5, 7), (84, 129, 120), (257, 64, 90)])
def test_a_product_equals_numpys(sizes: tuple[int, int, int], transposed: tuple[bool, bool], dtype: type) -> None:
    m, k, n = sizes
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
    stored = [np.ascontiguousarray(x.T if t else x) for x, t in zip((a, b), transposed, strict=True)]
    c = np.full(m * n, np.nan, dtype)
    (a_row, b_row) = (x.shape[1] for x in stored)
    product(c, stored[0].ravel(), a_row, transposed[0], stored[1].ravel(), b_row, transposed[1], m, k, n)
    assert_close(c.reshape(m, n), a.astype(float) @ b.astype(float), dtype)
    assert max(84 * 129 * 120, 257 * 64 * 90) > SMALL  # both ways to compute are covered
