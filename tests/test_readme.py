"""README and docs/: the commands compose, the links lead somewhere, all groups, options, keys and studies are named."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers import ROOT, config_of

from ablate.cli.configuration_page import PAGE, keys_of, page, shown

FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in FILES}
STUDIES = {  # by page: the study that it shows
    name: yaml.safe_load(blocks[0])["sweep"]
    for name, text in PAGES.items()
    if (blocks := re.findall(r"```yaml\n(# @package _global_\n.+?)```", text, re.DOTALL))
}
COMMANDS = {
    command: name
    for name, text in PAGES.items()
    for command in re.findall(r"^python src/run\.py.*$", text, re.MULTILINE)
    if "<" not in command
    and "-m" not in command
    and "--" not in command
    # a study that the page tells the reader to write: see `test_the_arms_of_a_study_compose`
    and not (name in STUDIES and f"sweep={STUDIES[name]['name']}" in command)
}
LINKS = [(name, link) for name, text in PAGES.items() for link in re.findall(r"\]\((?!http)([^)]+)\)", text)]


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
    assert len(COMMANDS) >= 30


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_composes(command: str) -> None:
    config_of(*shlex.split(command.partition("#")[0])[2:])


@pytest.mark.parametrize(("name", "link"), LINKS)
def test_a_link_leads_somewhere(name: str, link: str) -> None:
    path, _, anchor = link.partition("#")
    target = (ROOT / name).parent / path if path else ROOT / name
    assert target.is_file()
    assert not anchor or anchor in anchors(target.read_text())


@pytest.mark.parametrize("name", sorted(PAGES.keys() - {"README.md"}))
def test_the_readme_leads_to_every_page(name: str) -> None:
    assert ("README.md", name) in LINKS


def test_the_readme_is_short() -> None:
    assert len(PAGES["README.md"].split()) <= 900


@pytest.mark.parametrize("group", sorted(p.name for p in (ROOT / "conf").iterdir() if p.is_dir() and p.name != "hydra"))
def test_the_table_names_every_option(group: str) -> None:
    row = next(line for line in PAGES["docs/configuration.md"].splitlines() if line.startswith(f"| `{group}` |"))
    options = tracked(f"conf/{group}")
    assert options
    for option in options:
        assert f"`{option}`" in row


@pytest.mark.parametrize("study", tracked("sweeps/sweep"))
def test_every_study_is_listed(study: str) -> None:
    assert f"`{study}`" in PAGES["docs/sweeps.md"]


def test_the_study_shown_in_the_readme_runs(tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    shown_study = re.findall(r"```yaml\n(.+?)```", PAGES["README.md"], re.DOTALL)[0]
    (tmp_path / "sweep/entropy.yaml").write_text(shown_study)
    command = [sys.executable, "src/run.py", f"--config-dir={tmp_path}", "sweep=entropy", "sweep.dry_run=true"]
    command.append("hydra/launcher=slurm")  # a cluster is not probed
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "60 = 2 arms x 30 seeds" in done.stdout


def test_the_sweeps_page_shows_the_same_study_with_comments() -> None:
    assert STUDIES["docs/sweeps.md"] == STUDIES["README.md"]


@pytest.mark.parametrize("name", STUDIES)
def test_the_arms_of_a_study_compose(name: str) -> None:
    study = STUDIES[name]
    for arm in study.get("arms", {}).values():  # those of a design: tests/sweeps/test_design.py
        config_of(*study["base"], *arm["overrides"])


def test_every_top_level_key_is_named() -> None:
    keys = re.findall(r"^(\w+):", (ROOT / "conf/config.yaml").read_text(), re.MULTILINE)
    for key in set(keys) - {"defaults"}:
        assert re.search(rf"\b{key}\b", PAGES["docs/configuration.md"]), key


def test_the_configuration_page_is_what_make_docs_generates() -> None:
    assert PAGE.read_text() == page(), "run make docs"


def test_keys_are_read_with_their_values_and_comments(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("# Base.\na: 1     # first\nb: [2]   # second,\n         # in two lines\n")
    (tmp_path / "own.yaml").write_text(
        "# Own.\ndefaults:\n  - base\n  - _self_\n\na: 3\nc:       # third\n  d: x   # fourth\n"
    )
    keys = keys_of(tmp_path / "own.yaml")
    assert {key: (shown(own.value), own.comment) for key, own in keys.items()} == {
        "a": ("`3`", "first"),
        "b": ("`[2]`", "second, in two lines"),
        "c": ("`d`", "third"),
        "c.d": ("`x`", "fourth"),
    }
