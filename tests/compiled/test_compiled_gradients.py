"""Rollouts of the kernels: actions, loss and gradient are compared with backend=autograd in float64, and many updates
with nn/optimizers.py."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from helpers import config_of

from ablate.algos.a3c.compiled import constants_of
from ablate.algos.a3c.gradients import BACKENDS, GradientComputer, LossSettings
from ablate.algos.a3c.spec import A3CConfig
from ablate.compiled import dynamics
from ablate.compiled.arguments import PolicyArguments, policy_of
from ablate.compiled.jit import implements, kernel
from ablate.compiled.loop import Constants, WorkerArrays, clip, collect, compute_gradient, compute_loss
from ablate.compiled.optimizer import learning_rate, optimizer_of, step_and_pull
from ablate.config.schema import Config
from ablate.nn.distributions import make_distribution
from ablate.nn.mlp_acting import MlpActing
from ablate.nn.mlp_architecture import MlpArchitecture
from ablate.nn.optimizers import make_optimizer
from ablate.types import ActionSpec, Trajectory

T_MAX = 10
TORCH = {np.float32: torch.float32, np.float64: torch.float64}
TOLERANCE = {np.float32: 1e-4, np.float64: 1e-9}  # relative
ROUNDING = {np.float32: 1e-5, np.float64: 1e-13}  # relative to the largest number, for sums whose terms cancel
ACTIONS = {
    "box": ActionSpec(low=(-2.0,), high=(2.0,)),
    "box of 3": ActionSpec(low=(-1.0, -2.0, 0.0), high=(1.0, 2.0, 3.0)),
    "2 actions": ActionSpec(n=2),
    "5 actions": ActionSpec(n=5),
}
# Widths: (observation, torso ...), actor's hidden layers, critic's hidden layers.
NETWORKS = {
    "S1": ((3,), (200,), (100,)),
    "deep": ((4,), (32, 16, 8), (33, 17, 5, 100)),
    "narrow": ((5,), (2,), (1,)),
    "one number observed": ((1,), (7,), (1, 1)),
    "no hidden layers": ((3,), (), ()),
    "square": ((4, 4), (4,), (4,)),
    "torso only": ((6, 64), (), ()),
    "deep torso": ((3, 4, 33, 8), (64, 2), (5, 5, 5)),
    "narrow torso": ((8, 3), (20,), ()),
}
LOSSES = [
    ("env.reward_shift=0.5", "env.reward_scale=2"),
    ("algo.loss_reduction=sum", "algo.gae_lambda=0.9", "algo.value_loss_coef=0.25", "algo.entropy_coef=0.01"),
    ("algo.gamma=1", "algo.gae_lambda=0.5", "algo.value_loss_coef=2", "algo.entropy_coef=0"),
]
cached_config_of = functools.cache(config_of)
each_dtype = pytest.mark.parametrize("dtype", [np.float64, np.float32])


class Recorded(NamedTuple):
    """An environment that replays a record, whatever the action. Its state (1,) is the step."""

    observations: np.ndarray  # (T+1, O)
    rewards: np.ndarray  # (T,)
    terminates: bool  # at step T


@implements(dynamics.step, Recorded)
def _(env, state, action):
    t = int(state[0])
    state[0] += 1.0
    return env.rewards[t], env.terminates and t + 1 == len(env.rewards)


@implements(dynamics.observe, Recorded)
def _(env, state, observation):
    t = int(state[0])
    for i in range(len(observation)):
        observation[i] = env.observations[t, i]


@kernel
def play(env, head, network, constants, workers, scratch, w, limit):
    """A rollout of worker w. Returns its steps, how it ended, its loss, and its gradient's norm before clipping."""
    steps, terminated, truncated = collect(env, head, network, constants, workers, scratch, w, limit)
    compute_gradient(head, network, constants, workers.theta[w], scratch, steps)
    loss = compute_loss(head, network, constants, scratch, steps)
    return steps, (terminated, truncated), loss, clip(scratch.gradient, constants.max_grad_norm)


@kernel
def step(optimizer, theta, first, second, largest_second, gradient, update, lr, local):
    step_and_pull(optimizer, theta, first, second, largest_second, gradient, update, lr, local)


def architecture_of(network: str, action: ActionSpec, activation: str = "relu6") -> MlpArchitecture:
    torso, actor, critic = NETWORKS[network]
    outputs = action.n or 2 * len(action.low)
    centre = tuple((high + low) / 2 for low, high in zip(action.low, action.high, strict=True))
    scale = tuple((high - low) / 2 for low, high in zip(action.low, action.high, strict=True))
    return MlpArchitecture(
        torso, (torso[-1], *actor, outputs), (torso[-1], *critic, 1), activation, not action.is_discrete, centre, scale,
        1e-4,
    )  # fmt: skip


def random_parameters(architecture: MlpArchitecture, rng: np.random.Generator) -> np.ndarray:
    """(P,) float64. Hidden units reach both ends of relu6, and the outputs stay moderate."""
    layout = architecture.layout()
    flat = rng.standard_normal(layout.size)
    last = {f"{part}.{len(getattr(architecture, f'{part}_sizes')) - 2}" for part in ("actor", "critic")}
    for name, view in layout.views(flat).items():
        layer, _, kind = name.rpartition(".")
        view *= (0.2 if layer in last else 2.0) / (math.sqrt(view.shape[1]) if kind == "weight" else 2.0)
    return flat


def random_record(rng: np.random.Generator, size: int, steps: int, terminates: bool) -> Recorded:
    """A random record, whose numbers are exact in float32."""
    observations, rewards = rng.standard_normal((steps + 1, size)), rng.standard_normal(steps)
    return Recorded(observations.astype(np.float32).astype(float), rewards.astype(np.float32).astype(float), terminates)


def draws_of(action: ActionSpec, steps: int, seed: int) -> np.ndarray:
    """The first numbers of the random stream for actions."""
    rng = np.random.default_rng(seed)
    return rng.random(steps) if action.is_discrete else rng.standard_normal(steps * len(action.low))


class Player:
    """Worker 1 of two in a Recorded environment, with parameters (P,)."""

    def __init__(self, architecture: MlpArchitecture, action: ActionSpec, theta: np.ndarray) -> None:
        self.action = action
        self._policy: PolicyArguments = policy_of(architecture, action, T_MAX, theta.dtype.type)
        self.scratch = self._policy.scratch
        self._workers = WorkerArrays(
            theta=np.array([np.full_like(theta, np.nan), theta]),
            state=np.zeros((2, 1)),
            episodic_return=np.zeros(2),
            episodic_length=np.zeros(2, np.int64),
            pulled_at=np.zeros(2, np.int64),
            draws=np.full((2, T_MAX * max(1, len(action.low))), np.nan),
            draws_used=np.zeros(2, np.int64),
            reset_draws=np.zeros((2, 0)),
            reset_draws_used=np.zeros(2, np.int64),
        )
        self.theta = self._workers.theta[1]  # a view

    def play(self, env: Recorded, constants: Constants, draws: np.ndarray) -> tuple[Trajectory, tuple, float]:
        """Returns (rollout as training sees it, loss and its parts, gradient's norm). `scratch` holds the gradient."""
        workers, scratch, steps = self._workers, self.scratch, len(env.rewards)
        for array in (*(array for array in scratch if array is not scratch.activations), workers.state[0]):
            array.fill(np.nan)  # must be written before it is read
        for array in (workers.state[1], workers.draws_used, workers.episodic_return, workers.episodic_length):
            array.fill(0)
        workers.draws[1, : len(draws)] = draws
        made, ended, loss, norm = play(
            env, self._policy.head, self._policy.network, constants, workers, scratch, 1, steps + 3 * env.terminates
        )
        assert (made, ended) == (steps, (env.terminates, False))
        assert workers.episodic_return.tolist() == pytest.approx([0.0, env.rewards.sum()])
        assert (workers.episodic_length.tolist(), workers.draws_used.tolist()) == ([0, steps], [0, len(draws)])
        actions = scratch.actions[:steps]
        if self.action.is_discrete:
            actions = actions[:, 0].astype(np.int64)
        observations = env.observations.astype(self.theta.dtype)
        return Trajectory(observations, actions, scratch.rewards[:steps], scratch.discounts[:steps]), loss, norm


def reference_of(
    architecture: MlpArchitecture, action: ActionSpec, config: Config, dtype: type, flat: np.ndarray
) -> GradientComputer:
    assert isinstance(config.algo, A3CConfig)
    settings = LossSettings.of(config.algo)
    computer = BACKENDS["autograd"](architecture, make_distribution(action), settings, "cpu", TORCH[dtype])
    computer.parameters.copy_(torch.from_numpy(flat))
    return computer


@each_dtype
@pytest.mark.parametrize("activation", ["relu", "relu6", "tanh", "elu"])
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_rollout_and_its_gradient_equal_autograds(network: str, action: str, activation: str, dtype: type) -> None:
    rng, spec = np.random.default_rng(0), ACTIONS[action]
    architecture = architecture_of(network, spec, activation)
    flat = random_parameters(architecture, rng)
    player, acting = Player(architecture, spec, flat.astype(dtype)), MlpActing(architecture, flat, spec)
    for overrides in LOSSES:
        config = cached_config_of(*overrides)
        assert isinstance(config.algo, A3CConfig)
        reference = reference_of(architecture, spec, config, np.float64, flat)
        for steps in (T_MAX, 1, 2, 3, 7):
            env = random_record(rng, architecture.torso_sizes[0], steps, steps in (2, T_MAX))
            rollout, ours, norm = player.play(env, constants_of(config, False), draws_of(spec, steps, steps))
            stream = np.random.default_rng(steps)
            actions = [acting.sample(observation, stream) for observation in env.observations[:-1]]
            np.testing.assert_allclose(rollout.actions, actions, TOLERANCE[dtype], TOLERANCE[dtype])
            rewards = (env.rewards + config.env.reward_shift) / config.env.reward_scale
            discounts = np.array([*[config.algo.gamma] * (steps - 1), 0.0 if env.terminates else config.algo.gamma])
            loss, metrics = reference.compute(Trajectory(env.observations, rollout.actions, rewards, discounts))
            parts = [float(part.detach()) for part in (loss, *metrics)]
            np.testing.assert_allclose(ours, parts, TOLERANCE[dtype], ROUNDING[dtype] * np.abs(parts).max())
            theirs = reference.gradient.numpy()
            assert norm == pytest.approx(np.linalg.norm(theirs), rel=TOLERANCE[dtype])
            rounding = ROUNDING[dtype] * np.abs(theirs).max()
            np.testing.assert_allclose(
                player.scratch.gradient, theirs, TOLERANCE[dtype], rounding, err_msg=f"T={steps}"
            )


def moments_of(config: Config, size: int, dtype: type) -> list[np.ndarray]:
    """First, second and largest second moment, as in loop.SharedArrays. Moments that the optimizer lacks are empty."""
    names = config.optimizer.statistics
    kept = ["exp_avg" in names, True, "max_exp_avg_sq" in names]
    return [np.zeros(size if keeps else 0, dtype) for keeps in kept]


@each_dtype
@pytest.mark.parametrize("action", ["box", "5 actions"])
@pytest.mark.parametrize(
    "overrides",
    [
        ("optimizer.eps=1e-3",),
        ("optimizer.amsgrad=true", "optimizer.betas=[0.9,0.99]"),
        ("optimizer.weight_decay=0.1", "algo.max_grad_norm=12"),
        ("optimizer=rmsprop",),
        ("optimizer=rmsprop", "optimizer.weight_decay=0.1", "algo.max_grad_norm=12"),
    ],
)
def test_200_updates_equal_those_of_the_torch_optimizer(overrides: tuple[str, ...], action: str, dtype: type) -> None:
    config, rng = cached_config_of("optimizer.lr=3e-4", *overrides), np.random.default_rng(2)
    algorithm, optimizer = constants_of(config, False), optimizer_of(config.optimizer)
    architecture = architecture_of("S1", ACTIONS[action])
    theta = np.zeros(architecture.layout().size, dtype)
    architecture.layout().initialise(theta, rng, 0.1)
    player = Player(architecture, ACTIONS[action], theta)
    reference = reference_of(architecture, ACTIONS[action], config, dtype, theta)
    statistics = [torch.zeros_like(reference.parameters) for _ in config.optimizer.statistics]
    reference_optimizer = make_optimizer(config.optimizer, reference.parameters, statistics)
    moments, clipped = moments_of(config, len(theta), dtype), 0
    for update in range(1, 201):
        env = random_record(rng, 3, T_MAX if update % 3 else 7, update % 7 == 0)
        rollout, _, _ = player.play(env, algorithm, draws_of(ACTIONS[action], len(env.rewards), update))
        reference.compute(rollout)
        factor = algorithm.max_grad_norm / float(reference.gradient.norm())
        clipped += factor < 1.0
        lr = learning_rate(optimizer, 10 * update, 0)
        reference_optimizer.step(min(1.0, factor) * reference.gradient, update, lr)
        step(optimizer, theta, *moments, player.scratch.gradient, update, lr, player.theta)
        np.testing.assert_array_equal(player.theta, theta)
    assert clipped == 0 if algorithm.max_grad_norm == math.inf else 0 < clipped < 200
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    assert np.abs(theta - reference.parameters.numpy()).max() <= tolerance
    for ours, theirs in zip((moment for moment in moments if len(moment)), statistics, strict=True):
        assert np.abs(ours - theirs.numpy()).max() <= tolerance * np.abs(ours).max()


@pytest.mark.parametrize(
    "overrides",
    [
        ("optimizer.betas=[0.96,0.999]",),
        ("optimizer.betas=[0.96,0.999]", "optimizer.amsgrad=true"),
        ("optimizer.betas=[0.9,0.8]",),  # has no bound
        ("optimizer=rmsprop", "optimizer.eps=1e-30"),
    ],
)
def test_a_second_moment_lost_in_a_race_does_not_divide_by_epsilon(overrides: tuple[str, ...]) -> None:
    """The first moment contains a gradient of another process, but its square was lost from the second moment. RMSprop
    has no first moment; there, the square of the gradient is 0 in float32. nn/optimizer_bounds.py bounds the step."""
    config = cached_config_of(*overrides)
    gradient = np.array([1e-24, -1e-24, 0.0, 0.5, -0.5], np.float32)
    moments = moments_of(config, len(gradient), np.float32)
    moments[0][:2] = (1.0, -1.0)[: len(moments[0])]
    theta, reference = np.zeros_like(gradient), torch.zeros(len(gradient))
    statistics = [torch.from_numpy(moment.copy()) for moment in moments if len(moment)]
    make_optimizer(config.optimizer, reference, statistics).step(torch.from_numpy(gradient), 1, config.optimizer.lr)
    step(optimizer_of(config.optimizer), theta, *moments, gradient, 1, config.optimizer.lr, np.zeros_like(theta))
    np.testing.assert_allclose(theta, reference, 1e-6)


@each_dtype
@pytest.mark.parametrize("overrides", [(), ("optimizer.amsgrad=true",), ("optimizer=rmsprop",)])
def test_moments_that_have_decayed_do_not_become_denormal(overrides: tuple[str, ...], dtype: type) -> None:
    config = cached_config_of(*overrides)
    first, second, largest = moments_of(config, 3, dtype)
    for moment in (first, second):
        moment[:] = (1e-36, -1e-36 if moment is first else 1e-36, 1e-30)[: len(moment)]
    theta = np.zeros(3, dtype)
    lr = config.optimizer.lr
    step(optimizer_of(config.optimizer), theta, first, second, largest, np.zeros_like(theta), 1000, lr, theta.copy())
    for moment in (first, second):
        assert moment.tolist() == pytest.approx([0.0, 0.0, 1e-30][: len(moment)], rel=0.1, abs=0.0)
