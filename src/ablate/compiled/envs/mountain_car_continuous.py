"""gymnasium's MountainCarContinuous: state and observation (position, velocity), action (force,).

The dynamics are those of gymnasium/envs/classic_control/continuous_mountain_car.py: Moore 1990,
"Efficient memory-based learning for robot control" (PhD thesis)."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

IDS = ("MountainCarContinuous-v0",)
STATE_SIZE = 2
RESET_DRAWS = 1
MIN_POSITION, MAX_POSITION, GOAL_POSITION = -1.2, 0.6, 0.45
MAX_SPEED, MAX_FORCE, POWER, GRAVITY = 0.07, 1.0, 0.0015, 0.0025


class Parameters(NamedTuple):
    """Arguments of gymnasium.make."""

    goal_velocity: float = 0.0


def reset(env: Parameters, state: np.ndarray, uniforms: np.ndarray) -> None:
    state[0] = -0.6 + (-0.4 - -0.6) * uniforms[0]
    state[1] = 0.0


def step(env: Parameters, state: np.ndarray, action: np.ndarray) -> tuple[float, bool]:
    position, velocity = state[0], state[1]
    force = min(max(action[0], -MAX_FORCE), MAX_FORCE)
    velocity += force * POWER - GRAVITY * math.cos(3.0 * position)
    velocity = min(max(velocity, -MAX_SPEED), MAX_SPEED)
    position = min(max(position + velocity, MIN_POSITION), MAX_POSITION)
    if position == MIN_POSITION and velocity < 0.0:
        velocity = 0.0
    state[0] = np.float32(position)  # gymnasium keeps float32 from the first step on
    state[1] = np.float32(velocity)
    terminated = position >= GOAL_POSITION and velocity >= env.goal_velocity
    # As in gymnasium, the cost uses the force before it is clipped
    return (100.0 if terminated else 0.0) - 0.1 * action[0] * action[0], terminated


def observe(env: Parameters, state: np.ndarray, observation: np.ndarray) -> None:
    observation[0] = state[0]
    observation[1] = state[1]
