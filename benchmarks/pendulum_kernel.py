"""A3C of the Pendulum report as one kernel, written for this report alone. The general kernels are compared with it.

It has the same arithmetic and the same order of updates as ablate/compiled/loop.py, but every size and constant is a
literal, and there are no records, limits or options. Sizes: 3 → 200 → mu, sigma; 3 → 100 → V; 10 steps per rollout.
There are two versions. `plain` follows the equations. The other one is tuned by hand for these sizes: loops over three
inputs and two outputs are unrolled, and the backward pass of each network is one loop over its hidden units."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

# Any: the type that Numba has for its options lacks _nrt.
OPTIONS: Any = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "nsz", "arcp", "contract"},
    "_nrt": False,
}
T, H, C = 10, 200, 100  # steps of a rollout, hidden units of the actor and of the critic
# Where each weight and bias starts in the flat vector, as in nn/params.py.
A_B1, A_W2, A_B2, C_W1, C_B1, C_W2, C_B2, SIZE = 600, 800, 1200, 1202, 1502, 1602, 1702, 1703
GAMMA, BETA, EPISODE = 0.9, 0.005, 200
LR, BETA_1, BETA_2, EPS = 1e-4, 0.96, 0.999, 1e-8
BOUND = np.float32(1.001 * (1 - BETA_1) / math.sqrt((1 - BETA_2) * (1 - BETA_1**2 / BETA_2)))
HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)
f32 = np.float32


@numba.njit(**OPTIONS, cache=True)
def train(plain, theta, m, v, local, state, length, draws, resets, scratch, update, updates):
    """Make `updates` updates after the first `update`; the W workers take turns. Returns the sum of all rewards.

    theta, m, v (P,); local (W, P); state (W, 2); length (W,): steps of the current episodes; draws (W, N), resets
    (W, M): random numbers, used in their order; scratch: see `scratch_of`."""
    h, c, s, x, g = scratch
    workers = len(local)
    total = 0.0
    for u in range(updates):
        w, turn = (update + u) % workers, u // workers
        total += rollout(plain, local[w], h, s, x, state[w], draws[w], turn * T)
        length[w] += T
        if plain:
            gradient_plain(local[w], h, c, s, x, g)
        else:
            gradient(local[w], h, c, s, g)
        norm = f32(0)
        for i in range(SIZE):
            norm += g[i] * g[i]
        if not np.isfinite(norm):
            return np.nan
        adam(theta, m, v, g, local[w], update + u + 1)
        if length[w] == EPISODE:
            length[w] = 0
            reset = (u // workers // (EPISODE // T)) * 2
            state[w, 0] = -math.pi + 2 * math.pi * resets[w, reset]
            state[w, 1] = -1 + 2 * resets[w, reset + 1]
    return total


@numba.njit(**OPTIONS)
def rollout(plain, p, h, s, x, state, draws, used):
    """Act for ten steps. Rows of s: x0 x1 x2 | tanh sigma sigmoid | action | reward (scaled) | d_z0 d_z1 d_v."""
    total = 0.0
    for t in range(T + 1):
        x0, x1, x2 = f32(math.cos(state[0])), f32(math.sin(state[0])), f32(state[1])
        s[t, 0], s[t, 1], s[t, 2] = x0, x1, x2
        if t == T:
            break
        row = h[t]
        if plain:
            x[0], x[1], x[2] = x0, x1, x2
            for j in range(H):
                y = p[A_B1 + j]
                for i in range(3):
                    y += p[i * H + j] * x[i]
                row[j] = min(max(y, f32(0)), f32(6))
            for k in range(2):
                z = p[A_B2 + k]
                for j in range(H):
                    z += p[A_W2 + k * H + j] * row[j]
                s[t, 8 + k] = z
            z0, z1 = s[t, 8], s[t, 9]
        else:
            for j in range(H):
                y = p[A_B1 + j] + p[j] * x0 + p[H + j] * x1 + p[2 * H + j] * x2
                row[j] = min(max(y, f32(0)), f32(6))
            z0, z1 = p[A_B2], p[A_B2 + 1]
            for j in range(H):
                z0 += p[A_W2 + j] * row[j]
                z1 += p[A_W2 + H + j] * row[j]
        tanh = np.tanh(z0)
        e = np.exp(-abs(z1))
        sigma = max(z1, f32(0)) + np.log1p(e) + f32(1e-4)
        action = f32(f32(2) * tanh + sigma * draws[used + t])
        s[t, 3], s[t, 4], s[t, 6] = tanh, sigma, action
        s[t, 5] = (f32(1) if z1 >= 0 else e) / (f32(1) + e)

        theta, speed = state[0], state[1]
        torque = min(max(float(action), -2.0), 2.0)
        wrapped = (theta + math.pi) % (2 * math.pi) - math.pi
        reward = -(wrapped**2 + 0.1 * speed**2 + 0.001 * torque**2)
        speed = min(max(speed + (15.0 * math.sin(theta) + 3.0 * torque) * 0.05, -8.0), 8.0)
        state[0], state[1] = theta + speed * 0.05, speed
        s[t, 7] = (reward + 8.1) / 8.1
        total += reward
    return total


@numba.njit(**OPTIONS)
def loss_backward(s):
    """Put ∂L/∂z and ∂L/∂V into columns 8 to 10 of s. The loss is the report's, but bootstrapped at the time limit."""
    target = float(s[T, 10])
    for t in range(T - 1, -1, -1):
        target = s[t, 7] + GAMMA * target
        error = target - s[t, 10]
        inverse = f32(1) / s[t, 4]
        x = (s[t, 6] - f32(2) * s[t, 3]) * inverse
        d_log_prob, d_entropy = f32(-error / T), f32(-BETA / T)
        s[t, 8] = f32(2) * (f32(1) - s[t, 3] * s[t, 3]) * d_log_prob * x * inverse
        s[t, 9] = s[t, 5] * inverse * (d_log_prob * (x * x - f32(1)) + d_entropy)
        s[t, 10] = -2.0 / T * error


@numba.njit(**OPTIONS)
def gradient(p, h, c, s, g):
    for t in range(T + 1):
        x0, x1, x2 = s[t, 0], s[t, 1], s[t, 2]
        row = c[t]
        for j in range(C):
            y = p[C_B1 + j] + p[C_W1 + j] * x0 + p[C_W1 + C + j] * x1 + p[C_W1 + 2 * C + j] * x2
            row[j] = min(max(y, f32(0)), f32(6))
        value = p[C_B2]
        for j in range(C):
            value += p[C_W2 + j] * row[j]
        s[t, 10] = value
    loss_backward(s)
    for i in range(SIZE):
        g[i] = 0
    for t in range(T):
        x0, x1, x2, d0, d1, dv = s[t, 0], s[t, 1], s[t, 2], s[t, 8], s[t, 9], s[t, 10]
        g[A_B2] += d0
        g[A_B2 + 1] += d1
        row = h[t]
        for j in range(H):
            y = row[j]
            d = d0 * p[A_W2 + j] + d1 * p[A_W2 + H + j]
            d = d if (y > 0) & (y < 6) else f32(0)
            g[A_W2 + j] += d0 * y
            g[A_W2 + H + j] += d1 * y
            g[A_B1 + j] += d
            g[j] += d * x0
            g[H + j] += d * x1
            g[2 * H + j] += d * x2
        g[C_B2] += dv
        row = c[t]
        for j in range(C):
            y = row[j]
            d = dv * p[C_W2 + j]
            d = d if (y > 0) & (y < 6) else f32(0)
            g[C_W2 + j] += dv * y
            g[C_B1 + j] += d
            g[C_W1 + j] += d * x0
            g[C_W1 + C + j] += d * x1
            g[C_W1 + 2 * C + j] += d * x2


@numba.njit(**OPTIONS)
def gradient_plain(p, h, c, s, x, g):
    for t in range(T + 1):
        row = c[t]
        for i in range(3):
            x[i] = s[t, i]
        for j in range(C):
            y = p[C_B1 + j]
            for i in range(3):
                y += p[C_W1 + i * C + j] * x[i]
            row[j] = min(max(y, f32(0)), f32(6))
        value = p[C_B2]
        for j in range(C):
            value += p[C_W2 + j] * row[j]
        s[t, 10] = value
    loss_backward(s)
    for i in range(SIZE):
        g[i] = 0
    for t in range(T):
        for k in range(2):
            g[A_B2 + k] += s[t, 8 + k]
            for j in range(H):
                g[A_W2 + k * H + j] += s[t, 8 + k] * h[t, j]
        for j in range(H):
            d = s[t, 8] * p[A_W2 + j] + s[t, 9] * p[A_W2 + H + j]
            h[t, j] = d if (h[t, j] > 0) & (h[t, j] < 6) else f32(0)
            g[A_B1 + j] += h[t, j]
        for i in range(3):
            for j in range(H):
                g[i * H + j] += h[t, j] * s[t, i]
        g[C_B2] += s[t, 10]
        for j in range(C):
            d = s[t, 10] * p[C_W2 + j]
            g[C_W2 + j] += s[t, 10] * c[t, j]
            c[t, j] = d if (c[t, j] > 0) & (c[t, j] < 6) else f32(0)
            g[C_B1 + j] += c[t, j]
        for i in range(3):
            for j in range(C):
                g[C_W1 + i * C + j] += c[t, j] * s[t, i]


@numba.njit(**OPTIONS)
def adam(theta, m, v, g, local, update):
    correction = math.sqrt(1 - BETA_2**update)
    lr, eps = f32(LR * correction / (1 - BETA_1**update)), f32(EPS * correction)
    for i in range(SIZE):
        first = m[i] + f32(1 - BETA_1) * (g[i] - m[i])
        second = f32(BETA_2) * v[i] + f32(1 - BETA_2) * g[i] * g[i]
        first = first if abs(first) > f32(1e-34) else f32(0)
        second = second if second > f32(1e-34) else f32(0)
        m[i], v[i] = first, second
        theta[i] -= lr * min(max(first / (np.sqrt(second) + eps), -BOUND), BOUND)
        local[i] = theta[i]


def scratch_of() -> tuple[np.ndarray, ...]:
    """Room for a rollout: hidden units h and c of actor and critic, rows s, an observation x, and the gradient g."""
    return (
        np.zeros((T + 1, H), np.float32),
        np.zeros((T + 1, C), np.float32),
        np.zeros((T + 1, 11), np.float32),
        np.zeros(3, np.float32),
        np.zeros(SIZE, np.float32),
    )
