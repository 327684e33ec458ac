"""A game for tests whose observations are small colour images: move the paddle under the falling ball."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

SIZE = 12


class Catch(gymnasium.Env):
    """+1 if the ball is caught, else -1, after SIZE - 1 steps. Actions: left, stay, right, numbered from 1."""

    observation_space = spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
    action_space = spaces.Discrete(3, start=1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.row, self.ball, self.paddle = 0, int(self.np_random.integers(SIZE)), SIZE // 2
        return self._image(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert action in self.action_space
        self.paddle = min(max(self.paddle + action - 2, 1), SIZE - 2)
        self.row += 1
        over = self.row == SIZE - 1
        reward = float(over) * (1.0 if abs(self.ball - self.paddle) <= 1 else -1.0)
        return self._image(), reward, over, False, {}

    def _image(self) -> np.ndarray:
        image = np.zeros((SIZE, SIZE, 3), np.uint8)
        image[self.row, self.ball] = (255, 255, 255)
        image[-1, self.paddle - 1 : self.paddle + 2] = (0, 255, 0)
        return image


class Flat(Catch):
    """The same with images without a third axis, which no rule takes for images."""

    observation_space = spaces.Box(0, 255, (SIZE, SIZE), np.uint8)

    def _image(self) -> np.ndarray:
        return super()._image()[..., 0]


class NumberedCatch(Catch):
    """The same with a number of its own, for example a port."""

    made: ClassVar[list[int]] = []  # the numbers, in this process

    def __init__(self, port: int) -> None:
        self.made.append(port)


for environment in (Catch, Flat, NumberedCatch):
    gymnasium.register(id=f"{environment.__name__}-v0", entry_point=environment)
