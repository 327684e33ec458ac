"""Compiled dynamics are compared with gymnasium's: the same state and action give the same step."""

from __future__ import annotations

import inspect
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
from gymnasium.utils import seeding

import ablate.compiled
from ablate.compiled import dynamics
from ablate.compiled.envs import ENVIRONMENTS
from ablate.compiled.jit import kernel

pytestmark = pytest.mark.filterwarnings("ignore:.*out of date")  # CartPole-v0
SOURCES = Path(ablate.compiled.__file__).parents[2]
STEPS = 10_000
MODULES = {module.__name__.rpartition(".")[2]: module for module in ENVIRONMENTS.values()}
CASES: list[tuple[str, dict[str, Any]]] = [
    *((env_id, {}) for env_id in ENVIRONMENTS),
    ("Pendulum-v1", {"g": 3}),
    ("CartPole-v1", {"sutton_barto_reward": True}),
    ("MountainCar-v0", {"goal_velocity": 0.01}),
    ("MountainCarContinuous-v0", {"goal_velocity": 0.01}),
]
# The range of each number of the state: what episodes reach and, for angles and the cart, more.
CAR = ((-1.2, 0.6), (-0.07, 0.07))
RANGES = {
    "pendulum": ((-1000.0, 1000.0), (-8.0, 8.0)),
    "cart_pole": ((-2.6, 2.6), (-4.0, 4.0), (-0.25, 0.25), (-4.0, 4.0)),
    "acrobot": ((-20.0, 20.0), (-20.0, 20.0), (-4 * math.pi, 4 * math.pi), (-9 * math.pi, 9 * math.pi)),
    "mountain_car": CAR,
    "mountain_car_continuous": CAR,
}


class Steps(NamedTuple):
    """The results of T steps."""

    states: np.ndarray  # (T, S) float64
    rewards: np.ndarray  # (T,) float64
    terminated: np.ndarray  # (T,) bool
    observations: np.ndarray  # (T, O)


@kernel
def one_step_each(env, states, actions, rewards, terminated, observations):
    for t in range(len(states)):
        rewards[t], terminated[t] = dynamics.step(env, states[t], actions[t])
        dynamics.observe(env, states[t], observations[t])


@kernel
def first(env, state, uniforms, observation):
    dynamics.reset(env, state, uniforms)
    dynamics.observe(env, state, observation)


def first_in_python(env, state, uniforms, observation):
    """As a worker starts its first episode."""
    module = next(module for module in MODULES.values() if module.Parameters is type(env))
    module.reset(env, state, uniforms)
    module.observe(env, state, observation)


def make(env_id: str, kwargs: dict[str, Any] | None = None) -> Any:
    return gymnasium.make(env_id, disable_env_checker=True, **(kwargs or {})).unwrapped


def compiled_steps(env: Any, states: np.ndarray, actions: np.ndarray, size: int, dtype: type = np.float32) -> Steps:
    after = states.copy()
    rewards, terminated = np.full(len(states), np.nan), np.zeros(len(states), bool)
    observations = np.full((len(states), size), np.nan, dtype)
    one_step_each(env, after, actions.astype(dtype), rewards, terminated, observations)
    return Steps(after, rewards, terminated, observations)


def gymnasium_step(env: Any, action: np.ndarray) -> tuple[np.ndarray, float, bool, np.ndarray]:
    env.steps_beyond_terminated = None  # otherwise CartPole gives no reward for steps after the end
    is_discrete = isinstance(env.action_space, gymnasium.spaces.Discrete)
    observation, reward, terminated, _, _ = env.step(int(action[0]) if is_discrete else action)
    return np.array(env.state, np.float64), reward, terminated, observation


def random_actions(env: Any, rng: np.random.Generator) -> np.ndarray:
    """(T, 1): a third of the continuous actions is within the bounds."""
    if isinstance(env.action_space, gymnasium.spaces.Discrete):
        return rng.integers(env.action_space.n, size=(STEPS, 1))
    return (3 * env.action_space.high * rng.uniform(-1, 1, (STEPS, 1))).astype(np.float32)


def random_states(module: ModuleType, rng: np.random.Generator) -> np.ndarray:
    """(T, S) within RANGES; a fifth of the numbers is at an end of its range: maximal speeds, walls."""
    low, high = np.array(RANGES[module.__name__.rpartition(".")[2]]).T
    inside = rng.uniform(low, high, (STEPS, module.STATE_SIZE))
    end = np.where(rng.random(inside.shape) < 0.5, low, high)
    return np.where(rng.random(inside.shape) < 0.2, end, inside)


def assert_same(ours: Steps, theirs: Steps) -> None:
    for name, a, b in zip(Steps._fields, ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(("env_id", "kwargs"), CASES)
def test_steps_of_episodes_equal_gymnasiums(env_id: str, kwargs: dict[str, Any]) -> None:
    """gymnasium plays episodes of at most 500 steps. The kernel takes each step from gymnasium's state."""
    env, module, rng = make(env_id, kwargs), ENVIRONMENTS[env_id], np.random.default_rng(0)
    actions = random_actions(env, rng)
    before, steps, terminated = [], [], False
    env.reset(seed=0)
    for t, action in enumerate(actions):
        if terminated or t % 500 == 0:
            env.reset()
        before.append(np.array(env.state, np.float64))
        steps.append(gymnasium_step(env, action))
        terminated = steps[-1][2]
    theirs = Steps(*map(np.array, zip(*steps, strict=True)))
    ours = compiled_steps(module.Parameters(**kwargs), np.array(before), actions, theirs.observations.shape[1])
    assert_same(ours, theirs)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("env_id", "kwargs"), CASES)
def test_steps_from_any_state_equal_gymnasiums(env_id: str, kwargs: dict[str, Any], dtype: type) -> None:
    """Angles far beyond ±π, maximal speeds, positions at the walls and beyond the end of an episode."""
    env, module, rng = make(env_id, kwargs), ENVIRONMENTS[env_id], np.random.default_rng(1)
    states, actions = random_states(module, rng), random_actions(env, rng)
    steps = []
    env.reset(seed=0)
    for state, action in zip(states, actions, strict=True):
        env.state = state.copy()
        steps.append(gymnasium_step(env, action))
    theirs = Steps(*map(np.array, zip(*steps, strict=True)))
    size = theirs.observations.shape[1]
    ours = compiled_steps(module.Parameters(**kwargs), states, actions, size, dtype)
    assert_same(ours, theirs)
    kept = np.asarray(env.state).dtype  # MountainCarContinuous keeps float32
    np.testing.assert_array_equal(ours.states, ours.states.astype(kept))
    assert theirs.terminated.any() == (env_id != "Pendulum-v1")
    assert not theirs.terminated.all()
    if kwargs:  # the arguments have an effect
        plain = compiled_steps(module.Parameters(), states, actions, size, dtype)
        assert not all(np.array_equal(a, b) for a, b in zip(ours, plain, strict=True))


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_reset_is_gymnasiums_bit_for_bit(env_id: str) -> None:
    env, module = make(env_id), ENVIRONMENTS[env_id]
    # Acrobot's first state is float32. numpy's cosine of it differs from the rounded float64 cosine in 1 of 1000 cases
    ulps = 1 if env_id == "Acrobot-v1" else 0
    for seed in range(100):
        expected, _ = env.reset(seed=seed)
        generator, _ = seeding.np_random(seed)
        uniforms = generator.random(module.RESET_DRAWS)
        assert generator.random() == env.np_random.random(), "RESET_DRAWS is what gymnasium draws"
        for of in (first, first_in_python):
            state, observation = np.full(module.STATE_SIZE, np.nan), np.full(len(expected), np.nan, np.float32)
            of(module.Parameters(), state, uniforms, observation)
            np.testing.assert_array_equal(state, np.array(env.state, np.float64))
            np.testing.assert_array_max_ulp(observation, expected, ulps)


def test_the_classic_environments_have_kernels() -> None:
    classics = ("Pendulum-v1", "CartPole-v0", "CartPole-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0")
    assert sorted(ENVIRONMENTS) == sorted(classics)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_defines_what_a_kernel_environment_needs(name: str) -> None:
    module = MODULES[name]
    for env_id in module.IDS:
        env = make(env_id)
        env.reset(seed=0)
        assert len(env.state) == module.STATE_SIZE
        arguments = inspect.signature(type(env)).parameters
        assert module.Parameters._field_defaults == {
            key: argument.default for key, argument in arguments.items() if key != "render_mode"
        }
    assert set(module.Parameters._field_defaults) == set(module.Parameters._fields)
    assert 0 < module.RESET_DRAWS <= module.STATE_SIZE
    for function, *arguments in (
        (module.reset, "env", "state", "uniforms"),
        (module.step, "env", "state", "action"),
        (module.observe, "env", "state", "observation"),
    ):
        assert list(inspect.signature(function).parameters) == arguments


def test_parameters_differ_in_type_and_can_be_sent_to_processes() -> None:
    """Numba tells named tuples apart by the names of class and fields: two with equal names would share a kernel."""
    kinds = [module.Parameters for module in MODULES.values()]
    assert len({(kind.__name__, kind._fields) for kind in kinds}) == len(kinds)
    for kind in kinds:
        assert type(pickle.loads(pickle.dumps(kind()))) is kind


def test_the_registry_does_not_import_numba() -> None:
    code = "import ablate.compiled.envs, sys; sys.exit('numba' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env={**os.environ, "PYTHONPATH": str(SOURCES)})
