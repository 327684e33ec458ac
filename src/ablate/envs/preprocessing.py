"""From an Atari screen to an observation: pipelines of small stages, and S2's running normalisation.

A pipeline starts from the emulator's screen, RGB or grey, pooled over a step's last frames where its source does so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import cv2
import numpy as np

from ablate.config.choices import Preprocessing

cv2.setNumThreads(1)  # a worker has one core; on images as small as these, threads only wait for each other

Stage = Callable[[np.ndarray], np.ndarray]
_ONES = np.ones((1, 3), np.float32)
# S4's program crops some games differently: first row, one past the last row, height after the first resize.
_ROWS_80 = {
    "asteroids": (16, 194, 94),
    "beam_rider": (20, 180, 80),
    "centipede": (36, 216, 90),
    "ms_pacman": (2, 170, 84),
    "seaquest": (30, 190, 80),
    "space_invaders": (8, 196, 94),
    "video_pinball": (42, 220, 89),
}
_OTHER_ROWS_80 = (34, 194, 80)


def chain(*stages: Stage) -> Stage:
    """The stages one after the other."""
    return lambda frame: reduce(lambda data, stage: stage(data), stages, frame)


def crop(top: int, bottom: int) -> Stage:
    """Rows top to bottom - 1, the left 160 columns."""
    return lambda frame: frame[top:bottom, :160]


def resize(width: int, height: int, interpolation: int = cv2.INTER_LINEAR) -> Stage:
    return lambda frame: cv2.resize(frame, (width, height), interpolation=interpolation)


def channel_mean(frame: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) float32 in [0, 1]: the mean of the colour channels, times 1/255.

    For all sums of three bytes the same float32 as frame.mean(2) in float64, ten times as fast."""
    means = cv2.transform(frame.astype(np.float32), _ONES)  # whole numbers: exact
    np.divide(means, 3, out=means)
    return np.multiply(means, 1 / 255, out=means)


def luminance(frame: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) uint8: 0.299 R + 0.587 G + 0.114 B, as the emulator's grey screen has it."""
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)


@dataclass(frozen=True)
class Pipeline:
    """What makes one image of a screen, and how many of them are an observation."""

    image: Stage  # from the screen, pooled
    grey: bool = False  # the screen is the emulator's grey one, else RGB
    pooled: int = 1  # each pixel is the largest of this many last frames of a step
    stacked: int = 1  # images an observation
    normalised: bool = False  # by the running normalisation below, a worker's own


def pipeline_of(preprocessing: Preprocessing, rom: str) -> Pipeline:
    """The pipeline for a game, by ale-py's name of it."""
    if preprocessing == Preprocessing.report_42:  # S2. (210, 160, 3) uint8
        return Pipeline(
            chain(
                crop(34, 194),  # (160, 160, 3) uint8
                resize(80, 80),  # (80, 80, 3) uint8; straight to 42 × 42 would leave pixels out
                resize(42, 42),  # (42, 42, 3) uint8
                channel_mean,  # (42, 42) float32 in [0, 1]
            ),
            normalised=True,
        )
    if preprocessing == Preprocessing.report_80:  # S4, ° from its program. (210, 160, 3) uint8
        top, bottom, height = _ROWS_80.get(rom, _OTHER_ROWS_80)
        return Pipeline(
            chain(
                crop(top, bottom),  # (160, 160, 3) uint8; other games: (166 to 188, 160, 3)
                channel_mean,  # (160, 160) float32 in [0, 1]
                resize(80, height),  # (80, 80) float32; other games: (80 to 94, 80)
                resize(80, 80),  # (80, 80) float32
            ),
            pooled=3,
            normalised=True,
        )
    if preprocessing == Preprocessing.report_180:  # S4's early DQN, which rows it took is not said. (210, 160) uint8
        return Pipeline(crop(30, 210), grey=True, stacked=4)  # (180, 160) uint8; (4, 180, 160) uint8
    return Pipeline(  # Mnih et al. 2015, as gymnasium's AtariPreprocessing. (210, 160) uint8
        resize(84, 84, cv2.INTER_AREA),  # (84, 84) uint8
        grey=True,
        pooled=2,
        stacked=4,  # (4, 84, 84) uint8
    )


class Preprocessor:
    """Observations (C, H, W) of a game's screens, one after the other. `reset()` before the first of an episode."""

    def __init__(self, preprocessing: Preprocessing, rom: str) -> None:
        self.pipeline = pipeline_of(preprocessing, rom)
        self.stack: np.ndarray | None = None  # (4, 84, 84): the last images, oldest first; None: an episode starts

    def reset(self) -> None:
        self.stack = None

    def from_screen(self, screen: np.ndarray) -> np.ndarray:
        """The observation (C, H, W), an array of its own, of the pipeline's kind of screen."""
        image = self.pipeline.image(screen)
        if self.pipeline.stacked == 1:
            return image[np.newaxis]
        if self.stack is None:  # nothing came before: the first image stands for what is missing
            self.stack = np.repeat(image[np.newaxis], self.pipeline.stacked, axis=0)
        else:
            self.stack[:-1] = self.stack[1:]
            self.stack[-1] = image
        return self.stack.copy()

    def from_rgb(self, frame: np.ndarray) -> np.ndarray:
        """The observation of a raw frame (210, 160, 3) uint8, for programs without our environment.

        Pooling over frames is the caller's: hand in the largest of them. Raises ValueError for anything else."""
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[0] < 210 or frame.shape[1:] != (160, 3):
            raise ValueError(f"a frame (210, 160, 3) of uint8 is needed, not {frame.shape} of {frame.dtype}")
        return self.from_screen(luminance(frame) if self.pipeline.grey else frame)


class RunningNormalisation:
    """S2's normalisation of a worker's observations by two running scalars.

        m ← α m + (1-α) mean(x),  s ← α s + (1-α) std(x),  n ← n + 1      α = 0.9999
        (x - m̂) / (ŝ + 1e-8)  with  m̂ = m / (1-αⁿ),  ŝ = s / (1-αⁿ)

    statistics: (3,) float64 (m, s, n), zeros at first, written in place: it may lie in shared memory."""

    ALPHA = 0.9999

    def __init__(self, statistics: np.ndarray) -> None:
        self._statistics = statistics

    def update(self, observation: np.ndarray) -> None:
        mean, std = cv2.meanStdDev(observation.reshape(1, -1))  # in float64, in one pass
        m, s, n = self._statistics
        rest = 1 - self.ALPHA
        self._statistics[:] = self.ALPHA * m + rest * mean[0, 0], self.ALPHA * s + rest * std[0, 0], n + 1

    def apply(self, observation: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """The normalised observation, in `out` if given (it may be the observation). `update` comes first."""
        m, s, n = self._statistics.tolist()
        unbiased = 1 - self.ALPHA**n
        return normalise(observation, (m / unbiased, s / unbiased), out)

    @classmethod
    def frozen(cls, statistics: np.ndarray) -> np.ndarray:
        """(m̂, ŝ) of several workers (W, 3), each weighted by its n. Before any update (0, 1): it changes nothing."""
        used = statistics[statistics[:, 2] > 0]
        if not len(used):
            return np.array([0.0, 1.0])
        m, s, n = used.T
        return np.stack([m, s]) / (1 - cls.ALPHA**n) @ n / n.sum()


def normalise(
    observation: np.ndarray, frozen: Sequence[float] | np.ndarray, out: np.ndarray | None = None
) -> np.ndarray:
    """(x - m̂) / (ŝ + 1e-8) for frozen = (m̂, ŝ), in the observation's dtype."""
    mean, std = map(float, frozen)  # Python's floats leave float32 what it is
    centred = np.subtract(observation, mean, out=out)
    return np.divide(centred, std + 1e-8, out=centred)
