"""The wheel, installed into an empty environment outside the checkout: configuration inside, outputs/ in the folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from helpers import ROOT
from packaging.requirements import Requirement

from ablate.cli import main as command

TINY = (
    "schedule=interleaved", "backend=manual", "max_episodes=2", "env.max_ep_step=20", "evaluation.every_steps=20",
    "evaluation.episodes=1",
)  # fmt: skip
STUDY = """
# @package _global_
sweep:
  question: Do two workers matter?
  base: [env=swing]
  arms: {one: {overrides: [workers=1]}, two: {overrides: [workers=2]}}
  seeds: 3
  claims: [{id: W, words: they help, metric: auc, inequality: two > one}]
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_has_the_code_and_every_file_of_conf_and_no_other(wheel: Path) -> None:
    def files(*folders: str) -> set[str]:
        return {str(path.relative_to(ROOT / folder)) for folder in folders for path in (ROOT / folder).rglob("*.*")}

    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {f"ablate/conf/{name}" for name in files("conf")}
    expected |= {f"ablate/conf/sweep/{name}" for name in files("sweeps/sweep")}
    expected |= {name for name in files("src") if "/" in name and name.endswith((".py", ".jinja"))}
    assert names == expected


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_installed_package_runs_in_a_folder_of_its_own(wheel: Path, tmp_path: Path) -> None:
    """Its environment has this one's packages on its path, but not this checkout, whose .pth file is not read there."""
    python, folder = tmp_path / "env/bin/python", tmp_path / "work"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True, timeout=120)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True, timeout=120)
    (site,) = (tmp_path / "env/lib").glob("python*/site-packages")
    (site / "packages.pth").write_text(sysconfig.get_path("purelib"))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def ablate(*arguments: str, program: str = "ablate") -> str:
        done = subprocess.run(
            [python.with_name(program), *arguments], cwd=folder, env=environment, capture_output=True, text=True,
            timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    for name, text in {
        "conf/env/swing.yaml": "defaults: [pendulum, _self_]\nreward_scale: 0.125\n",
        "sweeps/sweep/mine.yaml": STUDY,
    }.items():
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(text)
    assert ablate("-c", "import ablate; print(ablate.__file__)", program="python").startswith(str(site))

    assert "completed: 2 episodes" in ablate("run", "algo=a3c", "env=pendulum", "workers=2", *TINY)
    (run,) = (folder / "outputs/runs/a3c-pendulum").iterdir()
    assert yaml.safe_load((run / "manifest.json").read_text())["git"] is None

    assert "2 of 2 cells completed" in ablate("sweep", "mine", *TINY)
    swept = folder / "outputs/sweeps"
    (swept,) = swept.iterdir()
    config = yaml.safe_load((swept / "two/seed=3/manifest.json").read_text())["config"]
    assert (config["env"]["reward_scale"], config["env"]["id"]) == (0.125, "Pendulum-v1")
    assert "2 completed" in ablate("status", str(swept))
    (swept / "report.html").unlink()
    assert "report.html" in ablate("plot", str(swept), str(run))
    assert "W" in (swept / "verdict.md").read_text()
    assert sorted(path.name for path in folder.iterdir()) == ["conf", "outputs", "sweeps"]


@pytest.mark.parametrize(
    ("arguments", "becomes"),
    [
        (["run", "env=cartpole"], ["ablate run", "env=cartpole"]),
        (["sweep", "workers"], ["ablate run", "-m", "sweep=workers"]),
        (["sweep", "workers=1,2", "seed=1"], ["ablate run", "-m", "workers=1,2", "seed=1"]),
        (["status", "workers"], ["ablate", "status", "workers"]),
        (["reproduce", "a/b"], ["ablate run", "reproduce=a/b"]),
        (["reproduce", "a/seed=0"], ["ablate run", "reproduce=a/seed=0"]),
        (["reproduce", "seed=1", "reproduce=a/b"], ["ablate run", "seed=1", "reproduce=a/b"]),
        (["plot", "a", "b"], ["ablate plot", "a", "b"]),
    ],
)
def test_a_command_calls_its_program(arguments: list[str], becomes: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(command, "_run", lambda name: called.append(sys.argv) or 0)
    monkeypatch.setattr(sys, "argv", ["/bin/ablate", *arguments])
    assert command.main() == 0
    assert called == [becomes]


def test_a_wrong_command_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["ablate", "rum"])
    assert command.main() == 2
    known = ", ".join(command.PROGRAMS)
    assert capsys.readouterr().err == f"rum: no such command; did you mean run? (there are: {known})\n"


COMPLETIONS = """
eval "$(ablate -sc install=bash)"
complete -p ablate > /dev/null || exit 1
for line in "ablate ev" "ablate sweep max" "ablate run env=pen"; do
  COMP_LINE="$line"; COMP_POINT=${#line}; COMP_WORDS=($line); COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
  hydra_bash_completion
  echo "${COMPREPLY[@]}"
done
"""


def test_bash_completes_commands_studies_and_overrides(tmp_path: Path) -> None:
    """Bash evaluates what `-sc install=bash` prints, and calls its function as for the Tab key."""
    (tmp_path / "ablate").write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m ablate.cli.main "$@"\n')
    (tmp_path / "ablate").chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    python_path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": python_path}
    done = subprocess.run(["bash", "-c", COMPLETIONS], capture_output=True, text=True, timeout=120, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["evaluate", "max_ep_step", "env=pendulum"]


def test_the_lock_has_an_exact_version_within_each_range_and_torch_for_the_cpu() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lock = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    listed = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    for requirement in map(Requirement, listed):
        assert lock[requirement.name.lower()] in requirement.specifier, requirement
    assert lock["torch"] == "2.13.0"
    assert "\t$(PIP) torch==2.13.0\n" in (ROOT / "Makefile").read_text()
    assert not [name for name in lock if name.startswith(("nvidia", "cuda", "triton"))]


def test_without_its_packages_a_program_is_one_line_that_names_make_run(tmp_path: Path) -> None:
    """-S: a Python without site-packages, as outside of the environment."""
    for program in ("run.py", "evaluate.py", "plot.py", "sweep.py", "benchmark.py"):
        command = [sys.executable, "-S", "-E", str(ROOT / "src" / program)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert re.fullmatch(r"No module named '\w+', for .*`make run` creates \.venv.*\n", done.stderr), done.stderr
