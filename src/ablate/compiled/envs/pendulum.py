"""gymnasium's Pendulum: state (θ, θ̇), action (torque,), observation (cos θ, sin θ, θ̇).

The dynamics and the cost are those of gymnasium/envs/classic_control/pendulum.py, which names no paper."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

IDS = ("Pendulum-v1",)
STATE_SIZE = RESET_DRAWS = 2
MAX_SPEED, MAX_TORQUE, DT = 8.0, 2.0, 0.05


class Parameters(NamedTuple):
    """Arguments of gymnasium.make."""

    g: float = 10.0


def reset(env: Parameters, state: np.ndarray, uniforms: np.ndarray) -> None:
    state[0] = -math.pi + 2.0 * math.pi * uniforms[0]
    state[1] = -1.0 + 2.0 * uniforms[1]


def step(env: Parameters, state: np.ndarray, action: np.ndarray) -> tuple[float, bool]:
    theta, speed = state[0], state[1]
    torque = min(max(action[0], -MAX_TORQUE), MAX_TORQUE)
    wrapped = theta - 2.0 * math.pi * np.floor(theta / (2.0 * math.pi) + 0.5)
    cost = wrapped**2 + 0.1 * speed**2 + 0.001 * torque**2
    # θ̈ = 3g/2l sin θ + 3/ml² u, with m = l = 1
    speed += (1.5 * env.g * math.sin(theta) + 3.0 * torque) * DT
    speed = min(max(speed, -MAX_SPEED), MAX_SPEED)
    state[0] = theta + speed * DT
    state[1] = speed
    return -cost, False


def observe(env: Parameters, state: np.ndarray, observation: np.ndarray) -> None:
    observation[0] = math.cos(state[0])
    observation[1] = math.sin(state[0])
    observation[2] = state[1]
