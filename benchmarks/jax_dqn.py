"""DQN on CartPole as one compiled JAX program, many seeds at once: what the kernels are compared with.

The same algorithm as algo=dqn env=cartpole with uniform replay (Mnih et al. 2015). Written as JAX's users write it: one
jax.lax.scan over updates, jax.vmap over seeds. CartPole is written here, because gymnax 1.0.1 refuses gymnasium 1.4.
Needs the extra [bench]."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

WIDTHS = (4, 120, 84, 2)
LONGEST = 500  # steps of an episode
GAMMA, LR, EPSILON_END, EPSILON_STEPS = 0.99, 1e-3, 0.04, 10_000
WARMUP, TARGET_UPDATE, CAPACITY = 1_000, 200, 100_000  # in steps


class Memory(NamedTuple):
    """The newest CAPACITY transitions of one seed."""

    s_tm1: Any  # (CAPACITY, 4)
    a_tm1: Any
    r_t: Any
    terminated: Any
    s_t: Any


def trainer(batch: int, train_freq: int, updates: int):
    """A function that trains one seed and returns, after each update, the return of the last finished episode."""
    import jax
    import jax.numpy as jnp
    import optax

    adam = optax.adam(LR)

    def cartpole(state, action):
        """CartPole-v1 of gymnasium: Euler's method with steps of 0.02 s. Returns (next state, terminated)."""
        x, x_dot, theta, theta_dot = state
        force = jnp.where(action == 1, 10.0, -10.0)
        cos, sin = jnp.cos(theta), jnp.sin(theta)
        pushed = (force + 0.05 * theta_dot**2 * sin) / 1.1
        theta_acc = (9.8 * sin - cos * pushed) / (0.5 * (4.0 / 3.0 - 0.1 * cos**2 / 1.1))
        x_acc = pushed - 0.05 * theta_acc * cos / 1.1
        x, theta = x + 0.02 * x_dot, theta + 0.02 * theta_dot
        following = jnp.stack([x, x_dot + 0.02 * x_acc, theta, theta_dot + 0.02 * theta_acc])
        return following, (jnp.abs(x) > 2.4) | (jnp.abs(theta) > jnp.pi / 15)

    def reset(key):
        return jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05)

    def initial(key):
        keys = jax.random.split(key, len(WIDTHS) - 1)
        return [
            (jax.random.normal(k, (n, m)) / jnp.sqrt(3.0 * n), jnp.zeros(m))
            for k, n, m in zip(keys, WIDTHS[:-1], WIDTHS[1:], strict=True)
        ]

    def q_values(theta, s):
        for W, b in theta[:-1]:
            s = jax.nn.relu(s @ W + b)
        W, b = theta[-1]
        return s @ W + b

    def loss(theta, target, batch):
        q_tm1 = jnp.take_along_axis(q_values(theta, batch.s_tm1), batch.a_tm1[:, None], 1)[:, 0]
        q_t = q_values(target, batch.s_t).max(1)
        return optax.losses.squared_error(q_tm1, batch.r_t + GAMMA * (1.0 - batch.terminated) * q_t).mean()

    def act_and_store(carry, step):
        theta, memory, s_tm1, length, last_return, key = carry
        key, explore_key, action_key, reset_key = jax.random.split(key, 4)
        epsilon = jnp.clip(1.0 - (1.0 - EPSILON_END) * (step - WARMUP) / EPSILON_STEPS, EPSILON_END, 1.0)
        greedy = q_values(theta, s_tm1).argmax()
        random_action = jax.random.randint(action_key, (), 0, WIDTHS[-1])
        action = jnp.where(jax.random.uniform(explore_key) < epsilon, random_action, greedy)
        s_t, terminated = cartpole(s_tm1, action)
        row = Memory(s_tm1, action, 1.0, terminated.astype(jnp.float32), s_t)
        memory = jax.tree.map(lambda column, value: column.at[step % CAPACITY].set(value), memory, row)
        length += 1
        done = terminated | (length >= LONGEST)
        last_return = jnp.where(done, length, last_return)  # the reward is 1 per step
        s_t = jnp.where(done, reset(reset_key), s_t)
        return (theta, memory, s_t, jnp.where(done, 0, length), last_return, key), None

    def steps_and_update(carry, update):
        theta, target, moments, memory, *rest = carry
        steps = update * train_freq + jnp.arange(train_freq)
        (theta, memory, *rest), _ = jax.lax.scan(act_and_store, (theta, memory, *rest), steps)
        count = steps[-1] + 1
        key, draw_key = jax.random.split(rest[-1])
        drawn = jax.random.randint(draw_key, (batch,), 0, jnp.minimum(count, CAPACITY))
        gradient = jax.grad(loss)(theta, target, jax.tree.map(lambda column: column[drawn], memory))
        change, new_moments = adam.update(gradient, moments)
        learns = count > WARMUP
        theta, moments = jax.tree.map(
            lambda new, old: jnp.where(learns, new, old),
            (optax.apply_updates(theta, change), new_moments),
            (theta, moments),
        )
        copies = count // TARGET_UPDATE > (count - train_freq) // TARGET_UPDATE
        target = jax.tree.map(lambda new, old: jnp.where(copies, new, old), theta, target)
        return (theta, target, moments, memory, *rest[:-1], key), rest[-2]

    def train(key):
        key, theta_key, reset_key = jax.random.split(key, 3)
        theta = initial(theta_key)
        zeros = jnp.zeros(CAPACITY)
        memory = Memory(
            jnp.zeros((CAPACITY, 4)), jnp.zeros(CAPACITY, jnp.int32), zeros, zeros, jnp.zeros((CAPACITY, 4))
        )
        carry = (theta, theta, adam.init(theta), memory, reset(reset_key), 0, 0, key)
        _, returns = jax.lax.scan(steps_and_update, carry, jnp.arange(updates))
        return returns

    return train


def main(batch: int, train_freq: int, steps: int, seeds: int) -> tuple[float, float]:
    """Train `seeds` runs at once. Returns (environment steps per second, last return), without the compilation."""
    # One core: XLA's threads stay on it.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    import jax

    keys = jax.random.split(jax.random.key(0), seeds)
    train = jax.jit(jax.vmap(trainer(batch, train_freq, steps // train_freq))).lower(keys).compile()
    start = time.perf_counter()
    returns = jax.block_until_ready(train(keys))
    seconds = time.perf_counter() - start
    return seeds * steps / seconds, float(returns[:, -1].mean())


if __name__ == "__main__":
    rate, score = main(*(int(argument) for argument in sys.argv[1:5]))
    if len(sys.argv) > 5:
        Path(sys.argv[5]).write_text(str(rate))
    else:
        print(f"{rate:,.0f} steps/s, last return {score:.0f}")
