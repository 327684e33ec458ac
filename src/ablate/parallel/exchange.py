"""What an actor process and its learner hand each other: the order for a block of steps, and what came of it.

A block is asked for, and while it is under way the learner may read its parameters but not change them before the actor
has copied them. So the same blocks are acted with the same parameters every time, however fast either of them is."""

from __future__ import annotations

import ctypes
import time
from math import prod
from typing import Any

from ablate.parallel.shared import SharedArray
from ablate.types import EnvSpec, Experience

POLL_S = 0.0001
# What an Experience holds beside observations and starts, by field.
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
    """Travels to both processes when they are spawned. steps, envs: of a block."""

    def __init__(self, spec: EnvSpec, steps: int, envs: int) -> None:
        self._shapes: dict[str, tuple[int, ...]] = dict.fromkeys(_CTYPES, (steps, envs))
        self._shapes |= dict.fromkeys(("observations", "starts"), (steps, envs, *spec.observation_shape))
        self._shapes["firsts"] = (envs, *spec.observation_shape)
        pixels = ctypes.c_uint8 if spec.observation_dtype == "uint8" else ctypes.c_float
        self._arrays = {
            name: SharedArray.allocate(_CTYPES.get(name, pixels), prod(shape)) for name, shape in self._shapes.items()
        }
        # blocks asked for, parameters copied for, done; states asked for; whether no more will be asked for; and the
        # step at which the block that is asked for begins
        self._control = SharedArray.allocate(ctypes.c_int64, 6)

    def experience(self) -> Experience:
        """The shared memory itself, where the last block lies."""
        arrays = {name: array.view().reshape(self._shapes[name]) for name, array in self._arrays.items()}
        return Experience(**arrays)

    # The learner's side.

    def ask(self, step: int) -> None:
        """Have the next block acted, whose first step is number `step`."""
        self._control.numbers[5] = step
        self._control.numbers[0] += 1

    @property
    def begun(self) -> bool:
        """Whether a block was ever asked for."""
        return self._control.numbers[0] > 0

    @property
    def copied(self) -> bool:
        """Whether the actor has its own copy of the parameters for the block that was asked for last."""
        return self._control.numbers[1] == self._control.numbers[0]

    @property
    def done(self) -> bool:
        """Whether the block that was asked for last is there."""
        return self._control.numbers[2] == self._control.numbers[0]

    def ask_state(self) -> None:
        """Have the actor send its state to the parent once its block is done."""
        self._control.numbers[3] += 1

    def close(self) -> None:
        """No more will be asked for, once what was asked for is done."""
        self._control.numbers[4] = 1

    # The actor's side.

    @property
    def asked(self) -> bool:
        return self._control.numbers[2] < self._control.numbers[0]

    @property
    def step(self) -> int:
        return self._control.numbers[5]

    def note_copied(self) -> None:
        self._control.numbers[1] = self._control.numbers[0]

    def note_done(self) -> None:
        self._control.numbers[2] = self._control.numbers[0]

    def restore(self, block: Experience) -> None:
        """Put a block there that was done before a resume."""
        for array, saved in zip(self.experience(), block, strict=True):
            array[...] = saved
        for blocks in range(3):
            self._control.numbers[blocks] = 1

    @property
    def states_asked(self) -> int:
        return self._control.numbers[3]

    @property
    def closed(self) -> bool:
        return bool(self._control.numbers[4])


def wait() -> None:
    """A moment, for a loop that waits for the other side."""
    time.sleep(POLL_S)
