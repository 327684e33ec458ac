"""gymnasium's MountainCar: state and observation (position, velocity), action 0, 1 or 2: a push of -1, 0 or 1.

The dynamics are those of gymnasium/envs/classic_control/mountain_car.py: Moore 1990, "Efficient memory-based learning
for robot control" (PhD thesis)."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

IDS = ("MountainCar-v0",)
STATE_SIZE = 2
RESET_DRAWS = 1
MIN_POSITION, MAX_POSITION, GOAL_POSITION = -1.2, 0.6, 0.5
MAX_SPEED, FORCE, GRAVITY = 0.07, 0.001, 0.0025


class Parameters(NamedTuple):
    """Arguments of gymnasium.make."""

    goal_velocity: float = 0.0


def reset(env: Parameters, state: np.ndarray, uniforms: np.ndarray) -> None:
    state[0] = -0.6 + (-0.4 - -0.6) * uniforms[0]
    state[1] = 0.0


def step(env: Parameters, state: np.ndarray, action: np.ndarray) -> tuple[float, bool]:
    position, velocity = state[0], state[1]
    velocity += (action[0] - 1.0) * FORCE - GRAVITY * math.cos(3.0 * position)
    velocity = min(max(velocity, -MAX_SPEED), MAX_SPEED)
    position = min(max(position + velocity, MIN_POSITION), MAX_POSITION)
    if position == MIN_POSITION and velocity < 0.0:
        velocity = 0.0
    state[0] = position
    state[1] = velocity
    return -1.0, position >= GOAL_POSITION and velocity >= env.goal_velocity


def observe(env: Parameters, state: np.ndarray, observation: np.ndarray) -> None:
    observation[0] = state[0]
    observation[1] = state[1]
