"""Environments with a fault after a number of steps, each of another kind: `env.id=faulty_envs:Raises-v0`.

With tests/ on PYTHONPATH, gymnasium imports this module by the part of the id before the colon. Arguments, for example
`+env.kwargs.after=300`:
  after         steps of one environment, over all its episodes, before the fault; then every step has it
  process       the fault is only in processes whose name contains this: "worker-1", "test process"; "": in all
  episode_steps length of an episode, which ends by termination
  step_s        seconds that the Slow environment sleeps in a step
With FAULTY_ENVS_DISARMED in the environment variables, no environment has its fault: it is mended, and the run can be
resumed.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

DISARMED = "FAULTY_ENVS_DISARMED"
DAEMON_S = 40.0  # longer than a test waits for the end of a run


class Faulty(gymnasium.Env[np.ndarray, Any]):
    """A point on a line; each step costs its distance from 0. Observation (3,): position, speed, time."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space: spaces.Space[Any] = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, after: int = 300, process: str = "", episode_steps: int = 15, step_s: float = 0.3) -> None:
        here = process in multiprocessing.current_process().name
        self._armed = here and not os.environ.get(DISARMED)
        self._after, self._episode_steps, self.step_s = after, episode_steps, step_s
        self._steps = 0  # of this environment, over all its episodes
        self._position, self._speed, self._time = 0.0, 0.0, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._position, self._speed, self._time = float(self.np_random.uniform(-1, 1)), 0.0, 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        push = float(np.asarray(action, np.float64).reshape(-1)[0])
        if isinstance(self.action_space, spaces.Discrete):
            push = 2.0 * push - 1.0
        self._speed = 0.9 * self._speed + 0.1 * push
        self._position += self._speed
        self._steps, self._time = self._steps + 1, self._time + 1
        reward = -abs(self._position)
        if self._armed and self._steps > self._after:
            reward = self.fault(reward)
        return self._observation(), reward, self._time >= self._episode_steps, False, {}

    def fault(self, reward: float) -> float:
        """The fault of a step. Returns the reward of the step, if it returns."""
        return reward

    def _observation(self) -> np.ndarray:
        return np.array([self._position, self._speed, self._time / self._episode_steps], np.float32)


class Raises(Faulty):
    def fault(self, reward: float) -> float:
        raise ValueError("the environment is broken\nand says so over two lines")


class Hangs(Faulty):
    def fault(self, reward: float) -> float:
        while True:
            time.sleep(3600)


class HangsInC(Faulty):
    """It holds the interpreter's lock, so that no Python thread runs."""

    def fault(self, reward: float) -> float:
        ctypes.PyDLL(None).sleep(60)
        return reward


class SysExit0(Faulty):
    def fault(self, reward: float) -> float:
        sys.exit(0)


class OsExit0(Faulty):
    def fault(self, reward: float) -> float:
        os._exit(0)


class OsExit3(Faulty):
    def fault(self, reward: float) -> float:
        os._exit(3)


class NanReward(Faulty):
    """It has two discrete actions, so that categorical policies are tested with the fault too."""

    action_space = spaces.Discrete(2)

    def fault(self, reward: float) -> float:
        return float("nan")


class Slow(Faulty):
    """Not a fault: each step takes long, so that a run takes long to stop."""

    def fault(self, reward: float) -> float:
        time.sleep(self.step_s)
        return reward


class Costs(Faulty):
    """Not a fault: each step costs more."""

    def fault(self, reward: float) -> float:
        return reward - 3.0


class Takes(Faulty):
    """Not a fault: it takes an argument of any kind."""

    def __init__(self, value: Any = None, **arguments: Any) -> None:
        super().__init__(**arguments)


class Hoards(Faulty):
    """It takes 50 MB more memory in each step, up to 4 GB."""

    def fault(self, reward: float) -> float:
        if self._steps < self._after + 80:
            self._hoard = [*getattr(self, "_hoard", []), np.ones(50_000_000 // 8)]
        time.sleep(0.05)  # a cluster checks the memory of a job about once per second
        return reward


class ChosenByGamma(Faulty):
    """It has the fault of the class that BY_GAMMA gives for the run's algo.gamma.

    So the arms of a sweep can fail in different ways, but have the same environment, as comparisons need. Two more
    faults: RaisesOnce makes the file `flag` and raises, if that file is not there. ExitsInCell exits with code 0 when a
    cell of a sweep makes its environment, before it trains."""

    BY_GAMMA: ClassVar = {
        "algo.gamma=0.61": "OsExit0", "algo.gamma=0.62": "OsExit3", "algo.gamma=0.63": "Raises",
        "algo.gamma=0.64": "Hangs", "algo.gamma=0.65": "Slow", "algo.gamma=0.66": "Slow",
        "algo.gamma=0.67": "RaisesOnce", "algo.gamma=0.68": "ExitsInCell", "algo.gamma=0.69": "Costs",
    }  # fmt: skip

    def __init__(self, flag: str = "", **arguments: Any) -> None:
        super().__init__(**arguments)
        self._flag = Path(flag)
        self._fault_name = next(
            (self.BY_GAMMA[argument] for argument in sys.argv if argument in self.BY_GAMMA), "Faulty"
        )
        main = getattr(sys.modules["__main__"].__spec__, "name", "")
        in_cell = (
            main in ("ablate.sweeps.train_cell", "ablate.sweeps.preload") and multiprocessing.parent_process() is None
        )
        if self._fault_name == "ExitsInCell" and self._armed and in_cell:
            os._exit(0)

    def fault(self, reward: float) -> float:
        if self._fault_name == "RaisesOnce":
            if not self._flag.exists():
                self._flag.touch()
                raise ValueError("the environment is broken")
            return reward
        if self._fault_name == "ExitsInCell":
            return reward
        return globals()[self._fault_name].fault(self, reward)


class Unbounded(Faulty):
    """Not a fault: its action has no bounds."""

    action_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)


class StartsDaemon(Faulty):
    """Not a fault: its constructor starts a process that outlives it and holds all its pipes, as simulators do."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        if self._armed and os.fork() == 0:
            time.sleep(DAEMON_S)
            os._exit(0)


class StartsDaemonAndCrashes(StartsDaemon):
    def fault(self, reward: float) -> float:
        os.kill(os.getpid(), signal.SIGSEGV)
        return reward


class ExitsAtOnce(Faulty):
    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        if self._armed:
            sys.exit(3)


class RaisesLongMessage(Faulty):
    def fault(self, reward: float) -> float:
        raise ValueError("first " + "x" * 2_000_000 + " last")


class BroadcastsObservation(Faulty):
    def reset(self, **arguments: Any) -> tuple[np.ndarray, dict[str, Any]]:
        return super().reset(**arguments)[0][:1], {}


class OldReset(Faulty):
    def reset(self, **arguments: Any) -> Any:
        return super().reset(**arguments)[0]


class OldSignature(Faulty):
    def reset(self) -> Any:  # type: ignore[override]
        return super().reset()


class OldStep(Faulty):
    def step(self, action: Any) -> Any:
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, info


class ArrayRewards(Faulty):
    """Not a fault: one-element arrays are taken by value."""

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, np.array([reward]), np.array([terminated]), np.array(truncated), info


class TwoRewards(Faulty):
    def step(self, action: Any) -> Any:
        observation, reward, *rest = super().step(action)
        return observation, np.array([reward, reward]), *rest


class NanObservation(Faulty):
    def reset(self, **arguments: Any) -> tuple[np.ndarray, dict[str, Any]]:
        return super().reset(**arguments)[0] * np.nan, {}


class BroadcastsStep(Faulty):
    def step(self, action: Any) -> Any:
        observation, *rest = super().step(action)
        return observation[:1], *rest


class NoEnd(Faulty):
    def step(self, action: Any) -> Any:
        observation, reward, _, *rest = super().step(action)
        return observation, reward, None, *rest


class InfReward(Faulty):
    def step(self, action: Any) -> Any:
        observation, _, *rest = super().step(action)
        return observation, float("inf"), *rest


class Words(Faulty):
    def reset(self, **arguments: Any) -> Any:
        return [*"abc"], {}


class RaisesAtOnce(Raises):
    def __init__(self, **arguments: Any) -> None:
        super().__init__(**{**arguments, "after": 0})


class NoSpace(Faulty):
    observation_space = None  # type: ignore[assignment]


class OutOfItsSpace(Faulty):
    """Not a fault: its numbers are outside of the bounds that it names."""

    observation_space = spaces.Box(5.0, 6.0, (3,), np.float32)


class Transposed(Faulty):
    observation_space = spaces.Box(-np.inf, np.inf, (3, 2), np.float32)

    def reset(self, **arguments: Any) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(**arguments)
        return np.zeros((2, 3), np.float32), {}


class ChangesLater(Faulty):
    """After some steps, its steps return something else."""

    def step(self, action: Any) -> Any:
        result = super().step(action)
        return self.changed(*result) if self._armed and self._steps > self._after else result

    def changed(self, observation: np.ndarray, reward: float, *rest: Any) -> Any:
        raise NotImplementedError


class ShrinksLater(ChangesLater):
    def changed(self, observation: np.ndarray, reward: float, *rest: Any) -> Any:
        return observation[:1], reward, *rest


class GrowsLater(ChangesLater):
    def changed(self, observation: np.ndarray, reward: float, *rest: Any) -> Any:
        return np.tile(observation, (3, 1)), reward, *rest


class NanLater(ChangesLater):
    def changed(self, observation: np.ndarray, reward: float, *rest: Any) -> Any:
        return observation * np.float32(np.nan), reward, *rest


class InfLater(ChangesLater):
    def changed(self, observation: np.ndarray, reward: float, *rest: Any) -> Any:
        return np.full(3, np.inf, np.float32), reward, *rest


class NanRewardLater(ChangesLater):
    def changed(self, observation: np.ndarray, reward: float, *rest: Any) -> Any:
        return observation, float("nan"), *rest


class FlagsLater(ChangesLater):
    def changed(self, observation: np.ndarray, reward: float, *rest: Any) -> Any:
        return observation, reward, np.array([True, False]), *rest[1:]


class Endless(Faulty):
    """Its episodes never end."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        if self._armed:
            self._episode_steps = 10**12


class DoubleBox(Faulty):
    """Not a fault: its action is of float64."""

    action_space = spaces.Box(-0.1, 0.1, (1,), np.float64)


class HalfBounded(Faulty):
    """Not a fault: one dimension of its action has no bounds."""

    action_space = spaces.Box(np.array([0, -np.inf], np.float32), np.array([10, np.inf], np.float32))


class Bytes(Faulty):
    """Not a fault: its observations are bytes, and no images."""

    observation_space = spaces.Box(0, 255, (12,), np.uint8)

    def _observation(self) -> np.ndarray:
        return np.full(12, self._time, np.uint8)


class DrawsElsewhere(Faulty):
    """Not a fault: its noise comes from a generator that gymnasium does not seed."""

    SOURCES: ClassVar = {
        "random": lambda self: random.random(),
        "numpy": lambda self: np.random.random(),  # noqa: NPY002
        "action_space": lambda self: float(self.action_space.sample()[0]),
        "observation_space": lambda self: float(self.observation_space.sample()[0]),
        "system": lambda self: int.from_bytes(os.urandom(4), "big") / 2**32,
    }

    def __init__(self, source: str = "random", **arguments: Any) -> None:
        super().__init__(**arguments)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)  # with generators of its own
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self._draw = self.SOURCES[source]

    def step(self, action: Any) -> Any:
        observation, reward, *rest = super().step(action)
        return observation, reward - abs(self._draw(self)), *rest


class ChangesItsAction(Faulty):
    """Not a fault: it writes into the action that it gets."""

    def step(self, action: Any) -> Any:
        action *= 0.5
        return super().step(action)


class Numbered(Faulty):
    """Not a fault: it has another number than the other environments of its run, for example by a port."""

    made: ClassVar[list[Any]] = []  # the numbers, in this process

    def __init__(self, port: Any = None, changes_the_task: bool = False, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.made.append(port)
        self._scale = 1.0 + port if changes_the_task else 1.0

    def step(self, action: Any) -> Any:
        observation, reward, *rest = super().step(action)
        return observation, reward * self._scale, *rest


ENVIRONMENTS = (
    Faulty, Raises, Hangs, SysExit0, OsExit0, OsExit3, NanReward, Slow, Hoards, Unbounded, HangsInC, Takes,
    ChosenByGamma, StartsDaemon, StartsDaemonAndCrashes, ExitsAtOnce, RaisesLongMessage, BroadcastsObservation,
    OldReset, OldSignature, OldStep, ArrayRewards, TwoRewards, NanObservation, BroadcastsStep, NoEnd, InfReward, Words,
    RaisesAtOnce, NoSpace, OutOfItsSpace, Transposed, ShrinksLater, GrowsLater, NanLater, InfLater, NanRewardLater,
    FlagsLater, Endless, DoubleBox, HalfBounded, Bytes, DrawsElsewhere, ChangesItsAction, Numbered,
)  # fmt: skip
for environment in ENVIRONMENTS:
    gymnasium.register(id=f"{environment.__name__}-v0", entry_point=environment)
