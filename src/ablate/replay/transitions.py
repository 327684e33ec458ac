"""What all replays share: which transitions of a store can be drawn, and a batch made of drawn ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np

from ablate.replay.store import Change, FrameStore, smallest_capacity
from ablate.types import Batch, ProcessState


class SampleStatistics(NamedTuple):
    """What a batch tells of its sampler."""

    effective_sample_size: float  # (Σw)² / Σw², from 1 to B
    sample_age: float  # steps since its transitions were taken, mean


class Replay(ABC):
    """Transitions of n steps between the frames of a store.

    A transition, named by the slot of its s_t, can be drawn once its n steps are there, or the episode's end within
    them, and until one of its frames is overwritten.

    gamma: discount of a step. rng: the stream that draws; its state is saved by who owns it.
    learns_from_errors: what was learned from a batch decides what is drawn next."""

    learns_from_errors = False

    def __init__(self, store: FrameStore, n_step: int, gamma: float, rng: np.random.Generator) -> None:
        least = smallest_capacity(store.lanes, store.stack, n_step)
        if store.lanes * store.lane_length < least:
            raise ValueError(f"{n_step} steps a transition need a store of {least} frames or more")
        self.store, self.n_step, self.gamma, self._rng = store, n_step, gamma, rng
        self._drawable = np.zeros(store.lanes * store.lane_length, np.bool_)
        self._size = 0  # drawable transitions
        self._waiting = [0] * store.lanes  # steps of each lane whose transitions are not drawable yet

    def __len__(self) -> int:
        return self._size

    @abstractmethod
    def sample(self, batch_size: int, beta: float = 1.0) -> Batch:
        """Draw transitions, with replacement; importance weights are taken to the power β where there are any.

        Raises ValueError while there are none."""

    def start(self, lane: int, observation: np.ndarray) -> None:
        """As `FrameStore.start`. Of an episode under way, the last transitions end with its newest observation."""
        self._apply(lane, self.store.start(lane, observation))

    def add(
        self,
        lane: int,
        action: int,
        reward: float,
        terminated: bool,
        truncated: bool,
        observation: np.ndarray,
        td_error: float | None = None,
    ) -> None:
        """As `FrameStore.add`. td_error: of this one step, for a replay whose new transitions start with it.

        Raises ValueError if it is needed and not given."""
        self._note(lane, td_error)
        change = self.store.add(lane, action, reward, terminated, truncated, observation)
        self._waiting[lane] += 1
        self._apply(lane, change)

    @abstractmethod
    def update(self, batch: Batch, td_errors: np.ndarray) -> None:
        """Note what was learned from a batch, its TD errors (B,)."""

    def statistics(self, batch: Batch) -> SampleStatistics:
        """Of a batch that `sample` gave; its age as of now."""
        weights = batch.weights.astype(np.float64)
        size = float(weights.sum() ** 2 / np.square(weights).sum())
        return SampleStatistics(size, float(self.store.steps - batch.times.mean()))

    def state(self) -> ProcessState:
        """All of the replay, its store included, for `restore`: arrays may be views that the next call changes."""
        store = self.store.state()
        values = {**store.state, "size": self._size, "waiting": [*self._waiting]}
        return ProcessState(values, {**store.tensors, "replay.drawable": self.store.used(self._drawable)})

    def restore(self, state: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        """What `state` gave, into a new replay with a new store of the same sizes: it goes on to the bit."""
        self.store.restore(state, tensors)
        self._size, self._waiting = state["size"], [*state["waiting"]]
        self.store.used(self._drawable)[...] = tensors["replay.drawable"]

    @abstractmethod
    def _note(self, lane: int, td_error: float | None) -> None:
        """Keep the error of a step whose transition cannot be drawn yet, if it is needed."""

    def _apply(self, lane: int, change: Change) -> tuple[np.ndarray, list[int]]:
        """Slots whose transitions can be drawn from now on, in the order of their steps; those that no longer can."""
        waiting = self._waiting[lane]
        ready = waiting if change.ended else max(waiting - self.n_step + 1, 0)
        slots = self.store.following(np.array([change.last]), np.arange(ready) + 1 - waiting)
        self._waiting[lane] = waiting - ready
        self._drawable[slots] = True
        lost = [slot for slot in set(change.lost) if self._drawable[slot]]
        self._drawable[lost] = False
        self._size += ready - len(lost)
        return slots, lost

    def _batch(self, slots: np.ndarray, weights: np.ndarray) -> Batch:
        """The transitions of these slots (B,).

        R = Σ_{k<m} γ^k r_{t+k+1}, discount γ^m, with m = n, or fewer steps where the episode was truncated or
        terminated after them; terminated, the discount is 0."""
        store = self.store
        returns = np.zeros(len(slots))
        discounts = np.ones(len(slots))
        at, going = slots, np.ones(len(slots), np.bool_)
        for _ in range(self.n_step):
            returns += np.where(going, discounts * store.rewards[at], 0)
            terminated = store.terminated[at]
            discounts *= np.where(going, np.where(terminated, 0, self.gamma), 1)
            ended = terminated | store.truncated[at]
            at = np.where(going & ~terminated, store.following(at), at)
            going = going & ~ended
        return Batch(
            slots=store.stacks(slots),
            next_slots=store.stacks(at),
            actions=store.actions[slots].astype(np.int64),
            returns=returns.astype(np.float32),
            discounts=discounts.astype(np.float32),
            weights=weights,
            times=store.times[slots],
        )
