"""Shared memory between an actor process and its learner: requests for blocks of steps, and the resulting experience.

After the learner requests a block, it may read its parameters, but it changes them only after the actor has copied
them. So in every run, the actor plays each block with the same parameters, however fast either process is."""

from __future__ import annotations

import ctypes
import time
from math import prod
from typing import Any

from ablate.parallel.shared import SharedArray
from ablate.types import EnvSpec, Experience

POLL_S = 0.0001
# Indices of the control array. The first three count blocks.
BLOCKS_ASKED, BLOCKS_COPIED, BLOCKS_DONE, STATES_ASKED, CLOSED, FIRST_STEP = range(6)
N_CONTROLS = 6
# Types of the fields of Experience, apart from observations, starts and firsts.
_CTYPES: dict[str, Any] = {
    "actions": ctypes.c_int64,
    "rewards": ctypes.c_float,
    "terminated": ctypes.c_bool,
    "truncated": ctypes.c_bool,
    "td_errors": ctypes.c_float,
    "returns": ctypes.c_double,
    "lengths": ctypes.c_int64,
    "cut": ctypes.c_bool,
}


class Exchange:
    """The shared memory itself, sent to both processes when they are spawned. steps, envs: the size of a block."""

    def __init__(self, spec: EnvSpec, steps: int, envs: int) -> None:
        self._shapes: dict[str, tuple[int, ...]] = dict.fromkeys(_CTYPES, (steps, envs))
        self._shapes |= dict.fromkeys(("observations", "starts"), (steps, envs, *spec.observation_shape))
        self._shapes["firsts"] = (envs, *spec.observation_shape)
        pixels = ctypes.c_uint8 if spec.observation_dtype == "uint8" else ctypes.c_float
        self._arrays = {
            name: SharedArray.allocate(_CTYPES.get(name, pixels), prod(shape)) for name, shape in self._shapes.items()
        }
        self._control = SharedArray.allocate(ctypes.c_int64, N_CONTROLS)

    def experience(self) -> Experience:
        """The shared memory itself, which holds the last block."""
        arrays = {name: array.view().reshape(self._shapes[name]) for name, array in self._arrays.items()}
        return Experience(**arrays)

    # The learner's side.

    def ask(self, step: int) -> None:
        """Request the next block, whose first step is number `step`."""
        self._control.numbers[FIRST_STEP] = step
        self._control.numbers[BLOCKS_ASKED] += 1

    @property
    def begun(self) -> bool:
        """Whether a block was ever requested."""
        return self._control.numbers[BLOCKS_ASKED] > 0

    @property
    def copied(self) -> bool:
        """Whether the actor has its own copy of the parameters for the last block that was requested."""
        return self._control.numbers[BLOCKS_COPIED] == self._control.numbers[BLOCKS_ASKED]

    @property
    def done(self) -> bool:
        """Whether the last block that was requested is complete."""
        return self._control.numbers[BLOCKS_DONE] == self._control.numbers[BLOCKS_ASKED]

    def ask_state(self) -> None:
        """Request that the actor sends its state to the parent after its block."""
        self._control.numbers[STATES_ASKED] += 1

    def close(self) -> None:
        """Announce that no more requests follow: the actor completes the requested block and ends."""
        self._control.numbers[CLOSED] = 1

    # The actor's side.

    @property
    def asked(self) -> bool:
        """Whether a requested block is not done yet."""
        return self._control.numbers[BLOCKS_DONE] < self._control.numbers[BLOCKS_ASKED]

    @property
    def step(self) -> int:
        """The number of the first step of the requested block."""
        return self._control.numbers[FIRST_STEP]

    def note_copied(self) -> None:
        """Note that the actor has copied the parameters for the requested block."""
        self._control.numbers[BLOCKS_COPIED] = self._control.numbers[BLOCKS_ASKED]

    def note_done(self) -> None:
        """Note that the requested block is complete."""
        self._control.numbers[BLOCKS_DONE] = self._control.numbers[BLOCKS_ASKED]

    def restore(self, block: Experience) -> None:
        """Write a block that was complete before a resume. Raises ValueError if an array has another shape."""
        for array, saved in zip(self.experience(), block, strict=True):
            if saved.shape != array.shape:
                raise ValueError(f"an array of a block has the shape {saved.shape}; {array.shape} is needed")
            array[...] = saved
        for blocks in (BLOCKS_ASKED, BLOCKS_COPIED, BLOCKS_DONE):
            self._control.numbers[blocks] = 1

    @property
    def states_asked(self) -> int:
        return self._control.numbers[STATES_ASKED]

    @property
    def closed(self) -> bool:
        return bool(self._control.numbers[CLOSED])


def wait() -> None:
    """Sleep for a moment, in a loop that waits for the other process."""
    time.sleep(POLL_S)
