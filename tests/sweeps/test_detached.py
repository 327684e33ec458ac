"""sweep.detach=true: a sweep that runs on when the session that started it ends. Each test starts the real program."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import (
    LOGIN_SHELL,
    TEST_ID,
    Run,
    all_processes,
    eventually,
    hang_up,
    of_sweep,
    read_proc,
    returned,
)

from ablate.analysis.load import load_sweep
from ablate.records.schema import REPORT, SWEEP_LOG, VERDICTS
from ablate.sweeps.detached import read_detached

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
LONG_S = 400.0
SETTINGS = (
    "-m", "env=cartpole", "algo=a3c", "workers=1,2", "schedule=interleaved", "max_episodes=null",
    "evaluation.episodes=2", "sweep.detach=true",
    "+sweep.claims=[{id:C1,words:w,metric:final_score,inequality:'workers-2 > workers-1'}]",
)  # fmt: skip
LONG = ("seed=0", "total_steps=200000000", "evaluation.every_steps=100000000", "checkpoint_every_seconds=0.2")
Start = Callable[..., Run]


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Start]:
    """Start the command in a shell. All that it leaves is killed."""
    started: list[Run] = []

    def start(*arguments: str, folder: Path = tmp_path / "sweep") -> Run:
        started.append(Run(folder, *SETTINGS, *arguments, f"hydra.sweep.dir={folder}", program=LOGIN_SHELL))
        return started[-1]

    yield start
    for run in started:
        run.kill()


@pytest.mark.parametrize("settings", [(), ("sweep.until=decided",)], ids=["fixed", "until decided"])
def test_a_sweep_survives_the_session_that_started_it(settings: tuple[str, ...], shell: Start) -> None:
    run = shell("seed=0,1,2,3,4,5", "total_steps=2000", "evaluation.every_steps=1000", *settings)
    returned(run, 0, LONG_S)
    for command in ("watch", "collect", "stop"):
        assert f"python src/sweep.py {command} {run.folder}" in run.output
    assert ("block     5 seeds per arm" in run.output) == bool(settings)
    hang_up(run)
    watched = of_sweep("watch", run.folder, LONG_S)
    assert watched.returncode == 0, f"{watched.stdout} {watched.stderr}"
    assert re.search(r"^ +\d+/1[02] workers-[12] seed=[0-5] completed", watched.stdout, re.MULTILINE)
    assert (run.folder / SWEEP_LOG).read_text() == watched.stdout
    before = (run.folder / REPORT).stat().st_mtime_ns
    collected = of_sweep("collect", run.folder, LONG_S)
    assert collected.returncode == 0, collected.stderr
    (verdict,) = re.findall(r"^### (C1: .*)$", (run.folder / VERDICTS).read_text(), re.MULTILINE)
    assert f"{verdict.replace(':', '       ')}: w" in collected.stdout
    assert (run.folder / REPORT).stat().st_mtime_ns == before
    assert set(load_sweep(run.folder).cells["state"]) == {"completed"}
    assert eventually(lambda: not run.processes())
    assert list(run.folder.rglob("*.tmp")) == []


def test_it_is_refused_twice_stopped_from_any_shell_and_continued(shell: Start) -> None:
    run = shell(*LONG)
    returned(run, 0, LONG_S)
    second = shell(*LONG)
    returned(second, 2, LONG_S)
    assert second.errors.splitlines()[-1] == f"{run.folder}: another sweep runs in this folder"
    still = of_sweep("collect", run.folder, LONG_S)
    assert (still.returncode, still.stdout) == (1, "")
    assert still.stderr.startswith("it still runs: 0 of 2 cells completed, ")
    stopped = of_sweep("stop", run.folder, LONG_S)
    assert stopped.returncode == 0, stopped.stderr
    assert "sweep.detach=true" in stopped.stdout
    watched = of_sweep("watch", run.folder, LONG_S)
    assert watched.returncode == 128 + signal.SIGTERM
    assert watched.stdout.endswith("repeat the command to continue\n")
    states = load_sweep(run.folder).cells
    assert set(states["state"]) <= {"interrupted", "missing"}
    missing = of_sweep("collect", run.folder, LONG_S)
    assert missing.returncode == 1
    assert missing.stderr.startswith("0 of 2 cells completed, ")

    again = shell(*LONG)  # its process is killed
    returned(again, 0, LONG_S)
    started = read_detached(run.folder)
    assert started is not None
    assert f"{TEST_ID}={again.id}".encode() in read_proc(started.pid, "environ")
    os.kill(started.pid, signal.SIGKILL)
    killed = of_sweep("watch", run.folder, LONG_S)
    assert killed.returncode == 1
    assert killed.stderr.startswith("failed: the sweep's process was killed; to continue: python src/run.py -m ")
    assert eventually(lambda: started.pid not in all_processes())
    assert of_sweep("stop", run.folder, LONG_S).stdout.startswith("nothing runs in ")


def test_a_wrong_configuration_fails_at_once(shell: Start) -> None:
    run = shell("seed=0", "algo.gamma=2")
    returned(run, 2, LONG_S)
    assert run.errors.count("\n") == 1, run.errors
    assert "algo.gamma=2" in run.errors
    assert not run.folder.exists()
