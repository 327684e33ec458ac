"""The data that the parts of the program pass to each other, with shapes.

T: steps of a rollout; A: dimensions of an action; E: environments side by side."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isnan, prod
from types import NoneType
from typing import Any, NamedTuple, get_args, get_type_hints

import numpy as np


@dataclass(frozen=True)
class ActionSpec:
    """What an environment accepts: `n` discrete actions, or a box of floats between `low` and `high`."""

    n: int | None = None  # number of discrete actions; None for a box
    low: tuple[float, ...] = ()  # (A,)
    high: tuple[float, ...] = ()  # (A,)
    start: int = 0  # the first discrete action
    dtype: str = "float32"  # of a box; empty: saved before types were stored, and actions were float32

    @property
    def is_discrete(self) -> bool:
        return self.n is not None


@dataclass(frozen=True)
class EnvSpec:
    """The shapes of an environment: enough to build a network without making the environment."""

    observation_shape: tuple[int, ...]  # (size,), or (channels, height, width)
    action: ActionSpec
    time_limit: int | None = None  # steps after which an episode is cut
    observation_dtype: str = "float32"  # or uint8
    # What a user should know of the environment, one sentence each. `from_dict` leaves them out.
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def observation_size(self) -> int:
        return prod(self.observation_shape)

    @property
    def is_image(self) -> bool:
        return len(self.observation_shape) == 3

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EnvSpec:
        action = values["action"]
        return cls(
            tuple(values["observation_shape"]),
            ActionSpec(
                action["n"], tuple(action["low"]), tuple(action["high"]), action["start"], action.get("dtype", "")
            ),
            values["time_limit"],
            values["observation_dtype"],
        )


class Trajectory(NamedTuple):
    """Up to t_max steps of one worker, and the observation to bootstrap from."""

    observations: np.ndarray  # (T+1, observation_size): s_0 ... s_T
    actions: np.ndarray  # (T, A) float, or (T,) int64: a_0 ... a_{T-1}
    rewards: np.ndarray  # (T,) r_1 ... r_T as training uses them: shifted and scaled
    discounts: np.ndarray  # (T,) γ, or 0 if nothing follows


class Rollout(NamedTuple):
    """Up to t_max steps of the E environments of one worker, side by side, and the observations to bootstrap from."""

    observations: np.ndarray  # (T+1, E, channels, height, width): s_0 ... s_T
    firsts: np.ndarray  # (T+1, E) bool: an episode starts with this observation
    actions: np.ndarray  # (T, E) int64
    rewards: np.ndarray  # (T, E) r_1 ... r_T as training uses them
    discounts: np.ndarray  # (T, E) γ, or 0 if nothing follows


class Batch(NamedTuple):
    """B transitions drawn from a replay: the slots of the frames of their observations, and everything else.

    S: frames per observation, oldest first. A transition spans n steps, or fewer if the episode ended before."""

    slots: np.ndarray  # (B, S) int64, of s_t
    next_slots: np.ndarray  # (B, S) int64, of s_{t+n}; arbitrary if the discount is 0
    actions: np.ndarray  # (B,) int64, a_t
    returns: np.ndarray  # (B,) float32, Σ_{k<n} γ^k r_{t+k+1}
    discounts: np.ndarray  # (B,) float32, γ^n, or 0 if nothing follows
    weights: np.ndarray  # (B,) float32, importance weights; ones if all transitions have the same probability
    # (B,) int64, the number of steps in the replay when a_t was stored: identifies the transition
    times: np.ndarray = np.empty(0, np.int64)


class Experience(NamedTuple):
    """K steps of each of E environments, one after the other."""

    firsts: np.ndarray  # (E, ...) the observations of the first step
    observations: np.ndarray  # (K, E, ...) the whole observation that each step led to
    actions: np.ndarray  # (K, E) int64
    rewards: np.ndarray  # (K, E) float32, as training uses them
    terminated: np.ndarray  # (K, E) bool
    truncated: np.ndarray  # (K, E) bool: by a limit, or by an evaluation (algo.reset_after_evaluation)
    starts: np.ndarray  # (K, E, ...) where the next episode begins, if this one has ended
    td_errors: np.ndarray  # (K, E) float32, δ when the step was taken; nan unless new priorities need it
    returns: np.ndarray  # (K, E) float64, raw, of the whole episode that ended with this step
    lengths: np.ndarray  # (K, E) int64, steps of that episode; 0: none ended
    cut: np.ndarray  # (K, E) bool: that episode was truncated by a limit

    def nothing_follows(self, bootstrap_truncated: bool) -> np.ndarray:
        """(K, E) bool: the return ends with the reward of this step. Termination wins over a limit in the same step."""
        return self.terminated if bootstrap_truncated else self.terminated | self.cut


class Stepped(NamedTuple):
    """The result of one step in one of several environments."""

    observation: np.ndarray  # valid until the next step
    reward: float  # as training uses it, before env.reward_shift and env.reward_scale
    terminated: bool
    truncated: bool
    raw_reward: float  # points
    scored_end: bool  # the game or episode that is scored has ended; otherwise a life may be lost


class Counters(NamedTuple):
    """Totals over all workers since the run's first start."""

    updates: int = 0
    steps: int = 0
    episodes: int = 0


class EpisodeRecord(NamedTuple):
    """A finished episode, in raw rewards."""

    worker: int
    global_step: int
    wall_time_s: float
    episodic_return: float
    episodic_length: int
    terminated: bool
    truncated: bool


class SliceRecords(NamedTuple):
    """The records of one slice of a kernel, as arrays: one message with many records is quick to send."""

    episodes: np.ndarray  # (E, fields of EpisodeRecord) float64
    updates: np.ndarray  # (U, fields of update_record) float64
    update_record: type[Any]
    global_step: int  # of all workers; later records of the same process have later steps

    def unpacked(self) -> list[Any]:
        """The records one by one, for the process that writes them."""
        return [*_rows_as(EpisodeRecord, self.episodes), *_rows_as(self.update_record, self.updates)]


def _rows_as(record: type[Any], rows: np.ndarray) -> list[Any]:
    """Each row as a record, every number with its field's type; nan is None if the field can be None."""
    types = [_optional if NoneType in get_args(hint) else hint for hint in get_type_hints(record).values()]
    return [record(*(kind(number) for kind, number in zip(types, row, strict=True))) for row in rows.tolist()]


def _optional(number: float) -> float | None:
    return None if isnan(number) else number


class Score(NamedTuple):
    """An episode that was played without learning, in raw rewards."""

    episodic_return: float
    episodic_length: int


class EvaluationSummary(NamedTuple):
    """What the parent receives after an evaluation; its episodes are in evaluations.csv."""

    evaluations: int  # their number so far, including this one
    global_step: int
    mean_return: float


class ProcessState(NamedTuple):
    """What a worker process has to save: JSON values, and tensors by name."""

    state: dict[str, Any]
    tensors: dict[str, np.ndarray]

    def tensor(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Raises KeyError if it is missing, ValueError if it has another shape: numpy would repeat it."""
        if self.tensors[name].shape != shape:
            raise ValueError(f"{name} has the shape {self.tensors[name].shape}; {shape} is needed")
        return self.tensors[name]
