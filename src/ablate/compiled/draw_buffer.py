"""Random numbers that are drawn in advance: a kernel reads from a buffer what Python would have drawn one by one.

So all backends use the same numbers from the same stream, and a stream can be saved at its current position."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ablate.seeding import restore, state_of


class DrawBuffer:
    """The random stream of one worker, with a buffer.

    buffer: (N,) float64, which kernels read. used: (1,) int64, how many numbers kernels have used. draw(n) returns the
    next n numbers of `rng`."""

    def __init__(
        self, rng: np.random.Generator, draw: Callable[[int], np.ndarray], buffer: np.ndarray, used: np.ndarray
    ) -> None:
        self._rng, self._draw, self._buffer, self._used = rng, draw, buffer, used
        used[0] = len(buffer)
        # (index in the buffer, state of the generator before the number at that index)
        self._states = [(len(buffer), state_of(rng))]

    def refill(self) -> None:
        """Move unused numbers to the front and draw new ones for the rest of the buffer."""
        used, size = int(self._used[0]), len(self._buffer)
        if used == 0:
            return
        kept = [(index, state) for index, state in self._states if index > used]
        before = [item for item in self._states if item[0] <= used][-1]
        self._states = [(index - used, state) for index, state in [before, *kept]]
        self._buffer[: size - used] = self._buffer[used:].copy()
        self._states.append((size - used, state_of(self._rng)))
        self._buffer[size - used :] = self._draw(used)
        self._used[0] = 0

    def settle(self) -> None:
        """Set the generator to its state after the last used number, as if numbers had been drawn one by one."""
        used = int(self._used[0])
        index, state = [item for item in self._states if item[0] <= used][-1]
        restore(self._rng, state)
        self._draw(used - index)
        self._used[0] = len(self._buffer)
        self._states = [(len(self._buffer), state_of(self._rng))]
