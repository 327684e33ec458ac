"""Acting in numpy against the torch networks, and its draws against the analytic distributions."""

import numpy as np
import pytest
import torch
from scipy import stats

from ablate.nn.acting import draw_categorical, draw_gaussian
from ablate.nn.mlp_architecture import MlpArchitecture
from ablate.nn.mlp_networks import ManualMlp, TorchMlp
from ablate.types import ActionSpec

BOX = ActionSpec(low=(-2.0, 0.0), high=(2.0, 3.0))
DISCRETE = ActionSpec(n=4, start=3)


@pytest.mark.parametrize("action", [BOX, DISCRETE])
@pytest.mark.parametrize("activation", ["relu", "relu6", "tanh", "elu"])
@pytest.mark.parametrize("torso", [(3,), (3, 32), (3, 5, 5)])
@pytest.mark.parametrize("hidden", [(), (200,), (16, 8)])
def test_outputs_equal_those_of_both_torch_networks(
    action: ActionSpec, activation: str, torso: tuple[int, ...], hidden: tuple[int, ...]
) -> None:
    actor, critic = (torso[-1], *hidden, 4), (torso[-1], 1)
    gaussian = not action.is_discrete
    architecture = MlpArchitecture(torso, actor, critic, activation, gaussian, (0.0, 1.5), (2.0, 1.5), 1e-4)
    size = architecture.layout().size
    flat = 0.3 * np.random.default_rng(0).standard_normal(size)  # torch's softplus is exact up to z = 20
    acting = architecture.acting(flat, action)
    observations = 3 * np.random.default_rng(1).standard_normal((51, 3))
    for network in (TorchMlp, ManualMlp):
        module = network(architecture, torch.from_numpy(flat), torch.zeros(size, dtype=torch.float64))
        with torch.no_grad():
            expected, _ = module.forward(torch.from_numpy(observations))
        actual = [acting.outputs(observation) for observation in observations[:-1]]
        for i, output in enumerate(expected):
            np.testing.assert_allclose([row[i] for row in actual], output.numpy(), rtol=1e-10, atol=1e-12)


def test_categorical_draws_follow_the_probabilities() -> None:
    logits = np.array([0.3, -1.0, 2.0, 0.0])
    p = np.exp(logits) / np.exp(logits).sum()
    rng = np.random.default_rng(0)
    draws = [draw_categorical(logits, rng) for _ in range(20_000)]
    assert stats.chisquare(np.bincount(draws, minlength=4), p * len(draws)).pvalue > 1e-3


def test_an_impossible_action_is_never_drawn() -> None:
    rng = np.random.default_rng(0)
    logits = np.array([-1e30, 0.0, -1e30, -1e30], np.float32)
    assert {draw_categorical(logits, rng) for _ in range(1000)} == {1}


def test_logits_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(FloatingPointError):
        draw_categorical(np.array([0.0, np.nan]), np.random.default_rng(0))


def test_gaussian_draws_follow_the_normal_distribution() -> None:
    rng = np.random.default_rng(0)
    mu, sigma = np.array([0.5, -1.0]), np.array([2.0, 0.3])
    draws = np.array([draw_gaussian(mu, sigma, rng) for _ in range(5000)])
    for i in range(2):
        assert stats.kstest(draws[:, i], "norm", (mu[i], sigma[i])).pvalue > 1e-3
    with pytest.raises(FloatingPointError):
        draw_gaussian(mu, np.array([np.inf, 1.0]), rng)


def test_actions_are_clipped_or_shifted_for_the_environment() -> None:
    architecture = MlpArchitecture((3,), (3, 4), (3, 1), "relu", True, (0.0, 1.5), (2.0, 1.5), 1e-4)
    flat = np.zeros(architecture.layout().size, np.float32)
    clipped = architecture.acting(flat, BOX).to_env(np.array([5.0, -0.5], np.float32))
    np.testing.assert_array_equal(clipped, [2.0, 0.0])
    assert architecture.acting(flat, DISCRETE).to_env(2) == 5
