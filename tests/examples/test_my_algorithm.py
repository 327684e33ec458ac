"""A user's own algorithm is two files outside src/. It can be trained, resumed, evaluated and swept over."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from helpers import ROOT

from ablate.records.schema import EPISODES, EVALUATIONS, LAST_CHECKPOINT, MANIFEST, STATUS, UPDATES

FOLDER = ROOT / "examples/my_algorithm"
RUN = (
    "plugins=[reinforce]", "algo=reinforce", "env=cartpole", "schedule=interleaved", "log_interval=5",
    "evaluation.every_steps=1000", "evaluation.episodes=2", "figures=false", "logger.display=plain",
)  # fmt: skip
COLUMNS = ["update", "global_step", "wall_time_s", "policy_loss", "value_loss", "grad_norm", "learning_rate"]


def call(*arguments: str, program: str = "run.py", folder: Path = FOLDER) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "src" / program), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reinforce") / "run"
    done = call(*RUN, "total_steps=2000", f"hydra.run.dir={folder}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("reinforce · CartPole-v1 · 1 worker · interleaved · autograd\n")
    return folder


def rows(path: Path) -> pd.DataFrame:
    return pd.read_csv(path).drop(columns="wall_time_s")


def test_the_algorithm_is_two_files_and_src_does_not_name_it() -> None:
    files = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*") if path.suffix in (".py", ".yaml")}
    assert files == {"reinforce.py", "conf/algo/reinforce.yaml"}
    assert len((FOLDER / "reinforce.py").read_text().splitlines()) < 120
    assert not [path for path in (ROOT / "src").rglob("*.py") if re.search(r"(?i)\breinforce\b", path.read_text())]


def test_its_runs_have_the_files_of_any_run(trained: Path) -> None:
    assert list(pd.read_csv(trained / UPDATES)) == COLUMNS
    assert pd.read_csv(trained / EPISODES)["global_step"].iloc[-1] >= 2000
    assert pd.read_csv(trained / EVALUATIONS)["evaluation"].max() == 2
    assert json.loads((trained / STATUS).read_text())["state"] == "completed"
    assert json.loads((trained / MANIFEST).read_text())["config"]["plugins"] == ["reinforce"]


def test_a_resumed_run_has_the_rows_of_an_uninterrupted_one(trained: Path, tmp_path: Path) -> None:
    done = call(f"resume={trained}", "plugins=[reinforce]", "total_steps=4000")
    assert done.returncode == 0, done.stderr
    whole = call(*RUN, "total_steps=4000", f"hydra.run.dir={tmp_path / 'whole'}")
    assert whole.returncode == 0, whole.stderr
    for name in (EPISODES, UPDATES):
        pd.testing.assert_frame_equal(rows(trained / name), rows(tmp_path / "whole" / name))


def test_it_is_evaluated(trained: Path) -> None:
    done = call(f"run={trained}", "episodes=3", "plugins=[reinforce]", program="evaluate.py")
    assert done.returncode == 0, done.stderr
    assert "3 episodes" in done.stdout


@pytest.mark.parametrize("program", ["run.py", "evaluate.py"])
def test_code_named_by_a_folder_alone_is_not_imported(trained: Path, program: str) -> None:
    done = call(f"{'resume' if program == 'run.py' else 'run'}={trained}", program=program)
    assert done.returncode == 2, done.stdout
    assert "add plugins=[reinforce] if you trust it" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_module_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    done = call("plugins=[reinforse]", "algo=a3c", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("plugins=[reinforse]: cannot be imported (ModuleNotFoundError")


@pytest.mark.slow
def test_a_sweep_over_it_ends_with_verdicts(tmp_path: Path) -> None:
    study = tmp_path / "sweep/discount.yaml"
    study.parent.mkdir()
    study.write_text(
        "# @package _global_\n"
        "sweep:\n"
        "  question: does the discount matter?\n"
        "  base: ['plugins=[reinforce]', algo=reinforce, env=cartpole, total_steps=2000, schedule=interleaved]\n"
        "  seeds: 0-2\n"
        "  arms:\n"
        "    far: {overrides: [algo.gamma=0.99]}\n"
        "    near: {overrides: [algo.gamma=0.5]}\n"
        "  claims: [{id: G1, words: a far view is better, metric: final_score, inequality: far > near}]\n"
    )
    done = call(
        "sweep=discount", "plugins=[reinforce]", f"hydra.searchpath=[file://{tmp_path},file://{FOLDER / 'conf'}]",
        f"hydra.sweep.dir={tmp_path / 'swept'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 of 6 cells completed" in done.stdout
    assert "G1" in (tmp_path / "swept/verdict.md").read_text()
    assert os.path.exists(tmp_path / "swept/far/seed=0" / LAST_CHECKPOINT)
