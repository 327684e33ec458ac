"""README and docs/: the commands compose, the links lead somewhere, all groups, options, keys and studies are named."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers import ROOT, config_of

README = (ROOT / "README.md").read_text()
CONFIGURATION = (ROOT / "docs/configuration.md").read_text()
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in FILES}
COMMANDS = {
    command: page
    for page, text in PAGES.items()
    for command in re.findall(r"^python src/run\.py.*$", text, re.MULTILINE)
    if "<" not in command and "-m" not in command and "--" not in command
}
LINKS = [(page, link) for page, text in PAGES.items() for link in re.findall(r"\]\((?!http)([^)]+)\)", text)]


def tracked(folder: str) -> list[str]:
    """Names of the options in a folder that git tracks. A user may have added more of their own."""
    listed = subprocess.run(["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:  # not a repository, but unpacked from an archive
        return sorted(path.stem for path in (ROOT / folder).glob("*.yaml"))
    return sorted(Path(line).stem for line in listed.stdout.splitlines())


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_pages_have_commands() -> None:
    assert len(COMMANDS) > 30


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_composes(command: str) -> None:
    config_of(*shlex.split(command.partition("#")[0])[2:])


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_a_link_leads_somewhere(page: str, link: str) -> None:
    path, _, anchor = link.partition("#")
    target = (ROOT / page).parent / path if path else ROOT / page
    assert target.is_file()
    assert not anchor or anchor in anchors(target.read_text())


@pytest.mark.parametrize("page", sorted(PAGES.keys() - {"README.md"}))
def test_the_readme_leads_to_every_page(page: str) -> None:
    assert ("README.md", page) in LINKS


@pytest.mark.parametrize("group", sorted(p.name for p in (ROOT / "conf").iterdir() if p.is_dir() and p.name != "hydra"))
def test_the_table_names_every_option(group: str) -> None:
    row = next(line for line in CONFIGURATION.splitlines() if line.startswith(f"| `{group}` |"))
    options = tracked(f"conf/{group}")
    assert options
    for option in options:
        assert f"`{option}`" in row


@pytest.mark.parametrize("study", tracked("sweeps/sweep"))
def test_every_study_is_listed(study: str) -> None:
    assert f"`{study}`" in PAGES["docs/sweeps.md"]


def study_shown_in(page: str) -> str:
    return re.findall(r"```yaml\n(.+?)```", PAGES[page], re.DOTALL)[0]


def test_the_study_shown_in_the_readme_runs(tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep/entropy.yaml").write_text(study_shown_in("README.md"))
    command = [sys.executable, "src/run.py", f"--config-dir={tmp_path}", "sweep=entropy", "sweep.dry_run=true"]
    command.append("hydra/launcher=slurm")  # a cluster is not probed
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "60 = 2 arms x 30 seeds" in done.stdout


def test_the_sweeps_page_shows_the_same_study_with_comments() -> None:
    assert yaml.safe_load(study_shown_in("docs/sweeps.md")) == yaml.safe_load(study_shown_in("README.md"))


def test_every_top_level_key_is_named() -> None:
    keys = re.findall(r"^(\w+):", (ROOT / "conf/config.yaml").read_text(), re.MULTILINE)
    for key in set(keys) - {"defaults"}:
        assert re.search(rf"\b{key}\b", CONFIGURATION), key
