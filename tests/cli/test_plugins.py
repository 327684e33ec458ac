"""plugins=[module]: the options next to the module are found, and only the command line can name a module."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers import ROOT

from ablate.cli.arguments import named_plugins
from ablate.config.schema import ConfigError

MODULE = """
from pathlib import Path
from ablate.algos.algorithm import register
from ablate.algos.a3c.spec import A3C

class Mine(A3C):
    name = "mine"

register(Mine())
Path(__file__).with_name("imported").touch()
"""
FILES = {
    "mine.py": MODULE,
    "conf/algo/mine.yaml": "defaults: [a3c, _self_]\ngamma: 0.75\n",
    "conf/env/pole.yaml": "defaults: [cartpole, _self_]\nmax_ep_step: 50\n",
    "conf/env/paddle.yaml": "defaults: [breakout, _self_]\n",
    "conf/algo_env/mine_pole.yaml": "# @package _global_\ntotal_steps: 123\n",
    "conf/algo_env/mine_atari.yaml": "# @package _global_\ntotal_steps: 456\n",
    "sweep/theirs.yaml": "# @package _global_\nsweep: {base: ['plugins=[mine]'], arms: {a: {overrides: []}}}\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The working directory of a user, with a plugin, its options and a study that names the plugin."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "src/run.py"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(("env", "steps", "model"), [("pole", 123, "mlp"), ("paddle", 456, "conv")])
def test_options_in_the_folder_of_a_plugin_are_found(folder: Path, env: str, steps: int, model: str) -> None:
    done = run(folder, "plugins=[mine]", "algo=mine", f"env={env}", "--cfg", "job")
    assert (done.returncode, done.stderr) == (0, "")
    config = yaml.safe_load(done.stdout)
    assert (config["plugins"], config["algo"]["gamma"], config["algo"]["t_max"]) == (["mine"], 0.75, 10)
    assert (config["total_steps"], config["model"]["name"]) == (steps, model)


def test_an_error_also_lists_the_options_of_a_plugin(folder: Path) -> None:
    done = run(folder, "plugins=[mine]", "algo=null")
    assert (done.returncode, done.stderr) == (2, "algo=null: no such option (there are: a3c, dqn, mine)\n")


@pytest.mark.parametrize("named", [False, True])
def test_a_study_cannot_import_code_that_the_user_did_not_name(folder: Path, named: bool) -> None:
    search = f"hydra.searchpath=[file://{folder}]"
    settings = ("sweep=theirs", search, "sweep.dry_run=true", "hydra/launcher=slurm", *["plugins=[mine]"] * named)
    done = run(folder, *settings, f"hydra.sweep.dir={folder / 'swept'}")
    assert done.returncode == (0 if named else 2), done.stderr
    assert ("add plugins=[mine] if you trust it\n" in done.stderr) is not named
    assert ("imported" in os.listdir(folder)) is named
    assert "swept" not in os.listdir(folder)


def test_plugins_is_a_list_of_modules() -> None:
    assert named_plugins(["plugins=[a, b.c]", "env=pendulum", "+plugins=[d]", "'plugins=[e]'"]) == ["a", "b.c", "d"]
    assert named_plugins(["plugins=[]"]) == []
    for value in ("a", "[a", "[a;b]", "null"):
        with pytest.raises(ConfigError, match=r"a list of modules is needed, as in plugins=\[my_algorithm\]"):
            named_plugins([f"plugins={value}"])
