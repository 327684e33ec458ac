"""Prioritized replay, proportional (Schaul et al. 2016)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ablate.config.choices import Draws, NewPriority, WeightNorm
from ablate.config.schema import PrioritizedConfig
from ablate.replay.fenwick import FenwickTree
from ablate.replay.store import Change, FrameStore
from ablate.replay.transitions import Replay
from ablate.types import Batch, ProcessState


class PrioritizedReplay(Replay):
    """Transition i with probability P(i) = p_i^α / Σ_k p_k^α, p_i = |δ_i| + ε (eq. 1, section 3.3).

    δ is the TD error when the transition was last learned from; before, p^α is the largest so far (1 at first), or
    made from the error of its first step.

    first_half_only: the defect of S3's report. Its tree's root is never updated, so every descent goes to the left at
    once. Transitions in the first half of the slots are drawn, with P(i) in proportion to p_i^α among them, and those
    in the second half never; they are stored, and overwritten, all the same."""

    learns_from_errors = True

    def __init__(
        self, store: FrameStore, config: PrioritizedConfig, n_step: int, gamma: float, rng: np.random.Generator
    ) -> None:
        super().__init__(store, n_step, gamma, rng)
        self._config = config
        slots = len(self._drawable)
        self._tree = FenwickTree(slots)  # p^α of drawable transitions, 0 elsewhere
        self._reach = slots // 2 if config.first_half_only else slots  # slots that are drawn from
        self._max_priority = 1.0
        self._errors: list[list[float]] = [[] for _ in range(store.lanes)]  # of the steps that wait

    def sample(self, batch_size: int, beta: float = 1.0) -> Batch:
        """Weights w_i = (N P(i))^-β (section 3.4), N = len(self), normalised as configured."""
        total = self._tree.prefix(self._reach)
        if not total > 0:
            raise ValueError("no transition can be drawn yet")
        points = self._rng.random(batch_size)
        if self._config.draws == Draws.stratified:  # one from each of B parts of equal probability
            points = (points + np.arange(batch_size)) / batch_size
        slots = self._tree.find(points * total, self._reach)
        probabilities = self._tree.priorities[slots] / total
        weights = (self._size * probabilities) ** -beta
        if self._config.weights == WeightNorm.max:
            weights /= weights.max()
        elif self._config.weights == WeightNorm.mean:
            weights /= weights.mean()
        return self._batch(slots, weights.astype(np.float32))

    def update(self, batch: Batch, td_errors: np.ndarray) -> None:
        """Learned from: p = |δ| + ε for what is still there of the batch that `sample` gave, δ (B,).

        Raises ValueError for an error that is not finite."""
        slots = batch.slots[:, -1]
        there = self._drawable[slots] & (self.store.times[slots] == batch.times)
        self._set(slots[there], self._priorities(td_errors[there]))

    def state(self) -> ProcessState:
        replay = super().state()
        values = {**replay.state, "max_priority": self._max_priority, "errors": [[*lane] for lane in self._errors]}
        priorities = self.store.used(self._tree.priorities)
        return ProcessState(values, {**replay.tensors, "replay.priorities": priorities})

    def restore(self, state: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        super().restore(state, tensors)
        self._max_priority, self._errors = state["max_priority"], [[*lane] for lane in state["errors"]]
        priorities = np.zeros(len(self._drawable))
        self.store.used(priorities)[...] = tensors["replay.priorities"]
        self._tree.update(np.arange(len(priorities)), priorities)

    def _apply(self, lane: int, change: Change) -> tuple[np.ndarray, list[int]]:
        slots, lost = super()._apply(lane, change)
        if self._config.new_priority == NewPriority.max:
            new = np.full(len(slots), self._max_priority)
        else:
            errors, self._errors[lane] = self._errors[lane][: len(slots)], self._errors[lane][len(slots) :]
            new = self._priorities(np.array(errors))
        self._set(np.append(slots, lost).astype(np.int64), np.append(new, np.zeros(len(lost))))
        return slots, lost

    def _note(self, lane: int, td_error: float | None) -> None:
        if self._config.new_priority == NewPriority.td_error:
            if td_error is None:
                raise ValueError("new_priority=td_error: a step needs its TD error")
            self._errors[lane].append(float(td_error))

    def _priorities(self, td_errors: np.ndarray) -> np.ndarray:
        """(|δ| + ε)^α in float64."""
        return (np.abs(td_errors, dtype=np.float64) + self._config.priority_eps) ** self._config.alpha

    def _set(self, slots: np.ndarray, priorities: np.ndarray) -> None:
        self._tree.update(slots, priorities)
        self._max_priority = max(self._max_priority, float(priorities.max(initial=0)))
