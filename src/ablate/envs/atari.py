"""Atari games on ale-py's emulator. A step is several frames with one observation, a game continues after a lost life,
and the whole state of a game can be saved.

The existing environments do not fit. gymnasium's AtariEnv and AtariPreprocessing read a screen and build a dictionary
for every frame, and their option to end an episode at a lost life resets the game. ale-py's vector environment supports
only the preprocessing of Mnih et al. 2015."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import gymnasium
import numpy as np
from ale_py import ALEState
from gymnasium import spaces

from ablate import seeding
from ablate.config.schema import AtariConfig
from ablate.envs.games import FIRE, NOOP, actions_of, emulator, registered
from ablate.envs.preprocessing import Preprocessor, pipeline_of

FRAMES_PER_SECOND = 60


class AtariGame(gymnasium.Env):
    """A game as training sees it, or with training=False as it is scored: whole games, raw rewards.

    Observations are (C, H, W), as `preprocessing` makes them. `terminated`: the game is over; or, in training with
    life_loss_terminates, a life is lost: then `reset` continues the same game (EpisodicLife of OpenAI baselines).
    `truncated`: the game was cut after max_steps steps. info: "raw_reward" (points), "game_over" (a new game follows).
    The no-ops and FIRE of a reset are not steps; points that they score are added to the next step."""

    def __init__(
        self, config: AtariConfig, max_steps: int, training: bool = True, render_mode: str | None = None
    ) -> None:
        assert config.preprocessing is not None, "see AtariKind.fitted"
        self.render_mode = render_mode
        rom = registered(config.id).rom
        self.ale = emulator(rom, config.mode, config.difficulty, display=render_mode == "human")
        self._actions = actions_of(config, self.ale)
        self.action_space = spaces.Discrete(len(self._actions))
        self._fewest, self._most = config.frame_skip
        steps_per_second = 2 * FRAMES_PER_SECOND / (self._fewest + self._most)
        self.metadata = {"render_modes": ["rgb_array", "human"], "render_fps": steps_per_second}
        self._sticky = config.sticky_actions
        self._noop_max = config.noop_max
        self._fires = config.fire_on_reset and FIRE in [action.value for action in self.ale.getMinimalActionSet()]
        self._fill_steps = config.fill_steps
        self._ends_on_life_loss = training and config.life_loss_terminates
        self._clips = training and config.clip_rewards
        self._max_steps = max_steps

        self.preprocessor = Preprocessor(pipeline_of(config.preprocessing, rom))
        height, width = self.ale.getScreenDims()
        grey, self._pooled = self.preprocessor.pipeline.grey, self.preprocessor.pipeline.pooled
        self._read = self.ale.getScreenGrayscale if grey else self.ale.getScreenRGB
        self._screen = np.empty((height, width) if grey else (height, width, 3), np.uint8)
        self._other_screen = np.empty_like(self._screen)
        self._read(self._screen)
        example = self.preprocessor.from_screen(self._screen)
        high = 255 if example.dtype == np.uint8 else 1
        self.observation_space = spaces.Box(0, high, example.shape, example.dtype.type)

        self._game_over = True  # the next reset starts a new game
        self._held = NOOP  # the emulator's last action, which a sticky action repeats
        self._lives = self._steps = 0
        self._points_before = 0  # points of the last reset, not yet rewarded

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a new game, or continue the game after a lost life. With a seed, always start a new game."""
        super().reset(seed=seed)
        self.preprocessor.reset()
        if self._game_over or seed is not None:
            self._points_before = self._start_game()
            self._read(self._screen)
        else:
            self._points_before = self._play(FIRE if self._fires else NOOP)
        observation = self.preprocessor.from_screen(self._screen)
        for _ in range(self._fill_steps):  # a few frames without an action; no game ends in them
            self._points_before += self._play(NOOP)
            observation = self.preprocessor.from_screen(self._screen)
        self._lives = self.ale.lives()
        return observation, {}

    def _start_game(self) -> int:
        """Random no-ops, then FIRE, as the wrappers of gymnasium and baselines do. Returns the points scored."""
        self.ale.reset_game()
        self._game_over, self._steps, self._held, points = False, 0, NOOP, 0
        for _ in range(self.np_random.integers(1, self._noop_max + 1) if self._noop_max else 0):
            points += self.ale.act(NOOP)
            if self.ale.game_over():
                self.ale.reset_game()
        return points + (self._play(FIRE) if self._fires else 0)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        points = self._points_before + self._play(self._actions[action])
        self._points_before = 0
        self._steps += 1
        lives, emulator_over = self.ale.lives(), self.ale.game_over()
        # Some games go on for some frames with no life left. They end when the emulator reports it (as in baselines).
        life_lost = 0 < lives < self._lives and not emulator_over
        self._lives = lives
        truncated = self._steps >= self._max_steps
        # The life of a cut game may be lost, but its game is not over.
        terminated = emulator_over or (life_lost and self._ends_on_life_loss and not truncated)
        if life_lost and self._fires and not (terminated or truncated):
            points += self._play(FIRE)
        self._game_over = emulator_over or truncated
        reward = float(max(-1, min(1, points)) if self._clips else points)  # points are integers, so this is their sign
        info = {"raw_reward": float(points), "game_over": self._game_over}
        return self.preprocessor.from_screen(self._screen), reward, terminated, truncated, info

    def _play(self, action: int) -> int:
        """Hold an action for the frames of one step. Returns the points, and leaves the pooled screen in `_screen`.

        Sticky actions (Machado et al. 2018): at each frame the previous action is repeated with this probability. They
        are drawn here, because ale-py cannot save the state of its own."""
        frames = self._fewest
        if self._most > self._fewest:
            frames = int(self.np_random.integers(self._fewest, self._most + 1))
        first_pooled = max(0, frames - self._pooled)
        points = 0
        for frame in range(frames):
            if not self._sticky or self.np_random.random() >= self._sticky:
                self._held = action
            points += self.ale.act(self._held)
            if frame == first_pooled:
                self._read(self._screen)
            elif frame > first_pooled:
                self._read(self._other_screen)
                np.maximum(self._screen, self._other_screen, out=self._screen)
        return points

    def render(self) -> np.ndarray | None:
        """The screen (210, 160, 3). With render_mode=human, the emulator itself draws it in a window."""
        return self.ale.getScreenRGB() if self.render_mode == "rgb_array" else None

    def save(self) -> dict[str, Any]:
        """The state of the game as JSON values, without the last screen, which no step needs."""
        stack = self.preprocessor.stack
        return {
            "emulator": _text_of(self.ale.cloneState(include_rng=True).serialize()),
            "random": seeding.state_of(self.np_random),
            "stack": None if stack is None else _text_of(stack.tobytes()),
            "held": self._held,
            "lives": self._lives,
            "steps": self._steps,
            "points_before": self._points_before,
            "game_over": self._game_over,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Set the game to a state from `save`."""
        self.ale.restoreState(ALEState(_bytes_of(saved["emulator"])))
        seeding.restore(self.np_random, saved["random"])
        self.preprocessor.reset()
        if saved["stack"] is not None:
            space = self.observation_space
            self.preprocessor.stack = np.frombuffer(_bytes_of(saved["stack"]), space.dtype).reshape(space.shape).copy()
        self._held, self._lives, self._steps = saved["held"], saved["lives"], saved["steps"]
        self._points_before, self._game_over = saved["points_before"], saved["game_over"]


def _text_of(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 1)).decode()


def _bytes_of(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))
