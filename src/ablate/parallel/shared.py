"""What the processes of a run share: parameters, the optimizer's statistics, counters, commands and heartbeats.

The shared memory is anonymous (`RawArray` unlinks its file at once), so nothing is left in /dev/shm if a process is
killed. Torch and numpy use views of the same bytes; this module does not import torch."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import time
from enum import IntEnum
from typing import Any

import numpy as np

from ablate.types import Counters

LOCK_TIMEOUT_S = 30.0
LINE = 128  # bytes: processors fetch pairs of cache lines, so no two arrays share a pair
# Indices of SharedState's control array. Pauses are counted.
COMMAND, PAUSES_ASKED, PAUSES_RELEASED = range(3)


class Command(IntEnum):
    """What the parent wants the processes to do."""

    run = 0
    stop = 1  # training processes: send the last state and end; the test process waits for one of the next two
    finish = 2  # test process: one last evaluation, then end
    abandon = 3  # test process: end at once


class SharedArray:
    """Numbers in anonymous shared memory, on cache lines of their own. It can be sent to a process that is spawned.

    numbers: a ctypes array, which is fast to index. `view` returns a numpy array of the same memory."""

    def __init__(self, memory: ctypes.Array, start: int, ctype: Any, count: int) -> None:
        self._arguments = memory, start, ctype, count
        self.numbers = (ctype * count).from_buffer(memory, start)

    @classmethod
    def allocate(cls, ctype: Any, count: int) -> SharedArray:
        memory = multiprocessing.get_context("spawn").RawArray(ctypes.c_byte, ctypes.sizeof(ctype) * count + 2 * LINE)
        return cls(memory, -ctypes.addressof(memory) % LINE, ctype, count)

    def __reduce__(self) -> tuple[Any, ...]:
        return SharedArray, self._arguments

    def view(self) -> np.ndarray:
        return np.frombuffer(self.numbers, np.dtype(self._arguments[2]))

    def holds(self, address: int) -> bool:
        return 0 <= address - ctypes.addressof(self.numbers) < ctypes.sizeof(self.numbers)


class SharedState:
    """The state that a run's processes share, sent to them when they are spawned. Each makes its own `*_view`s.

    size: number of parameters. statistics: number of vectors that the optimizer keeps. processes: number of heartbeats.
    workers: number of running normalisations; they stay zero if observations are not normalised."""

    def __init__(self, size: int, statistics: int, processes: int, workers: int = 1) -> None:
        self._parameters = SharedArray.allocate(ctypes.c_float, size)
        self._statistics = [SharedArray.allocate(ctypes.c_float, size) for _ in range(statistics)]
        self._normalisations = SharedArray.allocate(ctypes.c_double, 3 * workers)
        self._counters = SharedArray.allocate(ctypes.c_int64, len(Counters._fields))
        self._control = SharedArray.allocate(ctypes.c_int64, 3)
        self._heartbeats = SharedArray.allocate(ctypes.c_double, processes)
        self._spin_lock = SharedArray.allocate(ctypes.c_int64, 1)  # the same purpose as update_lock, for kernels
        self._counter_lock = TokenLock()
        self.update_lock = TokenLock()  # held by a worker during its update if algo.lock_updates=true
        self.started = time.monotonic()  # the monotonic clock is the same for all processes of a machine
        # The clock of training. Above 0: it runs, and would have shown 0 s at this time. Else: it stands at -value s.
        self._clock = SharedArray.allocate(ctypes.c_double, 1)
        self._compilation = SharedArray.allocate(ctypes.c_int64, 1)
        self.elapsed_before = 0.0  # seconds of training before this start of the run

    def parameters_view(self) -> np.ndarray:
        """(P,) float32, the shared memory itself."""
        return self._parameters.view()

    def statistics_views(self) -> list[np.ndarray]:
        return [array.view() for array in self._statistics]

    def normalisation_view(self) -> np.ndarray:
        """(workers, 3) float64: mean, std and count of each worker's running normalisation, written by it alone."""
        return self._normalisations.view().reshape(-1, 3)

    def counters_view(self) -> np.ndarray:
        """(3,) int64, the counters themselves: kernels add to them atomically, without the lock."""
        return self._counters.view()

    def spin_lock_view(self) -> np.ndarray:
        """(1,) int64."""
        return self._spin_lock.view()

    def holds(self, address: int) -> bool:
        """Whether this address is in the shared parameters or statistics, to check that a view is no copy."""
        return any(array.holds(address) for array in (self._parameters, *self._statistics))

    def begin(self) -> None:
        """Note that a rollout starts: the clock of training runs. Imports and compilation do not count."""
        clock = self._clock.numbers[0]
        if clock <= 0.0:  # several workers may come here at once
            self._clock.numbers[0] = clock + time.monotonic()

    def hold(self) -> None:
        """Stop the clock of training until the next rollout. Only for a process that trains alone."""
        if self._clock.numbers[0] > 0.0:
            self._clock.numbers[0] -= time.monotonic()

    @property
    def began(self) -> bool:
        return self._clock.numbers[0] != 0.0

    def note_compilation(self) -> None:
        """Note that a process compiles kernels, so its start takes longer."""
        self._compilation.numbers[0] = 1

    @property
    def compiles(self) -> bool:
        return bool(self._compilation.numbers[0])

    def wall_time_s(self) -> float:
        """Seconds of training since the run's first start, without those between a stop and a resume.

        With schedule=interleaved the clock stands during evaluations. With async they run next to training."""
        clock = self._clock.numbers[0]
        return self.elapsed_before + (time.monotonic() - clock if clock > 0.0 else -clock)

    # Counters: all three change together, under a lock that is held for a microsecond.

    def counters(self) -> Counters:
        return Counters(*self._counters.numbers)

    def set_counters(self, counters: Counters) -> None:
        self._counters.numbers[:] = list(counters)

    def count(self, steps: int, episodes: int, updates: int = 1) -> Counters:
        """Add to the totals and return them: `updates` is the number of this update."""
        with self._counter_lock:
            before = self.counters()
            counters = Counters(before.updates + updates, before.steps + steps, before.episodes + episodes)
            self._counters.numbers[:] = list(counters)
        return counters

    # Commands, and pauses for a consistent checkpoint: the parent requests pause n, each process sends its state and
    # waits until pause n is released. Because pauses are counted, a slow process cannot miss a release.

    @property
    def command(self) -> Command:
        return Command(self._control.numbers[COMMAND])

    @command.setter
    def command(self, command: Command) -> None:
        self._control.numbers[COMMAND] = command

    @property
    def pauses_asked(self) -> int:
        return self._control.numbers[PAUSES_ASKED]

    @property
    def pauses_released(self) -> int:
        return self._control.numbers[PAUSES_RELEASED]

    def ask_pause(self) -> None:
        self._control.numbers[PAUSES_ASKED] += 1

    def release_pause(self) -> None:
        self._control.numbers[PAUSES_RELEASED] = self._control.numbers[PAUSES_ASKED]

    def beat(self, process: int) -> None:
        """Note that this process is alive."""
        self._heartbeats.numbers[process] = time.monotonic()

    def silent_for_s(self, process: int) -> float | None:
        """Seconds since the last heartbeat of a process; None before its first."""
        last = self._heartbeats.numbers[process]
        return time.monotonic() - last if last else None


class TokenLock:
    """A lock between processes: a pipe holds one byte, and the process that has read it holds the lock.

    A named semaphore would stay in /dev/shm if all processes of the run were killed."""

    def __init__(self) -> None:
        self._reader, self._writer = multiprocessing.get_context("spawn").Pipe(duplex=False)
        self.__exit__()

    def __enter__(self) -> None:
        """Raises RuntimeError after LOCK_TIMEOUT_S, because a killed holder would never release the lock."""
        if not self._reader.poll(LOCK_TIMEOUT_S):
            raise RuntimeError(f"a shared lock was not free within {LOCK_TIMEOUT_S} s: its holder died or hangs")
        os.read(self._reader.fileno(), 1)  # waits if another process was faster

    def __exit__(self, *exception: object) -> None:
        os.write(self._writer.fileno(), b"x")
