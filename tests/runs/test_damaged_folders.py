"""A run's folder whose files do not belong together is not resumed: one line says which file, and nothing changes."""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import here
import numpy as np
import pytest
from helpers import config_of

from ablate.analysis.load import load_run
from ablate.config.schema import Config, ConfigError, EnvConfig
from ablate.records import checkpoint as checkpoints
from ablate.records.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from ablate.records.manifest import lock_run
from ablate.records.schema import (
    BEST_CHECKPOINT,
    CELL_LOG,
    EPISODES,
    EVALUATIONS,
    LAST_CHECKPOINT,
    MANIFEST,
    STATUS,
    UPDATES,
)
from ablate.runs.plan import plan
from ablate.runs.run import RunFailed, new_folder, refuse_used
from ablate.runs.training import Training
from ablate.sweeps import cell as cells
from ablate.sweeps import train_cell


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("sound"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs with one other setting each."""
    base = tmp_path_factory.mktemp("other")
    settings = {
        "environment": ("env=acrobot", "env.max_ep_step=20"), "network": ("model.actor_hidden=[8]",),
        "seed": ("seed=2",), "algorithm": ("algo=dqn", "algo.warmup_steps=640", "max_episodes=9"),
    }  # fmt: skip
    return {name: trained(base, name, *overrides) for name, overrides in settings.items()}


def trained(base: Path, name: str = "run", *overrides: str) -> Path:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("ablate.runs.training.Supervisor", here.Threads)
        here.train(base / name, *overrides)
    return base / name


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    """A copy of the sound run, which a test may change."""
    return shutil.copytree(sound, tmp_path / "run")


def refusal(folder: Path) -> str:
    """The line in which a resume is refused, having changed nothing."""
    before = files_of(folder)
    with pytest.raises(ConfigError) as refused:
        resumed(folder)
    assert files_of(folder) == before
    assert "\n" not in str(refused.value)
    return str(refused.value).removeprefix(f"resume={folder}: ")


def resumed(folder: Path) -> None:
    longer = ("max_episodes=40", "optimizer.decay_episodes=40")
    plan(replace(config_of(*longer), resume=str(folder)), [f"resume={folder}", *longer])


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lines(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[bytes], bytes]:
    return lambda content: b"\n".join(change(content.split(b"\n")))


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "half of it": lambda content: content[: len(content) // 2],
    "only the header": lines(lambda rows: [rows[0], b""]),
    "nothing": lambda content: b"",
    "a row less": lines(lambda rows: rows[:3] + rows[4:]),
    "the last row less": lines(lambda rows: [*rows[:-2], b""]),
    "a stray quote": lines(lambda rows: [*rows[:2], b'"' + rows[2], *rows[3:]]),
    "another header": lines(lambda rows: [b"a,b", *rows[1:]]),
    "a byte-order mark": lambda content: b"\xef\xbb\xbf" + content,
    "a NUL": lines(lambda rows: [*rows[:2], b"\x00" + rows[2], *rows[3:]]),
    "no UTF-8": lines(lambda rows: [*rows[:2], b"\xff" + rows[2], *rows[3:]]),
    "a number that is not whole": lines(lambda rows: [*rows[:2], rows[2].replace(b",", b".0,", 1), *rows[3:]]),
    "a field of 1 MB": lines(lambda rows: [*rows[:2], b"x" * 1_000_000 + rows[2], *rows[3:]]),
}


def test_a_sound_folder_is_resumed(sound: Path) -> None:
    resumed(sound)


@pytest.mark.parametrize("name", [EPISODES, UPDATES, EVALUATIONS])
@pytest.mark.parametrize("damage", [*DAMAGES, "no file"])
def test_a_csv_that_lost_rows_is_not_resumed(damage: str, name: str, sound: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(sound, folder)
    if damage == "no file":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(DAMAGES[damage]((folder / name).read_bytes()))
    before = files_of(folder)
    with pytest.raises(ConfigError) as refusal:
        resumed(folder)
    assert str(folder / name) in str(refusal.value)
    assert "damaged" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert files_of(folder) == before


def test_a_completed_run_without_its_checkpoint_is_not_resumed(sound: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(sound, folder)
    (folder / LAST_CHECKPOINT).unlink()
    with pytest.raises(ConfigError, match=rf"its status says completed after \d+ steps, but {LAST_CHECKPOINT} is miss"):
        resumed(folder)


# Files that do not belong together: what the user sees.

NAMES = {
    "environment": f"{LAST_CHECKPOINT} is of another run than {MANIFEST}: env.id is Acrobot-v1 there, CartPole-v1 here",
    "network": f"{LAST_CHECKPOINT} is of another run than {MANIFEST}: model.actor_hidden is [8] there, [200] here",
    "seed": f"{LAST_CHECKPOINT} is of another run than {MANIFEST}: seed is 2 there, 1 here",
    "algorithm": f"{LAST_CHECKPOINT} is of another run than {MANIFEST}: algo.name is dqn there, a3c here",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_of_another_run_is_not_resumed(name: str, folder: Path, other: dict[str, Path]) -> None:
    shutil.copy(other[name] / LAST_CHECKPOINT, folder / LAST_CHECKPOINT)
    line = refusal(folder)
    assert NAMES[name] in line
    assert "put the run's own file back, or start a new run with load=" in line


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (BEST_CHECKPOINT, "best.safetensors is of another run than manifest.json: seed is 2 there, 1 here"),
        (MANIFEST, "last.safetensors is of another run than manifest.json: seed is 1 there, 2 here"),
        (
            EPISODES,
            "episodes.csv is of another run than checkpoints/last.safetensors: the moving average of episode 30 is",
        ),
        (UPDATES, "updates.csv is damaged"),
        (EVALUATIONS, "evaluations.csv is damaged"),
        (STATUS, "status.json says completed after"),
    ],
)
def test_a_file_of_another_run_is_not_resumed(name: str, line: str, folder: Path, other: dict[str, Path]) -> None:
    theirs = other["environment"] if name in (EPISODES, UPDATES, EVALUATIONS) else other["seed"]
    shutil.copy(theirs / name, folder / name)
    if name in (UPDATES, EVALUATIONS):  # as many rows, or more, cannot be told from the run's own
        (folder / name).write_bytes(b"".join((theirs / name).read_bytes().splitlines(keepends=True)[:3]))
    assert line in refusal(folder)


def test_rows_of_another_run_are_told_by_their_moving_average(folder: Path) -> None:
    lines = (folder / EPISODES).read_text().splitlines()
    *first, average, terminated, truncated = lines[-1].split(",")
    lines[-1] = ",".join([*first, repr(float(average) + 1), terminated, truncated])
    (folder / EPISODES).write_text("\n".join(lines) + "\n")
    assert "episodes.csv is of another run than checkpoints/last.safetensors: the moving average" in refusal(folder)


def test_the_best_checkpoint_is_no_last_one(folder: Path) -> None:
    shutil.copy(folder / BEST_CHECKPOINT, folder / LAST_CHECKPOINT)
    assert "last.safetensors: it does not hold the last state of a run: it has no " in refusal(folder)


def test_an_older_checkpoint_of_an_ended_run_is_not_resumed(folder: Path) -> None:
    status = json.loads((folder / STATUS).read_text())
    (folder / STATUS).write_text(json.dumps({**status, "steps": status["steps"] + 9}))
    assert f"status.json says completed after {status['steps'] + 9} steps, but" in refusal(folder)
    (folder / STATUS).unlink()  # as the line says
    resumed(folder)


def edited(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "null", "\0" * 9, '"x"', "[" * 100_000, "{}"])
def test_a_manifest_that_is_no_manifest_is_refused(content: str, folder: Path) -> None:
    (folder / MANIFEST).write_text(content)
    assert refusal(folder).startswith(f"{folder / MANIFEST}: damaged: ")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda manifest: manifest.pop("config"), "it has no config"),
        (lambda manifest: manifest.update(config=[]), "config=[]: input should be an object"),
        (lambda manifest: manifest.update(resumes=3), "resumes=3: input should be a valid array"),
        (lambda manifest: manifest.update(resumes=[{}]), "it has no resumes.0.from"),
        (lambda manifest: manifest.update(schema_version=9), "schema_version=9: input should be 1"),
        (lambda manifest: manifest["config"].update(env=3), "stored configuration: env=3: a group of keys is needed"),
        (lambda manifest: manifest["config"].pop("env"), "env.name=None: not one of"),
        (lambda manifest: manifest["config"]["env"].update(name=[1]), "env.name=[1]: not one of"),
        (lambda manifest: manifest["config"].update(workers={}), "stored configuration: "),
        (lambda manifest: manifest["config"].update(log_interval="often"), "stored configuration: "),
        (lambda manifest: manifest["config"].update(log_interval=-1), "log_interval=-1: input should be greater"),
        (lambda manifest: manifest["config"].update(unknown=1), "unknown: this version has no such key"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(change: Callable[[Any], Any], line: str, folder: Path) -> None:
    edited(folder / MANIFEST, change)
    assert str(folder / MANIFEST) in refusal(folder)
    assert line in refusal(folder)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("[]", "input should be an object"),
        ("{}", "it has no state"),
        ('{"state": "ready"}', "state=ready: input should be 'running', 'completed', 'interrupted' or 'failed'"),
        ('{"state": "failed", "steps": "9"}', "steps=9: input should be a valid integer"),
        ('{"state": "failed", "steps": -1}', "steps=-1: input should be greater than or equal to 0"),
        ('{"state": "failed", "reason": null}', "reason=None: input should be a valid string"),
    ],
)
def test_a_status_that_does_not_fit_is_refused(content: str, line: str, folder: Path) -> None:
    (folder / STATUS).write_text(content)
    assert refusal(folder) == f"{folder / STATUS}: damaged: {line}"


def without(name: str) -> Callable[[Checkpoint], None]:
    return lambda checkpoint: checkpoint.state.pop(name)


STATES: dict[str, tuple[Callable[[Checkpoint], Any], str]] = {
    "no counters": (without("counters"), "it has no counters"),
    "no turns": (without("turns"), "it has no turns"),
    "counters of another kind": (lambda c: c.state.update(counters=3), "counters=3: input should be"),
    "a worker less": (
        lambda c: c.state["workers"].clear(),
        "the states of 0 workers in 1 processes; 1 in 1 are needed",
    ),
    "a turn more": (lambda c: c.state["turns"].append(0), "the states of 1 workers in 2 processes"),
    "no configuration": (lambda c: c.state.update(config={}), "algo.name=None: not one of"),
    "another space": (
        lambda c: c.state["env_spec"].update(observation_shape=[9]),
        "CartPole-v1 has changed: it was (9,)",
    ),
    "no parameters": (lambda c: c.tensors.pop("parameters"), "it has no parameters"),
    "a parameter less": (
        lambda c: c.tensors.update(parameters=c.tensors["parameters"][1:]),
        "parameters has the shape",
    ),
    "a matrix": (lambda c: c.tensors.update(parameters=c.tensors["parameters"][None]), "parameters has the shape"),
    "no statistics": (lambda c: c.tensors.pop("exp_avg"), "it has no exp_avg"),
    "whole numbers": (lambda c: c.tensors.update(parameters=np.arange(9)), "parameters has values that are no finite"),
    "NaN": (lambda c: c.tensors["parameters"].fill(np.nan), "parameters has values that are no finite numbers"),
}


@pytest.mark.parametrize("name", STATES)
def test_a_valid_checksum_over_wrong_content_is_refused(name: str, folder: Path) -> None:
    change, line = STATES[name]
    checkpoint = read_checkpoint(folder / LAST_CHECKPOINT)
    writable = Checkpoint({key: tensor.copy() for key, tensor in checkpoint.tensors.items()}, checkpoint.state)
    change(writable)
    write_checkpoint(folder / LAST_CHECKPOINT, writable)
    assert str(folder / LAST_CHECKPOINT) in refusal(folder)
    assert line in refusal(folder)


@pytest.mark.parametrize("state", ["3", "[]", "{", "null", "[" * 100_000])
def test_a_checkpoint_whose_state_is_no_object_is_refused(
    state: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints.json, "dumps", lambda value: state)
    write_checkpoint(folder / LAST_CHECKPOINT, Checkpoint({}, {}))
    monkeypatch.undo()
    assert str(folder / LAST_CHECKPOINT) in refusal(folder)


@pytest.mark.parametrize("kind", ["folder", "pipe"])
@pytest.mark.parametrize("name", [MANIFEST, STATUS, EPISODES, UPDATES, EVALUATIONS, LAST_CHECKPOINT, BEST_CHECKPOINT])
def test_a_folder_or_pipe_in_the_place_of_a_file_is_refused(name: str, kind: str, folder: Path) -> None:
    """To open a pipe would wait for ever."""
    (folder / name).unlink()
    (os.mkfifo if kind == "pipe" else os.mkdir)(folder / name)
    assert refusal(folder).startswith(f"{folder / name}: damaged: a {kind} is in the place of the file; move it away")


def test_a_digit_that_changed_after_the_run_is_told(folder: Path) -> None:
    """A CSV file of as many rows, of whatever run, cannot be told from the run's own in another way."""
    for name in (EPISODES, UPDATES, EVALUATIONS):
        content = (folder / name).read_bytes()
        at = content.index(b".") + 1
        (folder / name).write_bytes(content[:at] + (b"1" if content[at : at + 1] != b"1" else b"2") + content[at + 1 :])
        reason = "it has changed since the run completed, by its SHA-256 in status.json; put the run's own file back"
        line = f"{folder / name}: damaged: {reason}"
        assert refusal(folder) == line
        with pytest.raises(ConfigError) as refused:
            load_run(folder)
        assert str(refused.value) == line
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("name", [EPISODES, UPDATES, EVALUATIONS, MANIFEST])
def test_a_run_that_loses_a_file_does_not_complete(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody deletes it while the run goes on, or replaces it by a copy: what is written later is lost."""
    folder, checkpoint = tmp_path / "run", Training._write_checkpoint

    def deleted(training: Training) -> None:
        (folder / name).unlink(missing_ok=True)
        checkpoint(training)

    monkeypatch.setattr("ablate.runs.training.Supervisor", here.Threads)
    monkeypatch.setattr(Training, "_write_checkpoint", deleted)
    with pytest.raises(RunFailed, match=name) as failed:
        here.train(folder)
    status = json.loads((folder / STATUS).read_text())
    assert status["state"] == "failed"
    assert str(failed.value) == f"{status['reason']}; it was changed during the training"


LOADED: dict[str, dict[str, Any]] = {
    "parameters has the shape (9,)": {"parameters": np.zeros(9, np.float32)},
    "normalisation has the shape (7,)": {"normalisation": np.ones(7, np.float32)},
    "normalisation has values that are no finite numbers": {"normalisation": np.full(2, np.nan, np.float32)},
}


@pytest.mark.parametrize("line", LOADED)
def test_tensors_that_do_not_fit_are_not_loaded(line: str, folder: Path) -> None:
    """A kernel would read beyond their end."""
    tensors, state = read_checkpoint(folder / LAST_CHECKPOINT)
    write_checkpoint(folder / LAST_CHECKPOINT, Checkpoint({**tensors, **LOADED[line]}, state))
    with pytest.raises(ConfigError, match=re.escape(f"{folder / LAST_CHECKPOINT}: damaged: {line}")):
        plan(config_of(*here.TINY, f"load={folder}"), [])


# Cells are resumed by the same function.


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (EPISODES, "updates.csv: damaged: a folder is in the place"),
        (LAST_CHECKPOINT, "is of another run than manifest.json: env.id"),
    ],
)
def test_a_cell_that_cannot_be_resumed_starts_again(
    name: str, said: str, folder: Path, other: dict[str, Path], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Also if folders are in the places of its files."""
    shutil.copy(other["environment"] / name, folder / name)
    (folder / UPDATES).unlink()
    (folder / UPDATES).mkdir()
    started: list[Config] = []
    monkeypatch.setattr(train_cell, "run", lambda resolved, folder, overrides, there: started.append(resolved))
    train_cell._train(config_of(*here.TINY), [], folder)
    output = capsys.readouterr().out
    assert output.startswith("starting again: ")
    assert said in output
    assert [resolved.new for resolved in started] == [True]
    assert not (folder / UPDATES).exists()


def test_what_has_nothing_to_do_with_a_cells_files_does_not_delete_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checkpoint would be lost because a simulator did not answer, or another program took the memory."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def refuse(config: EnvConfig) -> None:
        raise ConfigError(f"env.id={config.id}: ConnectionRefusedError")

    monkeypatch.setattr("ablate.runs.plan.check_arguments", refuse)
    with pytest.raises(ConfigError, match="ConnectionRefusedError"):
        train_cell._train(config_of(*here.TINY), [], folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


# New runs.


@pytest.mark.parametrize("name", [MANIFEST, STATUS, EPISODES, UPDATES, EVALUATIONS, "checkpoints"])
def test_a_new_run_refuses_a_folder_with_files_in_the_place_of_its_own(name: str, tmp_path: Path) -> None:
    (tmp_path / "cell.log").write_text("another file")
    refuse_used(tmp_path)
    (tmp_path / name).write_text("episode,return\n1,2\n")
    with pytest.raises(ConfigError, match=name if name != MANIFEST else "holds a run already"):
        refuse_used(tmp_path)


def test_a_folder_is_claimed_by_one_run_alone(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a/run") as (folder, still_there):
        assert (folder, still_there()) == (tmp_path / "a/run", True)
        with pytest.raises(ConfigError, match=r"a/run: another process is training in this folder"), new_folder(folder):
            pass
        with new_folder(folder, numbered=True) as (second, _), new_folder(folder, numbered=True) as (third, _):
            assert [second.name, third.name] == ["run_2", "run_3"]
    (tmp_path / "a/run" / EPISODES).touch()
    with (
        pytest.raises(ConfigError, match=r"it has a episodes\.csv, but no manifest\.json"),
        new_folder(tmp_path / "a/run"),
    ):
        pass
    with lock_run(tmp_path / "a/run"):  # the refused one has given its lock back
        pass


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("file", "it is no folder; give another one"),
        ("file/run", "file is no folder; give another one"),
        ("x" * 300, "it cannot be made (" + "x" * 300 + ": File name too long)"),
    ],
)
def test_a_folder_that_cannot_be_made_is_refused(name: str, line: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as refused, new_folder(tmp_path / name):
        pass
    assert str(refused.value) == f"hydra.run.dir={tmp_path / name}: {line.format(tmp_path)}"
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_in_which_nothing_can_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ablate.records.files.tempfile.TemporaryFile", full)
    with (
        pytest.raises(ConfigError, match=r"run: no file can be written in .* \(No space left on device\)"),
        new_folder(tmp_path / "run"),
    ):
        pass
    assert os.listdir(tmp_path) == []


def test_a_pipe_in_the_place_of_a_cells_log_is_refused(tmp_path: Path) -> None:
    """To open it would wait for ever."""
    os.mkfifo(tmp_path / CELL_LOG)
    assert cells.last_lines(tmp_path) == []
    with pytest.raises(ConfigError, match=re.escape(f"{tmp_path / CELL_LOG}")):
        cells.run_cell(config_of(*here.TINY), [], tmp_path, lambda: False)
