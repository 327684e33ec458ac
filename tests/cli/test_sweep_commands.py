"""python src/sweep.py watch, collect and stop: what they say of a folder. Locks decide, not ids of processes."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.style import Style
from synthetic import write_sweep

from ablate.cli import sweep as commands
from ablate.cli.status import SIGNS
from ablate.config.schema import ConfigError
from ablate.parallel.machine import is_locked, lock
from ablate.records.files import write_json
from ablate.records.schema import DETACHED, SWEEP_LOG, cell_folder
from ablate.records.study_file import read_study, write_study
from ablate.runs.run import RunFailed
from ablate.sweeps.cell import STOP
from ablate.sweeps.detached import Detached, read_detached

ARMS: dict[str, dict[str, Any]] = {"four": {"overrides": ["workers=4"]}, "two": {"overrides": ["workers=2"]}}


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDONLY)
    lock(descriptor, wait=False)
    try:
        yield
    finally:
        os.close(descriptor)


@pytest.fixture
def judgements(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that were judged; the figures would take seconds."""
    made: list[Path] = []
    monkeypatch.setattr(commands, "judge", made.append)
    return made


def sweep(tmp_path: Path, **options: Any) -> Path:
    return write_sweep(tmp_path / "sweep", ARMS, seeds=range(2), episodes=5, **options)


def collected(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code, and the line that says what is missing."""
    code: Any = 0
    try:
        commands.collect(folder)
    except SystemExit as leaving:
        code = leaving.code
    return code, capsys.readouterr().err


def test_collect_judges_a_sweep_whose_cells_have_all_ended(
    tmp_path: Path, judgements: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = sweep(tmp_path)
    assert collected(folder, capsys) == (0, "")
    assert judgements == [folder]
    for name in ("verdict.md", "report.html"):  # by the sweep itself
        (folder / name).touch()
    commands.collect(folder)
    assert "four" in capsys.readouterr().out
    assert judgements == [folder]


@pytest.mark.parametrize("what", ["missing", "failed", "running"])
def test_collect_says_what_is_missing(
    what: str, tmp_path: Path, judgements: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = sweep(tmp_path, **({} if what == "running" else {what: (("two", 1),)}))
    with locked(folder) if what == "running" else contextlib.nullcontext():
        code, line = collected(folder, capsys)
    assert code == 1
    assert line.count("\n") == 1
    ended = what == "failed"  # a failed seed is a result, and counts
    assert judgements == [folder] * ended
    assert ("4 of 4 cells completed" if what == "running" else f"3 of 4 cells completed, 1 {what}") in line
    assert ("it still runs" if what == "running" else f"python src/run.py sweep={folder.name}") in line


@pytest.mark.parametrize("seeds", ["sweep.seeds=0", "seed=0"])
def test_the_command_that_runs_the_others_names_all_arms_and_seeds(
    seeds: str, tmp_path: Path, judgements: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The last start may have run some of them."""
    folder = sweep(tmp_path, missing=(("two", 1),))
    study = read_study(folder)
    command = ["src/run.py", "sweep=crews", "sweep.only=[two]", seeds]
    write_study(folder, replace(study, provenance=replace(study.provenance, command=command)))
    _, line = collected(folder, capsys)
    assert line.endswith("to run the others: python src/run.py sweep=crews sweep.seeds=0,1\n")


def while_it(command: Callable[[], None]) -> threading.Thread:
    """The command in another thread."""
    thread = threading.Thread(target=command, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("place", ["sweep", "cell", "log"])
def test_stop_asks_by_a_file_and_waits_for_the_locks(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sweep, a cell that a killed sweep has left on a cluster, or the process of a detached sweep."""
    folder = sweep(tmp_path)
    (folder / SWEEP_LOG).touch()
    runs = {"sweep": folder, "cell": cell_folder(folder, "two", 1), "log": folder / SWEEP_LOG}[place]
    with locked(runs):
        stopping, printed = while_it(lambda: commands.stop(folder)), ""
        deadline = time.monotonic() + 60
        while not printed.startswith("stopping: "):  # it has seen the lock
            assert time.monotonic() < deadline
            time.sleep(0.01)
            printed += capsys.readouterr().out
        assert stopping.is_alive()
        assert (folder / STOP).exists()
    stopping.join(60)
    assert not commands.runs(folder)
    capsys.readouterr()
    commands.stop(folder)
    assert capsys.readouterr().out.startswith("nothing runs in ")


def test_watch_follows_the_log_and_exits_with_the_sweeps_code(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = sweep(tmp_path)
    with pytest.raises(ConfigError, match=r"no detached sweep .* nothing runs in it"):
        commands.watch(folder)
    with locked(folder), pytest.raises(ConfigError, match="it runs in a terminal"):
        commands.watch(folder)
    log = folder / SWEEP_LOG
    log.write_text("an earlier sweep\n")
    started = Detached("here", os.getpid(), "2026-11-29T12:00:00+00:00", log.stat().st_size)
    write_json(folder / DETACHED, vars(started))
    codes: list[object] = []

    def watch() -> None:
        with pytest.raises(SystemExit) as leaving:
            commands.watch(folder)
        codes.append(leaving.value.code)

    with locked(log):
        watching = while_it(watch)
        for line in ("   1/2 two seed=0 completed\n", "failed: 1 of 2 cells\n"):
            with log.open("a") as file:
                file.write(line)
            time.sleep(0.1)
        assert watching.is_alive()
        write_json(folder / DETACHED, vars(replace(started, exit_code=1)))
    watching.join(60)
    assert codes == [1]
    assert capfd.readouterr().out == "   1/2 two seed=0 completed\nfailed: 1 of 2 cells\n"


def test_a_killed_sweep_is_no_running_one_even_if_its_process_id_lives(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    (folder / SWEEP_LOG).touch()
    write_json(folder / DETACHED, vars(Detached("here", os.getpid(), "2026-11-29T12:00:00+00:00", 0)))
    assert not commands.runs(folder)
    with pytest.raises(RunFailed, match="was killed"):
        commands.watch(folder)


def test_a_damaged_record_is_one_line(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    (folder / DETACHED).write_text('{"pid": "x"}')
    with pytest.raises(ConfigError, match=r"detached\.json: damaged"):
        read_detached(folder)
    assert not is_locked(folder / "no such file")


@pytest.mark.parametrize("background", [(0, 0, 0), (255, 255, 255)])
@pytest.mark.parametrize("state", ["completed", "running", "interrupted", "failed", "damaged"])
def test_the_colours_of_the_status_are_readable(state: str, background: tuple[int, int, int]) -> None:
    """A contrast of 3 is what WCAG 2.2 (1.4.11) asks of signs."""

    def luminance(colour: tuple[int, int, int]) -> float:
        parts = (part / 255 for part in colour)
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    colour = Style.parse(SIGNS[state][1]).color
    assert colour is not None
    assert colour.triplet is not None, "a colour by name is whatever the terminal makes of it"
    low, high = sorted((luminance(tuple(colour.triplet)), luminance(background)))
    assert (high + 0.05) / (low + 0.05) >= 3
