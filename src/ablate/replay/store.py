"""Frames of a replay, each stored once, in a ring for each environment, and the steps taken between them."""

from __future__ import annotations

import os
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ablate.types import ProcessState

# What is stored of each frame beside it. `ages` counts the frames of its episode before it, up to S - 1.
_COLUMNS = {
    "actions": "int32",
    "rewards": "float32",
    "terminated": "bool",
    "truncated": "bool",
    "ages": "uint8",
    "times": "int64",
}


def store_bytes(capacity: int, frame_shape: tuple[int, ...], dtype: str) -> int:
    """What a store of so many frames takes, all allocated at its start (in memory, or frames in a file)."""
    frame = prod(frame_shape) * np.dtype(dtype).itemsize
    return capacity * (frame + sum(np.dtype(column).itemsize for column in _COLUMNS.values()))


def smallest_capacity(lanes: int, stack: int, n_step: int) -> int:
    """Below it, frames would be overwritten before all steps of a transition are there."""
    return lanes * (2 * stack + n_step + 1)


class Change(NamedTuple):
    """What a call has done to a lane."""

    last: int  # slot of the last step taken in it
    ended: bool  # no step follows on that one
    lost: list[int]  # slots whose stack of frames is no longer whole; some may come twice


class FrameStore:
    """A ring of `capacity` frames in `lanes` equal parts, one for each environment.

    A slot holds a frame s_t and the step taken from it: a_t, r_{t+1}, and whether the episode was terminated or
    truncated there. The next frame of the episode lies in the lane's next slot. Some slots hold frames alone: the older
    frames of an episode's first observation, the last frame of a truncated episode, and the newest of one under way.

    frame_shape: (H, W) uint8 with a stack of S of them an observation; or (size,) float32, a stack of one.
    file: where frames are to lie instead of memory. It has no name there: it goes when the process ends, however.
    Raises ValueError for a capacity below `smallest_capacity`, OSError if the file finds no room."""

    def __init__(
        self,
        capacity: int,
        lanes: int,
        stack: int,
        frame_shape: tuple[int, ...],
        dtype: str,
        file: Path | None = None,
    ) -> None:
        if capacity < (least := smallest_capacity(lanes, stack, 1)):
            raise ValueError(f"capacity={capacity}: {lanes} lanes of stacks of {stack} need {least} frames or more")
        self.stack, self.lanes = stack, lanes
        self.lane_length = capacity // lanes
        rows = lanes * self.lane_length
        shape = (rows, *frame_shape)
        self.frames = np.empty(shape, dtype) if file is None else _in_file(shape, np.dtype(dtype), file)
        columns: list[np.ndarray] = [np.zeros(rows, column) for column in _COLUMNS.values()]
        self.actions, self.rewards, self.terminated, self.truncated, self.ages, self.times = columns
        self.steps = 0  # taken in all lanes so far
        self._heads = [0] * lanes  # where a lane's next frame goes, counted from the lane's start
        self._filled = [0] * lanes  # slots in use
        self._taken = [-1] * lanes  # steps of the episode under way; -1: there is none
        self._back = np.arange(stack - 1, -1, -1)  # frames of a stack are so many before its newest

    @property
    def nbytes(self) -> int:
        return self.frames.nbytes + sum(getattr(self, column).nbytes for column in _COLUMNS)

    @property
    def filled(self) -> int:
        """Slots in use of the lane that has most: they are its first."""
        return max(self._filled)

    def start(self, lane: int, observation: np.ndarray) -> Change:
        """An episode begins with this observation (S, H, W) or (size,). One under way ends there, as if truncated.

        Frames that repeat the one after them, from the oldest on, stand for what is missing: they are not stored."""
        last = self._before_head(lane, 2)
        if self._taken[lane] > 0:
            self.truncated[last] = True
        frames = self._frames_of(observation)
        first = 0
        while first < self.stack - 1 and np.array_equal(frames[first], frames[first + 1]):
            first += 1
        lost = []
        for age, frame in enumerate(frames[first:]):
            lost += self._write(lane, frame, age)
        self._taken[lane] = 0
        return Change(last, True, lost)

    def add(
        self, lane: int, action: int, reward: float, terminated: bool, truncated: bool, observation: np.ndarray
    ) -> Change:
        """The step taken from the lane's newest frame, and the whole observation that it led to.

        Only its newest frame is stored, and none of a terminal one. Raises ValueError if no episode has started."""
        if self._taken[lane] < 0:
            raise ValueError(f"lane {lane}: a step without an episode; start comes first")
        slot = self._before_head(lane, 1)
        self.steps += 1
        self.actions[slot] = action
        self.rewards[slot] = reward
        self.terminated[slot] = terminated
        self.truncated[slot] = truncated and not terminated
        self.times[slot] = self.steps
        age = min(int(self.ages[slot]) + 1, self.stack - 1)
        lost = [] if terminated else self._write(lane, self._frames_of(observation)[-1], age)
        ended = terminated or truncated
        self._taken[lane] = -1 if ended else self._taken[lane] + 1
        return Change(slot, ended, lost)

    def following(self, slots: np.ndarray, count: int | np.ndarray = 1) -> np.ndarray:
        """The slots `count` further in their lanes."""
        lane_starts = slots - slots % self.lane_length
        return lane_starts + (slots + count - lane_starts) % self.lane_length

    def stacks(self, slots: np.ndarray) -> np.ndarray:
        """(B,) -> (B, S): the slots of the frames of the observations whose newest frame is there, oldest first."""
        back = np.minimum(self._back, self.ages[slots][:, np.newaxis])
        return self.following(slots[:, np.newaxis], -back)

    def gather(self, slots: np.ndarray, out: np.ndarray, table: np.ndarray | None) -> None:
        """Observations (B, S) of slots, written to `out`: the one copy between the store and a network.

        Images: out (B, H, W, S), out[b, y, x, s] = table[frames[slots[b, s], y, x]], table (256,) of out's dtype.
        Vectors: out (B, size), and no table."""
        if table is None:
            np.take(self.frames, slots[:, -1], axis=0, out=out, mode="clip")  # "raise" would copy through a buffer
            return
        from ablate.replay.gather import gather  # compiled: vectors do without

        batch, stack = slots.shape
        gather(self.frames.reshape(len(self.frames), -1), slots, table, out.reshape(batch, -1, stack))

    def state(self) -> ProcessState:
        """What is in use, for `restore`: views of the arrays, which change with the next call."""
        values = {"steps": self.steps, "heads": [*self._heads], "filled": [*self._filled], "taken": [*self._taken]}
        return ProcessState(values, {f"replay.{name}": used for name, used in self._used().items()})

    def restore(self, state: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        """What `state` gave, into a new store of the same sizes."""
        self.steps = state["steps"]
        self._heads, self._filled, self._taken = [*state["heads"]], [*state["filled"]], [*state["taken"]]
        for name, used in self._used().items():
            used[...] = tensors[f"replay.{name}"]

    def used(self, column: np.ndarray) -> np.ndarray:
        """(slots, ...) -> (lanes, filled, ...): the part in use of an array with a row a slot, a view."""
        return column.reshape(self.lanes, self.lane_length, *column.shape[1:])[:, : self.filled]

    def _used(self) -> dict[str, np.ndarray]:
        return {name: self.used(getattr(self, name)) for name in ("frames", *_COLUMNS)}

    def _frames_of(self, observation: np.ndarray) -> np.ndarray:
        """(S, H, W), or (1, size)."""
        return observation.reshape(self.stack, *self.frames.shape[1:])

    def _before_head(self, lane: int, count: int) -> int:
        """The slot that was written last in the lane (1), the one before (2), ..."""
        return lane * self.lane_length + (self._heads[lane] - count) % self.lane_length

    def _write(self, lane: int, frame: np.ndarray, age: int) -> list[int]:
        """Store the lane's next frame. The slots whose stacks contained what was there before."""
        head, start = self._heads[lane], lane * self.lane_length
        lost = []
        if self._filled[lane] == self.lane_length:
            behind = [start + (head + k) % self.lane_length for k in range(self.stack)]
            lost = [slot for k, slot in enumerate(behind) if self.ages[slot] >= k]
        slot = start + head
        self.frames[slot] = frame
        self.ages[slot] = age
        self.terminated[slot] = self.truncated[slot] = False
        self._heads[lane] = (head + 1) % self.lane_length
        self._filled[lane] = min(self._filled[lane] + 1, self.lane_length)
        return lost


def _in_file(shape: tuple[int, ...], dtype: np.dtype, path: Path) -> np.ndarray:
    """An array in a file that has no name any more: its room is given back when the process ends.

    All of the room is taken now. A page without room on the disk would later end the process by a signal (SIGBUS)."""
    with path.open("wb+") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, prod(shape) * dtype.itemsize)
            return np.asarray(np.memmap(file, dtype, "r+", shape=shape))  # kernels know plain arrays best
        finally:
            path.unlink()
