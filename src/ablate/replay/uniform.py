"""Replay that draws all transitions with the same probability (Mnih et al. 2015)."""

from __future__ import annotations

import numpy as np

from ablate.replay.transitions import Replay
from ablate.types import Batch


class UniformReplay(Replay):
    """Draws every drawable transition with the same probability; draws are independent."""

    def sample(self, batch_size: int, beta: float = 1.0) -> Batch:
        """All weights are 1, whatever β is: uniform sampling has no bias to correct."""
        if not len(self):
            raise ValueError("no transition can be drawn yet")
        return self._batch(self._draw(batch_size), np.ones(batch_size, np.float32))

    def update(self, batch: Batch, td_errors: np.ndarray) -> None:
        """Does nothing: TD errors do not change the probabilities."""

    def _note(self, env_index: int, td_error: float | None) -> None:
        """Does nothing, for the same reason."""

    def _draw(self, batch_size: int) -> np.ndarray:
        """Draw from all slots in use and keep the first drawable ones, so each of these is equally likely."""
        filled, environments, length = self.store.filled, self.store.environments, self.store.ring_length
        slots = np.empty(0, np.int64)
        while len(slots) < batch_size:
            # 25 % more than needed: usually one pass is enough. Only numbers in [0, 1): kernels draw those in advance.
            points = self._rng.random(batch_size + batch_size // 4)
            drawn = (points * (environments * filled)).astype(np.int64)
            drawn += drawn // filled * (length - filled)
            slots = np.concatenate([slots, drawn[self._drawable[drawn]]])
        return slots[:batch_size]
