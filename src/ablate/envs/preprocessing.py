"""From an Atari screen to an observation: pipelines of small stages, and the running normalisation of S2.

S2 and S4 are source reports (docs/reports.md). A pipeline starts from the emulator's screen, RGB or grey. Some
pipelines first pool the last frames of a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import cv2
import numpy as np

from ablate.config.choices import Preprocessing

cv2.setNumThreads(1)  # a worker has one core, and for such small images threads only wait for each other

Stage = Callable[[np.ndarray], np.ndarray]
_ONES = np.ones((1, 3), np.float32)
# S4's program crops some games differently: (first row, last row + 1, height after the first resize).
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
    """Apply the stages one after the other."""
    return lambda frame: reduce(lambda data, stage: stage(data), stages, frame)


def crop(top: int, bottom: int) -> Stage:
    """Keep rows top to bottom - 1 and the left 160 columns."""
    return lambda frame: frame[top:bottom, :160]


def resize(width: int, height: int, interpolation: int = cv2.INTER_LINEAR) -> Stage:
    return lambda frame: cv2.resize(frame, (width, height), interpolation=interpolation)


def channel_mean(frame: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) float32 in [0, 1]: the mean of the colour channels, times 1/255.

    For every sum of three bytes, the result equals the mean in float64, in a tenth of the time."""
    means = cv2.transform(frame.astype(np.float32), _ONES)  # integers, so the sum is exact
    np.divide(means, 3, out=means)
    return np.multiply(means, 1 / 255, out=means)


def luminance(frame: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) uint8: 0.299 R + 0.587 G + 0.114 B, as in the emulator's grey screen."""
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)


def unit_interval(image: np.ndarray) -> np.ndarray:
    """uint8 -> float32 in [0, 1]."""
    return np.multiply(image, np.float32(1 / 255))


@dataclass(frozen=True)
class Pipeline:
    """How one image is made from a screen, and how many images make an observation."""

    image: Stage  # from the pooled screen
    grey: bool = False  # use the emulator's grey screen, not RGB
    pooled: int = 1  # each pixel is the maximum over this many last frames of a step
    stacked: int = 1  # images per observation
    normalised: bool = False  # by RunningNormalisation, separately for each worker


def pipeline_of(preprocessing: Preprocessing, rom: str) -> Pipeline:
    """The pipeline for a game. rom: ale-py's name of the game."""
    if preprocessing == Preprocessing.report_42:  # S2. (210, 160, 3) uint8
        return Pipeline(
            chain(
                crop(34, 194),  # (160, 160, 3) uint8
                resize(80, 80),  # (80, 80, 3) uint8; a direct resize to 42 × 42 would skip pixels
                resize(42, 42),  # (42, 42, 3) uint8
                channel_mean,  # (42, 42) float32 in [0, 1]
            ),
            normalised=True,
        )
    if preprocessing == Preprocessing.report_80:  # S4, with rows from its program. (210, 160, 3) uint8
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
    if preprocessing == Preprocessing.report_180:  # S4's early DQN. (210, 160) uint8
        # The report does not say which rows it used.
        return Pipeline(crop(30, 210), grey=True, stacked=4)  # (180, 160) uint8; (4, 180, 160) uint8
    nature = Pipeline(  # Mnih et al. 2015, as in gymnasium's AtariPreprocessing. (210, 160) uint8
        resize(84, 84, cv2.INTER_AREA),  # (84, 84) uint8
        grey=True,
        pooled=2,
        stacked=4,  # (4, 84, 84) uint8
    )
    if preprocessing == Preprocessing.normalised_84:  # the same images with S2's normalisation instead of 1/255
        return replace(nature, image=chain(nature.image, unit_interval), normalised=True)  # (4, 84, 84) float32
    return nature


def grey_pipeline(frames: int, height: int, width: int) -> Pipeline:
    """For images (H, W, 1, 3 or 4) of any environment. An image is shrunk by the mean over areas, as in `nature_84`."""

    def grey(image: np.ndarray) -> np.ndarray:
        return image[..., 0] if image.shape[2] == 1 else luminance(np.ascontiguousarray(image[..., :3]))

    return Pipeline(chain(grey, resize(width, height, cv2.INTER_AREA)), stacked=frames)


class Preprocessor:
    """Makes observations (C, H, W) from consecutive screens of a game. Call `reset` before an episode's first."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.stack: np.ndarray | None = None  # e.g. (4, 84, 84): the last images, oldest first; None: an episode starts

    def reset(self) -> None:
        self.stack = None

    def from_screen(self, screen: np.ndarray) -> np.ndarray:
        """The observation (C, H, W), a new array. screen: grey (H, W) or RGB (H, W, 3), as the pipeline needs it."""
        image = self.pipeline.image(screen)
        if self.pipeline.stacked == 1:
            return image[np.newaxis]
        if self.stack is None:  # repeat the first image in place of missing ones
            self.stack = np.repeat(image[np.newaxis], self.pipeline.stacked, axis=0)
        else:
            self.stack[:-1] = self.stack[1:]
            self.stack[-1] = image
        return self.stack.copy()

    def from_rgb(self, frame: np.ndarray) -> np.ndarray:
        """The observation from an RGB frame (210, 160, 3) uint8, for programs that use another environment.

        If the pipeline pools frames, the caller passes their pixelwise maximum. Raises ValueError for another shape."""
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[0] < 210 or frame.shape[1:] != (160, 3):
            raise ValueError(f"a frame (210, 160, 3) of uint8 is needed, not {frame.shape} of {frame.dtype}")
        return self.from_screen(luminance(frame) if self.pipeline.grey else frame)


class RunningNormalisation:
    """Normalisation of a worker's observations by two running scalars (S2).

        m ← α m + (1-α) mean(x),  s ← α s + (1-α) std(x),  n ← n + 1      α = 0.9999
        (x - m̂) / (ŝ + 1e-8)  with  m̂ = m / (1-αⁿ),  ŝ = s / (1-αⁿ)

    statistics: (3,) float64 (m, s, n), zeros at first, written in place, so it may be in shared memory."""

    ALPHA = 0.9999

    def __init__(self, statistics: np.ndarray) -> None:
        self._statistics = statistics

    def update(self, observation: np.ndarray) -> None:
        mean, std = cv2.meanStdDev(observation.reshape(1, -1))  # in float64 and in one pass
        m, s, n = self._statistics
        rest = 1 - self.ALPHA
        self._statistics[:] = self.ALPHA * m + rest * mean[0, 0], self.ALPHA * s + rest * std[0, 0], n + 1

    def apply(self, observation: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """The normalised observation, written to `out` if given (which may be the observation). Call `update` first."""
        m, s, n = self._statistics.tolist()
        unbiased = 1 - self.ALPHA**n
        return normalise(observation, (m / unbiased, s / unbiased), out)

    @classmethod
    def frozen(cls, statistics: np.ndarray) -> np.ndarray:
        """(m̂, ŝ) over several workers (W, 3), weighted by their n; before any update (0, 1), which changes nothing."""
        used = statistics[statistics[:, 2] > 0]
        if not len(used):
            return np.array([0.0, 1.0])
        m, s, n = used.T
        return np.stack([m, s]) / (1 - cls.ALPHA**n) @ n / n.sum()


def normalise(
    observation: np.ndarray, frozen: Sequence[float] | np.ndarray, out: np.ndarray | None = None
) -> np.ndarray:
    """(x - m̂) / (ŝ + 1e-8) for frozen = (m̂, ŝ), in the observation's dtype."""
    mean, std = map(float, frozen)  # Python's floats keep the type float32
    centred = np.subtract(observation, mean, out=out)
    return np.divide(centred, std + 1e-8, out=centred)
