"""A replay of vectors inside kernels: the store, the draws and the priorities of replay/, over the same memory.

`ReplayArrays` are the arrays of a Replay (its method `arrays`), so there is nothing to copy between the two. E: number
of environments, each with a ring of L slots; B: transitions of a batch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ablate.compiled import sum_tree
from ablate.compiled.jit import helper
from ablate.compiled.q_update import BatchArrays
from ablate.config.choices import DrawKind, WeightNorm
from ablate.config.schema import PrioritizedConfig, ReplayConfig

WEIGHT_NORMS = {WeightNorm.none: 0, WeightNorm.max: 1, WeightNorm.mean: 2}
NO_NORM, BY_MAX = WEIGHT_NORMS[WeightNorm.none], WEIGHT_NORMS[WeightNorm.max]


class ReplayConstants(NamedTuple):
    """See conf/replay/."""

    ring_length: int
    n_step: int
    gamma: float
    prioritized: bool
    alpha: float
    priority_eps: float
    beta_start: float
    beta_end: float
    beta_steps: int
    stratified: bool
    norm: int  # see WEIGHT_NORMS
    td_error_first: bool  # the priority of a new transition is its own TD error
    reach: int  # only slots before this one are drawn


class ReplayArrays(NamedTuple):
    """The memory of a Replay. A uniform one has no priorities: the last four are empty."""

    frames: np.ndarray  # (E·L, size) float32
    actions: np.ndarray  # (E·L,) int32
    rewards: np.ndarray  # (E·L,) float32
    terminated: np.ndarray  # (E·L,) bool
    truncated: np.ndarray  # (E·L,) bool
    ages: np.ndarray  # (E·L,) uint8, 0 for vectors
    times: np.ndarray  # (E·L,) int64
    steps: np.ndarray  # (1,) int64
    heads: np.ndarray  # (E,) int64
    filled: np.ndarray  # (E,) int64
    taken: np.ndarray  # (E,) int64
    drawable: np.ndarray  # (E·L,) bool
    size: np.ndarray  # (1,) int64
    waiting: np.ndarray  # (E,) int64
    priorities: np.ndarray = np.zeros(0)  # (E·L,) float64
    sums: np.ndarray = np.zeros(0)  # (E·L + 1,) float64
    max_priority: np.ndarray = np.zeros(0)  # (1,) float64
    errors: np.ndarray = np.zeros(0)  # (E·L,) float64


class DrawScratch(NamedTuple):
    """Memory for changes of priorities: (max(B, n + 1),) each."""

    slots: np.ndarray  # int64
    values: np.ndarray  # float64
    rests: np.ndarray  # float64


def replay_constants_of(config: ReplayConfig, n_step: int, gamma: float, slots: int, envs: int) -> ReplayConstants:
    """The constants of the configuration. slots: E·L."""
    common = (slots // envs, n_step, gamma)
    if not isinstance(config, PrioritizedConfig):
        return ReplayConstants(*common, False, 0.0, 0.0, 0.0, 0.0, 1, False, NO_NORM, False, slots)
    return ReplayConstants(
        *common,
        prioritized=True,
        alpha=config.alpha,
        priority_eps=config.priority_eps,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        beta_steps=config.beta_steps,
        stratified=config.draws == DrawKind.stratified,
        norm=WEIGHT_NORMS[config.weights],
        td_error_first=config.wants_td_errors,
        reach=slots // 2 if config.first_half_only else slots,
    )


def draw_scratch_of(batch_size: int, n_step: int) -> DrawScratch:
    size = max(batch_size, n_step + 1)
    return DrawScratch(np.zeros(size, np.int64), np.zeros(size), np.zeros(size))


@helper
def start(
    replay: ReplayArrays, constants: ReplayConstants, scratch: DrawScratch, env_index: int, observation: np.ndarray
) -> None:
    """Begin an episode, as Replay.start, after one that has ended."""
    _write(replay, constants, scratch, env_index, observation)
    replay.taken[env_index] = 0


@helper
def add(
    replay: ReplayArrays,
    constants: ReplayConstants,
    scratch: DrawScratch,
    env_index: int,
    action: int,
    reward: float,
    terminated: bool,
    truncated: bool,
    observation: np.ndarray,
    td_error: float,
) -> None:
    """Add a step, as Replay.add. truncated: and not terminated."""
    length = constants.ring_length
    ring = env_index * length
    slot = ring + (replay.heads[env_index] + length - 1) % length
    replay.steps[0] += 1
    replay.actions[slot] = action
    replay.rewards[slot] = reward
    replay.terminated[slot] = terminated
    replay.truncated[slot] = truncated
    replay.times[slot] = replay.steps[0]
    if constants.td_error_first:
        replay.errors[slot] = td_error
    if not terminated:
        _write(replay, constants, scratch, env_index, observation)
    ended = terminated or truncated
    replay.taken[env_index] = -1 if ended else replay.taken[env_index] + 1
    waiting = replay.waiting[env_index] + 1
    ready = waiting if ended else max(waiting - constants.n_step + 1, 0)
    for i in range(ready):
        new = ring + (slot - ring + i + 1 - waiting + length) % length
        replay.drawable[new] = True
        if constants.prioritized:
            scratch.slots[i] = new
            scratch.values[i] = replay.max_priority[0]
            if constants.td_error_first:
                scratch.values[i] = _priority(constants, replay.errors[new])
    replay.waiting[env_index] = waiting - ready
    replay.size[0] += ready
    if constants.prioritized:
        _set(replay, scratch, ready)


@helper
def _write(
    replay: ReplayArrays, constants: ReplayConstants, scratch: DrawScratch, env_index: int, observation: np.ndarray
) -> None:
    """Store the environment's next frame. The transition of the frame that it replaces is lost."""
    head = replay.heads[env_index]
    slot = env_index * constants.ring_length + head
    if replay.drawable[slot]:
        replay.drawable[slot] = False
        replay.size[0] -= 1
        if constants.prioritized:
            scratch.slots[0], scratch.values[0] = slot, 0.0
            _set(replay, scratch, 1)
    for i in range(len(observation)):
        replay.frames[slot, i] = observation[i]
    replay.ages[slot] = 0
    replay.terminated[slot] = False
    replay.truncated[slot] = False
    replay.heads[env_index] = (head + 1) % constants.ring_length
    replay.filled[env_index] = min(replay.filled[env_index] + 1, constants.ring_length)


@helper
def _priority(constants: ReplayConstants, td_error: float) -> float:
    """(|δ| + ε)^α."""
    return (abs(float(td_error)) + constants.priority_eps) ** constants.alpha


@helper
def _set(replay: ReplayArrays, scratch: DrawScratch, count: int) -> None:
    """Set the priorities of the first `count` slots in `scratch`."""
    sum_tree.update(replay.priorities, replay.sums, scratch.slots[:count], scratch.values[:count])
    for i in range(count):
        replay.max_priority[0] = max(replay.max_priority[0], scratch.values[i])


@helper
def draw(
    replay: ReplayArrays,
    constants: ReplayConstants,
    scratch: DrawScratch,
    batch: BatchArrays,
    draws: np.ndarray,
    used: np.ndarray,
    found: int,
    beta: float,
) -> int:
    """Draw a batch, as Replay.sample. Returns how many of its slots are drawn: all, unless the random numbers run out.

    draws: random numbers, uniform in [0, 1). used: (1,) how many of them were used before. found: what an earlier call
    returned, if it was interrupted; else 0."""
    B = len(batch.slots)
    if constants.prioritized:
        if used[0] + B > len(draws):
            return 0
        _draw_by_priority(replay, constants, scratch, batch, draws[used[0] : used[0] + B], beta)
        used[0] += B
    else:
        filled, length, chunk = 0, constants.ring_length, B + B // 4
        for e in range(len(replay.filled)):
            filled = max(filled, replay.filled[e])
        slots = len(replay.heads) * filled
        while found < B:
            if used[0] + chunk > len(draws):
                return found
            for i in range(chunk):
                slot = int(draws[used[0] + i] * slots)
                slot += slot // filled * (length - filled)
                if found < B and replay.drawable[slot]:
                    batch.slots[found] = slot
                    found += 1
            used[0] += chunk
        for b in range(B):
            batch.weights[b] = 1.0
    for b in range(B):
        _put_transition(replay, constants, batch, b)
    return B


@helper
def _draw_by_priority(
    replay: ReplayArrays,
    constants: ReplayConstants,
    scratch: DrawScratch,
    batch: BatchArrays,
    points: np.ndarray,
    beta: float,
) -> None:
    """As PrioritizedReplay.sample."""
    B = len(points)
    total = sum_tree.prefix(replay.sums, constants.reach)
    targets = scratch.values[:B]
    for b in range(B):
        point = (points[b] + b) / B if constants.stratified else points[b]
        targets[b] = point * total
    largest_step = 1
    while 2 * largest_step <= len(replay.priorities):
        largest_step *= 2
    sum_tree.find(
        replay.priorities, replay.sums, largest_step, targets, constants.reach, scratch.rests[:B], batch.slots
    )
    largest = mean = 0.0
    for b in range(B):
        weight = (replay.size[0] * (replay.priorities[batch.slots[b]] / total)) ** -beta
        largest = max(largest, weight)
        mean += weight / B
        targets[b] = weight
    factor = 1.0
    if constants.norm != NO_NORM:
        factor = 1.0 / (largest if constants.norm == BY_MAX else mean)
    for b in range(B):
        batch.weights[b] = targets[b] * factor


@helper
def _put_transition(replay: ReplayArrays, constants: ReplayConstants, batch: BatchArrays, b: int) -> None:
    """As Replay._batch, for one transition."""
    slot, length = batch.slots[b], constants.ring_length
    ring_end = slot - slot % length + length
    current, n_step_return, discount = slot, 0.0, 1.0
    for _ in range(constants.n_step):
        n_step_return += discount * replay.rewards[current]
        if replay.terminated[current]:
            discount = 0.0
            break
        discount *= constants.gamma
        ended = replay.truncated[current]
        current += 1
        if current == ring_end:
            current -= length
        if ended:
            break
    batch.next_slots[b] = current
    batch.actions[b] = replay.actions[slot]
    batch.returns[b] = n_step_return
    batch.discounts[b] = discount


@helper
def gather(frames: np.ndarray, slots: np.ndarray, activations: np.ndarray) -> None:
    """Write the observations of slots (B,) as the first rows of a network's activations."""
    B = len(slots)
    for b in range(B):
        for i in range(frames.shape[1]):
            activations[i * B + b] = frames[slots[b], i]


@helper
def learn_priorities(
    replay: ReplayArrays, constants: ReplayConstants, scratch: DrawScratch, batch: BatchArrays
) -> None:
    """As PrioritizedReplay.update. Nothing was stored since the batch was drawn, so all its transitions are there."""
    B = len(batch.slots)
    for b in range(B):
        scratch.slots[b] = batch.slots[b]
        scratch.values[b] = _priority(constants, batch.td_errors[b])
    _set(replay, scratch, B)


@helper
def statistics(weights: np.ndarray, slots: np.ndarray, times: np.ndarray, steps: int) -> tuple[float, float]:
    """As Replay.statistics: (effective sample size, mean age)."""
    total = squares = stored_at = 0.0
    for b in range(len(slots)):
        weight = float(weights[b])
        total += weight
        squares += weight * weight
        stored_at += times[slots[b]]
    return total * total / squares, steps - stored_at / len(slots)
