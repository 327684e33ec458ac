"""The folder of a run or sweep can be read in any state that a killed or running process leaves it in."""

import json
from pathlib import Path

import pandas as pd
import pytest
from synthetic import write_sweep

from ablate.analysis.load import load_run, load_sweep
from ablate.config.schema import ConfigError
from ablate.records.csv_writer import CsvWriter
from ablate.records.schema import COLUMNS, EPISODES, EVALUATIONS, MANIFEST, STATUS, UPDATES

EPISODE_ROWS = [
    (1, 0, 200, 0.125, -1234.5, 200, -6.1725, -6.1725, False, True),
    (2, 3, 410, 0.3, -0.1 - 0.2, 7, -1 / 7, -6.1, True, False),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run with two episodes and nothing else."""
    (tmp_path / MANIFEST).write_text(json.dumps({"config": {"seed": 3, "env": {"id": "Pendulum-v1"}}}))
    write(tmp_path / EPISODES, EPISODE_ROWS)
    return tmp_path


def write(path: Path, rows: list[tuple], columns: tuple[str, ...] = ()) -> None:
    writer = CsvWriter(path, columns)
    for row in rows:
        writer.write(row)
    writer.close()


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_what_the_writer_wrote_comes_back(folder: Path) -> None:
    (folder / STATUS).write_text('{"state": "completed"}')
    columns = (*COLUMNS[UPDATES], "grad_norm", "learning_rate")
    write(folder / UPDATES, [(100, 1000, 0.5, float("nan"), 1e-4)], columns)
    write(folder / EVALUATIONS, [(1, 1000, 100, 0.5, 1, -300.0, 200, None, "mode, raw")])
    run = load_run(folder)
    assert run.status is not None
    assert run.status.state == "completed"
    assert run.torn == 0
    assert list(run.episodes.itertuples(index=False, name=None)) == EPISODE_ROWS
    assert run.episodes.dtypes.astype(str).tolist() == (
        ["int64"] * 3 + ["float64"] * 2 + ["int64"] + ["float64"] * 2 + ["bool"] * 2
    )
    assert run.updates["grad_norm"].isna().all()
    assert run.updates["learning_rate"].tolist() == [1e-4]
    assert run.evaluations["protocol"].tolist() == ["mode, raw"]
    assert run.evaluations["horizon"].isna().all()


def test_tables_that_are_not_there_are_empty_with_columns_and_types(folder: Path) -> None:
    run = load_run(folder)
    assert (run.status, run.torn) == (None, 0)
    for table, name in ((run.updates, UPDATES), (run.evaluations, EVALUATIONS)):
        assert table.empty
        assert tuple(table.columns) == COLUMNS[name]
        assert table["global_step"].dtype == "int64"
        assert table["wall_time_s"].dtype == "float64"


@pytest.mark.parametrize("cut", range(1, 60))
def test_a_torn_last_line_is_left_out_and_counted_wherever_it_was_cut(folder: Path, cut: int) -> None:
    line = "3,1,600,0.41,-1000.25,190,-5.264473684210526,-6.0916447368421055,False,True"
    append(folder / EPISODES, line[:cut])
    run = load_run(folder)
    assert run.torn == 1
    assert run.episodes["episode"].tolist() == [1, 2]


def test_a_row_counts_only_once_its_newline_is_written(folder: Path) -> None:
    append(folder / EPISODES, "3,1,600,0.41,-1000.25,190,-5.26,-6.09,False,True")  # ... or -6.0916, say
    assert len(load_run(folder).episodes) == 2
    append(folder / EPISODES, "\n")
    assert len(load_run(folder).episodes) == 3


@pytest.mark.parametrize(("content", "torn"), [("", 0), ("episode,wor", 1)])
def test_a_file_without_a_whole_header_yet_is_empty(folder: Path, content: str, torn: int) -> None:
    (folder / EPISODES).write_text(content)
    run = load_run(folder)
    assert run.episodes.empty
    assert run.torn == torn
    assert run.episodes["terminated"].dtype == "bool"


def test_torn_lines_of_all_files_are_counted(folder: Path) -> None:
    for name in (EPISODES, UPDATES, EVALUATIONS):
        write(folder / name, [])
        append(folder / name, "1,2")
    assert load_run(folder).torn == 3


@pytest.mark.parametrize("missing", [(MANIFEST,), (EPISODES,), (MANIFEST, EPISODES)])
def test_a_folder_that_is_no_run_is_refused_in_a_line(folder: Path, missing: tuple[str, ...]) -> None:
    for name in missing:
        (folder / name).unlink()
    with pytest.raises(ConfigError) as refusal:
        load_run(folder)
    message = str(refusal.value)
    assert str(folder) in message
    assert all(name in message for name in missing)
    assert "\n" not in message


def test_no_folder_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere: no such folder"):
        load_run(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (MANIFEST, "{"),
        (MANIFEST, "[]"),
        (EPISODES, "a,b\n1,2\n"),
        (UPDATES, "update,wall_time_s,loss\n1,0.1,2\n"),
        (EPISODES, ",".join(COLUMNS[EPISODES]) + "\n1,2,x,4,5,6,7,8,True,False\n"),
        (EPISODES, ",".join(COLUMNS[EPISODES]) + "\n1,2,3\n"),
        (EPISODES, ",".join(COLUMNS[EPISODES]) + "\n1,2,3,4,5,6,7,8,True,False,11\n"),
    ],
)
def test_a_damaged_file_is_refused_in_a_line_that_names_it(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(ConfigError) as refusal:
        load_run(folder)
    assert str(folder / name) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_settings_are_found_by_their_dotted_key(folder: Path) -> None:
    run = load_run(folder)
    assert run.setting("env.id") == "Pendulum-v1"
    assert run.setting("seed") == 3
    with pytest.raises(ConfigError, match=r"no env\.name"):
        run.setting("env.name")


def test_floats_keep_all_their_digits(folder: Path) -> None:
    values = pd.Series([1 / 3, 0.1 + 0.2, 1e-300, -123456.789012345678])
    rows = [(i, i, 0.0, value) for i, value in enumerate(values)]
    write(folder / UPDATES, rows, (*COLUMNS[UPDATES], "policy_loss"))
    assert load_run(folder).updates["policy_loss"].tolist() == values.tolist()


CELLS = [(arm, seed) for arm in ("a", "b") for seed in range(3)]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two arms with three seeds: one cell has failed, one is missing."""
    return write_sweep(tmp_path, {"a": {}, "b": {}}, range(3), 20, failed=(("a", 1),), missing=(("b", 2),))


def test_a_sweeps_tables_are_its_completed_cells_on_top_of_each_other(sweep: Path) -> None:
    loaded = load_sweep(sweep)
    states = dict(zip(CELLS, loaded.cells["state"], strict=True))
    assert states == {cell: {("a", 1): "failed", ("b", 2): "missing"}.get(cell, "completed") for cell in CELLS}
    completed = [cell for cell in CELLS if states[cell] == "completed"]
    runs = {(arm, seed): load_run(sweep / arm / f"seed={seed}") for arm, seed in completed}
    for name in ("episodes", "updates", "evaluations"):
        parts = [getattr(run, name).assign(arm=arm, seed=seed) for (arm, seed), run in runs.items()]
        expected = pd.concat(parts, ignore_index=True).astype({"arm": "str"})
        table = getattr(loaded, name)
        assert list(table.columns[:2]) == ["arm", "seed"]
        pd.testing.assert_frame_equal(table, expected[table.columns.tolist()])


def test_torn_and_empty_lines_of_cells_shift_no_row_to_another_cell(sweep: Path) -> None:
    whole = load_sweep(sweep)
    append(sweep / "a/seed=0" / EPISODES, "\n\n")
    append(sweep / "a/seed=2" / EPISODES, "21,0,42")
    append(sweep / "b/seed=0" / EVALUATIONS, "13,")
    loaded = load_sweep(sweep)
    pd.testing.assert_frame_equal(loaded.episodes, whole.episodes)
    pd.testing.assert_frame_equal(loaded.evaluations, whole.evaluations)
    assert (whole.torn, loaded.torn) == (0, 2)


def test_a_sweep_with_some_of_its_arms(sweep: Path) -> None:
    part = load_sweep(sweep).only(["b"])
    assert list(part.arms) == ["b"]
    for table in (part.cells, part.episodes, part.updates, part.evaluations):
        assert set(table["arm"]) == {"b"}


def test_a_folder_that_is_no_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"not a sweep's folder; it has no study\.json"):
        load_sweep(tmp_path)
