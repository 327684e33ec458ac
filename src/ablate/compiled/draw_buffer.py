"""Random numbers drawn beforehand: a kernel reads from the buffer what Python would have drawn one by one.

So every backend sees the same numbers from the same stream, and a stream can be saved at the number it has come to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ablate.seeding import restore, state_of


class DrawBuffer:
    """The stream of one worker behind a row of a buffer.

    buffer: (N,) float64, a row that kernels read. used: (1,) int64, how many of them a kernel has used. draw(n): the
    next n numbers of `rng`."""

    def __init__(
        self, rng: np.random.Generator, draw: Callable[[int], np.ndarray], buffer: np.ndarray, used: np.ndarray
    ) -> None:
        self._rng, self._draw, self._buffer, self._used = rng, draw, buffer, used
        used[0] = len(buffer)
        self._states = [(len(buffer), state_of(rng))]  # (place, the generator's state before the number there)

    def refill(self) -> None:
        """Move what is unused to the front and fill the rest."""
        used, size = int(self._used[0]), len(self._buffer)
        if used == 0:
            return
        kept = [(place, state) for place, state in self._states if place > used]
        before = [item for item in self._states if item[0] <= used][-1]
        self._states = [(place - used, state) for place, state in [before, *kept]]
        self._buffer[: size - used] = self._buffer[used:].copy()
        self._states.append((size - used, state_of(self._rng)))
        self._buffer[size - used :] = self._draw(used)
        self._used[0] = 0

    def settle(self) -> None:
        """Put the generator where it would be, had each number been drawn when it was used."""
        used = int(self._used[0])
        place, state = [item for item in self._states if item[0] <= used][-1]
        restore(self._rng, state)
        self._draw(used - place)
        self._used[0] = len(self._buffer)
        self._states = [(len(self._buffer), state_of(self._rng))]
