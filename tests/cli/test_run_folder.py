"""The folder of a single run: planned, made and locked before anything is written in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from helpers import ROOT
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig

from ablate.cli import hydra_app
from ablate.cli.hydra_app import ValidateFirst
from ablate.cli.resolvers import register
from ablate.records.manifest import lock_run
from ablate.records.schema import EPISODES, MANIFEST

Start = Callable[..., Path]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Start]:
    """`python src/run.py <arguments>` up to the first file, in a repository whose outputs are in tmp_path."""
    monkeypatch.setattr("ablate.cli.resolvers.OUTPUTS", tmp_path)
    monkeypatch.setattr("ablate.cli.resolvers.time.strftime", lambda _: "now")
    monkeypatch.setattr(ValidateFirst, "locked", locks := ExitStack())
    register()
    GlobalHydra.instance().clear()
    loader = Hydra.create_main_hydra2("run", create_config_search_path(str(ROOT / "conf"))).config_loader

    def started(*arguments: str) -> Path:
        composed: DictConfig = loader.load_configuration("config", list(arguments), run_mode=RunMode.RUN)
        ValidateFirst().on_run_start(composed)
        return Path(composed.hydra.run.dir)

    yield started
    locks.close()
    GlobalHydra.instance().clear()


def test_runs_started_in_the_same_second_get_folders_of_their_own(start: Start) -> None:
    folders = [start("env=cartpole") for _ in range(3)]
    first = folders[0].name
    assert [folder.name for folder in folders] == [first, f"{first}_2", f"{first}_3"]
    assert [os.listdir(folder) for folder in folders] == [[], [], []]


@pytest.mark.parametrize("trains", [True, False])
def test_a_second_run_into_a_folder_changes_nothing(
    trains: bool, start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    if trains:
        start(f"hydra.run.dir={folder}")
    else:
        folder.mkdir()
        (folder / EPISODES).touch()
    before = os.stat(folder)
    with pytest.raises(SystemExit) as refused:
        start(f"hydra.run.dir={folder}", "seed=2")
    assert refused.value.code == 2
    reason = "another process is training in this folder" if trains else f"it has a {EPISODES}, but no {MANIFEST}"
    assert f"{folder}: {reason}" in capsys.readouterr().err
    assert os.stat(folder) == before


def test_a_resumed_run_is_locked_before_it_is_read(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    with lock_run(tmp_path / "run"), pytest.raises(SystemExit):
        start(f"resume={tmp_path / 'run'}")
    assert "another process is training in this folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        start(f"resume={tmp_path / 'run'}", f"hydra.run.dir={tmp_path / 'other'}")
    assert f"hydra.run.dir={tmp_path / 'other'}: a resumed run stays in its folder" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["run"]


@pytest.mark.parametrize(("error", "line"), [(OSError(28, "No space left on device"), "failed: [Errno 28] No space")])
def test_a_disk_that_fails_is_one_line(error: OSError, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    def program() -> None:
        raise error

    assert hydra_app.exit_code(program) == 1
    assert capsys.readouterr().err.startswith(line)
