"""A run's folder whose files do not belong together is not resumed: one line says which file, and nothing changes."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import ROOT, config_of

from ablate.config.schema import ConfigError
from ablate.records.schema import EPISODES, EVALUATIONS, LAST_CHECKPOINT, MANIFEST, STATUS, UPDATES
from ablate.runs.plan import plan
from ablate.runs.run import refuse_used

QUICK = (
    "env=cartpole", "backend=manual", "workers=1", "schedule=interleaved", "max_episodes=30", "log_interval=2",
    "evaluation.every_steps=100", "evaluation.episodes=2", "figures=false", "logger.display=off",
)  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "run"
    command = [sys.executable, str(ROOT / "src/run.py"), *QUICK, f"hydra.run.dir={folder}"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return folder


def resumed(folder: Path) -> None:
    overrides = [f"resume={folder}", "max_episodes=40"]
    plan(replace(config_of("max_episodes=40"), resume=str(folder)), overrides)


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lines(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[bytes], bytes]:
    return lambda content: b"\n".join(change(content.split(b"\n")))


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "half of it": lambda content: content[: len(content) // 2],
    "only the header": lines(lambda rows: [rows[0], b""]),
    "nothing": lambda content: b"",
    "a row less": lines(lambda rows: rows[:3] + rows[4:]),
    "the last row less": lines(lambda rows: [*rows[:-2], b""]),
    "a stray quote": lines(lambda rows: [*rows[:2], b'"' + rows[2], *rows[3:]]),
    "another header": lines(lambda rows: [b"a,b", *rows[1:]]),
    "a byte-order mark": lambda content: b"\xef\xbb\xbf" + content,
    "a NUL": lines(lambda rows: [*rows[:2], b"\x00" + rows[2], *rows[3:]]),
    "no UTF-8": lines(lambda rows: [*rows[:2], b"\xff" + rows[2], *rows[3:]]),
    "a number that is not whole": lines(lambda rows: [*rows[:2], rows[2].replace(b",", b".0,", 1), *rows[3:]]),
    "a field of 1 MB": lines(lambda rows: [*rows[:2], b"x" * 1_000_000 + rows[2], *rows[3:]]),
}


def test_a_sound_folder_is_resumed(sound: Path) -> None:
    resumed(sound)


@pytest.mark.parametrize("name", [EPISODES, UPDATES, EVALUATIONS])
@pytest.mark.parametrize("damage", [*DAMAGES, "no file"])
def test_a_csv_that_lost_rows_is_not_resumed(damage: str, name: str, sound: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(sound, folder)
    if damage == "no file":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(DAMAGES[damage]((folder / name).read_bytes()))
    before = files_of(folder)
    with pytest.raises(ConfigError) as refusal:
        resumed(folder)
    assert str(folder / name) in str(refusal.value)
    assert "damaged" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert files_of(folder) == before


def test_a_completed_run_without_its_checkpoint_is_not_resumed(sound: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(sound, folder)
    (folder / LAST_CHECKPOINT).unlink()
    with pytest.raises(ConfigError, match=rf"its status says completed after \d+ steps, but {LAST_CHECKPOINT} is miss"):
        resumed(folder)


@pytest.mark.parametrize("name", [MANIFEST, STATUS, EPISODES, UPDATES, EVALUATIONS, "checkpoints"])
def test_a_new_run_refuses_a_folder_with_files_in_the_place_of_its_own(name: str, tmp_path: Path) -> None:
    (tmp_path / "cell.log").write_text("another file")
    refuse_used(tmp_path)
    (tmp_path / name).write_text("episode,return\n1,2\n")
    with pytest.raises(ConfigError, match=name if name != MANIFEST else "holds a run already"):
        refuse_used(tmp_path)
