"""What all replays share: which transitions of a store can be drawn, and how they become a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np

from ablate.replay.store import Change, FrameStore, smallest_capacity
from ablate.types import Batch, ProcessState


class SampleStatistics(NamedTuple):
    """Statistics of one batch that describe its sampler."""

    effective_sample_size: float  # (Σw)² / Σw², from 1 to B
    sample_age: float  # mean number of steps since its transitions were stored


class Replay(ABC):
    """Transitions of n steps between the frames of a store.

    A transition is identified by the slot of its s_t. It can be drawn once its n steps are stored, or fewer if the
    episode has ended. It can no longer be drawn when one of its frames is overwritten.

    gamma: discount per step. rng: the stream for draws; its owner saves its state.
    learns_from_errors: whether the TD errors of a batch change which transitions are drawn next."""

    learns_from_errors = False

    def __init__(self, store: FrameStore, n_step: int, gamma: float, rng: np.random.Generator) -> None:
        least = smallest_capacity(store.environments, store.stack, n_step)
        if store.environments * store.ring_length < least:
            raise ValueError(f"transitions of {n_step} steps need a store of {least} frames or more")
        self.store, self.n_step, self.gamma, self._rng = store, n_step, gamma, rng
        self._drawable = np.zeros(store.environments * store.ring_length, np.bool_)
        self._size = np.zeros(1, np.int64)  # drawable transitions
        self._waiting = np.zeros(store.environments, np.int64)  # steps whose transitions are not drawable yet

    def __len__(self) -> int:
        return int(self._size[0])

    def arrays(self) -> dict[str, np.ndarray]:
        """The replay's own memory, for kernels; see compiled/q_replay.py."""
        own = {"drawable": self._drawable, "size": self._size, "waiting": self._waiting}
        return {**self.store.arrays(), **own}

    def beta(self, step: int) -> float | None:
        """The exponent of the importance weights after `step` steps; None if the replay has no such weights."""
        return None

    @abstractmethod
    def sample(self, batch_size: int, beta: float = 1.0) -> Batch:
        """Draw transitions with replacement. β is the exponent of the importance weights, if the replay has them.

        Raises ValueError if no transition can be drawn yet."""

    def start(self, env_index: int, observation: np.ndarray) -> None:
        """See `FrameStore.start`. The last transitions of an unfinished episode end with its newest observation."""
        self._apply(env_index, self.store.start(env_index, observation))

    def add(
        self,
        env_index: int,
        action: int,
        reward: float,
        terminated: bool,
        truncated: bool,
        observation: np.ndarray,
        td_error: float | None = None,
    ) -> None:
        """See `FrameStore.add`. td_error: the TD error of this step, for replays that use it as the first priority.

        Raises ValueError if it is needed and not given."""
        self._note(env_index, td_error)
        change = self.store.add(env_index, action, reward, terminated, truncated, observation)
        self._waiting[env_index] += 1
        self._apply(env_index, change)

    @abstractmethod
    def update(self, batch: Batch, td_errors: np.ndarray) -> None:
        """Use the TD errors (B,) that the learner has computed for a sampled batch."""

    def statistics(self, batch: Batch) -> SampleStatistics:
        """Statistics of a batch from `sample`, with its current age."""
        weights = batch.weights.astype(np.float64)
        size = float(weights.sum() ** 2 / np.square(weights).sum())
        return SampleStatistics(size, float(self.store.steps - batch.times.mean()))

    def state(self) -> ProcessState:
        """The whole replay with its store, for `restore`. Arrays may be views that the next call changes."""
        store = self.store.state()
        values = {**store.state, "size": len(self), "waiting": self._waiting.tolist()}
        return ProcessState(values, {**store.tensors, "replay.drawable": self.store.used(self._drawable)})

    def restore(self, state: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        """Load what `state` returned into a new replay with a new store of the same sizes. It continues bit for bit."""
        self.store.restore(state, tensors)
        self._size[:], self._waiting[:] = state["size"], state["waiting"]
        self.store.used(self._drawable)[...] = tensors["replay.drawable"]

    @abstractmethod
    def _note(self, env_index: int, td_error: float | None) -> None:
        """Keep the TD error of a step whose transition cannot be drawn yet, if it is needed."""

    def _apply(self, env_index: int, change: Change) -> tuple[np.ndarray, list[int]]:
        """Update which transitions are drawable. Returns the slots of new ones, in step order, and of lost ones."""
        waiting = int(self._waiting[env_index])
        ready = waiting if change.ended else max(waiting - self.n_step + 1, 0)
        slots = self.store.following(np.array([change.last]), np.arange(ready) + 1 - waiting)
        self._waiting[env_index] = waiting - ready
        self._drawable[slots] = True
        lost = [slot for slot in set(change.lost) if self._drawable[slot]]
        self._drawable[lost] = False
        self._size[0] += ready - len(lost)
        return slots, lost

    def _batch(self, slots: np.ndarray, weights: np.ndarray) -> Batch:
        """The transitions of these slots (B,).

        R = Σ_{k<m} γ^k r_{t+k+1}, discount γ^m. m = n, or fewer if the episode ended before. The discount is 0
        if the episode was terminated there."""
        store = self.store
        returns = np.zeros(len(slots))
        discounts = np.ones(len(slots))
        current, going = slots, np.ones(len(slots), np.bool_)
        for _ in range(self.n_step):
            returns += np.where(going, discounts * store.rewards[current], 0)
            terminated = store.terminated[current]
            discounts *= np.where(going, np.where(terminated, 0, self.gamma), 1)
            ended = terminated | store.truncated[current]
            current = np.where(going & ~terminated, store.following(current), current)
            going = going & ~ended
        return Batch(
            slots=store.stacks(slots),
            next_slots=store.stacks(current),
            actions=store.actions[slots].astype(np.int64),
            returns=returns.astype(np.float32),
            discounts=discounts.astype(np.float32),
            weights=weights,
            times=store.times[slots],
        )
