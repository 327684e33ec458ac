"""The rollout that a worker collects: buffers that are allocated once and filled row by row."""

from __future__ import annotations

import numpy as np

from ablate.types import ActionSpec, Trajectory


class RolloutAccumulator:
    """Collects up to `t_max` steps. `observations[t]` holds the observation of step t until the next `start`."""

    def __init__(self, t_max: int, observation_size: int, action: ActionSpec, dtype: np.dtype) -> None:
        self.observations = np.zeros((t_max + 1, observation_size), dtype)
        actions_shape = (t_max,) if action.is_discrete else (t_max, len(action.low))
        self._actions = np.zeros(actions_shape, np.int64 if action.is_discrete else dtype)
        self._rewards = np.zeros(t_max, dtype)
        self._discounts = np.zeros(t_max, dtype)
        self.length = 0

    def start(self, observation: np.ndarray) -> None:
        self.observations[0] = observation
        self.length = 0

    def add(self, action: np.ndarray | int, reward: float, discount: float, observation: np.ndarray) -> None:
        """One step: (a_tm1, r_t, discount_t) and the observation s_t that it led to."""
        t = self.length
        self._actions[t] = action
        self._rewards[t] = reward
        self._discounts[t] = discount
        self.observations[t + 1] = observation
        self.length = t + 1

    def trajectory(self) -> Trajectory:
        """The steps so far, without a copy."""
        t = self.length
        return Trajectory(self.observations[: t + 1], self._actions[:t], self._rewards[:t], self._discounts[:t])
