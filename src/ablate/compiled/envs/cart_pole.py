"""gymnasium's CartPole: state and observation (x, ẋ, θ, θ̇), action 0 or 1: push to the left or to the right.

The dynamics are those of gymnasium/envs/classic_control/cartpole.py with its Euler integrator: Barto, Sutton and
Anderson 1983, "Neuronlike adaptive elements that can solve difficult learning control problems", with the equations of
Florian 2007, "Correct equations for the dynamics of the cart-pole system"."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

IDS = ("CartPole-v0", "CartPole-v1")
STATE_SIZE = RESET_DRAWS = 4
GRAVITY, FORCE, DT = 9.8, 10.0, 0.02
POLE_MASS, TOTAL_MASS, HALF_LENGTH = 0.1, 1.1, 0.5
MAX_POSITION, MAX_ANGLE = 2.4, math.radians(12.0)


class Parameters(NamedTuple):
    """Arguments of gymnasium.make."""

    sutton_barto_reward: bool = False


def reset(env: Parameters, state: np.ndarray, uniforms: np.ndarray) -> None:
    for i in range(STATE_SIZE):
        state[i] = -0.05 + 0.1 * uniforms[i]


def step(env: Parameters, state: np.ndarray, action: np.ndarray) -> tuple[float, bool]:
    x, x_dot, theta, theta_dot = state[0], state[1], state[2], state[3]
    force = FORCE if action[0] == 1.0 else -FORCE
    cos, sin = math.cos(theta), math.sin(theta)
    # (F + m l θ̇² sin θ) / M: ẍ without its term in θ̈
    push = (force + POLE_MASS * HALF_LENGTH * theta_dot**2 * sin) / TOTAL_MASS
    theta_acc = (GRAVITY * sin - cos * push) / (HALF_LENGTH * (4.0 / 3.0 - POLE_MASS * cos**2 / TOTAL_MASS))
    x_acc = push - POLE_MASS * HALF_LENGTH * theta_acc * cos / TOTAL_MASS
    x += DT * x_dot
    theta += DT * theta_dot
    state[0] = x
    state[1] = x_dot + DT * x_acc
    state[2] = theta
    state[3] = theta_dot + DT * theta_acc
    terminated = abs(x) > MAX_POSITION or abs(theta) > MAX_ANGLE
    if env.sutton_barto_reward:
        return (-1.0 if terminated else 0.0), terminated
    return 1.0, terminated


def observe(env: Parameters, state: np.ndarray, observation: np.ndarray) -> None:
    for i in range(STATE_SIZE):
        observation[i] = state[i]
