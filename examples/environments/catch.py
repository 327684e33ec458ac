"""An environment with images: catch a falling ball. env=images resizes and stacks them, for a network for images.

cd examples/environments && python ../../src/run.py env=images env.id=catch:Catch-v0 workers=2 total_steps=50000"""

import gymnasium
import numpy as np
from gymnasium import spaces

SIZE = 12


class Catch(gymnasium.Env):
    observation_space = spaces.Box(0, 255, (SIZE, SIZE, 1), np.uint8)
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
        image = np.zeros((SIZE, SIZE, 1), np.uint8)
        image[self.row, self.ball] = image[-1, self.paddle] = 255
        return image


gymnasium.register("Catch-v0", Catch)
