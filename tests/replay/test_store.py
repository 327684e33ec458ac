"""The frame store: its size, its copy for the network, and its errors. test_replay.py tests its content."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ablate.replay.store import FrameStore, smallest_capacity, store_bytes


@pytest.mark.parametrize(("stack", "shape", "dtype"), [(4, (84, 84), "uint8"), (1, (4,), "float32")])
def test_store_bytes_is_the_size_of_all_arrays(stack: int, shape: tuple[int, ...], dtype: str) -> None:
    store = FrameStore(1000, 1, stack, shape, dtype)
    arrays = [array for array in vars(store).values() if isinstance(array, np.ndarray) and len(array) == 1000]
    assert len(arrays) == 7
    assert store_bytes(1000, shape, dtype) == sum(array.nbytes for array in arrays)


def test_a_million_atari_frames_take_about_7_gb() -> None:
    assert 84 * 84 * 1_000_000 < store_bytes(1_000_000, (84, 84), "uint8") < 7.5e9


def test_the_size_is_known_without_numba_and_torch() -> None:
    """The parent process computes the size and must stay small."""
    code = "import ablate.replay.store, sys; sys.exit('numba' in sys.modules or 'torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("table", ["float32", "uint16", "uint8"])
@pytest.mark.parametrize(("stack", "shape"), [(4, (84, 84)), (3, (5, 7)), (1, (6, 2))])
def test_gather_looks_up_and_stacks_the_frames(table: str, stack: int, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    store = FrameStore(50, 2, stack, shape, "uint8")
    store.frames[...] = rng.integers(256, size=store.frames.shape, dtype=np.uint8)
    values = rng.integers(0, 60_000, size=256).astype(table)  # any table, not only an increasing one
    slots = rng.integers(50, size=(9, stack))
    out = np.zeros((9, *shape, stack), table)
    store.gather(slots, out, values)
    np.testing.assert_array_equal(out, values[store.frames[slots]].transpose(0, 2, 3, 1))


def test_a_too_small_capacity_is_refused() -> None:
    least = smallest_capacity(3, 4, 1)
    with pytest.raises(ValueError, match=f"capacity={least - 1}: 3 environments with stacks of 4 need {least} frames"):
        FrameStore(least - 1, 3, 4, (2, 3), "uint8")


def test_a_step_outside_an_episode_is_refused() -> None:
    store = FrameStore(50, 2, 1, (3,), "float32")
    store.start(0, np.zeros(3, np.float32))
    store.add(0, 1, 0.5, True, False, np.zeros(3, np.float32))
    for env_index in (0, 1):  # 0: its episode has ended; 1: it never had one
        with pytest.raises(ValueError, match=f"environment {env_index}: a step outside an episode"):
            store.add(env_index, 1, 0.5, False, False, np.zeros(3, np.float32))


def test_a_full_disk_raises_at_the_start(tmp_path: Path) -> None:
    """It raises now, instead of being killed by a signal later; no file is left behind."""
    with pytest.raises(OSError, match=r"No space|File too large"):
        FrameStore(100, 1, 1, (10**6, 10**6), "uint8", tmp_path / "frames")
    assert not list(tmp_path.iterdir())


def test_the_file_reserves_its_whole_size_at_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """So no page lacks disk space later. The file's name has been removed."""
    sizes: list[int] = []
    unlink = Path.unlink

    def recorded(path: Path) -> None:
        sizes.append(path.stat().st_blocks * 512)
        unlink(path)

    monkeypatch.setattr(Path, "unlink", recorded)
    store = FrameStore(1000, 1, 1, (100, 100), "uint8", tmp_path / "frames")
    assert sizes[0] >= store.frames.nbytes == 10**7
    assert not list(tmp_path.iterdir())
