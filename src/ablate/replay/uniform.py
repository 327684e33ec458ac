"""Replay that draws all transitions alike (Mnih et al. 2015)."""

from __future__ import annotations

import numpy as np

from ablate.replay.transitions import Replay
from ablate.types import Batch


class UniformReplay(Replay):
    """Every drawable transition with the same probability, each draw by itself."""

    def sample(self, batch_size: int, beta: float = 1.0) -> Batch:
        """Weights are ones: there is nothing to correct, whatever β."""
        if not self._size:
            raise ValueError("no transition can be drawn yet")
        return self._batch(self._draw(batch_size), np.ones(batch_size, np.float32))

    def update(self, batch: Batch, td_errors: np.ndarray) -> None:
        """Nothing: an error makes no transition likelier."""

    def _note(self, lane: int, td_error: float | None) -> None:
        """Nothing, likewise."""

    def _draw(self, batch_size: int) -> np.ndarray:
        """Of slots drawn from all in use, the first that are drawable: each of these is as likely as the other."""
        filled, lanes, length = self.store.filled, self.store.lanes, self.store.lane_length
        slots = np.empty(0, np.int64)
        while len(slots) < batch_size:
            drawn = self._rng.integers(lanes * filled, size=batch_size + batch_size // 4)  # mostly enough at once
            drawn += drawn // filled * (length - filled)
            slots = np.concatenate([slots, drawn[self._drawable[drawn]]])
        return slots[:batch_size]
