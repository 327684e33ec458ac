"""gymnasium's Acrobot: state (θ₁, θ₂, θ̇₁, θ̇₂), action 0, 1 or 2: a torque of -1, 0 or 1 on the joint between the links,
observation (cos θ₁, sin θ₁, cos θ₂, sin θ₂, θ̇₁, θ̇₂).

The dynamics are those of gymnasium/envs/classic_control/acrobot.py with book_or_nips="book": Sutton 1996,
"Generalization in reinforcement learning: successful examples using sparse coarse coding", as corrected in Sutton and
Barto, "Reinforcement learning: an introduction"."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

IDS = ("Acrobot-v1",)
STATE_SIZE = RESET_DRAWS = 4
GRAVITY, DT = 9.8, 0.2
MAX_SPEED_1, MAX_SPEED_2 = 4.0 * math.pi, 9.0 * math.pi
# (offset, weight) of each stage of the Runge-Kutta method
RK4 = ((0.0, DT / 6.0), (DT / 2.0, DT / 3.0), (DT / 2.0, DT / 3.0), (DT, DT / 6.0))


class Parameters(NamedTuple):
    """There are no arguments of gymnasium.make."""


def reset(env: Parameters, state: np.ndarray, uniforms: np.ndarray) -> None:
    for i in range(STATE_SIZE):
        state[i] = np.float32(-0.1 + 0.2 * uniforms[i])  # in gymnasium, only the first state is float32


def step(env: Parameters, state: np.ndarray, action: np.ndarray) -> tuple[float, bool]:
    theta1, theta2, speed1, speed2 = state[0], state[1], state[2], state[3]
    torque = action[0] - 1.0
    v1 = v2 = a1 = a2 = 0.0
    for offset, weight in RK4:
        q1, q2 = state[0] + offset * v1, state[1] + offset * v2
        v1, v2 = state[2] + offset * a1, state[3] + offset * a2
        # Links of mass, length and moment of inertia 1: [d1 d2; d2 1.25] (a1, a2) = (-φ1, τ)
        cos2, sin2, sin1, sin12 = math.cos(q2), math.sin(q2), math.sin(q1), math.sin(q1 + q2)
        d1, d2 = 3.5 + cos2, 1.25 + 0.5 * cos2
        phi2 = 0.5 * GRAVITY * sin12
        phi1 = 1.5 * GRAVITY * sin1 + phi2 - (0.5 * v2 + v1) * v2 * sin2
        tau = torque - 0.5 * v1**2 * sin2 - phi2
        determinant = 1.25 * d1 - d2**2
        a1 = -(1.25 * phi1 + d2 * tau) / determinant
        a2 = (d1 * tau + d2 * phi1) / determinant
        theta1 += weight * v1
        theta2 += weight * v2
        speed1 += weight * a1
        speed2 += weight * a2
    theta1 -= 2.0 * math.pi * np.floor(theta1 / (2.0 * math.pi) + 0.5)
    theta2 -= 2.0 * math.pi * np.floor(theta2 / (2.0 * math.pi) + 0.5)
    state[0] = theta1
    state[1] = theta2
    state[2] = min(max(speed1, -MAX_SPEED_1), MAX_SPEED_1)
    state[3] = min(max(speed2, -MAX_SPEED_2), MAX_SPEED_2)
    terminated = -math.cos(theta1) - math.cos(theta1 + theta2) > 1.0
    return (0.0 if terminated else -1.0), terminated


def observe(env: Parameters, state: np.ndarray, observation: np.ndarray) -> None:
    observation[0] = math.cos(state[0])
    observation[1] = math.sin(state[0])
    observation[2] = math.cos(state[1])
    observation[3] = math.sin(state[1])
    observation[4] = state[2]
    observation[5] = state[3]
