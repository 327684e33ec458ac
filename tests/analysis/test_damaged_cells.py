"""One damaged cell hides no other in status, tables, report and notebooks. Its line says which file and why."""

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic import write_sweep

from ablate.analysis.load import load_sweep
from ablate.analysis.summary import summarise
from ablate.cli.status import status
from ablate.config.schema import ConfigError
from ablate.records.manifest import write_status
from ablate.records.run_files import read_manifest, read_status, refuse_changed_tables
from ablate.records.schema import CELL, COLUMNS, EPISODES, EVALUATIONS, MANIFEST, STATUS, UPDATES
from ablate.records.terminal import PlainConsole

TABLES = (EPISODES, UPDATES)  # the status of these invented cells does not say how many evaluations there were
HEADER = ",".join(COLUMNS[EPISODES]).encode()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweep(tmp_path_factory.mktemp("sound") / "sweep", {"a": {}, "b": {}}, range(3), 20)


@pytest.fixture
def sweep(sound: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sound, tmp_path / "sweep")


def assert_only_it_is_damaged(sweep: Path, *said: str) -> None:
    loaded = load_sweep(sweep)
    states = {(row.arm, row.seed): row.state for row in loaded.cells.itertuples()}
    assert {cell for cell, state in states.items() if state != "completed"} == {("a", 1)}
    reason = loaded.cells["reason"][1]
    assert loaded.cells["state"][1] == "damaged"
    for text in said:
        assert text in reason
    assert "\n" not in reason
    for table in (loaded.episodes, loaded.evaluations, loaded.updates):
        assert len(table[["arm", "seed"]].drop_duplicates()) == 5


def test_the_report_leaves_a_damaged_cell_out_and_says_so(sweep: Path) -> None:
    (sweep / "a/seed=1" / EPISODES).write_bytes(b"")
    summary = summarise(load_sweep(sweep))
    assert "1 of 6 cells damaged: a/seed=1" in summary.notes
    assert summary.arms.query("metric == 'auc'")["n"].tolist() == [2, 3]
    (reason,) = summary.sweep.failures["reason"]
    assert reason.startswith(f"a/seed=1/{EPISODES}: ")  # no path of this machine: a report may be sent to others


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize(
    "damage",
    [lambda content: b"", lambda content: content.partition(b"\n")[0] + b"\n", cut, lambda content: content[:-40]],
    ids=["empty", "only its header", "half of it", "a row less"],
)
def test_a_completed_cell_with_a_short_table_has_not_completed(
    name: str, damage: Callable[[bytes], bytes], sweep: Path
) -> None:
    path = sweep / "a/seed=1" / name
    path.write_bytes(damage(path.read_bytes()))
    assert_only_it_is_damaged(sweep, f"{path}: damaged: the run has completed with ")


@pytest.mark.parametrize("name", TABLES)
def test_rows_of_racing_workers_may_swap_at_the_end(name: str, sweep: Path) -> None:
    """A worker may count its update, and send it after the next worker has sent its own."""
    cell = sweep / "a/seed=1"
    *others, last_but_one, last = (cell / name).read_bytes().splitlines(keepends=True)
    (cell / name).write_bytes(b"".join([*others, last, last_but_one]))
    status = read_status(cell)
    assert status is not None
    assert not status.tables
    refuse_changed_tables(cell, read_manifest(cell), status)
    (cell / name).write_bytes(b"".join([*others, last_but_one, last_but_one]))
    with pytest.raises(ConfigError, match="damaged: the run has completed with "):
        refuse_changed_tables(cell, read_manifest(cell), status)


@pytest.mark.parametrize("name", [*TABLES, EVALUATIONS])
def test_a_completed_cell_without_a_table_has_not_completed(name: str, sweep: Path) -> None:
    (sweep / "a/seed=1" / name).unlink()
    assert_only_it_is_damaged(sweep, f"{name}: damaged: the run has completed, but there is no such file")


@pytest.mark.parametrize("kind", ["folder", "pipe"])
@pytest.mark.parametrize("name", [*TABLES, EVALUATIONS, MANIFEST, STATUS])
def test_a_folder_or_pipe_in_the_place_of_a_cells_file_is_told(name: str, kind: str, sweep: Path) -> None:
    path = sweep / "a/seed=1" / name
    path.unlink()
    (os.mkfifo if kind == "pipe" else os.mkdir)(path)
    assert_only_it_is_damaged(sweep, f"{path}: damaged: a {kind} is in the place of the file")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (STATUS, b"{", "invalid JSON"),
        (STATUS, b"[]", "input should be an object"),
        (STATUS, b"3", "input should be an object"),
        (STATUS, b'{"state": 3}', "state=3: input should be 'running'"),
        (STATUS, b'{"state": "completed", "episodes": [1]}', "episodes=[1]: input should be a valid integer"),
        (STATUS, b"\xff\xfe", "invalid JSON"),
        (MANIFEST, b"{}", "it has no config"),
        (MANIFEST, b'{"config": {}}', "it has no log_interval"),
        (
            MANIFEST,
            b'{"config": {"log_interval": 0, "evaluation": {"episodes": 1}}}',
            "log_interval=0: input should be",
        ),
        (MANIFEST, b'{"config": {"log_interval": 9, "evaluation": 1}}', "evaluation=1: input should be"),
        (MANIFEST, b'{"config": 1}', "config=1: input should be"),
        (EPISODES, b"a,b\n" + 20 * b"20,1\n", "its header is 'a,b'"),
        (EPISODES, HEADER + b"\n" + 20 * b"20,0,x,4,5,6,7,8,True,False\n", "damaged"),
        (EVALUATIONS, ",".join(COLUMNS[EVALUATIONS]).encode() + b'\n1,"2\n3,4\n', "damaged"),
    ],
)
def test_a_file_of_a_cell_that_does_not_fit_is_told(name: str, content: bytes, reason: str, sweep: Path) -> None:
    path = sweep / "a/seed=1" / name
    path.write_bytes(content)
    assert_only_it_is_damaged(sweep, f"{path}", reason)


@pytest.mark.parametrize("name", [*TABLES, EVALUATIONS])
def test_a_table_that_changed_after_the_run_is_told(name: str, sweep: Path) -> None:
    """Also if it has as many rows: a digit, a row of another cell, another order."""
    cell = sweep / "a/seed=1"
    status = read_status(cell)
    assert status is not None
    tables = refuse_changed_tables(cell, read_manifest(cell), status)
    write_status(cell, "completed", "", status.counters, tables=tables)
    assert "damaged" not in set(load_sweep(sweep).cells["state"])
    header, first, second, *others = (cell / name).read_bytes().splitlines(keepends=True)
    (cell / name).write_bytes(b"".join([header, second, first, *others]))
    assert_only_it_is_damaged(sweep, f"{cell / name}: damaged: it has changed since the run completed")


def test_a_cell_of_another_seed_is_told(sweep: Path) -> None:
    shutil.copy(sweep / "a/seed=0" / MANIFEST, sweep / "a/seed=1")
    assert_only_it_is_damaged(sweep, "it is of another cell: seed is 0 here, 1 in the study; put the cell's own folder")


def test_cells_that_changed_places_are_told(tmp_path: Path) -> None:
    arms = {name: {"overrides": [f"algo.t_max={steps}"]} for name, steps in (("five", 5), ("ten", 10))}
    sweep = write_sweep(tmp_path / "sweep", arms, range(2), 20)
    (sweep / "five/seed=1").rename(sweep / "kept")
    (sweep / "ten/seed=1").rename(sweep / "five/seed=1")
    (sweep / "kept").rename(sweep / "ten/seed=1")
    cells = load_sweep(sweep).cells
    assert cells["state"].tolist() == ["completed", "damaged"] * 2
    assert "it is of another cell: algo.t_max is 10 here, 5 in the study" in cells["reason"][1]
    assert "it is of another cell: algo.t_max is 5 here, 10 in the study" in cells["reason"][3]


def test_a_damaged_table_of_updates_is_left_out_with_a_warning(sweep: Path) -> None:
    """It is read only when it is needed."""
    path = sweep / "a/seed=1" / UPDATES
    first, second, *others = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + b"x" + second + b"".join(others))
    loaded = load_sweep(sweep)
    with pytest.warns(UserWarning, match=r"a/seed=1/updates.csv: damaged: .*; its rows are left out"):
        updates = loaded.updates
    assert len(updates[["arm", "seed"]].drop_duplicates()) == 5


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"attempts": 3}', b'{"attempts": [{"seconds": "x"}]}'])
def test_a_damaged_cell_json_is_noted_and_costs_no_result(content: bytes, sweep: Path) -> None:
    (sweep / "a/seed=1" / CELL).write_bytes(content)
    loaded = load_sweep(sweep)
    assert set(loaded.cells["state"]) == {"completed"}
    assert any(f"a/seed=1/{CELL}: damaged: " in note for note in summarise(loaded).notes)


def test_the_status_of_a_sweep_says_which_cell_is_damaged(sweep: Path) -> None:
    (sweep / "a/seed=1" / EPISODES).write_bytes(b"")
    (sweep / "b/seed=0" / CELL).write_bytes(b"3")
    text = io.StringIO()
    status(sweep, PlainConsole(file=text, width=200))
    shown = text.getvalue().replace("\n", " ")
    assert "5 completed" in shown
    assert "! 1 damaged" in shown
    assert "a seed=1: " in shown
    assert "damaged: the run has completed with 20 rows, but here are 0" in shown
    assert "b/seed=0/cell.json: damaged: input should be an object" in shown
