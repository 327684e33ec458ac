"""Pixels are compared with explicit resizing in float64, with gymnasium's wrappers, and with weighted sums."""

import numpy as np
import pytest

from ablate.config.choices import Preprocessing
from ablate.envs.atari_kind import OBSERVATIONS
from ablate.envs.games import emulator
from ablate.envs.preprocessing import Preprocessor, RunningNormalisation, channel_mean, normalise, pipeline_of

GAMES = ["breakout", "riverraid", "space_invaders", "ms_pacman", "centipede"]


def frames_of(rom: str, number: int, apart: int = 7) -> list[tuple[np.ndarray, np.ndarray]]:
    """RGB and grey screens of random play."""
    ale, rng, frames = emulator(rom), np.random.default_rng(0), []
    ale.reset_game()
    for frame in range(number * apart):
        ale.act(int(rng.integers(18)))
        if ale.game_over():
            ale.reset_game()
        if frame % apart == 0:
            frames.append((ale.getScreenRGB(), ale.getScreenGrayscale()))
    return frames


def bilinear(size: int, target: int) -> np.ndarray:
    """(target, size): output pixel i is at (i + 1/2) size / target - 1/2 between two input pixels."""
    at = np.clip((np.arange(target) + 0.5) * size / target - 0.5, 0, size - 1)
    below = np.floor(at).astype(int)
    weights = np.zeros((target, size))
    weights[np.arange(target), below] += 1 - (at - below)
    weights[np.arange(target), np.minimum(below + 1, size - 1)] += at - below
    return weights


def area(size: int, target: int) -> np.ndarray:
    """(target, size): output pixel i is the mean of the input that it covers."""
    edges = np.arange(target + 1) * size / target
    left, right = edges[:-1, np.newaxis], edges[1:, np.newaxis]
    pixels = np.arange(size)
    return np.clip(np.minimum(right, pixels + 1) - np.maximum(left, pixels), 0, None) * target / size


def resized(image: np.ndarray, height: int, width: int, weights_of=bilinear) -> np.ndarray:
    rows, columns = weights_of(image.shape[0], height), weights_of(image.shape[1], width)
    return np.einsum("ih,hw...,jw->ij...", rows, image.astype(float), columns, optimize=True)


@pytest.mark.parametrize("rom", GAMES)
def test_report_42_is_the_reports_pipeline_but_for_rounding_to_bytes(rom: str) -> None:
    preprocessor, deviations, shifted = Preprocessor(pipeline_of(Preprocessing.report_42, rom)), [], []
    for rgb, _ in frames_of(rom, 12, 23):
        got = preprocessor.from_rgb(rgb)
        assert (got.shape, got.dtype) == ((1, 42, 42), np.float32)
        for first_row, found in ((34, deviations), (35, shifted)):
            exact = resized(resized(rgb[first_row : first_row + 160, :160], 80, 80), 42, 42).mean(2) / 255
            found.append(np.abs(got[0] - exact).max())
    # Each resize rounds to a byte, by at most 1/2, and the second averages the errors of the first.
    assert max(deviations) <= 1.01 / 255
    assert min(shifted) > 1.01 / 255  # the test would notice a crop one row lower


def test_channel_mean_is_numpys_for_all_sums_of_three_bytes() -> None:
    sums = np.arange(3 * 255 + 1)
    colours = np.stack([sums // 3, (sums + 1) // 3, (sums + 2) // 3], axis=-1).astype(np.uint8)[np.newaxis]
    assert (colours.sum(2) == sums).all()
    np.testing.assert_array_equal(channel_mean(colours), colours.mean(2).astype(np.float32) * np.float32(1 / 255))


# First row, last row + 1, height after the first resize: from config.json of S4's program.
ROWS = {
    "breakout": (34, 194, 80),
    "riverraid": (34, 194, 80),
    "space_invaders": (8, 196, 94),
    "ms_pacman": (2, 170, 84),
}


@pytest.mark.parametrize("rom", sorted(ROWS))
def test_report_80_is_the_mean_of_the_colours_resized(rom: str) -> None:
    preprocessor = Preprocessor(pipeline_of(Preprocessing.report_80, rom))
    first, end, height = ROWS[rom]
    for rgb, _ in frames_of(rom, 10, 23):
        exact = resized(resized(rgb[first:end, :160].mean(2) / 255, height, 80), 80, 80)
        got = preprocessor.from_rgb(rgb)
        assert (got.shape, got.dtype) == ((1, 80, 80), np.float32)
        np.testing.assert_allclose(got[0], exact, atol=2e-6)


@pytest.mark.parametrize("rom", GAMES)
def test_nature_84_is_grey_averaged_over_areas_and_stacked(rom: str) -> None:
    preprocessor, images = Preprocessor(pipeline_of(Preprocessing.nature_84, rom)), []
    for rgb, grey in frames_of(rom, 10, 23):
        weighted = rgb @ np.array([0.299, 0.587, 0.114])
        assert np.abs(weighted - grey).max() <= 0.51  # the emulator's grey is this, rounded
        got = preprocessor.from_rgb(rgb)
        assert (got.shape, got.dtype) == ((4, 84, 84), np.uint8)
        assert np.abs(got[-1] - resized(grey, 84, 84, area)).max() <= 0.501  # rounded to a byte once
        images.append(got[-1])
        last = [images[max(0, len(images) - 1 - back)] for back in (3, 2, 1, 0)]
        np.testing.assert_array_equal(got, last)
    preprocessor.reset()
    again = preprocessor.from_rgb(frames_of(rom, 1)[0][0])
    np.testing.assert_array_equal(again, [images[0]] * 4)


def test_normalised_84_is_nature_84_in_the_unit_interval() -> None:
    bytes_, floats = (
        Preprocessor(pipeline_of(p, "breakout")) for p in (Preprocessing.nature_84, Preprocessing.normalised_84)
    )
    assert (bytes_.pipeline.normalised, floats.pipeline.normalised) == (False, True)
    for rgb, _ in frames_of("breakout", 5, 40):
        np.testing.assert_allclose(floats.from_rgb(rgb), bytes_.from_rgb(rgb) / 255, atol=1e-7)


def test_observations_are_arrays_of_their_own() -> None:
    for preprocessing in Preprocessing:
        preprocessor = Preprocessor(pipeline_of(preprocessing, "breakout"))
        (one, _), (two, _) = frames_of("breakout", 2, 40)
        first = preprocessor.from_rgb(one)
        kept = first.copy()
        assert (preprocessor.from_rgb(two) != first).any()
        np.testing.assert_array_equal(first, kept)
        assert (first.shape, str(first.dtype)) == OBSERVATIONS[preprocessing]


@pytest.mark.parametrize(
    "frame", [np.zeros((1, 42, 42), np.float32), np.zeros((210, 160), np.uint8), np.zeros((210, 160, 3))]
)
def test_an_array_that_is_no_raw_frame_is_refused(frame: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"a frame \(210, 160, 3\) of uint8 is needed, not"):
        Preprocessor(pipeline_of(Preprocessing.report_42, "breakout")).from_rgb(frame)


def test_running_normalisation_is_the_exponentially_weighted_mean() -> None:
    """m̂ = Σ α^(n-i) mean(x_i) / Σ α^(n-i), computed explicitly."""
    rng, memory = np.random.default_rng(0), np.zeros((2, 3))
    normalisation = RunningNormalisation(memory[1])
    observations = rng.uniform(0, 1, (300, 1, 42, 42)).astype(np.float32) * rng.uniform(0, 1, (300, 1, 1, 1))
    observations = observations.astype(np.float32)
    for n, observation in enumerate(observations, start=1):
        normalisation.update(observation)
        weights = 0.9999 ** np.arange(n - 1, -1, -1.0)
        past = observations[:n].astype(float)
        mean = np.average(past.mean((1, 2, 3)), weights=weights)
        std = np.average(past.std((1, 2, 3)), weights=weights)
        got = normalisation.apply(observation)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, (observation - mean) / (std + 1e-8), rtol=1e-5, atol=1e-5)
    assert memory[1, 2] == 300
    assert not memory[0].any()


def test_normalisation_can_be_done_in_place() -> None:
    observation = np.random.default_rng(0).uniform(0, 1, (1, 42, 42)).astype(np.float32)
    expected = normalise(observation, np.array([0.4, 0.2]))
    assert normalise(observation, np.array([0.4, 0.2]), out=observation) is observation
    np.testing.assert_array_equal(observation, expected)


def test_a_black_screen_is_normalised_to_zeros() -> None:
    normalisation = RunningNormalisation(np.zeros(3))
    normalisation.update(np.zeros((1, 42, 42), np.float32))
    assert not normalisation.apply(np.zeros((1, 42, 42), np.float32)).any()


def test_frozen_statistics_weigh_each_worker_by_its_steps() -> None:
    """Each worker saw one kind of screen, so the bias-corrected values are known."""
    statistics = np.zeros((3, 3))
    kinds = [(0.2, 0.1, 30), (0.6, 0.3, 10)]  # mean, std, steps; the third worker has not started
    for (mean, std, steps), row in zip(kinds, statistics, strict=False):
        image = np.full((1, 42, 42), mean)
        image[:, ::2] += std
        image[:, 1::2] -= std
        for _ in range(steps):
            RunningNormalisation(row).update(image)
    np.testing.assert_allclose(RunningNormalisation.frozen(statistics), [0.3, 0.15], rtol=1e-12)
    np.testing.assert_array_equal(RunningNormalisation.frozen(np.zeros((3, 3))), [0, 1])
