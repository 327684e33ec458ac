"""What environments draw becomes RGB, or is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablate.cli import video
from ablate.config.schema import ConfigError

RED = np.array([200, 0, 0], np.uint8)


def of(*values: Any, dtype: type = np.uint8) -> np.ndarray:
    """A frame of 2 × 2 pixels that all have these values."""
    return np.broadcast_to(np.array(values, dtype), (2, 2, len(values)))


@pytest.mark.parametrize(
    ("drawn", "pixel"),
    [
        pytest.param(of(*RED), [200, 0, 0], id="RGB"),
        pytest.param(of(*RED, 255), [200, 0, 0], id="RGBA"),
        pytest.param(of(90), [90, 90, 90], id="grey with a channel"),
        pytest.param(of(90)[:, :, 0], [90, 90, 90], id="grey"),
        pytest.param(of(1.0, 0.5, 0.0, dtype=np.float32), [255, 128, 0], id="floats from 0 to 1"),
        pytest.param(of(1.0, 0.5, 0.0, 1.0, dtype=np.float64), [255, 128, 0], id="float RGBA"),
        pytest.param(of(True, False, False, dtype=np.bool_), [255, 0, 0], id="bool"),
        pytest.param(of(200, 0, 0, dtype=np.int64), [200, 0, 0], id="integers up to 255"),
        pytest.param(of(*RED).tolist(), [200, 0, 0], id="lists"),
    ],
)
def test_what_has_one_meaning_becomes_rgb(drawn: Any, pixel: list[int]) -> None:
    frame = video.rgb(drawn, "Mine-v0")
    assert (frame.shape, frame.dtype) == ((2, 2, 3), np.uint8)
    assert frame.flags.c_contiguous
    assert (frame == pixel).all()


@pytest.mark.parametrize(
    ("drawn", "what"),
    [
        (None, "NoneType"),
        ("a text", "str"),
        ([], "list"),
        (np.zeros((3, 64, 64), np.uint8), r"ndarray, shape \(3, 64, 64\)"),
        (np.zeros((64, 64, 2), np.uint8), r"shape \(64, 64, 2\)"),
        (of(200.0, 0.0, 0.0, dtype=np.float32), "float32 from 0 to 200"),
        (of(-0.5, 0.0, 0.5, dtype=np.float32), "float32 from -0.5 to 0.5"),
        (of(np.nan, 0.0, 0.5, dtype=np.float32), "float32 from nan to nan"),
        (of(70000, 0, 0, dtype=np.uint32), "uint32 from 0 to 70000"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\)"),
        ([np.zeros((2, 2, 3)), np.zeros((3, 2, 3))], "list"),
    ],
)
def test_what_could_mean_several_things_is_refused_in_one_line(drawn: Any, what: str) -> None:
    with pytest.raises(ConfigError, match=rf"^Mine-v0: its frames are .*{what}.*; a video needs RGB") as refusal:
        video.rgb(drawn, "Mine-v0")
    assert "\n" not in str(refusal.value)


def test_a_frame_of_another_size_is_refused() -> None:
    frames = iter([np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6, 3), np.uint8), np.zeros((4, 8, 3), np.uint8)])
    with pytest.raises(ConfigError, match=r"^Mine-v0: frame 2 is 4 × 8 pixels, the first is 4 × 6"):
        list(video.same_size(frames, "Mine-v0"))


@pytest.mark.parametrize("fps", [None, 0, -5, "fast", float("nan"), float("inf"), 0.001])
def test_without_a_speed_a_film_has_the_usual_one(fps: Any) -> None:
    assert video.steps_per_second({"render_fps": fps}) == video.USUAL_FPS
    assert video.steps_per_second({}) == video.USUAL_FPS
    assert video.steps_per_second({"render_fps": 50}) == 50.0


def test_a_missing_ffmpeg_is_refused_before_anything_is_played(monkeypatch: pytest.MonkeyPatch) -> None:
    config = pytest.importorskip("moviepy.config")
    monkeypatch.setattr(config, "FFMPEG_BINARY", "/nowhere/ffmpeg")
    with pytest.raises(ConfigError, match=r"^video=true: /nowhere/ffmpeg: this ffmpeg cannot be started"):
        video.refuse_missing_ffmpeg()


def test_a_film_that_cannot_be_written_leaves_no_file(tmp_path: Path) -> None:
    pytest.importorskip("moviepy")

    def frames() -> Any:
        yield np.zeros((8, 8, 3), np.uint8)
        raise RuntimeError("the simulator died")

    with pytest.raises(RuntimeError, match="died"):
        video.write_video(frames(), 30.0, tmp_path / "x.mp4")
    with pytest.raises(RuntimeError, match="died"):
        video.write_images(frames(), tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_film_that_ffmpeg_cannot_write_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("moviepy")
    (tmp_path / "x.mp4").mkdir()
    with pytest.raises(ConfigError, match=r"x\.mp4: the video could not be written"):
        video.write_video(iter([np.zeros((8, 8, 3), np.uint8)] * 3), 30.0, tmp_path / "x.mp4")
