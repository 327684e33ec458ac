"""What the pages of docs/ show is what the program has."""

import re
import shlex

import pytest
from helpers import ROOT, config_of

from ablate.algos.a3c.spec import UpdateRecord as A3CRecord
from ablate.algos.dqn.spec import UpdateRecord as DQNRecord
from ablate.records.schema import COLUMNS

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHOWN = re.findall(r"`(src/[\w/.]+\.py)`:\n\n```python\n(.*?)\n```", (ROOT / "docs/design.md").read_text(), re.DOTALL)


@pytest.mark.parametrize(("file", "code"), SHOWN, ids=[file for file, _ in SHOWN])
def test_a_loop_in_the_design_page_is_the_code(file: str, code: str) -> None:
    assert len(SHOWN) == 3
    assert code in (ROOT / file).read_text()


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_paths_that_a_page_names_exist(page: object) -> None:
    text = page.read_text()  # type: ignore[attr-defined]
    names = re.findall(r"`((?:src|conf|tests|examples|benchmarks|docs)/[\w/.-]+)`", text)
    missing = [name for name in names if not (ROOT / name).exists()]
    assert not missing


def test_the_tests_that_a_page_names_exist() -> None:
    written = {
        name for file in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
    }
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/faults.md").read_text()))
    assert len(named) > 60
    assert not named - written


@pytest.mark.parametrize(
    ("page", "columns"),
    [
        ("runs.md", (*COLUMNS["episodes.csv"], *A3CRecord._fields, *COLUMNS["evaluations.csv"])),
        ("dqn.md", DQNRecord._fields),
    ],
)
def test_every_column_that_is_logged_is_explained(page: str, columns: tuple[str, ...]) -> None:
    rows = re.findall(r"^\| (`[^|]*) \| (.*) \|$", (ROOT / "docs" / page).read_text(), re.MULTILINE)
    explained = {name for names, meaning in rows for name in re.findall(r"`(\w+)`", names) if meaning}
    assert set(columns) <= explained


def test_each_source_report_has_a_preset_that_composes() -> None:
    names = re.findall(r"experiment=(\w+)", (ROOT / "docs/reports.md").read_text())
    assert len(set(names)) == 5
    for name in set(names):
        config_of(*shlex.split(f"experiment={name}"))
