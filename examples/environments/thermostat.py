"""An environment with a dictionary as observation. A wrapper makes it one vector, which is what the networks take.

cd examples/environments && python ../../src/run.py env.id=thermostat:Thermostat-v0 workers=2 total_steps=20000"""

import gymnasium
import numpy as np
from gymnasium import spaces


class Thermostat(gymnasium.Env):
    """Keep a room at a temperature that the observation names. The window may be open."""

    observation_space = spaces.Dict(
        {"temperature": spaces.Box(-5.0, 5.0, (2,), np.float32), "window": spaces.Discrete(2)}  # now, wanted
    )
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.now, self.wanted = self.np_random.uniform(-2.0, 2.0, 2)
        self.window = False
        return self._observation(), {}

    def step(self, action):
        self.window = self.np_random.random() < 0.2
        self.now = float(np.clip(self.now + 0.5 * action[0] - 0.2 * self.window, -5.0, 5.0))
        return self._observation(), -abs(self.now - self.wanted), False, False, {}

    def _observation(self):
        return {"temperature": np.array([self.now, self.wanted], np.float32), "window": int(self.window)}


def make():
    return gymnasium.wrappers.FlattenObservation(Thermostat())  # (4,): now, wanted, and one of two for the window


gymnasium.register("Thermostat-v0", make, max_episode_steps=50)
