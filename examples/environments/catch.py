"""An environment with images: catch a falling ball, seen as 8 × 8 pixels, which the network gets as 64 numbers.

cd examples/environments && python ../../src/run.py env.id=catch:Catch-v0 workers=2 total_steps=20000
Networks with convolutions are for games of ale-py (docs/games.md), or for a network of your own (docs/extending.md)."""

import gymnasium
import numpy as np
from gymnasium import spaces

SIZE = 8


class Catch(gymnasium.Env):
    observation_space = spaces.Box(0, 255, (SIZE, SIZE), np.uint8)
    action_space = spaces.Discrete(3)  # left, stay, right

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.row, self.ball, self.paddle = 0, int(self.np_random.integers(SIZE)), SIZE // 2
        return self._image(), {}

    def step(self, action):
        self.row += 1
        self.paddle = min(max(self.paddle + int(action) - 1, 0), SIZE - 1)
        landed = self.row == SIZE - 1
        return self._image(), float(landed and self.ball == self.paddle), landed, False, {}

    def _image(self):
        image = np.zeros((SIZE, SIZE), np.uint8)
        image[self.row, self.ball] = image[-1, self.paddle] = 255
        return image


def make():
    """The environment with pixels from 0 to 1, which a network learns from more easily."""
    return gymnasium.wrappers.RescaleObservation(gymnasium.wrappers.DtypeObservation(Catch(), np.float32), 0.0, 1.0)


gymnasium.register("Catch-v0", make)
