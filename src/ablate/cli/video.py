"""Frames of an episode as a video or as images: what an environment draws, turned into RGB."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ablate.config.schema import ConfigError

LEAST_HEIGHT = 480  # pixels; the frames of a video are enlarged to at least this height
USUAL_FPS = 30.0  # steps per second, if the environment does not say


def rgb(drawn: Any, env_id: str) -> np.ndarray:
    """A drawn frame as (H, W, 3) uint8.

    Grey and RGBA frames are converted, also if they are bool, integers up to 255, or floats from 0 to 1. Raises
    ConfigError for anything else, because it could mean several things."""
    try:
        frame = np.asarray(drawn)
    except ValueError:  # a list of arrays of different shapes
        frame = np.empty(0, object)
    if frame.ndim == 2:
        frame = frame[:, :, np.newaxis]
    if frame.ndim != 3 or frame.shape[2] not in (1, 3, 4) or frame.dtype.kind not in "buif" or not frame.size:
        raise _refusal(env_id, f"{type(drawn).__name__}, shape {frame.shape}")
    if frame.dtype != np.uint8:
        top = 1 if frame.dtype.kind in "bf" else 255
        if not (frame.min() >= 0 and frame.max() <= top):  # also for nan
            raise _refusal(env_id, f"{frame.dtype} from {frame.min():g} to {frame.max():g}")
        frame = np.rint(frame * (255.0 / top)).astype(np.uint8)
    return np.repeat(frame, 3, axis=2) if frame.shape[2] == 1 else np.ascontiguousarray(frame[:, :, :3])


def _refusal(env_id: str, what: str) -> ConfigError:
    return ConfigError(f"{env_id}: its frames are {what}; a video needs RGB, (height, width, 3) uint8")


def same_size(frames: Iterator[np.ndarray], env_id: str) -> Iterator[np.ndarray]:
    """Pass the frames on. Raises ConfigError if one has another size than the first."""
    first: tuple[int, ...] = ()
    for number, frame in enumerate(frames):
        first = first or frame.shape
        if frame.shape != first:
            raise ConfigError(
                f"{env_id}: frame {number} is {frame.shape[0]} × {frame.shape[1]} pixels, the first is "
                f"{first[0]} × {first[1]}; a video has one size"
            )
        yield frame


def steps_per_second(metadata: dict[str, Any]) -> float:
    """render_fps, or USUAL_FPS if the environment gives no positive number."""
    try:
        fps = float(metadata.get("render_fps") or 0)
    except (TypeError, ValueError):
        fps = 0.0
    return fps if math.isfinite(fps) and fps >= 0.01 else USUAL_FPS


def refuse_missing_ffmpeg() -> None:
    """Raise ConfigError if there is no program that writes videos."""
    try:
        from moviepy.config import FFMPEG_BINARY as program
    except (ImportError, OSError, RuntimeError) as error:
        raise ConfigError(f"video=true: ffmpeg is missing ({_first_line(error)}); frames=true writes images") from error
    if shutil.which(program or "") is None:
        raise ConfigError(f"video=true: {program}: this ffmpeg cannot be started; frames=true writes images")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".")


def write_video(frames: Iterator[np.ndarray], fps: float, path: Path) -> None:
    """Write an mp4 video at the speed of the game. It is removed if it cannot be written to its end.

    Raises ConfigError if `frames` does, or if ffmpeg fails."""
    from moviepy.video.io.ffmpeg_writer import FFMPEG_VideoWriter

    frame = next(frames)
    factor = -(-LEAST_HEIGHT // frame.shape[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    # The codec needs even numbers of pixels.
    scale = ["-vf", f"scale=trunc(iw*{factor}/2)*2:trunc(ih*{factor}/2)*2:flags=neighbor"]
    try:
        with FFMPEG_VideoWriter(str(path), frame.shape[1::-1], fps, ffmpeg_params=scale) as video:
            video.write_frame(frame)
            for frame in frames:
                video.write_frame(frame)
        if not path.is_file() or path.stat().st_size == 0:
            raise OSError("ffmpeg wrote nothing")
    except BaseException as error:
        with contextlib.suppress(OSError):
            path.unlink()
        if isinstance(error, OSError):
            raise ConfigError(f"{path}: the video could not be written ({_first_line(error)})") from error
        raise


def write_images(frames: Iterator[np.ndarray], folder: Path) -> None:
    """Write the frames as numbered PNG files. Deletes what was in the folder before.

    Raises ConfigError if `frames` does, or if a file cannot be written; then the folder is removed."""
    import cv2

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        for step, frame in enumerate(frames):
            if not cv2.imwrite(str(folder / f"{step:06d}.png"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)):
                raise ConfigError(f"{folder / f'{step:06d}.png'}: this image could not be written")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
