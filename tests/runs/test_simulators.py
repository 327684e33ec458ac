"""An environment that is a program of its own trains, resumes, is filmed and sweeps, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
from processes import Run, command_of, eventually
from simulator_env import LIVES

from ablate.records.schema import EPISODES, EVALUATIONS, LAST_CHECKPOINT

SETTINGS = (
    "env=gymnasium", "env.id=simulator_env:Simulated-v0", "+env.kwargs.dies=0.01", "workers=2", "figures=false",
    "checkpoint_every_seconds=0.5", "evaluation.every_seconds=0.5", "evaluation.episodes=1", "logger.display=plain",
)  # fmt: skip


def assert_nothing_is_left(run: Run) -> None:
    assert eventually(lambda: not run.processes()), [command_of(pid) for pid in run.processes()]


@pytest.mark.slow
def test_it_trains_resumes_and_is_filmed(start: Callable[..., Run], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = start(*SETTINGS, f"hydra.run.dir={folder}", "max_episodes=8")
    assert run.exit_code() == 0, run.errors
    assert run.rows() == 8
    assert_nothing_is_left(run)

    resumed = start(f"resume={folder}", "plugins=[simulator_env]", "max_episodes=12")
    assert resumed.exit_code() == 0, resumed.errors
    assert resumed.rows() == 12
    assert resumed.rows(EVALUATIONS) >= 1
    assert_nothing_is_left(resumed)

    # While it is filmed, it must not die: the replayed episode would have another return.
    played = (f"run={folder}", "plugins=[simulator_env]", "episodes=2", "frames=true")
    filmed = start(*played, program=("src/evaluate.py",), **{LIVES: "1"})
    assert filmed.exit_code() == 0, filmed.errors
    images = sorted((folder / "videos/evaluation-best").iterdir())
    assert len(images) == 21
    drawn = cv2.imread(str(images[0]))
    assert drawn is not None
    assert drawn.shape == (32, 32, 3)
    assert drawn.max() == 255
    assert_nothing_is_left(filmed)


@pytest.mark.parametrize(
    ("end", "how"),
    [
        pytest.param("Ctrl-C", "program"),
        pytest.param("kill -9 of the parent", "daemon", marks=pytest.mark.slow),
    ],
)
def test_nothing_is_left_if_it_is_ended(end: str, how: str, start: Callable[..., Run], tmp_path: Path) -> None:
    """With daemons, the environment forgets its simulators."""
    more = (f"+env.kwargs.how={how}", f"+env.kwargs.closes={'false' if how == 'daemon' else 'true'}")
    run = start(*SETTINGS, *more, f"hydra.run.dir={tmp_path / 'run'}", "max_episodes=100000")
    run.wait_until(lambda: (run.folder / LAST_CHECKPOINT).exists() and run.rows(EPISODES) >= 4, "training")
    if end == "Ctrl-C":
        os.killpg(run.process.pid, signal.SIGINT)
    else:
        os.kill(run.process.pid, signal.SIGKILL)
    assert run.exit_code() == (130 if end == "Ctrl-C" else -signal.SIGKILL), run.errors
    assert_nothing_is_left(run)


@pytest.mark.slow
def test_a_sweep_of_it_leaves_nothing(start: Callable[..., Run], tmp_path: Path) -> None:
    run = start(
        "-m", *SETTINGS, "evaluation.every_seconds=null", "seed=1,2", "max_episodes=3", "workers=1",
        f"hydra.sweep.dir={tmp_path / 'sweep'}", "+env.kwargs.closes=false",
    )  # fmt: skip
    assert run.exit_code(timeout_s=280) == 0, run.errors + run.output
    assert len(list((tmp_path / "sweep").rglob(EPISODES))) == 2
    assert_nothing_is_left(run)
