"""python src/run.py reproduce=<folder>: a run again from its manifest, and the comparison of the rows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

from ablate.cli import reproduce
from ablate.config.schema import ConfigError
from ablate.records.files import read_json, write_json
from ablate.records.schema import COLUMNS, EPISODES, MANIFEST

ROWS = ("1,0,200,0.5,-1200.0,200,-6.0,-6.0,False,True", "2,0,400,1.0,-1000.0,200,-5.0,-5.99,False,True")


def table(folder: Path, *rows: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / EPISODES).write_text("\n".join([",".join(COLUMNS[EPISODES]), *rows]) + "\n")
    return folder


def test_rows_are_equal_apart_from_the_clock(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = table(tmp_path / "there", *ROWS)
    assert reproduce.compare(there, table(tmp_path / "here", ROWS[0].replace("0.5", "9.5", 1), ROWS[1]), EPISODES) == ""
    assert "equal    2 rows of episodes.csv" in capsys.readouterr().out
    for rows, difference in (
        ((ROWS[0], ROWS[1].replace("-5.99", "-5.98")), "row 2 has moving_average=-5.99 there, -5.98 here"),
        (ROWS[:1], "2 rows there, 1 here"),
    ):
        assert reproduce.compare(there, table(tmp_path / "here", *rows), EPISODES) == f"episodes.csv: {difference}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("reproduce={folder}", "seed=3"), "seed=3: reproduce= runs a manifest as it is"),
        (("reproduce={folder}", "reproduce=x"), "reproduce=x: reproduce= runs a manifest as it is"),
        (("reproduce=",), "reproduce=: it is empty; give the folder of a run or a cell"),
        (("reproduce={folder}",), "its status is interrupted; only a completed run can be compared"),
        (("reproduce={folder}/nothing",), "not a run's folder"),
    ],
)
def test_what_cannot_be_run_again_is_refused(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    write_json(tmp_path / MANIFEST, {"config": {}})
    write_json(tmp_path / "status.json", {"state": "interrupted"})
    with pytest.raises(ConfigError, match=words):
        reproduce.reproduce([argument.format(folder=tmp_path) for argument in arguments])


@pytest.mark.slow
def test_a_run_is_repeated_row_by_row_and_a_changed_row_is_found(tmp_path: Path) -> None:
    def program(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "src/run.py"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    folder = tmp_path / "seed=1"  # as a cell's folder is named
    made = program("schedule=interleaved", "workers=2", "max_episodes=6", "backend=manual", "figures=false",
                   "evaluation.every_steps=500", "evaluation.episodes=2", f"hydra.run.dir='{folder}'")  # fmt: skip
    assert made.returncode == 0, made.stderr
    again = program(f"reproduce={folder}")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("equal    ") == 3
    episodes = folder / EPISODES
    episodes.write_text(episodes.read_text().replace("False,True", "True,True", 1))
    manifest = read_json(folder / MANIFEST)
    manifest["versions"]["numpy"] = "0.1"
    write_json(folder / MANIFEST, manifest)
    differs = program(f"reproduce={folder}")
    assert differs.returncode == 1
    assert "episodes.csv: row 1 has terminated=True there, False here" in differs.stderr
    assert "numpy was 0.1" in differs.stdout
