"""A walk on a line until one end is reached: a kernel environment, and the same as a class of gymnasium."""

import sys
from typing import NamedTuple

import gymnasium
import numpy as np

from ablate.compiled.envs import register_environment

IDS = ("Walk-v0",)
STATE_SIZE = RESET_DRAWS = 1


class Parameters(NamedTuple):
    """Arguments of gymnasium.make."""

    pace: float = 0.1


def reset(env, state, uniforms):
    state[0] = uniforms[0] - 0.5


def step(env, state, action):
    state[0] += env.pace * (2.0 * action[0] - 1.0)
    return -1.0, abs(state[0]) > 1.0


def observe(env, state, observation):
    observation[0] = state[0]


class Walk(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-2.0, 2.0, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, pace=0.1):
        self.parameters = Parameters(pace)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = np.zeros(1)
        reset(self.parameters, self.state, self.np_random.random(1))
        return self.state.astype(np.float32), {}

    def step(self, action):
        reward, terminated = step(self.parameters, self.state, [action])
        return self.state.astype(np.float32), reward, bool(terminated), False, {}


gymnasium.register(IDS[0], entry_point=Walk, max_episode_steps=50)
register_environment(sys.modules[__name__])
