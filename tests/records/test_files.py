"""Files that survive a crash: checkpoints, CSV files, status."""

import os
from pathlib import Path

import numpy as np
import pytest
from helpers import config_of
from hypothesis import given
from hypothesis import strategies as st

from ablate.config.schema import ConfigError
from ablate.config.serial import from_dict, to_dict
from ablate.records import checkpoint, files
from ablate.records.checkpoint import (
    CHECKPOINT_VERSION,
    Checkpoint,
    find_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from ablate.records.csv_writer import CsvWriter, read_rows, trim
from ablate.records.files import read_json, remove_temporaries, replace_atomically
from ablate.records.manifest import lock_run, write_manifest, write_status
from ablate.records.schema import COLUMNS, EPISODES, STATUS, UPDATES
from ablate.types import Counters

TENSORS = {"parameters": np.arange(5, dtype=np.float32), "exp_avg": np.zeros((2, 3), np.float32)}


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints/last.safetensors"
    state = {"config": to_dict(config_of()), "random": {"state": 2**127 + 1}, "moving_average": 0.1 + 0.2}
    write_checkpoint(path, Checkpoint(TENSORS, state))
    tensors, read = read_checkpoint(path, None)
    assert tensors.keys() == TENSORS.keys()
    for name in TENSORS:
        np.testing.assert_array_equal(tensors[name], TENSORS[name])
    assert {**state, "version": CHECKPOINT_VERSION} == read
    assert from_dict(read["config"]) == config_of()


def test_another_version_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "CHECKPOINT_VERSION", 1)
        write_checkpoint(path, Checkpoint(TENSORS, {}))
    with pytest.raises(ConfigError, match=f"^{path}: checkpoint version 1, but .* reads version 3; .*train again$"):
        read_checkpoint(path, None)


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    write_checkpoint(path, Checkpoint(TENSORS, {"counters": 1}))
    whole = path.read_bytes()
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        try:
            tensors, state = read_checkpoint(path, None)
        except (ConfigError, ValueError, KeyError):
            continue
        # padding in the header may change without a change of what is read
        assert state["counters"] == 1
        for name in TENSORS:
            np.testing.assert_array_equal(tensors[name], TENSORS[name])


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 200])
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="not a whole checkpoint"):
        read_checkpoint(path, None)
    with pytest.raises(ConfigError, match="no such run or checkpoint"):
        find_checkpoint(tmp_path / "nowhere")


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        replace_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def row(episode: int) -> tuple:
    return (episode, 0, 10 * episode, "0.100", -0.1 - 0.2, 10, -0.03, -0.03, False, True)


def test_rows_survive_a_torn_end_and_are_trimmed(tmp_path: Path) -> None:
    path = tmp_path / EPISODES
    writer = CsvWriter(path)
    for episode in range(1, 6):
        writer.write(row(episode))
    writer.close()
    with path.open("a") as file:
        file.write("6,0,60,0.1")
    _, rows, torn = read_rows(path)
    assert [r[0] for r in rows] == ["1", "2", "3", "4", "5"]
    assert torn == 1
    assert float(rows[0][4]) == -0.1 - 0.2  # all digits are kept
    assert trim(path, lambda r: int(r[0]) <= 3) == 3
    assert path.read_text().count("\n") == 4
    writer = CsvWriter(path)
    writer.write(row(4))
    writer.close()
    assert path.read_text().splitlines()[0] == ",".join(COLUMNS[EPISODES])
    assert [r[0] for r in read_rows(path).rows] == ["1", "2", "3", "4"]


@given(cut=st.integers(0, 400))
def test_a_file_cut_anywhere_gives_whole_rows_only(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("cut") / EPISODES
    writer = CsvWriter(path)
    for episode in range(1, 6):
        writer.write(row(episode))
    writer.close()
    whole = path.read_bytes()
    path.write_bytes(whole[: max(len(",".join(COLUMNS[EPISODES])) + 1, len(whole) - cut)])
    _, rows, torn = read_rows(path)
    assert [int(r[0]) for r in rows] == list(range(1, len(rows) + 1))
    assert torn <= 1


def test_another_header_is_refused(tmp_path: Path) -> None:
    (tmp_path / EPISODES).write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="header"):
        read_rows(tmp_path / EPISODES)


def test_columns_of_the_algorithm_follow_the_common_ones(tmp_path: Path) -> None:
    path = tmp_path / UPDATES
    writer = CsvWriter(path, (*COLUMNS[UPDATES], "loss"))
    for update in (1, 2):
        writer.write((update, 10 * update, "0.1", 0.5))
    writer.close()
    assert trim(path, lambda row: row[0] == "1") == 1
    assert path.read_text() == "update,global_step,wall_time_s,loss\n1,10,0.1,0.5\n"
    path.write_text("update,loss\n1,0.5\n")
    with pytest.raises(ValueError, match="its header is 'update,loss'; 'update,global_step,wall_time_s' is needed"):
        read_rows(path)


def test_a_file_without_a_whole_header_is_removed(tmp_path: Path) -> None:
    """The writer creates it again, with the header."""
    path = tmp_path / UPDATES
    path.write_text("update,glo")
    assert trim(path, lambda row: True) == 1
    assert not path.exists()


def test_a_folder_has_a_status_and_a_lock(tmp_path: Path) -> None:
    write_manifest(tmp_path, config_of(), ["run.py"], [])
    write_status(tmp_path, "running", "", Counters(1, 2, 3))
    assert read_json(tmp_path / STATUS)["steps"] == 2
    with lock_run(tmp_path), pytest.raises(ConfigError, match="another process"), lock_run(tmp_path):
        pass
    with lock_run(tmp_path):
        pass


def test_only_temporary_files_of_dead_processes_of_ours_are_removed(tmp_path: Path) -> None:
    mine, dead, living = os.getpid(), 4194305, os.getppid()  # no process has so high a number
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "another").mkdir()
    gone = [
        f".{STATUS}.{dead}.tmp",
        f".episodes.csv.{mine}.tmp",
        f"checkpoints/.last.safetensors.{dead}.tmp",
    ]
    kept = [
        f".{STATUS}.{living}.tmp",
        ".notes.tmp",
        f".thesis.docx.{dead}.tmp",
        f"another/.last.safetensors.{dead}.tmp",
        f"checkpoints/.last.safetensors.{living}.tmp",
    ]
    for name in (*gone, *kept):
        (tmp_path / name).touch()
    remove_temporaries(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.tmp")) == sorted(kept)


def test_a_lock_knows_whether_its_folder_is_still_there(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with lock_run(folder) as still_there:
        assert still_there()
        folder.rename(tmp_path / "moved")
        assert not still_there()
        folder.mkdir()
        assert not still_there()  # another folder of the same name


def test_a_checkpoint_does_not_make_a_run_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_checkpoint(tmp_path / "gone/checkpoints/last.safetensors", Checkpoint({}, {}))
    assert not (tmp_path / "gone").exists()
