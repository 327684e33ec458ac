"""The README: its commands compose, its links lead to files, its table has every group and option."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, config_of

README = (ROOT / "README.md").read_text()
COMMANDS = [
    shlex.split(line.partition("#")[0])[2:]
    for line in re.findall(r"^python src/run\.py.*$", README, re.MULTILINE)
    if "<" not in line and "-m" not in line and "--" not in line
]


def tracked(folder: str) -> list[str]:
    """Names of the options in a folder that git tracks. A user may have added more of their own."""
    listed = subprocess.run(["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:  # not a repository, but unpacked from an archive
        return sorted(path.stem for path in (ROOT / folder).glob("*.yaml"))
    return sorted(Path(line).stem for line in listed.stdout.splitlines())


def test_the_readme_has_commands() -> None:
    assert len(COMMANDS) > 5


@pytest.mark.parametrize("overrides", COMMANDS, ids=" ".join)
def test_a_command_composes(overrides: list[str]) -> None:
    config_of(*overrides)


@pytest.mark.parametrize("path", re.findall(r"\]\((?!#|http)([^)]+)\)", README))
def test_a_link_leads_somewhere(path: str) -> None:
    assert (ROOT / path).is_file()


@pytest.mark.parametrize("group", sorted(p.name for p in (ROOT / "conf").iterdir() if p.is_dir() and p.name != "hydra"))
def test_the_table_names_every_option(group: str) -> None:
    table = README.partition("## Configuration")[2]  # a study may have the same name as a group
    row = next(line for line in table.splitlines() if line.startswith(f"| `{group}` |"))
    options = tracked(f"conf/{group}")
    assert options
    for option in options:
        assert f"`{option}`" in row


@pytest.mark.parametrize("study", tracked("sweeps/sweep"))
def test_every_study_is_listed(study: str) -> None:
    assert f"`{study}`" in README


def test_the_study_shown_there_runs(tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep/entropy.yaml").write_text(re.findall(r"```yaml\n(.+?)```", README, re.DOTALL)[0])
    command = [sys.executable, "src/run.py", f"--config-dir={tmp_path}", "sweep=entropy", "sweep.dry_run=true"]
    command.append("hydra/launcher=slurm")  # a cluster is not probed
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "60 = 2 arms x 30 seeds" in done.stdout


def test_every_top_level_key_is_named() -> None:
    keys = re.findall(r"^(\w+):", (ROOT / "conf/config.yaml").read_text(), re.MULTILINE)
    for key in set(keys) - {"defaults"}:
        assert re.search(rf"\b{key}\b", README), key
