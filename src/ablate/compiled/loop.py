"""The loop of algos/a3c/worker.py as kernels, without Python in it (Mnih et al. 2016, Algorithm S3).

Both schedules run `advance`: with schedule=interleaved all workers of the run take turns in it; with schedule=async
each process has one worker."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ablate.compiled import atomic, dynamics
from ablate.compiled import head as policy
from ablate.compiled.head import Head
from ablate.compiled.jit import helper, kernel
from ablate.compiled.network import Network, backward, forward
from ablate.compiled.optimizer import OptimizerConstants, learning_rate, step_and_pull

# Why `advance` returned.
PAUSED, LIMIT, EVALUATION, DIVERGED, LOCKED = range(5)
UPDATES, STEPS, EPISODES = range(3)  # indices of SharedArrays.counters, as types.Counters


class EpisodeColumns(NamedTuple):
    """The columns of RecordArrays.episodes, named like the fields of types.EpisodeRecord."""

    worker: int = 0
    global_step: int = 1
    wall_time_s: int = 2  # a kernel has no clock: it writes the number of updates made in this call before
    episodic_return: int = 3
    episodic_length: int = 4
    terminated: int = 5
    truncated: int = 6


class UpdateColumns(NamedTuple):
    """The columns of RecordArrays.updates, named like the fields of A3C's UpdateRecord."""

    update: int = 0
    global_step: int = 1
    wall_time_s: int = 2  # as above
    policy_loss: int = 3
    value_loss: int = 4
    entropy: int = 5
    grad_norm: int = 6
    staleness: int = 7
    learning_rate: int = 8


class FailureColumns(NamedTuple):
    """What RecordArrays.failure holds after DIVERGED."""

    update: int = 0
    worker: int = 1
    loss: int = 2
    grad_norm: int = 3


EPISODE, UPDATE, FAILURE = EpisodeColumns(), UpdateColumns(), FailureColumns()


class Constants(NamedTuple):
    """The constants of the algorithm and of the run. 0 means no limit, or never."""

    t_max: int
    gamma: float
    gae_lambda: float
    entropy_coef: float
    value_loss_coef: float
    mean: bool  # reduce the loss by its mean; False: by its sum
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


class SharedArrays(NamedTuple):
    """What the processes of a run share. Moments that the optimizer does not use are empty."""

    theta: np.ndarray  # (P,)
    first: np.ndarray  # (P,) moments
    second: np.ndarray  # (P,)
    largest_second: np.ndarray  # (P,)
    counters: np.ndarray  # (3,) int64: updates, steps, episodes
    lock: np.ndarray  # (1,) int64


class WorkerArrays(NamedTuple):
    """The W workers of this process, one row per worker, and random numbers that were drawn for them in advance."""

    theta: np.ndarray  # (W, P) local parameters
    state: np.ndarray  # (W, S) float64
    episodic_return: np.ndarray  # (W,) float64
    episodic_length: np.ndarray  # (W,) int64
    pulled_at: np.ndarray  # (W,) int64, updates made by all workers when this one last pulled
    draws: np.ndarray  # (W, N) float64, for actions
    draws_used: np.ndarray  # (W,) int64
    reset_draws: np.ndarray  # (W, M) float64, uniform, for new episodes
    reset_draws_used: np.ndarray  # (W,) int64


class Scratch(NamedTuple):
    """Memory for one rollout."""

    activations: np.ndarray  # see network.py; it starts with the observations (t_max + 1, O)
    deltas: np.ndarray
    other_deltas: np.ndarray  # of the torso's output: the actor's share
    dist_params: np.ndarray  # (t_max, D) see head.py
    actions: np.ndarray  # (t_max, A)
    env_action: np.ndarray  # (A,) as the environment takes it
    rewards: np.ndarray  # (t_max,) as training sees them
    discounts: np.ndarray  # (t_max,)
    returns: np.ndarray  # (t_max,)
    advantages: np.ndarray  # (t_max,)
    gradient: np.ndarray  # (P,)


class RecordArrays(NamedTuple):
    """Memory for the records of one call of `advance`; see `record_arrays`."""

    episodes: np.ndarray  # (E, EpisodeColumns) float64
    updates: np.ndarray  # (U, UpdateColumns) float64
    failure: np.ndarray  # (FailureColumns,) float64


def record_arrays(episodes: int, updates: int) -> RecordArrays:
    """Memory for that many records of each kind."""
    return RecordArrays(np.zeros((episodes, len(EPISODE))), np.zeros((updates, len(UPDATE))), np.zeros(len(FAILURE)))


class Loss(NamedTuple):
    """The loss of one rollout and its parts, reduced over the rollout."""

    total: float
    policy: float
    value: float
    entropy: float


@kernel
def advance(
    env: Any,
    head: Head,
    network: Network,
    constants: Constants,
    optimizer: OptimizerConstants,
    shared: SharedArrays,
    workers: WorkerArrays,
    scratch: Scratch,
    records: RecordArrays,
    turn: int,
    updates: int,
) -> tuple[int, int, int, int, int]:
    """Let the workers take turns, starting with worker `turn`, for up to `updates` updates.

    Returns (reason, next turn, updates made, rows written to records.episodes, rows written to records.updates)."""
    made = episodes = rows = 0
    while made < updates and episodes < len(records.episodes) and rows < len(records.updates):
        w = turn
        turn = (turn + 1) % len(workers.theta)
        local = workers.theta[w]
        limit = constants.t_max
        if constants.total_steps > 0:
            limit = min(limit, max(1, constants.total_steps - shared.counters[STEPS]))

        steps, terminated, truncated = collect(env, head, network, constants, workers, scratch, w, limit)
        norm = np.nan
        if steps > 0:
            compute_gradient(head, network, constants, local, scratch, steps)
            norm = clip(scratch.gradient, constants.max_grad_norm)
        if not np.isfinite(norm):
            loss = compute_loss(head, network, constants, scratch, steps)
            records.failure[FAILURE.update] = shared.counters[UPDATES] + 1
            records.failure[FAILURE.worker] = w
            records.failure[FAILURE.loss] = loss.total if steps > 0 else np.nan
            records.failure[FAILURE.grad_norm] = norm
            return DIVERGED, turn, made, episodes, rows

        episode_over = terminated or truncated
        if constants.lock_updates and not atomic.acquire(shared.lock):
            return LOCKED, turn, made, episodes, rows
        # Push: count the update, step the shared parameters. Pull: θ' ← θ.
        update = atomic.add(shared.counters, UPDATES, 1) + 1
        total_steps = atomic.add(shared.counters, STEPS, steps) + steps
        total_episodes = atomic.add(shared.counters, EPISODES, int(episode_over)) + int(episode_over)
        staleness = update - 1 - workers.pulled_at[w]
        lr = learning_rate(optimizer, total_steps, total_episodes)
        step_and_pull(
            optimizer,
            shared.theta,
            shared.first,
            shared.second,
            shared.largest_second,
            scratch.gradient,
            update,
            lr,
            local,
        )
        workers.pulled_at[w] = shared.counters[UPDATES]
        if constants.lock_updates:
            atomic.release(shared.lock)

        if episode_over:
            row = records.episodes[episodes]
            row[EPISODE.worker] = w
            row[EPISODE.global_step] = total_steps
            row[EPISODE.wall_time_s] = made
            row[EPISODE.episodic_return] = workers.episodic_return[w]
            row[EPISODE.episodic_length] = workers.episodic_length[w]
            row[EPISODE.terminated] = terminated
            row[EPISODE.truncated] = truncated
            episodes += 1
            begin(env, workers, w)
        if update % constants.log_interval == 0:
            loss = compute_loss(head, network, constants, scratch, steps)
            row = records.updates[rows]
            row[UPDATE.update] = update
            row[UPDATE.global_step] = total_steps
            row[UPDATE.wall_time_s] = made
            row[UPDATE.policy_loss] = loss.policy
            row[UPDATE.value_loss] = loss.value
            row[UPDATE.entropy] = loss.entropy
            row[UPDATE.grad_norm] = norm
            row[UPDATE.staleness] = staleness
            row[UPDATE.learning_rate] = lr
            rows += 1
        made += 1
        if constants.max_episodes > 0 and total_episodes >= constants.max_episodes:
            return LIMIT, turn, made, episodes, rows
        if constants.total_steps > 0 and total_steps >= constants.total_steps:
            return LIMIT, turn, made, episodes, rows
        every = constants.evaluate_every
        if every > 0 and total_steps // every > (total_steps - steps) // every:
            return EVALUATION, turn, made, episodes, rows
    return PAUSED, turn, made, episodes, rows


@helper
def begin(env: Any, workers: WorkerArrays, w: int) -> None:
    """Start a new episode of worker w."""
    used = workers.reset_draws_used[w]
    workers.reset_draws_used[w] = used + dynamics.reset_draws(env)
    dynamics.reset(env, workers.state[w], workers.reset_draws[w, used:])
    workers.episodic_return[w] = 0.0
    workers.episodic_length[w] = 0


@helper
def collect(
    env: Any,
    head: Head,
    network: Network,
    constants: Constants,
    workers: WorkerArrays,
    scratch: Scratch,
    w: int,
    limit: int,
) -> tuple[int, bool, bool]:
    """Act for `limit` steps or until the episode ends. Returns (steps, terminated, truncated).

    0 steps mean that the network's outputs are not finite numbers."""
    state, local = workers.state[w], workers.theta[w]
    size, outputs = network.observation, network.outputs
    n_draws = policy.draws(head)
    episodic_return, length, used = workers.episodic_return[w], workers.episodic_length[w], workers.draws_used[w]
    draws = workers.draws[w]
    terminated = truncated = False
    t = 0
    dynamics.observe(env, state, scratch.activations[:size])
    while t < limit and not (terminated or truncated):
        forward(network.torso, network.activation, local, scratch.activations, t, t + 1)
        forward(network.actor, network.activation, local, scratch.activations, t, t + 1)
        dist_params, action = scratch.dist_params[t], scratch.actions[t]
        z = scratch.activations[network.z + t * outputs : network.z + (t + 1) * outputs]
        if not policy.compute_dist_params(head, z, dist_params):
            return 0, False, False
        policy.draw(head, dist_params, draws[used : used + n_draws], action)
        used += n_draws
        policy.to_env(head, action, scratch.env_action)

        reward, terminated = dynamics.step(env, state, scratch.env_action)
        episodic_return += reward
        length += 1
        truncated = constants.max_ep_step > 0 and length >= constants.max_ep_step
        nothing_follows = terminated or (truncated and not constants.bootstrap_truncated)
        scratch.rewards[t] = (reward + constants.reward_shift) / constants.reward_scale
        scratch.discounts[t] = 0.0 if nothing_follows else constants.gamma
        t += 1
        dynamics.observe(env, state, scratch.activations[t * (size + 1) : (t + 1) * (size + 1) - 1])
    workers.episodic_return[w], workers.episodic_length[w], workers.draws_used[w] = episodic_return, length, used
    return t, terminated, truncated


@helper
def compute_gradient(
    head: Head, network: Network, constants: Constants, theta: np.ndarray, scratch: Scratch, steps: int
) -> None:
    """The gradient of the loss over the rollout in `scratch`, which holds the outputs of the actor already.

    ∂L/∂log π_t = -A_t w, ∂L/∂H_t = -β w, ∂L/∂V_t = -2 c_v (R_t - V_t) w; see rl/losses.py and rl/returns.py."""
    number, outputs = theta.dtype.type, network.outputs
    # acting did not need the torso's output for the last observation
    forward(network.torso, network.activation, theta, scratch.activations, steps, steps + 1)
    forward(network.critic, network.activation, theta, scratch.activations, 0, steps + 1)
    values = scratch.activations[network.v : network.v + steps + 1]
    d_values = scratch.deltas[network.v : network.v + steps]
    targets(constants, scratch, values, steps)
    weight = 1.0 / steps if constants.mean else 1.0
    d_entropy = number(-weight * constants.entropy_coef)
    for t in range(steps):
        d_values[t] = number(-2.0 * weight * constants.value_loss_coef) * (scratch.returns[t] - values[t])
        d_z = scratch.deltas[network.z + t * outputs : network.z + (t + 1) * outputs]
        d_log_prob = number(-weight) * scratch.advantages[t]
        policy.policy_backward(head, scratch.dist_params[t], scratch.actions[t], d_log_prob, d_entropy, d_z)
    backward(network, theta, scratch.gradient, scratch.activations, scratch.deltas, scratch.other_deltas, steps)


@helper
def targets(constants: Constants, scratch: Scratch, values: np.ndarray, steps: int) -> None:
    """Returns and advantages of the rollout, as in rl/returns.py."""
    return_t, advantage_t = float(values[steps]), 0.0
    for t in range(steps - 1, -1, -1):
        reward, discount = float(scratch.rewards[t]), float(scratch.discounts[t])
        return_t = reward + discount * return_t
        delta_t = reward + discount * values[t + 1] - values[t]
        advantage_t = delta_t + discount * constants.gae_lambda * advantage_t
        scratch.returns[t], scratch.advantages[t] = return_t, advantage_t


@helper
def compute_loss(head: Head, network: Network, constants: Constants, scratch: Scratch, steps: int) -> Loss:
    """L = reduce(c_v (R - V)² - log π(a|s) · A - β H) and its parts, for the rollout whose gradient was computed."""
    policy_loss = value_loss = entropy = 0.0
    for t in range(steps):
        log_prob_t, entropy_t = policy.log_prob(head, scratch.dist_params[t], scratch.actions[t])
        error = scratch.returns[t] - scratch.activations[network.v + t]
        policy_loss -= log_prob_t * scratch.advantages[t]
        value_loss += error * error
        entropy += entropy_t
    total = policy_loss + constants.value_loss_coef * value_loss - constants.entropy_coef * entropy
    weight = 1.0 / max(1, steps) if constants.mean else 1.0
    return Loss(weight * total, weight * policy_loss, weight * value_loss, weight * entropy)


@helper
def clip(gradient: np.ndarray, max_norm: float) -> float:
    """Scale the gradient down to this Euclidean norm. Returns the norm before scaling."""
    square = gradient.dtype.type(0)
    for i in range(len(gradient)):
        square += gradient[i] * gradient[i]
    norm = np.sqrt(square)
    if norm > max_norm:
        factor = gradient.dtype.type(max_norm / norm)
        for i in range(len(gradient)):
            gradient[i] *= factor
    return norm
