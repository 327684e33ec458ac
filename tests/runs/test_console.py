"""What a run prints after its training."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

from ablate import paths
from ablate.records.run_files import read_status

SETTINGS = (
    "env=cartpole", "backend=manual", "schedule=interleaved", "workers=1", "max_episodes=3", "figures=false",
    "evaluation.every_steps=null", "logger.display=off",
)  # fmt: skip


@pytest.mark.parametrize(
    "stdout",
    ["a pipe without a reader", *(pytest.param(gone, marks=pytest.mark.slow) for gone in ("a full disk", "closed"))],
)
def test_a_run_completes_though_nobody_reads_its_output(stdout: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "src/run.py"), *SETTINGS, f"hydra.run.dir={tmp_path / 'run'}"]
    how = {"a full disk": ">/dev/full", "closed": ">&-", "a pipe without a reader": "| true"}[stdout]
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f'"$@" {how}', "bash", *command], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    status = read_status(tmp_path / "run")
    assert status is not None
    assert status.state == "completed"


def test_a_path_means_the_same_after_hydra_has_changed_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """hydra.job.chdir=true goes into the run's folder, where a relative resume= would no longer be found."""
    monkeypatch.setattr(paths, "STARTED_IN", tmp_path)
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    for folder in (run, elsewhere):
        folder.mkdir()
    monkeypatch.chdir(elsewhere)
    assert paths.locate("run") == run
    assert paths.locate("src") == ROOT / "src"
    assert paths.locate("nowhere") == elsewhere / "nowhere"
    assert paths.shown(run / "x") == "run/x"
