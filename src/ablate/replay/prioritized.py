"""Proportional prioritized replay (Schaul et al. 2016)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ablate.config.choices import DrawKind, NewPriority, WeightNorm
from ablate.config.schema import PrioritizedConfig
from ablate.replay.fenwick import FenwickTree
from ablate.replay.store import Change, FrameStore
from ablate.replay.transitions import Replay
from ablate.schedules import linear
from ablate.types import Batch, ProcessState


class PrioritizedReplay(Replay):
    """Draws transition i with probability P(i) = p_i^α / Σ_k p_k^α, p_i = |δ_i| + ε (eq. 1, section 3.3).

    δ_i is the TD error of the last update that used transition i. Before its first update, p_i^α is the largest one so
    far (initially 1), or it is computed from the TD error of the transition's first step (replay.new_priority).

    first_half_only reproduces the defect of source report S3. Its tree never updates the root, so every search goes to
    the root's left child. Only transitions in the first half of the slots are drawn, with P(i) proportional to p_i^α
    among them. Transitions in the second half are stored and overwritten as usual, but never drawn."""

    learns_from_errors = True

    def __init__(
        self, store: FrameStore, config: PrioritizedConfig, n_step: int, gamma: float, rng: np.random.Generator
    ) -> None:
        super().__init__(store, n_step, gamma, rng)
        self._config = config
        slots = len(self._drawable)
        self._tree = FenwickTree(slots)  # p^α of drawable transitions, 0 elsewhere
        self._reach = slots // 2 if config.first_half_only else slots  # only slots before this one are drawn
        self._max_priority = np.ones(1)
        # TD errors of steps whose transitions are not drawable yet, if they become priorities
        self._errors = np.zeros(slots if config.wants_td_errors else 0)

    def beta(self, step: int) -> float:
        """β after `step` steps: linear from beta_start to beta_end (section 3.4)."""
        return linear(self._config.beta_start, self._config.beta_end, self._config.beta_steps, step)

    def sample(self, batch_size: int, beta: float = 1.0) -> Batch:
        """The weights are w_i = (N P(i))^-β (section 3.4), N = len(self), normalised according to replay.weights."""
        total = self._tree.prefix(self._reach)
        if not total > 0:
            raise ValueError("no transition can be drawn yet")
        points = self._rng.random(batch_size)
        if self._config.draws == DrawKind.stratified:  # one from each of B parts of equal probability
            points = (points + np.arange(batch_size)) / batch_size
        slots = self._tree.find(points * total, self._reach)
        probabilities = self._tree.priorities[slots] / total
        weights = (len(self) * probabilities) ** -beta
        if self._config.weights == WeightNorm.max:
            weights /= weights.max()
        elif self._config.weights == WeightNorm.mean:
            weights /= weights.mean()
        return self._batch(slots, weights.astype(np.float32))

    def update(self, batch: Batch, td_errors: np.ndarray) -> None:
        """Set p = |δ| + ε, δ (B,), for those transitions of a sampled batch that are still in the replay.

        Raises ValueError for an error that is not finite."""
        slots = batch.slots[:, -1]
        is_same = self._drawable[slots] & (self.store.times[slots] == batch.times)
        self._set(slots[is_same], self._priorities(td_errors[is_same]))

    def arrays(self) -> dict[str, np.ndarray]:
        own = {"priorities": self._tree.priorities, "sums": self._tree.sums}
        return {**super().arrays(), **own, "max_priority": self._max_priority, "errors": self._errors}

    def state(self) -> ProcessState:
        replay = super().state()
        waiting = map(self._waiting_slots, range(self.store.environments))
        errors = [self._errors[slots].tolist() if len(self._errors) else [] for slots in waiting]
        values = {**replay.state, "max_priority": float(self._max_priority[0]), "errors": errors}
        priorities = self.store.used(self._tree.priorities)
        return ProcessState(values, {**replay.tensors, "replay.priorities": priorities})

    def restore(self, state: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        super().restore(state, tensors)
        self._max_priority[:] = state["max_priority"]
        if len(self._errors):
            for env_index, errors in enumerate(state["errors"]):
                self._errors[self._waiting_slots(env_index)] = errors
        priorities = np.zeros(len(self._drawable))
        self.store.used(priorities)[...] = tensors["replay.priorities"]
        self._tree.update(np.arange(len(priorities)), priorities)

    def _apply(self, env_index: int, change: Change) -> tuple[np.ndarray, list[int]]:
        slots, lost = super()._apply(env_index, change)
        if self._config.new_priority == NewPriority.max:
            new = np.full(len(slots), self._max_priority[0])
        else:
            new = self._priorities(self._errors[slots])
        self._set(np.append(slots, lost).astype(np.int64), np.append(new, np.zeros(len(lost))))
        return slots, lost

    def _note(self, env_index: int, td_error: float | None) -> None:
        if self._config.new_priority == NewPriority.td_error:
            if td_error is None:
                raise ValueError("replay.new_priority=td_error: each step needs its TD error")
            self._errors[self.store.newest(env_index)] = td_error

    def _waiting_slots(self, env_index: int) -> np.ndarray:
        """The slots of steps whose transitions are not drawable yet, oldest first."""
        newest = np.array([self.store.newest(env_index)])
        return self.store.following(newest, -np.arange(self._waiting[env_index], 0, -1))

    def _priorities(self, td_errors: np.ndarray) -> np.ndarray:
        """(|δ| + ε)^α in float64."""
        return (np.abs(td_errors, dtype=np.float64) + self._config.priority_eps) ** self._config.alpha

    def _set(self, slots: np.ndarray, priorities: np.ndarray) -> None:
        self._tree.update(slots, priorities)
        self._max_priority[0] = priorities.max(initial=self._max_priority[0])
