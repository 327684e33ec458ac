"""The A3C worker's loop as kernels (Mnih et al. 2016, Algorithm S3): what algos/a3c.py does, without Python in it.

Both schedules run `advance`: with all workers in turn (interleaved), or with one worker a process (async)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ablate.compiled import atomic, dynamics
from ablate.compiled import head as policy
from ablate.compiled.head import Head
from ablate.compiled.jit import helper, kernel
from ablate.compiled.network import Network, backward, forward
from ablate.compiled.optimizer import Optimizer, step_and_pull

# Why `advance` came back.
PAUSED, LIMIT, EVALUATION, DIVERGED, LOCKED = range(5)


class Algorithm(NamedTuple):
    """The constants of the algorithm and of the run; 0 stands for no limit, and for never."""

    t_max: int
    gamma: float
    gae_lambda: float
    entropy_coef: float
    value_loss_coef: float
    mean: bool  # the loss's reduction: mean or sum
    max_grad_norm: float  # inf: no clipping
    bootstrap_truncated: bool
    lock_updates: bool
    reward_shift: float
    reward_scale: float
    max_ep_step: int
    max_episodes: int
    total_steps: int
    log_interval: int
    evaluate_every: int


class Shared(NamedTuple):
    """What the processes of a run share. A moment that the optimizer has not is an empty vector."""

    theta: np.ndarray  # (P,)
    first: np.ndarray  # (P,) moments
    second: np.ndarray  # (P,)
    largest_second: np.ndarray  # (P,)
    counters: np.ndarray  # (3,) int64: updates, steps, episodes
    lock: np.ndarray  # (1,) int64


class Workers(NamedTuple):
    """The W workers of this process, a row each, and the numbers drawn for them beforehand."""

    theta: np.ndarray  # (W, P) local parameters
    state: np.ndarray  # (W, S) float64
    episodic_return: np.ndarray  # (W,) float64
    episodic_length: np.ndarray  # (W,) int64
    pulled_at: np.ndarray  # (W,) int64, updates made by all when this one last pulled
    draws: np.ndarray  # (W, N) float64, for actions
    drawn: np.ndarray  # (W,) int64, how many are used
    resets: np.ndarray  # (W, M) float64, for new episodes
    reset: np.ndarray  # (W,) int64, how many are used


class Scratch(NamedTuple):
    """Room for one rollout."""

    activations: np.ndarray  # see network.py; it starts with the observations (t_max + 1, O)
    deltas: np.ndarray
    other_deltas: np.ndarray  # of the torso's output, the actor's share
    described: np.ndarray  # (t_max, D) see head.py
    actions: np.ndarray  # (t_max, A)
    taken: np.ndarray  # (A,)
    rewards: np.ndarray  # (t_max,) as training sees them
    discounts: np.ndarray  # (t_max,)
    returns: np.ndarray  # (t_max,)
    advantages: np.ndarray  # (t_max,)
    gradient: np.ndarray  # (P,)


class Records(NamedTuple):
    """What a slice leaves for the files. In the first columns of both: updates made in the slice before."""

    episodes: np.ndarray  # (E, 7) float64: updates, worker, global_step, return, length, terminated, truncated
    updates: np.ndarray  # (U, 8) float64: updates, update, global_step, 3 losses, grad_norm, staleness
    failure: np.ndarray  # (4,) float64: update, worker, loss, grad_norm


class Loss(NamedTuple):
    """Of one rollout, reduced over it."""

    total: float
    policy: float
    value: float
    entropy: float


@kernel
def advance(
    env: Any,
    head: Head,
    network: Network,
    algorithm: Algorithm,
    optimizer: Optimizer,
    shared: Shared,
    workers: Workers,
    scratch: Scratch,
    records: Records,
    turn: int,
    updates: int,
) -> tuple[int, int, int, int, int]:
    """Let the workers take turns, from worker `turn` on, for up to `updates` updates.

    Returns why it ended, whose turn is next, updates made, rows of records.episodes and of records.updates."""
    made = episodes = rows = 0
    while made < updates and episodes < len(records.episodes) and rows < len(records.updates):
        w = turn
        turn = (turn + 1) % len(workers.theta)
        local = workers.theta[w]
        limit = algorithm.t_max
        if algorithm.total_steps > 0:
            limit = min(limit, max(1, algorithm.total_steps - shared.counters[1]))

        steps, terminated, truncated = collect(env, head, network, algorithm, workers, scratch, w, limit)
        norm = np.nan
        if steps > 0:
            compute_gradient(head, network, algorithm, local, scratch, steps)
            norm = clip(scratch.gradient, algorithm.max_grad_norm)
        if not np.isfinite(norm):
            records.failure[0], records.failure[1] = shared.counters[0] + 1, w
            loss = compute_loss(head, network, algorithm, scratch, steps)
            records.failure[2], records.failure[3] = loss.total if steps > 0 else np.nan, norm
            return DIVERGED, turn, made, episodes, rows

        over = terminated or truncated
        if algorithm.lock_updates and not atomic.acquire(shared.lock):
            return LOCKED, turn, made, episodes, rows
        number = atomic.add(shared.counters, 0, 1) + 1
        total_steps = atomic.add(shared.counters, 1, steps) + steps
        total_episodes = atomic.add(shared.counters, 2, int(over)) + int(over)
        staleness = number - 1 - workers.pulled_at[w]
        step_and_pull(
            optimizer, shared.theta, shared.first, shared.second, shared.largest_second, scratch.gradient, number, local
        )
        workers.pulled_at[w] = shared.counters[0]
        if algorithm.lock_updates:
            atomic.release(shared.lock)

        if over:
            row = records.episodes[episodes]
            row[0], row[1], row[2], row[3] = made, w, total_steps, workers.episodic_return[w]
            row[4], row[5], row[6] = workers.episodic_length[w], terminated, truncated
            episodes += 1
            begin(env, workers, w)
        if number % algorithm.log_interval == 0:
            loss = compute_loss(head, network, algorithm, scratch, steps)
            row = records.updates[rows]
            row[0], row[1], row[2], row[3], row[4] = made, number, total_steps, loss.policy, loss.value
            row[5], row[6], row[7] = loss.entropy, norm, staleness
            rows += 1
        made += 1
        if algorithm.max_episodes > 0 and total_episodes >= algorithm.max_episodes:
            return LIMIT, turn, made, episodes, rows
        if algorithm.total_steps > 0 and total_steps >= algorithm.total_steps:
            return LIMIT, turn, made, episodes, rows
        every = algorithm.evaluate_every
        if every > 0 and total_steps // every > (total_steps - steps) // every:
            return EVALUATION, turn, made, episodes, rows
    return PAUSED, turn, made, episodes, rows


@helper
def begin(env: Any, workers: Workers, w: int) -> None:
    """A new episode of worker w."""
    used = workers.reset[w]
    workers.reset[w] = used + dynamics.reset_draws(env)
    dynamics.reset(env, workers.state[w], workers.resets[w, used:])
    workers.episodic_return[w] = 0.0
    workers.episodic_length[w] = 0


@helper
def collect(
    env: Any,
    head: Head,
    network: Network,
    algorithm: Algorithm,
    workers: Workers,
    scratch: Scratch,
    w: int,
    limit: int,
) -> tuple[int, bool, bool]:
    """Act for `limit` steps or to the episode's end. Returns (steps, terminated, truncated); no steps: not a number."""
    state, local = workers.state[w], workers.theta[w]
    size, outputs = network.observation, network.outputs
    n_draws = policy.draws(head)
    episodic_return, length, used = workers.episodic_return[w], workers.episodic_length[w], workers.drawn[w]
    draws = workers.draws[w]
    terminated = truncated = False
    t = 0
    dynamics.observe(env, state, scratch.activations[:size])
    while t < limit and not (terminated or truncated):
        forward(network.torso, network.activation, local, scratch.activations, t, t + 1)
        forward(network.actor, network.activation, local, scratch.activations, t, t + 1)
        described, action = scratch.described[t], scratch.actions[t]
        z = scratch.activations[network.z + t * outputs : network.z + (t + 1) * outputs]
        if not policy.describe(head, z, described):
            return 0, False, False
        policy.draw(head, described, draws[used : used + n_draws], action)
        used += n_draws
        policy.to_env(head, action, scratch.taken)

        reward, terminated = dynamics.step(env, state, scratch.taken)
        episodic_return += reward
        length += 1
        truncated = algorithm.max_ep_step > 0 and length >= algorithm.max_ep_step
        nothing_follows = terminated or (truncated and not algorithm.bootstrap_truncated)
        scratch.rewards[t] = (reward + algorithm.reward_shift) / algorithm.reward_scale
        scratch.discounts[t] = 0.0 if nothing_follows else algorithm.gamma
        t += 1
        dynamics.observe(env, state, scratch.activations[t * (size + 1) : (t + 1) * (size + 1) - 1])
    workers.episodic_return[w], workers.episodic_length[w], workers.drawn[w] = episodic_return, length, used
    return t, terminated, truncated


@helper
def compute_gradient(
    head: Head, network: Network, algorithm: Algorithm, theta: np.ndarray, scratch: Scratch, steps: int
) -> None:
    """The gradient of the loss over the rollout in `scratch`, whose actor's outputs are there already.

    ∂L/∂log π_t = -A_t w, ∂L/∂H_t = -β w, ∂L/∂V_t = -2 c_v (R_t - V_t) w; see rl/losses.py and rl/returns.py."""
    number, outputs = theta.dtype.type, network.outputs
    # the last observation's torso was not needed for acting
    forward(network.torso, network.activation, theta, scratch.activations, steps, steps + 1)
    forward(network.critic, network.activation, theta, scratch.activations, 0, steps + 1)
    values = scratch.activations[network.v : network.v + steps + 1]
    d_values = scratch.deltas[network.v : network.v + steps]
    targets(algorithm, scratch, values, steps)
    weight = 1.0 / steps if algorithm.mean else 1.0
    d_entropy = number(-weight * algorithm.entropy_coef)
    for t in range(steps):
        d_values[t] = number(-2.0 * weight * algorithm.value_loss_coef) * (scratch.returns[t] - values[t])
        d_z = scratch.deltas[network.z + t * outputs : network.z + (t + 1) * outputs]
        d_log_prob = number(-weight) * scratch.advantages[t]
        policy.policy_backward(head, scratch.described[t], scratch.actions[t], d_log_prob, d_entropy, d_z)
    backward(network, theta, scratch.gradient, scratch.activations, scratch.deltas, scratch.other_deltas, steps)


@helper
def targets(algorithm: Algorithm, scratch: Scratch, values: np.ndarray, steps: int) -> None:
    """Returns and advantages of the rollout, as in rl/returns.py."""
    return_t, advantage_t = float(values[steps]), 0.0
    for t in range(steps - 1, -1, -1):
        reward, discount = float(scratch.rewards[t]), float(scratch.discounts[t])
        return_t = reward + discount * return_t
        delta_t = reward + discount * values[t + 1] - values[t]
        advantage_t = delta_t + discount * algorithm.gae_lambda * advantage_t
        scratch.returns[t], scratch.advantages[t] = return_t, advantage_t


@helper
def compute_loss(head: Head, network: Network, algorithm: Algorithm, scratch: Scratch, steps: int) -> Loss:
    """L = reduce(c_v (R - V)² - log π(a|s) · A - β H) and its parts, of the rollout whose gradient was computed."""
    policy_loss = value_loss = entropy = 0.0
    for t in range(steps):
        log_prob_t, entropy_t = policy.log_prob(head, scratch.described[t], scratch.actions[t])
        error = scratch.returns[t] - scratch.activations[network.v + t]
        policy_loss -= log_prob_t * scratch.advantages[t]
        value_loss += error * error
        entropy += entropy_t
    total = policy_loss + algorithm.value_loss_coef * value_loss - algorithm.entropy_coef * entropy
    weight = 1.0 / max(1, steps) if algorithm.mean else 1.0
    return Loss(weight * total, weight * policy_loss, weight * value_loss, weight * entropy)


@helper
def clip(gradient: np.ndarray, max_norm: float) -> float:
    """Scale the gradient down to this Euclidean norm; returns the norm before."""
    square = gradient.dtype.type(0)
    for i in range(len(gradient)):
        square += gradient[i] * gradient[i]
    norm = np.sqrt(square)
    if norm > max_norm:
        factor = gradient.dtype.type(max_norm / norm)
        for i in range(len(gradient)):
            gradient[i] *= factor
    return norm
