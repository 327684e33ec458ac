"""The frames of a replay and the steps between them. Each frame is stored once, in one ring per environment."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ablate.parallel.machine import reserve
from ablate.types import ProcessState

# What is stored with each frame. `ages`: the number of frames before it in its episode, at most S - 1.
_COLUMNS = {
    "actions": "int32",
    "rewards": "float32",
    "terminated": "bool",
    "truncated": "bool",
    "ages": "uint8",
    "times": "int64",
}


def store_bytes(capacity: int, frame_shape: tuple[int, ...], dtype: str) -> int:
    """The size of a store with this capacity. All of it is allocated at the start (frames may be in a file)."""
    frame = prod(frame_shape) * np.dtype(dtype).itemsize
    return capacity * (frame + sum(np.dtype(column).itemsize for column in _COLUMNS.values()))


def smallest_capacity(environments: int, stack: int, n_step: int) -> int:
    """Below this capacity, frames would be overwritten before a transition has all its steps."""
    return environments * (2 * stack + n_step + 1)


class Change(NamedTuple):
    """What one call changed in one environment's ring."""

    last: int  # slot of the environment's last step
    ended: bool  # the episode ended with that step
    lost: list[int]  # slots whose stack of frames is no longer complete; a slot may occur twice


class FrameStore:
    """Frames of `environments` environments, in rings of equal length. They have at most `capacity` slots.

    A slot holds a frame s_t and the step taken from it: a_t, r_{t+1}, and whether the episode was terminated or
    truncated there. The episode's next frame is in the ring's next slot. Some slots hold only a frame: the older
    frames of an episode's first observation, the last frame of a truncated episode, and an episode's newest frame.

    frame_shape: (H, W) uint8, of which an observation stacks S; or (size,) float32, with a stack of one.
    file: where the frames are stored instead of in memory. Its name is removed at once, so that the file is deleted
    when the process ends.
    Raises ValueError for a capacity below `smallest_capacity`, OSError if the disk has no room for the file."""

    def __init__(
        self,
        capacity: int,
        environments: int,
        stack: int,
        frame_shape: tuple[int, ...],
        dtype: str,
        file: Path | None = None,
    ) -> None:
        if capacity < (least := smallest_capacity(environments, stack, 1)):
            raise ValueError(
                f"capacity={capacity}: {environments} environments with stacks of {stack} need {least} frames or more"
            )
        self.stack, self.environments = stack, environments
        self.ring_length = capacity // environments
        rows = environments * self.ring_length
        shape = (rows, *frame_shape)
        self.frames = np.empty(shape, dtype) if file is None else _in_file(shape, np.dtype(dtype), file)
        columns: list[np.ndarray] = [np.zeros(rows, column) for column in _COLUMNS.values()]
        self.actions, self.rewards, self.terminated, self.truncated, self.ages, self.times = columns
        self._steps = np.zeros(1, np.int64)  # of all environments so far
        self._heads = np.zeros(environments, np.int64)  # position in the ring of the next frame
        self._filled = np.zeros(environments, np.int64)  # slots in use
        self._taken = np.full(environments, -1)  # steps of the current episode; -1: there is none
        self._back = np.arange(stack - 1, -1, -1)  # distance of a stack's frames to its newest

    @property
    def nbytes(self) -> int:
        return self.frames.nbytes + sum(getattr(self, column).nbytes for column in _COLUMNS)

    @property
    def steps(self) -> int:
        """Steps of all environments so far."""
        return int(self._steps[0])

    @property
    def filled(self) -> int:
        """Slots in use in the fullest ring. They are the ring's first slots."""
        return int(self._filled.max())

    def arrays(self) -> dict[str, np.ndarray]:
        """The store's own memory, for kernels; see compiled/q_replay.py."""
        columns = {name: getattr(self, name) for name in ("frames", *_COLUMNS)}
        return {**columns, "steps": self._steps, "heads": self._heads, "filled": self._filled, "taken": self._taken}

    def start(self, env_index: int, observation: np.ndarray) -> Change:
        """Begin an episode with this observation (S, H, W) or (size,). An unfinished episode ends as if truncated.

        If the oldest frames repeat the frame after them, they only pad the stack and are not stored."""
        last = self._before_head(env_index, 2)
        if self._taken[env_index] > 0:
            self.truncated[last] = True
        frames = self._frames_of(observation)
        first = 0
        while first < self.stack - 1 and np.array_equal(frames[first], frames[first + 1]):
            first += 1
        lost = []
        for age, frame in enumerate(frames[first:]):
            lost += self._write(env_index, frame, age)
        self._taken[env_index] = 0
        return Change(last, True, lost)

    def add(
        self, env_index: int, action: int, reward: float, terminated: bool, truncated: bool, observation: np.ndarray
    ) -> Change:
        """Add the step taken from the environment's newest frame, with the observation after it.

        Only the observation's newest frame is stored, and none if the step is terminal.
        Raises ValueError if no episode has started."""
        if self._taken[env_index] < 0:
            raise ValueError(f"environment {env_index}: a step outside an episode; call start first")
        slot = self._before_head(env_index, 1)
        self._steps[0] += 1
        self.actions[slot] = action
        self.rewards[slot] = reward
        self.terminated[slot] = terminated
        self.truncated[slot] = truncated and not terminated
        self.times[slot] = self.steps
        age = min(int(self.ages[slot]) + 1, self.stack - 1)
        lost = [] if terminated else self._write(env_index, self._frames_of(observation)[-1], age)
        ended = terminated or truncated
        self._taken[env_index] = -1 if ended else self._taken[env_index] + 1
        return Change(slot, ended, lost)

    def newest(self, env_index: int) -> int:
        """The slot of the environment's newest frame."""
        return self._before_head(env_index, 1)

    def following(self, slots: np.ndarray, count: int | np.ndarray = 1) -> np.ndarray:
        """The slots `count` positions further in their rings."""
        ring_starts = slots - slots % self.ring_length
        return ring_starts + (slots + count - ring_starts) % self.ring_length

    def stacks(self, slots: np.ndarray) -> np.ndarray:
        """(B,) -> (B, S): the slots of the frames of each observation, oldest first, given its newest frame's slot."""
        back = np.minimum(self._back, self.ages[slots][:, np.newaxis])
        return self.following(slots[:, np.newaxis], -back)

    def gather(self, slots: np.ndarray, out: np.ndarray, table: np.ndarray | None) -> None:
        """Write the observations of slots (B, S) to `out`: the only copy between the store and a network.

        Images: out (B, H, W, S), out[b, y, x, s] = table[frames[slots[b, s], y, x]], table (256,) of out's dtype.
        Vectors: out (B, size), and table is None."""
        if table is None:
            np.take(self.frames, slots[:, -1], axis=0, out=out, mode="clip")  # "raise" would copy through a buffer
            return
        from ablate.replay.gather import gather  # compiled, and not needed for vectors

        batch, stack = slots.shape
        gather(self.frames.reshape(len(self.frames), -1), slots, table, out.reshape(batch, -1, stack))

    def state(self) -> ProcessState:
        """The slots in use, for `restore`: views of the arrays, which the next call may change."""
        numbers = {"heads": self._heads, "filled": self._filled, "taken": self._taken}
        values = {"steps": self.steps, **{name: array.tolist() for name, array in numbers.items()}}
        return ProcessState(values, {f"replay.{name}": used for name, used in self._used().items()})

    def restore(self, state: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        """Load what `state` returned into a new store of the same sizes."""
        self._steps[:] = state["steps"]
        for name, array in (("heads", self._heads), ("filled", self._filled), ("taken", self._taken)):
            array[:] = state[name]
        for name, used in self._used().items():
            used[...] = tensors[f"replay.{name}"]

    def used(self, column: np.ndarray) -> np.ndarray:
        """(slots, ...) -> (environments, filled, ...): a view of the part in use of an array with one row per slot."""
        return column.reshape(self.environments, self.ring_length, *column.shape[1:])[:, : self.filled]

    def _used(self) -> dict[str, np.ndarray]:
        return {name: self.used(getattr(self, name)) for name in ("frames", *_COLUMNS)}

    def _frames_of(self, observation: np.ndarray) -> np.ndarray:
        """(S, H, W), or (1, size)."""
        return observation.reshape(self.stack, *self.frames.shape[1:])

    def _before_head(self, env_index: int, count: int) -> int:
        """The slot that was written last in the environment's ring (1), the one before it (2), ..."""
        return env_index * self.ring_length + (int(self._heads[env_index]) - count) % self.ring_length

    def _write(self, env_index: int, frame: np.ndarray, age: int) -> list[int]:
        """Store the environment's next frame. Returns the slots whose stacks contained the overwritten frame."""
        head, start = int(self._heads[env_index]), env_index * self.ring_length
        lost = []
        if self._filled[env_index] == self.ring_length:
            behind = [start + (head + k) % self.ring_length for k in range(self.stack)]
            lost = [slot for k, slot in enumerate(behind) if self.ages[slot] >= k]
        slot = start + head
        self.frames[slot] = frame
        self.ages[slot] = age
        self.terminated[slot] = self.truncated[slot] = False
        self._heads[env_index] = (head + 1) % self.ring_length
        self._filled[env_index] = min(self._filled[env_index] + 1, self.ring_length)
        return lost


def _in_file(shape: tuple[int, ...], dtype: np.dtype, path: Path) -> np.ndarray:
    """An array in a file whose name is removed, so that its space is freed when the process ends.

    All disk space is reserved now. On a disk that fills up later, a write would kill the process (SIGBUS)."""
    with path.open("wb+") as file:
        try:
            reserve(file.fileno(), prod(shape) * dtype.itemsize)
            return np.asarray(np.memmap(file, dtype, "r+", shape=shape))  # kernels are compiled for plain arrays
        finally:
            path.unlink()
