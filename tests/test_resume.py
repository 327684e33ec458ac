"""Killed and resumed equals uninterrupted: row by row but for the clock, and parameter by parameter."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import ROOT

from ablate.records.checkpoint import read_checkpoint
from ablate.records.files import read_json
from ablate.records.schema import (
    COLUMNS,
    EPISODES,
    EVALUATIONS,
    LAST_CHECKPOINT,
    MANIFEST,
    UPDATES,
    WALL_CLOCK_COLUMNS,
)


def command(*overrides: str) -> list[str]:
    return [sys.executable, str(ROOT / "src/run.py"), *overrides]


def run_folder(folder: Path, *overrides: str) -> None:
    subprocess.run(command(*overrides, f"hydra.run.dir={folder}"), check=True, timeout=120, capture_output=True)


def rows(folder: Path, name: str) -> int:
    path = folder / name
    return len(path.read_text().splitlines()) if path.exists() else 0


def same(a: Path, b: Path) -> None:
    for name in (EPISODES, UPDATES, EVALUATIONS):
        columns = [column for column in COLUMNS[name] if column not in WALL_CLOCK_COLUMNS]
        pd.testing.assert_frame_equal(pd.read_csv(a / name)[columns], pd.read_csv(b / name)[columns], check_exact=True)
    tensors = [read_checkpoint(folder / LAST_CHECKPOINT).tensors for folder in (a, b)]
    assert tensors[0].keys() == tensors[1].keys()
    for name in tensors[0]:
        np.testing.assert_array_equal(tensors[0][name], tensors[1][name])


CASES = [
    pytest.param(("env=pendulum", "max_episodes=200"), 1),
    *(
        pytest.param(overrides, kills, marks=pytest.mark.slow)
        for overrides, kills in [
            (("env=pendulum", "max_episodes=500", "backend=autograd", "optimizer.amsgrad=true"), 3),
            (("env=cartpole", "max_episodes=2000"), 2),
            (("env=acrobot", "max_episodes=null", "total_steps=60000", "optimizer=rmsprop"), 2),
            (("env=mountain_car_continuous", "max_episodes=60"), 2),
        ]
    ),
]


@pytest.mark.parametrize(("overrides", "kills"), CASES)
def test_killed_and_resumed_equals_uninterrupted(overrides: tuple[str, ...], kills: int, tmp_path: Path) -> None:
    options = ("schedule=interleaved", "workers=3", "evaluation.every_steps=1000", "evaluation.episodes=2",
               "evaluation.horizon=100", "log_interval=7", "checkpoint_every_seconds=0.3", "figures=false",
               "logger.display=off", *overrides)  # fmt: skip
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_folder(whole, *options)
    arguments = [*options, f"hydra.run.dir={broken}"]
    for _ in range(kills):
        process = subprocess.Popen(command(*arguments), start_new_session=True, stdout=subprocess.DEVNULL)
        try:
            before, deadline = rows(broken, UPDATES), time.monotonic() + 60
            while rows(broken, UPDATES) < before + 20 and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            assert process.poll() is None, "it ended before it could be killed"
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        arguments = [f"resume={broken}"]
    output = subprocess.run(command(f"resume={broken}"), check=True, timeout=120, capture_output=True, text=True)
    assert "completed" in output.stdout
    same(whole, broken)


def test_a_completed_run_goes_on_when_its_limit_is_raised_and_a_new_one_starts_from_its_parameters(
    tmp_path: Path,
) -> None:
    quick = ("workers=1", "env.max_ep_step=50", "figures=false", "logger.display=off", "schedule=interleaved")
    run_folder(tmp_path / "run", *quick, "max_episodes=3")
    same_as_it_was = ("workers=1", "env.max_ep_step=50")  # the old command with resume= in front is fine
    subprocess.run(command(f"resume={tmp_path / 'run'}", *same_as_it_was, "max_episodes=5"), check=True, timeout=120)
    manifest = read_json(tmp_path / "run" / MANIFEST)
    assert manifest["config"]["max_episodes"] == 5
    assert [resume["from"]["episodes"] for resume in manifest["resumes"]] == [3]
    assert list(pd.read_csv(tmp_path / "run" / EPISODES)["episode"]) == [1, 2, 3, 4, 5]
    for refused in (("max_episodes=null",), ("algo.gamma=0.5",)):
        assert subprocess.run(command(f"resume={tmp_path / 'run'}", *refused), timeout=120).returncode == 2
    run_folder(tmp_path / "new", *quick, "max_episodes=1", f"load={tmp_path / 'run'}", "optimizer.lr=1e-30")
    old, new = (read_checkpoint(tmp_path / name / LAST_CHECKPOINT).tensors["parameters"] for name in ("run", "new"))
    np.testing.assert_allclose(old, new, atol=1e-12)


def test_an_environment_that_cannot_be_saved_starts_a_new_episode_and_says_so(tmp_path: Path) -> None:
    pytest.importorskip("Box2D")
    options = ("env=lunar_lander", "workers=1", "schedule=interleaved", "figures=false", "logger.display=plain")
    run_folder(tmp_path / "run", *options, "max_episodes=null", "total_steps=300", "evaluation.every_steps=null")
    again = command(f"resume={tmp_path / 'run'}", "total_steps=600")
    assert "cannot be saved" in subprocess.run(again, check=True, timeout=120, capture_output=True, text=True).stdout


def test_a_run_without_a_checkpoint_yet_starts_again_and_its_manifest_says_so(tmp_path: Path) -> None:
    quick = ("workers=1", "env.max_ep_step=50", "figures=false", "logger.display=off", "schedule=interleaved")
    run_folder(tmp_path / "run", *quick, "max_episodes=2")
    (tmp_path / "run" / LAST_CHECKPOINT).unlink()
    run_folder(tmp_path / "run", f"resume={tmp_path / 'run'}")
    assert list(pd.read_csv(tmp_path / "run" / EPISODES)["episode"]) == [1, 2]
    assert [resume["from"]["updates"] for resume in read_json(tmp_path / "run" / MANIFEST)["resumes"]] == [0]
