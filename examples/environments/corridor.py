"""An environment of your own: walk to the right end of a corridor.

cd examples/environments && python ../../src/run.py env.id=corridor:Corridor-v0 workers=2 total_steps=20000"""

import gymnasium
import numpy as np
from gymnasium import spaces

LENGTH = 10


class Corridor(gymnasium.Env):
    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)  # left, right

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(LENGTH // 2))
        return self._observation(), {}

    def step(self, action):
        self.place = max(0, self.place + (1 if action == 1 else -1))
        terminated = self.place == LENGTH
        return self._observation(), -1.0, terminated, False, {}

    def _observation(self):
        return np.array([2 * self.place / LENGTH - 1], np.float32)


gymnasium.register("Corridor-v0", Corridor, max_episode_steps=100)
