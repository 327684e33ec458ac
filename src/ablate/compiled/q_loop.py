"""The loop of algos/dqn/learner.py as a kernel, without Python in it (Mnih et al. 2015, Algorithm 1).

E: environments; K: steps of each in a block; B: transitions of a batch; n: actions."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ablate.compiled import atomic, dynamics, q_replay
from ablate.compiled.jit import helper, kernel
from ablate.compiled.loop import EPISODE, EPISODES, STEPS, UPDATES, SharedArrays
from ablate.compiled.optimizer import OptimizerConstants, learning_rate, step_and_pull
from ablate.compiled.q_network import QNetwork, forward
from ablate.compiled.q_replay import DrawScratch, ReplayArrays, ReplayConstants
from ablate.compiled.q_update import (
    BatchArrays,
    QLossConstants,
    QScratch,
    choose,
    compute_gradient,
    mean_of_largest,
)

# Why `advance` returned. DRAWS: random numbers are used up, possibly in the middle of a block.
PAUSED, LIMIT, EVALUATION, DIVERGED, ACTION_VALUES_DIVERGED, TD_ERRORS_DIVERGED, DRAWS = range(7)
# Indices of `progress` (4,) int64, which says where an interrupted call stopped in its block; all 0 between two blocks.
# NEXT: the step of the block after which an update may be due, 0 if nothing was acted. MADE: updates made in the block.
# ENDED: episodes that ended in it. FOUND: transitions that were drawn of the next batch.
NEXT, MADE, ENDED, FOUND = range(4)


class QUpdateColumns(NamedTuple):
    """The columns of QRecordArrays.updates, named like the fields of DQN's UpdateRecord."""

    update: int = 0
    global_step: int = 1
    wall_time_s: int = 2  # a kernel has no clock: it writes the number of blocks made in this call before
    td_loss: int = 3
    q_mean: int = 4
    grad_norm: int = 5
    epsilon: int = 6
    beta: int = 7  # nan for a replay without priorities
    effective_sample_size: int = 8
    sample_age: int = 9
    learning_rate: int = 10


class QFailureColumns(NamedTuple):
    """What QRecordArrays.failure holds after DIVERGED."""

    update: int = 0
    loss: int = 1
    grad_norm: int = 2


QUPDATE, QFAILURE = QUpdateColumns(), QFailureColumns()


class QConstants(NamedTuple):
    """The constants of the algorithm and of the run. 0 means no limit, or never."""

    loss: QLossConstants
    block: int  # K
    train_freq: int
    learn_from: int  # the first update follows a later step
    target_update: int
    target_tau: float
    gamma: float
    warmup_steps: int
    epsilon_start: float
    epsilon_end: float
    epsilon_decay_steps: int
    noisy_start: int
    bootstrap_truncated: bool
    reward_shift: float
    reward_scale: float
    max_ep_step: int
    max_episodes: int
    total_steps: int
    log_interval: int
    evaluate_every: int


class ActorArrays(NamedTuple):
    """The environments, and random numbers that were drawn for them in advance."""

    state: np.ndarray  # (E, S) float64
    episodic_return: np.ndarray  # (E,) float64
    episodic_length: np.ndarray  # (E,) int64
    random_left: np.ndarray  # (E,) int64, random steps of a noisy start that are left
    draws: np.ndarray  # (N,) float64, for actions and the lengths of noisy starts
    draws_used: np.ndarray  # (1,) int64
    reset_draws: np.ndarray  # (E, M) float64, for new episodes
    reset_draws_used: np.ndarray  # (E,) int64
    replay_draws: np.ndarray  # (R,) float64, for batches
    replay_draws_used: np.ndarray  # (1,) int64


class StepScratch(NamedTuple):
    """Memory for one step of each environment."""

    activations: np.ndarray  # for E columns; see q_network.py
    actions: np.ndarray  # (E,) int64
    explores: np.ndarray  # (E,) bool
    env_action: np.ndarray  # (1,) float32, as environments take it
    observation: np.ndarray  # (E, size) float32, the one to act on
    following: np.ndarray  # (E, size) float32, where the step led to
    rewards: np.ndarray  # (E,) float32, as training sees them
    terminated: np.ndarray  # (E,) bool
    truncated: np.ndarray  # (E,) bool
    td_errors: np.ndarray  # (E,) float32


class QRecordArrays(NamedTuple):
    """Memory for the records of one call of `advance`."""

    episodes: np.ndarray  # (., EpisodeColumns) float64
    updates: np.ndarray  # (., QUpdateColumns) float64
    failure: np.ndarray  # (QFailureColumns,) float64


def q_record_arrays(episodes: int, updates: int) -> QRecordArrays:
    """Memory for that many records of each kind."""
    return QRecordArrays(np.zeros((episodes, len(EPISODE))), np.zeros((updates, len(QUPDATE))), np.zeros(len(QFAILURE)))


def step_scratch_of(network: QNetwork, envs: int) -> StepScratch:
    return StepScratch(
        activations=np.zeros(network.rows * envs, np.float32),
        actions=np.zeros(envs, np.int64),
        explores=np.zeros(envs, np.bool_),
        env_action=np.zeros(1, np.float32),
        observation=np.zeros((envs, network.observation), np.float32),
        following=np.zeros((envs, network.observation), np.float32),
        rewards=np.zeros(envs, np.float32),
        terminated=np.zeros(envs, np.bool_),
        truncated=np.zeros(envs, np.bool_),
        td_errors=np.zeros(envs, np.float32),
    )


@kernel
def advance(
    env: Any,
    network: QNetwork,
    constants: QConstants,
    replay_constants: ReplayConstants,
    optimizer: OptimizerConstants,
    shared: SharedArrays,
    target: np.ndarray,
    actor: ActorArrays,
    step: StepScratch,
    replay: ReplayArrays,
    draw: DrawScratch,
    batch: BatchArrays,
    scratch: QScratch,
    progress: np.ndarray,
    records: QRecordArrays,
    blocks: int,
) -> tuple[int, int, int, int]:
    """Act and learn for up to `blocks` blocks of K steps in each environment. target: (P,) θ⁻.

    Returns (reason, blocks completed, rows written to records.episodes, rows written to records.updates)."""
    counters = shared.counters
    block_steps = constants.block * len(actor.state)
    most_rows = block_steps // constants.train_freq + 1
    made = episodes = rows = 0
    while (
        made < blocks and episodes + block_steps <= len(records.episodes) and rows + most_rows <= len(records.updates)
    ):
        before = counters[STEPS]
        if progress[NEXT] == 0:
            if not has_draws(env, constants, actor):
                return DRAWS, made, episodes, rows
            failure, ended = act(
                env, network, constants, replay_constants, shared.theta, actor, step, replay, draw,
                records.episodes[episodes:], before, made,
            )  # fmt: skip
            if failure > 0:
                return failure, made, episodes, rows
            episodes += ended
            progress[ENDED] = ended
            progress[NEXT] = before + 1
        while progress[NEXT] <= before + block_steps:
            at = progress[NEXT]
            if at > constants.learn_from and at % constants.train_freq == 0:
                number = counters[UPDATES] + progress[MADE] + 1
                beta = linear(
                    replay_constants.beta_start,
                    replay_constants.beta_end,
                    replay_constants.beta_steps,
                    before + block_steps,
                )
                progress[FOUND] = q_replay.draw(
                    replay, replay_constants, draw, batch, actor.replay_draws, actor.replay_draws_used,
                    progress[FOUND], beta,
                )  # fmt: skip
                if progress[FOUND] < len(batch.slots):
                    return DRAWS, made, episodes, rows
                progress[FOUND] = 0
                q_replay.gather(replay.frames, batch.slots, scratch.activations)
                q_replay.gather(replay.frames, batch.next_slots, scratch.next_activations)
                loss, norm = compute_gradient(network, constants.loss, shared.theta, target, batch, scratch)
                if not (np.isfinite(loss) and np.isfinite(norm)):
                    records.failure[QFAILURE.update] = number
                    records.failure[QFAILURE.loss] = loss
                    records.failure[QFAILURE.grad_norm] = norm
                    return DIVERGED, made, episodes, rows
                lr = learning_rate(optimizer, before + block_steps, counters[EPISODES])
                step_and_pull(
                    optimizer, shared.theta, shared.first, shared.second, shared.largest_second, scratch.gradient,
                    number, lr, scratch.local,
                )  # fmt: skip
                if replay_constants.prioritized:
                    q_replay.learn_priorities(replay, replay_constants, draw, batch)
                if number % constants.log_interval == 0:
                    row = records.updates[rows]
                    row[QUPDATE.update] = number
                    row[QUPDATE.global_step] = before + block_steps
                    row[QUPDATE.wall_time_s] = made
                    row[QUPDATE.td_loss] = loss
                    row[QUPDATE.q_mean] = mean_of_largest(network, scratch.activations, len(batch.slots))
                    row[QUPDATE.grad_norm] = norm
                    row[QUPDATE.epsilon] = epsilon(constants, before + block_steps)
                    row[QUPDATE.beta] = beta if replay_constants.prioritized else np.nan
                    size, age = q_replay.statistics(batch.weights, batch.slots, replay.times, replay.steps[0])
                    row[QUPDATE.effective_sample_size] = size
                    row[QUPDATE.sample_age] = age
                    row[QUPDATE.learning_rate] = lr
                    rows += 1
                progress[MADE] += 1
            if at % constants.target_update == 0:
                follow(target, shared.theta, constants.target_tau)
            progress[NEXT] = at + 1
        made += 1
        ended = progress[ENDED]
        atomic.add(counters, UPDATES, progress[MADE])
        total_steps = atomic.add(counters, STEPS, block_steps) + block_steps
        total_episodes = atomic.add(counters, EPISODES, ended) + ended
        progress[NEXT] = 0
        progress[MADE] = 0
        progress[ENDED] = 0
        if constants.max_episodes > 0 and total_episodes >= constants.max_episodes:
            return LIMIT, made, episodes, rows
        if constants.total_steps > 0 and total_steps >= constants.total_steps:
            return LIMIT, made, episodes, rows
        every = constants.evaluate_every
        if every > 0 and total_steps // every > before // every:
            return EVALUATION, made, episodes, rows
    return PAUSED, made, episodes, rows


@helper
def has_draws(env: Any, constants: QConstants, actor: ActorArrays) -> bool:
    """Whether the random numbers suffice for the steps of a block."""
    envs = len(actor.state)
    for e in range(envs):
        needed = constants.block * dynamics.reset_draws(env)
        if actor.reset_draws_used[e] + needed > actor.reset_draws.shape[1]:
            return False
    return actor.draws_used[0] + 3 * envs * constants.block <= len(actor.draws)


@helper
def epsilon(constants: QConstants, step: int) -> float:
    """The probability of a random action at this step, as in conf/algo/dqn.yaml."""
    if step < constants.warmup_steps:
        return 1.0
    steps = step - constants.warmup_steps
    return linear(constants.epsilon_start, constants.epsilon_end, constants.epsilon_decay_steps, steps)


@helper
def linear(start: float, end: float, steps: int, at: int) -> float:
    """As schedules.linear."""
    return start + (end - start) * min(1.0, max(0, at) / steps)


@helper
def act(
    env: Any,
    network: QNetwork,
    constants: QConstants,
    replay_constants: ReplayConstants,
    theta: np.ndarray,
    actor: ActorArrays,
    step: StepScratch,
    replay: ReplayArrays,
    draw: DrawScratch,
    rows: np.ndarray,
    before: int,
    made: int,
) -> tuple[int, int]:
    """Act a block, ε-greedily, and store it; see actor.Actor.act. Returns (0 or why it failed, episodes that ended)."""
    envs, ended = len(actor.state), 0
    wants_td_errors = replay_constants.td_error_first
    for k in range(constants.block):
        if not choose_actions(network, constants, theta, actor, step, before + k * envs, wants_td_errors):
            return ACTION_VALUES_DIVERGED, ended
        for e in range(envs):
            q = 0.0
            if wants_td_errors:
                q = step.activations[(network.q + step.actions[e]) * envs + e]
            step.td_errors[e] = -q
            if play(env, constants, actor, step, e, rows[ended]):
                rows[ended, EPISODE.global_step] = before + k * envs + e + 1
                rows[ended, EPISODE.wall_time_s] = made
                ended += 1
        if wants_td_errors and not add_td_errors(network, constants, theta, step):
            return TD_ERRORS_DIVERGED, ended
        for e in range(envs):
            nothing_follows = step.terminated[e] or (step.truncated[e] and not constants.bootstrap_truncated)
            truncated = step.truncated[e] and not nothing_follows
            q_replay.add(
                replay, replay_constants, draw, e, step.actions[e], step.rewards[e],
                nothing_follows, truncated, step.following[e], step.td_errors[e],
            )  # fmt: skip
            if nothing_follows or truncated:
                q_replay.start(replay, replay_constants, draw, e, step.observation[e])
    return 0, ended


@helper
def choose_actions(
    network: QNetwork,
    constants: QConstants,
    theta: np.ndarray,
    actor: ActorArrays,
    step: StepScratch,
    at: int,
    wants_values: bool,
) -> bool:
    """ε-greedy actions. Returns False if the action values are not finite. at: the number of the step."""
    n = network.actions
    envs, used, explore = len(step.actions), actor.draws_used[0], epsilon(constants, at)
    all_explore = True
    for e in range(envs):
        step.explores[e] = actor.draws[used + e] < explore
        if actor.random_left[e] > 0:
            actor.random_left[e] -= 1
            step.explores[e] = True
        all_explore = all_explore and step.explores[e]
    if wants_values or not all_explore:
        put_observations(step.observation, step.activations)
        forward(network, theta, step.activations, envs)
        for i in range(network.q * envs, (network.q + n) * envs):
            if not np.isfinite(step.activations[i]):
                return False
        choose(network, step.activations, step.actions)
    for e in range(envs):
        if step.explores[e]:
            step.actions[e] = int(actor.draws[used + envs + e] * n)
    actor.draws_used[0] = used + 2 * envs
    return True


@helper
def put_observations(observations: np.ndarray, activations: np.ndarray) -> None:
    """(E, size) -> the first rows of the activations."""
    envs, size = observations.shape
    for i in range(size):
        for e in range(envs):
            activations[i * envs + e] = observations[e, i]


@helper
def play(env: Any, constants: QConstants, actor: ActorArrays, step: StepScratch, e: int, row: np.ndarray) -> bool:
    """One step of environment e; a new episode, if it ends one. Returns whether it did: its record is in `row`."""
    state = actor.state[e]
    step.env_action[0] = step.actions[e]
    reward, terminated = dynamics.step(env, state, step.env_action)
    actor.episodic_return[e] += reward
    actor.episodic_length[e] += 1
    truncated = constants.max_ep_step > 0 and actor.episodic_length[e] >= constants.max_ep_step
    step.rewards[e] = (reward + constants.reward_shift) / constants.reward_scale
    step.terminated[e] = terminated
    step.truncated[e] = truncated
    dynamics.observe(env, state, step.following[e])
    ends = terminated or truncated
    if ends:
        row[EPISODE.worker] = 0
        row[EPISODE.episodic_return] = actor.episodic_return[e]
        row[EPISODE.episodic_length] = actor.episodic_length[e]
        row[EPISODE.terminated] = terminated
        row[EPISODE.truncated] = truncated
        used = actor.reset_draws_used[e]
        actor.reset_draws_used[e] = used + dynamics.reset_draws(env)
        dynamics.reset(env, state, actor.reset_draws[e, used:])
        actor.episodic_return[e] = 0.0
        actor.episodic_length[e] = 0
        if constants.noisy_start > 0:
            actor.random_left[e] = int(actor.draws[actor.draws_used[0]] * (constants.noisy_start + 1))
            actor.draws_used[0] += 1
    dynamics.observe(env, state, step.observation[e])
    return ends


@helper
def add_td_errors(network: QNetwork, constants: QConstants, theta: np.ndarray, step: StepScratch) -> bool:
    """Complete the TD errors of the step, which hold -Q(s, a). Returns False if one is not finite."""
    envs = len(step.actions)
    put_observations(step.following, step.activations)
    forward(network, theta, step.activations, envs)
    for e in range(envs):
        largest = step.activations[network.q * envs + e]
        for j in range(1, network.actions):
            largest = max(largest, step.activations[(network.q + j) * envs + e])
        nothing_follows = step.terminated[e] or (step.truncated[e] and not constants.bootstrap_truncated)
        discount = 0.0 if nothing_follows else constants.gamma
        step.td_errors[e] += step.rewards[e] + discount * largest
        if not np.isfinite(step.td_errors[e]):
            return False
    return True


@helper
def follow(target: np.ndarray, theta: np.ndarray, tau: float) -> None:
    """θ⁻ ← θ⁻ + tau (θ - θ⁻); tau=1 is a copy."""
    factor = theta.dtype.type(tau)
    for i in range(len(theta)):
        target[i] = theta[i] if tau == 1.0 else target[i] + factor * (theta[i] - target[i])
