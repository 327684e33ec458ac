"""Every example is short and runs as its first lines say."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import here
import pandas as pd
import pytest
from gymnasium.utils.env_checker import check_env
from helpers import ROOT
from synthetic import write_sweep

import ablate
from ablate.analysis.load import load_sweep
from ablate.config import plugins
from ablate.play.policy import Policy
from ablate.records.schema import EPISODES

EXAMPLES = ROOT / "examples"
ENVIRONMENTS = {  # by id: the option of the group env, and the shape of an observation
    "corridor:Corridor-v0": ("gymnasium", (1,)),
    "catch:Catch-v0": ("images", (12, 12, 1)),
    "thermostat:Thermostat-v0": ("gymnasium", (4,)),
}
SHORT = [*(EXAMPLES / "environments").glob("*.py"), *(EXAMPLES / "from_python").glob("*.py")]


@pytest.mark.parametrize("path", SHORT, ids=lambda path: path.stem)
def test_an_example_has_at_most_40_lines_and_says_how_to_call_it(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 40
    assert f"{path.stem}" in text.split('"""')[1]


@pytest.fixture
def of_examples(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The folder of the environments is the current one, as the examples say."""
    monkeypatch.chdir(EXAMPLES / "environments")
    monkeypatch.setattr(plugins, "_NAMED", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr("ablate.runs.training.Supervisor", here.Threads)
    yield
    for name in ENVIRONMENTS:
        sys.modules.pop(name.partition(":")[0], None)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_an_environment_keeps_gymnasiums_rules_and_trains(name: str, of_examples: None, tmp_path: Path) -> None:
    option, shape = ENVIRONMENTS[name]
    here.train(tmp_path / "run", f"env={option}", f"env.id={name}", "max_episodes=3")
    assert len(pd.read_csv(tmp_path / "run" / EPISODES)) >= 3
    env = gymnasium.make(name)
    check_env(env.unwrapped, skip_render_check=True)
    observation = env.reset(seed=1)[0]
    assert observation.shape == shape
    assert env.action_space.contains(Policy.load(tmp_path / "run").act(observation))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    arms = {"a": {"overrides": ["workers=4"], "label": "four"}, "b": {"overrides": ["workers=2"], "level": -2.0}}
    return write_sweep(tmp_path_factory.mktemp("sweeps") / "crews", arms, episodes=20)


def run(name: str, *arguments: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / "from_python" / f"{name}.py"), run_name="__main__")


def test_csvs_read_with_pandas_alone_give_the_programs_means(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("read_csvs", sweep, monkeypatch=monkeypatch)
    shown = {line.split()[0]: float(line.split()[2]) for line in capsys.readouterr().out.splitlines()[2:]}
    rows = load_sweep(sweep).evaluations
    last = rows[rows["evaluation"] == rows["evaluation"].max()].groupby("arm")["episodic_return"].mean()
    assert shown == pytest.approx(last.to_dict(), rel=1e-4)


def test_a_figure_for_a_paper_is_a_pdf_of_its_width(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    run("paper_figure", sweep, tmp_path / "figure.pdf", monkeypatch=monkeypatch)
    content = (tmp_path / "figure.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert b"/MediaBox [ 0 0 198.4" in content  # points: 7 cm


def test_a_policy_plays_in_plain_gymnasium(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ablate.runs.training.Supervisor", here.Threads)
    here.train(tmp_path / "run", "max_episodes=3")
    capsys.readouterr()
    run("play", tmp_path / "run", monkeypatch=monkeypatch)
    assert capsys.readouterr().out.startswith("CartPole-v1: mean return ")


@pytest.mark.slow
def test_a_study_from_python_ends_with_a_verdict(tmp_path: Path) -> None:
    tiny = ("backend=manual", "max_episodes=5", "evaluation.episodes=2", f"hydra.sweep.dir={tmp_path / 'swept'}")
    command = [sys.executable, str(EXAMPLES / "from_python/study.py"), *tiny]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "10 of 10 cells completed" in done.stdout
    assert len(ablate.Study(tmp_path / "swept").verdicts) == 1
