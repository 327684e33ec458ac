"""Policies are compared with the numpy actor on the same stream, with their distributions, and with torch.autograd."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy import stats

from ablate.compiled import head as policy
from ablate.compiled.jit import kernel
from ablate.nn.mlp_acting import MlpActing
from ablate.nn.mlp_architecture import MlpArchitecture
from ablate.types import ActionSpec

BOX = ActionSpec(low=(-1.0, -2.0, 0.0), high=(1.0, 2.0, 3.0))
CENTRE, SCALE, SIGMA_MIN = (0.0, 0.5, 1.5), (1.0, 2.0, 1.5), 1e-4
INF, NAN = math.inf, math.nan


class Acted(NamedTuple):
    """The results for N rows of z."""

    are_numbers: np.ndarray  # (N,) bool
    dist_params: np.ndarray  # (N, D)
    drawn: np.ndarray  # (N, A)
    mode: np.ndarray  # (N, A)
    env_actions: np.ndarray  # (N, A), what the environment gets for the drawn actions


@kernel
def act_on(head, z, draws, acted):
    for i in range(len(z)):
        acted.are_numbers[i] = policy.compute_dist_params(head, z[i], acted.dist_params[i])
        policy.draw(head, acted.dist_params[i], draws[i], acted.drawn[i])
        policy.mode(head, acted.dist_params[i], acted.mode[i])
        policy.to_env(head, acted.drawn[i], acted.env_actions[i])


@kernel
def backward(head, dist_params, actions, d_log_prob, d_entropy, d_z, log_prob, entropy):
    for i in range(len(dist_params)):
        policy.policy_backward(head, dist_params[i], actions[i], d_log_prob[i], d_entropy, d_z[i])
        log_prob[i], entropy[i] = policy.log_prob(head, dist_params[i], actions[i])


def identity(action: ActionSpec) -> MlpArchitecture:
    """A network whose outputs equal its observation."""
    size = action.n or 2 * len(action.low)
    gaussian = not action.is_discrete
    return MlpArchitecture((size,), (size, size), (size, 1), "relu", gaussian, CENTRE, SCALE, SIGMA_MIN)


def act(action: ActionSpec, z: np.ndarray, draws: np.ndarray) -> tuple[policy.Head, Acted]:
    """z (N, ·), draws (N, ·)."""
    head, n = policy.head_of(identity(action), action, z.dtype.type), len(z)
    size, columns = (1, action.n) if action.n else (len(action.low), 4 * len(action.low))
    acted = Acted(np.zeros(n, bool), *(np.full((n, m), np.nan, z.dtype) for m in (columns, size, size, size)))
    act_on(head, z, draws, acted)
    return head, acted


def act_often(action: ActionSpec, z: list[float], times: int) -> np.ndarray:
    """(times, A) actions drawn from one z, float32."""
    rng = np.random.default_rng(0)
    draws = rng.random((times, 1)) if action.is_discrete else rng.standard_normal((times, len(action.low)))
    return act(action, np.tile(np.array(z, np.float32), (times, 1)), draws)[1].drawn


@pytest.mark.parametrize("action", [BOX, ActionSpec(n=2), ActionSpec(n=5)])
def test_actions_equal_the_numpy_actors_on_the_same_stream(action: ActionSpec) -> None:
    architecture, rng = identity(action), np.random.default_rng(0)
    size = architecture.torso_sizes[0]
    parameters = np.zeros(architecture.layout().size, np.float32)
    architecture.layout().views(parameters)["actor.0.weight"][...] = np.eye(size)
    acting, z = MlpActing(architecture, parameters, action), (3 * rng.standard_normal((2000, size))).astype(np.float32)
    draws = rng.random((len(z), 1)) if action.is_discrete else rng.standard_normal((len(z), len(action.low)))
    _, acted = act(action, z, draws)
    stream = np.random.default_rng(0)
    stream.standard_normal((2000, size))
    for i, row in enumerate(z):
        drawn = acting.sample(row, stream)
        for ours, theirs in (
            (acted.drawn, drawn),
            (acted.mode, acting.mode(row)),
            (acted.env_actions, acting.to_env(drawn)),
        ):
            np.testing.assert_allclose(ours[i], theirs, 1e-5, 1e-6)


@pytest.mark.parametrize(
    "logits", [[0.3, -1.0, 2.0, 0.0], [500.0, 501.0, 499.0], [-1e30, 0.0, -INF, 1.0, -1e30], [0.0, 0.0]]
)
def test_categorical_draws_follow_the_probabilities(logits: list[float]) -> None:
    drawn = act_often(ActionSpec(n=len(logits)), logits, 20_000)[:, 0]
    p = np.exp(np.array(logits) - max(logits))
    p /= p.sum()
    counts = np.bincount(drawn.astype(int), minlength=len(p))
    np.testing.assert_array_equal(drawn, drawn.astype(int))
    assert not counts[p == 0].any()
    assert stats.chisquare(counts[p > 0], p[p > 0] * len(drawn)).pvalue > 1e-3


def test_gaussian_draws_follow_the_normal_distribution() -> None:
    z = np.array([0.3, -1.0, 5.0, 2.0, -3.0, -30.0])
    drawn = act_often(BOX, z.tolist(), 20_000)
    mu, sigma = CENTRE + SCALE * np.tanh(z[:3]), np.log1p(np.exp(z[3:])) + SIGMA_MIN
    for i in range(3):
        assert stats.kstest(drawn[:, i], "norm", (mu[i], sigma[i])).pvalue > 1e-3


@pytest.mark.parametrize("uniform", [0.0, np.nextafter(1.0, 0.0)])
def test_an_impossible_action_is_not_drawn_at_the_ends(uniform: float) -> None:
    z = np.full((1, 9), -INF, np.float32)
    z[0, 1:8] = np.linspace(-0.3, 0.1, 7)
    drawn = act(ActionSpec(n=9), z, np.full((1, 1), uniform))[1].drawn
    assert drawn == (1 if uniform == 0.0 else 7)


@pytest.mark.parametrize("n", [1, 2, 5, 16])
def test_logits_that_are_not_finite_are_noticed(n: int) -> None:
    rows = [np.full(n, -INF)]
    for place in range(n):
        for value in (NAN, INF):
            rows.append(np.where(np.arange(n) == place, value, 0.5))
    refused, fine = np.array(rows), np.array([np.zeros(n), np.full(n, -3e38), np.linspace(3e38, -3e38, n)])
    z = np.concatenate((refused, fine)).astype(np.float32)
    are_numbers = act(ActionSpec(n=n), z, np.full((len(z), 1), 0.5))[1].are_numbers
    assert are_numbers.tolist() == [False] * len(refused) + [True] * len(fine)


def reference(action: ActionSpec, z: torch.Tensor) -> torch.distributions.Distribution:
    if action.is_discrete:
        return torch.distributions.Categorical(logits=z)
    mu = torch.tensor(CENTRE) + torch.tensor(SCALE) * torch.tanh(z[:, :3])
    normal = torch.distributions.Normal(mu, torch.logaddexp(z[:, 3:], torch.zeros(1)) + SIGMA_MIN)
    return torch.distributions.Independent(normal, 1)


@pytest.mark.parametrize("spread", [1.0, 10.0])
@pytest.mark.parametrize("action", [BOX, ActionSpec(n=2), ActionSpec(n=5)])
def test_log_probability_entropy_and_gradient_equal_torchs(action: ActionSpec, spread: float) -> None:
    rng, n = np.random.default_rng(1), 500
    z = spread * rng.standard_normal((n, identity(action).torso_sizes[0]))
    draws = rng.random((n, 1)) if action.is_discrete else rng.standard_normal((n, len(action.low)))
    head, acted = act(action, z, draws)
    d_log_prob, d_entropy = rng.standard_normal(n), 0.7
    d_z, log_prob, entropy = np.full_like(z, np.nan), np.zeros(n), np.zeros(n)
    backward(head, acted.dist_params, acted.drawn, d_log_prob, d_entropy, d_z, log_prob, entropy)

    leaf = torch.from_numpy(z).requires_grad_()
    distribution = reference(action, leaf)
    drawn = torch.from_numpy(acted.drawn[:, 0] if action.is_discrete else acted.drawn)
    expected = distribution.log_prob(drawn), distribution.entropy()
    (torch.from_numpy(d_log_prob) * expected[0] + d_entropy * expected[1]).sum().backward()
    np.testing.assert_allclose(log_prob, expected[0].detach(), 1e-9, 1e-12)
    np.testing.assert_allclose(entropy, expected[1].detach(), 1e-9, 1e-12)
    np.testing.assert_allclose(d_z, leaf.grad, 1e-9, 1e-9)
