"""Faults of sweeps. Whatever happens to a cell or to the sweep, the other cells get their results. The command says
what failed, leaves no process or temporary file behind, and continues if it is repeated."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from faulty_envs import DISARMED
from processes import GONE_S, Run, command_of, eventually, is_spawned, parent_of

from ablate.analysis.load import load_run, load_sweep
from ablate.cli.compose import compose_and_plan
from ablate.records.checkpoint import read_checkpoint
from ablate.records.run_files import read_status
from ablate.records.schema import (
    CELL,
    EPISODES,
    EVALUATIONS,
    LAST_CHECKPOINT,
    MANIFEST,
    STATUS,
    UPDATES,
    WALL_CLOCK_COLUMNS,
)
from ablate.sweeps.cell import status_of
from ablate.sweeps.plan import estimate, make_plan
from ablate.sweeps.study import Arm, Study

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LONG_S = 400.0  # nine cells one after the other, on a machine that others use too
MENDED = {DISARMED: "1"}
FORKED, PROGRAM = "sweep.fork=true", "sweep.fork=false"  # how cells start
BASE = (
    "env=gymnasium", "env.id=faulty_envs:ChosenByGamma-v0", "env.max_ep_step=20", "workers=2", "schedule=interleaved",
    "backend=manual", "max_episodes=null", "total_steps=1200", "evaluation.every_steps=600",
    "evaluation.at_start=false", "evaluation.episodes=1",
    "log_interval=10", "checkpoint_every_seconds=0.2", "hang_timeout_s=4", "+env.kwargs.after=200",
    "+env.kwargs.step_s=0.02",
)  # fmt: skip
SOUND = ("algo.gamma=0.5",)
SLOW, SLOW_TOO = ("algo.gamma=0.65",), ("algo.gamma=0.66",)  # after 200 steps, until they are mended
SLOWER = "+env.kwargs.step_s=0.1"
RAISES = ("algo.gamma=0.63",)


class Sweep:
    """A study in tmp_path/sweep that a test can start several times. arms: {name: overrides}."""

    def __init__(self, tmp_path: Path, arms: dict[str, tuple[str, ...]], *arguments: str, **study: Any) -> None:
        self.folder, self.runs = tmp_path / "sweep", list[Run]()
        file = tmp_path / "searched" / "sweep" / "faulty.yaml"
        file.parent.mkdir(parents=True)
        content = {"base": list(BASE), "arms": {n: {"overrides": list(o)} for n, o in arms.items()}, **study}
        file.write_text("# @package _global_\n" + yaml.safe_dump({"sweep": content}, sort_keys=False))
        search = f"hydra.searchpath=[file://{file.parents[1]}]"
        named = "plugins=[faulty_envs]"  # the study alone may not name code
        # Most tests do not depend on how cells start, and forks start sooner.
        forked = () if PROGRAM in arguments else (FORKED,)
        self._arguments = ("-m", "sweep=faulty", search, named, f"hydra.sweep.dir={self.folder}", *forked, *arguments)
        (tmp_path / "tmp").mkdir()
        self.tmp = {"TMPDIR": str(tmp_path / "tmp")}

    def start(self, *arguments: str, **options: Any) -> Run:
        self.runs.append(Run(self.folder, *self._arguments, *arguments, **self.tmp, **options))
        return self.runs[-1]

    def cell(self, name: str) -> Path:
        arm, _, seed = name.partition(" ")
        return self.folder / arm / (seed or "seed=1")

    def states(self) -> dict[str, str]:
        return {f"{row.arm} seed={row.seed}": row.state for row in load_sweep(self.folder).cells.itertuples()}

    def process(self, name: str) -> int:
        """The cell's own process, the parent of its workers, once it has written its first status."""
        status = status_of(self.cell(name))
        return status.pid if status is not None and status.pid in self.runs[-1].processes() else 0

    def server(self) -> int:
        """The process from which cells are forked; 0 if there is none."""
        servers = [pid for pid in self.runs[-1].processes() if command_of(pid)[-2:-1] == [b"ablate.sweeps.preload"]]
        return next((pid for pid in servers if parent_of(pid) == self.runs[-1].process.pid), 0)

    def worker(self, name: str) -> int:
        """The cell's worker process."""
        spawned = filter(is_spawned, self.runs[-1].processes())
        parent = self.process(name)
        return next((pid for pid in spawned if parent_of(pid) == parent), 0)

    def steps(self, name: str) -> int:
        """The steps of the cell's last checkpoint."""
        path = self.cell(name) / LAST_CHECKPOINT
        return read_checkpoint(path).state["counters"]["steps"] if path.exists() else 0

    def wait_until_trains(self, *names: str) -> None:
        trains = lambda: all(self.steps(name) > 0 and self.worker(name) for name in names)  # noqa: E731
        self.runs[-1].wait_until(trains, f"{names} train", LONG_S)


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Callable[..., Sweep]]:
    """Make sweeps that end with the test at the latest."""
    made: list[Sweep] = []

    def new(*arguments: Any, **study: Any) -> Sweep:
        made.append(Sweep(tmp_path, *arguments, **study))
        return made[-1]

    yield new
    for run in [run for one in made for run in one.runs]:
        run.kill()


def assert_nothing_is_left(one: Sweep, run: Run) -> None:
    assert eventually(lambda: not run.processes()), [command_of(pid) for pid in run.processes()]
    assert [path.name for path in one.folder.rglob("*.tmp")] == []
    assert os.listdir(one.tmp["TMPDIR"]) == []


def mtimes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


# Faults of cells.


def kill_worker(one: Sweep, cell: str) -> None:
    os.kill(one.worker(cell), signal.SIGKILL)


def kill_cell(one: Sweep, cell: str) -> None:
    os.kill(one.process(cell), signal.SIGKILL)


def stop_cell(one: Sweep, cell: str) -> None:
    """Stop the cell's own process, so that it seems to hang."""
    os.kill(one.process(cell), signal.SIGSTOP)


# Arm: what it is made of, what is done to it once it trains, what the sweep says. In the workers of a cell, and in the
# cell's own process.
Faults = dict[str, tuple[tuple[str, ...], Callable[[Sweep, str], None] | None, str]]
IN_WORKERS: Faults = {
    "killed": (SLOW, kill_worker, "worker-0-1 was killed by SIGKILL"),
    "exits": (("algo.gamma=0.61",), None, "worker-0-1 exited with code 0"),
    "raises": (
        ("algo.gamma=0.63",),
        None,
        "worker-0-1 raised ValueError: the environment is broken",
    ),
    "hangs": (("algo.gamma=0.64",), None, r"worker-0-1 hangs: no step for \d+ s"),
}
IN_CELLS: Faults = {
    "killed": (SLOW, kill_cell, "killed by SIGKILL"),
    "exits": (("algo.gamma=0.68",), None, "exited with code 0"),
    "raises": (("algo.gamma=0.62",), None, "worker-0-1 exited with code 3"),
    "hangs": (SLOW_TOO, stop_cell, "hangs: it no longer updates its status.json"),
}


@pytest.mark.parametrize(
    ("launcher", "faults"),
    [
        (("hydra/launcher=local",), "workers"),
        (("hydra/launcher=local",), "cells"),
        (("hydra/launcher=basic", PROGRAM), "cells"),
    ],
    ids=["forked, faults in workers", "forked, faults in cells", "programs, faults in cells"],
)
def test_five_good_cells_complete_next_to_four_faulty_ones(
    launcher: tuple[str, ...], faults: str, sweep: Callable[..., Sweep]
) -> None:
    table = {"workers": IN_WORKERS, "cells": IN_CELLS}[faults]
    good = {f"good{n}": (f"algo.gamma=0.{n}",) for n in range(1, 6)}
    order = ["good1", "killed", "good2", "exits", "good3", "raises", "good4", "hangs", "good5"]
    arms = {arm: good.get(arm) or table[arm][0] for arm in order}
    one = sweep(arms, *launcher)
    run = one.start()
    for arm in ("killed", "hangs"):
        if (happen := table[arm][1]) is not None:
            one.wait_until_trains(arm)
            happen(one, arm)
    assert run.exit_code(LONG_S) == 1, run.errors

    assert {cell.arm: cell.state for cell in load_sweep(one.folder).cells.itertuples()} == {
        arm: "failed" if arm in table else "completed" for arm in arms
    }
    assert "sweep     5 of 9 cells completed, 4 failed\n" in run.output
    assert run.errors.splitlines()[-1] == "failed: 4 of 9 cells; repeat the command to run them again"
    assert "Traceback" not in run.errors
    for arm, (_, _, reason) in table.items():
        assert re.search(f"^failed    {arm} seed=1: {reason}", run.output, re.M), run.output
        message = re.search(f"^ .*{arm} seed=1 failed.*\n      {reason}.*\n((?:        \\| .*\n)*)", run.output, re.M)
        assert message, run.output
        last = [line for line in (one.cell(arm) / "cell.log").read_text().splitlines() if line][-1:]
        assert not last or last[0] in message[1], "the end of its log"
    for arm in good:
        assert load_run(one.cell(arm)).evaluations["global_step"].max() >= 1200
    assert_nothing_is_left(one, run)

    before = {arm: mtimes(one.cell(arm)) for arm in good}
    again = one.start(**MENDED)
    assert again.exit_code(LONG_S) == 0, f"{again.output} {again.errors}"
    assert "9 = 9 arms x 1 seeds; 5 completed, 4 to run" in again.output
    assert "sweep     9 of 9 cells completed\n" in again.output
    assert {arm: mtimes(one.cell(arm)) for arm in good} == before
    attempts = {arm: json.loads((one.cell(arm) / CELL).read_text())["attempts"] for arm in arms}
    assert {arm: len(some) for arm, some in attempts.items()} == {arm: 1 + (arm in table) for arm in arms}
    assert set(one.states().values()) == {"completed"}
    assert_nothing_is_left(one, again)


# kill -9 of the sweep.


@pytest.mark.parametrize(("fork", "kills"), [(FORKED, 9), (PROGRAM, 6)])
def test_kill_9_of_the_sweep_many_times_changes_no_row(fork: str, kills: int, tmp_path: Path) -> None:
    """Compared with cells that nobody killed, and that started in the other way."""
    settings = ("-m", "env=pendulum", "workers=2,4", "seed=range(3)", "schedule=interleaved", "backend=compiled",
                "max_episodes=null", "total_steps=4000000", "evaluation.every_steps=100000", "evaluation.episodes=2",
                "env.max_ep_step=200", "checkpoint_every_seconds=0.2")  # fmt: skip
    (tmp_path / "tmp").mkdir()

    def start(name: str, fork: str = fork) -> Run:
        folder = tmp_path / name
        return Run(folder, *settings, fork, f"hydra.sweep.dir={folder}", TMPDIR=str(tmp_path / "tmp"))

    undisturbed = start("undisturbed", PROGRAM if fork == FORKED else FORKED)
    assert undisturbed.exit_code(LONG_S) == 0, undisturbed.errors
    rng = np.random.default_rng(7)
    killed_in_time, resumed = 0, 0
    for _ in range(kills):
        began = time.time()
        run = start("killed")
        if rng.random() < 0.6:  # soon after a cell's checkpoint, or else some time after the start of the sweep
            trains = lambda run=run, began=began: _checkpoint_after(began, run.folder) or run.process.poll() is not None  # noqa: E731
            eventually(trains, LONG_S)
            time.sleep(rng.uniform(0.0, 0.7))
        else:
            time.sleep(rng.uniform(0.0, 3.0))
        killed_in_time += run.process.poll() is None
        run.process.kill()
        run.process.wait()
        assert eventually(lambda run=run: not run.processes(), GONE_S), "orphans"  # type: ignore[misc]
    last = start("killed")
    assert last.exit_code(LONG_S) == 0, last.errors
    assert killed_in_time > kills / 2
    assert eventually(lambda: not last.processes())

    whole, mended = load_sweep(undisturbed.folder), load_sweep(last.folder)
    assert set(mended.cells["state"]) == {"completed"}
    assert len(mended.cells) == 6
    for name in ("episodes", "updates", "evaluations"):
        expected, actual = (getattr(one, name).drop(columns=list(WALL_CLOCK_COLUMNS)) for one in (whole, mended))
        pd.testing.assert_frame_equal(actual, expected, check_exact=True)
    assert mended.torn == 0
    for cell in (last.folder / row.arm / f"seed={row.seed}" for row in mended.cells.itertuples()):
        attempts = json.loads((cell / CELL).read_text())["attempts"]
        assert [attempt.get("outcome") for attempt in attempts].count("completed") <= 1, "run twice"
        resumed += len(json.loads((cell / MANIFEST).read_text()).get("resumes", []))
    assert resumed > 0, "no cell was killed in the middle"
    assert [path.name for path in tmp_path.rglob("*.tmp")] == []
    assert os.listdir(tmp_path / "tmp") == [], "probes of killed sweeps"


def _checkpoint_after(time_s: float, folder: Path) -> bool:
    """Whether a cell has written a checkpoint since this time."""
    return any(path.stat().st_mtime > time_s for path in folder.glob(f"*/seed=*/{LAST_CHECKPOINT}"))


def test_kill_9_of_the_process_that_cells_are_forked_from_is_mended(sweep: Callable[..., Sweep]) -> None:
    """Running cells die with it and go on, each as a program; later ones are forked from another such process."""
    arms = {"slow": SLOW, "slow2": SLOW_TOO, "good": SOUND}
    one = sweep(arms, "sweep.parallel=2", SLOWER)
    run = one.start()
    one.wait_until_trains("slow", "slow2")
    before = {name: (one.steps(name), one.process(name)) for name in ("slow", "slow2")}
    killed = one.server()
    os.kill(killed, signal.SIGKILL)
    again = lambda: all(one.process(name) not in (0, pid) for name, (_, pid) in before.items())  # noqa: E731
    run.wait_until(again, "cells run again", LONG_S)
    assert all(one.steps(name) >= steps > 0 for name, (steps, _) in before.items())
    assert command_of(one.process("slow"))[-3:-1] == [b"ablate.sweeps.train_cell", str(one.cell("slow")).encode()]
    os.kill(one.process("slow"), signal.SIGKILL)
    one.wait_until_trains("good")
    assert parent_of(one.process("good")) == one.server() != killed
    os.kill(one.process("slow2"), signal.SIGKILL)
    assert run.exit_code(LONG_S) == 1, run.errors
    assert "note      the process from which cells are forked was killed; a new one is started\n" in run.errors
    assert one.states() == {"slow seed=1": "failed", "slow2 seed=1": "failed", "good seed=1": "completed"}
    for name in ("slow", "slow2"):
        resumes = json.loads((one.cell(name) / MANIFEST).read_text())["resumes"]
        assert [resume["from"]["steps"] > 0 for resume in resumes] == [True]
    assert_nothing_is_left(one, run)


# Signals.


@pytest.mark.parametrize(
    ("number", "group", "launcher", "start"),
    [
        (signal.SIGINT, True, "local", ()),
        (signal.SIGTERM, False, "local", (PROGRAM,)),
        (signal.SIGINT, False, "basic", (PROGRAM,)),
    ],
    ids=str,
)
def test_a_signal_lets_running_cells_write_checkpoints(
    number: signal.Signals, group: bool, launcher: str, start: tuple[str, ...], sweep: Callable[..., Sweep]
) -> None:
    one = sweep({"slow": SLOW, "slow2": SLOW_TOO}, f"hydra/launcher={launcher}", *start, "sweep.seeds=1-2")
    run = one.start("sweep.parallel=2")
    running = ("slow", "slow2") if launcher == "local" else ("slow",)
    one.wait_until_trains(*running)
    before = {name: one.steps(name) for name in running}
    (os.killpg if group else os.kill)(run.process.pid, number)
    assert run.exit_code() == 128 + number, run.errors
    assert "stopping: running cells write their checkpoints" in run.output
    counted = f"{len(running)} interrupted, {4 - len(running)} not started"
    assert f"sweep     0 of 4 cells completed, {counted}\n" in run.output
    assert "repeat the command to continue\n" in run.output
    assert "Traceback" not in run.errors
    assert_nothing_is_left(one, run)
    for name in running:
        status = json.loads((one.cell(name) / STATUS).read_text())
        assert (status["state"], status["reason"]) == ("interrupted", "SIGTERM")
        assert one.steps(name) == status["steps"] >= before[name] > 0, "a checkpoint of its last state"
    assert not (one.cell("slow seed=2") / MANIFEST).exists()

    again = one.start(**MENDED)
    assert again.exit_code(LONG_S) == 0, f"{again.output} {again.errors}"
    assert set(one.states().values()) == {"completed"}
    for name in running:
        resumes = json.loads((one.cell(name) / MANIFEST).read_text())["resumes"]
        assert [resume["from"]["steps"] > 0 for resume in resumes] == [True]
    assert_nothing_is_left(one, again)


@pytest.mark.parametrize(("number", "launcher"), [(signal.SIGINT, "basic"), (signal.SIGTERM, "local")], ids=str)
def test_a_second_signal_stops_at_once(number: signal.Signals, launcher: str, sweep: Callable[..., Sweep]) -> None:
    """The cell's worker hangs, so it writes no checkpoint."""
    one = sweep({"slow": SLOW}, f"hydra/launcher={launcher}", "sweep.seeds=1-2", "hang_timeout_s=200")
    run = one.start("sweep.parallel=1")
    one.wait_until_trains("slow")
    os.kill(one.worker("slow"), signal.SIGSTOP)
    os.kill(run.process.pid, number)
    run.wait_until(lambda: "stopping" in run.output, "stopping")
    time.sleep(1.0)
    assert run.process.poll() is None
    os.kill(run.process.pid, number)
    assert run.exit_code(GONE_S) == 128 + number, run.errors
    assert "Traceback" not in run.errors
    assert eventually(lambda: not run.processes()), [command_of(pid) for pid in run.processes()]
    again = one.start(**MENDED)
    assert again.exit_code(LONG_S) == 0, f"{again.output} {again.errors}"
    assert_nothing_is_left(one, again)


def test_a_machine_that_was_suspended_is_no_hang(sweep: Callable[..., Sweep]) -> None:
    """The whole sweep is stopped for longer than a cell may be silent, and then continued."""
    one = sweep({"slow": SLOW})
    run = one.start()
    one.wait_until_trains("slow")
    all_of_it = run.processes()
    for pid in all_of_it:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(35.0)
    for pid in reversed(all_of_it):
        os.kill(pid, signal.SIGCONT)
    before = one.steps("slow")
    run.wait_until(lambda: one.steps("slow") > before, "training again")
    os.kill(run.process.pid, signal.SIGINT)
    assert run.exit_code() == 130, run.output


def test_a_sweep_whose_reader_has_gone_stops(sweep: Callable[..., Sweep], tmp_path: Path) -> None:
    """`python src/run.py sweep=... | head -1`: its cells must not run unwatched."""
    one = sweep({"good": SOUND, "slow": SLOW}, "+env.kwargs.step_s=0.3", "sweep.parallel=2")
    (tmp_path / "head.py").write_text(
        "import subprocess, sys\n"
        "run = subprocess.Popen([sys.executable, 'src/run.py', *sys.argv[1:]], stdout=subprocess.PIPE)\n"
        "while not run.stdout.readline().startswith(b'expected'):\n"
        "    pass\n"
        "run.stdout.close()\n"
        "sys.exit(run.wait())\n"
    )
    run = one.start(program=(str(tmp_path / "head.py"),))
    assert run.exit_code(LONG_S) == 128 + signal.SIGPIPE, run.errors
    assert "Traceback" not in run.errors
    assert one.states() == {"good seed=1": "completed", "slow seed=1": "interrupted"}
    assert_nothing_is_left(one, run)


# Options of a sweep.


def test_a_cell_over_its_time_limit_is_stopped_with_a_checkpoint(sweep: Callable[..., Sweep]) -> None:
    one = sweep({"slow": SLOW, "good": SOUND}, "sweep.parallel=1", SLOWER)
    run = one.start("sweep.time_limit_s=25")
    assert run.exit_code(LONG_S) == 1, run.output
    assert "failed    slow seed=1: stopped after 25 s (sweep.time_limit_s)\n" in run.output
    assert one.states() == {"slow seed=1": "failed", "good seed=1": "completed"}
    assert one.steps("slow") > 0, "with a checkpoint"
    again = one.start(**MENDED)
    assert again.exit_code(LONG_S) == 0, again.output
    assert len(json.loads((one.cell("slow") / MANIFEST).read_text())["resumes"]) == 1
    assert_nothing_is_left(one, again)


def test_a_failed_cell_is_retried(sweep: Callable[..., Sweep], tmp_path: Path) -> None:
    flag = f"+env.kwargs.flag={tmp_path / 'flag'}"
    arms = {"always": RAISES, "once": ("algo.gamma=0.67",), "good": SOUND}
    one = sweep(arms, flag, "sweep.max_retries=2", "sweep.parallel=1")
    (tmp_path / "flag").touch()  # for the probe
    run = one.start()
    (tmp_path / "flag").unlink()
    assert run.exit_code(LONG_S) == 1, run.output
    attempts = {arm: json.loads((one.cell(arm) / CELL).read_text())["attempts"] for arm in ("always", "once", "good")}
    outcomes = {arm: [attempt["outcome"] for attempt in some] for arm, some in attempts.items()}
    assert outcomes == {"always": 3 * ["failed"], "once": ["failed", "completed"], "good": ["completed"]}
    assert "again     2 failed cells (sweep.max_retries)\n" in run.output
    assert "again     1 failed cells (sweep.max_retries)\n" in run.output
    assert "sweep     2 of 3 cells completed, 1 failed\n" in run.output
    assert_nothing_is_left(one, run)


def test_fail_fast_stops_the_sweep_at_the_first_failure(sweep: Callable[..., Sweep]) -> None:
    arms = {"raises": RAISES, "slow": SLOW, "good": SOUND}
    one = sweep(arms, SLOWER, "sweep.fail_fast=true", "sweep.parallel=2")
    run = one.start()
    assert run.exit_code(LONG_S) == 1, run.output
    assert "stopping: a cell failed (sweep.fail_fast)" in run.output
    assert "sweep     0 of 3 cells completed, 1 failed, " in run.output
    assert_nothing_is_left(one, run)
    again = one.start(**MENDED)
    assert again.exit_code(LONG_S) == 0, again.output
    assert set(one.states().values()) == {"completed"}


# Disks and files.


def test_a_full_disk_is_one_cells_failure(sweep: Callable[..., Sweep]) -> None:
    one = sweep({"slow": SLOW, "good": SOUND}, SLOWER)
    run = one.start()
    one.wait_until_trains("slow")
    resource.prlimit(one.process("slow"), resource.RLIMIT_FSIZE, (1024, 1024))
    assert run.exit_code(LONG_S) == 1, run.output
    assert "failed    slow seed=1: the records could not be written: [Errno 27] File too large" in run.output
    assert one.states() == {"slow seed=1": "failed", "good seed=1": "completed"}
    assert_nothing_is_left(one, run)
    again = one.start(**MENDED)
    assert again.exit_code(LONG_S) == 0, again.output
    assert set(one.states().values()) == {"completed"}


def test_a_sweep_that_cannot_write_stops_and_can_be_repeated(sweep: Callable[..., Sweep]) -> None:
    one = sweep({"slow": SLOW, "good": SOUND}, SLOWER)
    run = one.start()
    one.wait_until_trains("slow")
    for pid in run.processes():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (100, 100))
    assert run.exit_code(LONG_S) == 1, run.output
    assert eventually(lambda: not run.processes())
    again = one.start(**MENDED)
    assert again.exit_code(LONG_S) == 0, f"{again.output} {again.errors}"
    assert set(one.states().values()) == {"completed"}
    assert_nothing_is_left(one, again)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwrite(path: Path) -> None:
    path.write_bytes(b"\0" * path.stat().st_size)


def test_incomplete_cells_with_damaged_files_run_again(sweep: Callable[..., Sweep]) -> None:
    """A different file is damaged in each cell. Cells that cannot be resumed start again, and all complete."""
    files = (CELL, STATUS, MANIFEST, LAST_CHECKPOINT, EPISODES, UPDATES, EVALUATIONS)
    cells = [f"slow seed={n}" for n in range(len(files))]
    one = sweep({"slow": SLOW}, SLOWER, "sweep.parallel=7", seeds=f"0-{len(files) - 1}")
    run = one.start()
    one.wait_until_trains(*cells)
    run.wait_until(lambda: all((one.cell(c) / f).stat().st_size for c, f in zip(cells, files, strict=True)), "files")
    os.kill(run.process.pid, signal.SIGINT)
    assert run.exit_code() == 130, run.errors
    for cell, name in zip(cells, files, strict=True):
        (cut if name in (CELL, STATUS, MANIFEST) else overwrite)(one.cell(cell) / name)
    again = one.start("sweep.parallel=3", **MENDED)
    assert again.exit_code(LONG_S) == 0, f"{again.output} {again.errors}"
    done = load_sweep(one.folder)
    assert (set(done.cells["state"]), done.torn) == ({"completed"}, 0)
    for cell in cells:
        tables = load_run(one.cell(cell))
        assert tables.status is not None
        assert tables.status.episodes > 70
        assert tables.episodes["episode"].tolist() == list(range(1, tables.status.episodes + 1))
        assert tables.updates["update"].tolist() == list(range(10, tables.status.updates + 1, 10))
        assert set(tables.evaluations["evaluation"]) == {1, 2}
    assert_nothing_is_left(one, again)


def test_a_sweep_of_a_folder_in_use_is_refused(sweep: Callable[..., Sweep]) -> None:
    one = sweep({"slow": SLOW})
    first = one.start()
    one.wait_until_trains("slow")
    second = one.start()
    assert second.exit_code(LONG_S) == 2, second.output
    assert second.errors == f"{one.folder}: another sweep runs in this folder\n"
    assert first.process.poll() is None
    os.kill(first.process.pid, signal.SIGINT)
    assert first.exit_code() == 130
    assert_nothing_is_left(one, first)


# Other sweepers.


def states_of(folder: Path) -> list[str]:
    return [status.state for number in "01" if (status := read_status(folder / number)) is not None]


def test_hydras_own_sweeper_trains_each_job(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    arguments = ("-m", "hydra/sweeper=basic", f"hydra.sweep.dir={folder}", *BASE, "evaluation.every_seconds=null",
                 "figures=false")  # fmt: skip
    run = Run(folder, *arguments, "algo.gamma=0.63,0.5")
    assert run.exit_code(LONG_S) == 1, run.output
    assert "worker-0-1 raised ValueError: the environment is broken" in run.errors
    assert states_of(folder) == ["failed", "completed"]
    good = Run(tmp_path / "good", *arguments, f"hydra.sweep.dir={tmp_path / 'good'}", "algo.gamma=0.5,0.9")
    assert good.exit_code(LONG_S) == 0, good.errors
    assert states_of(tmp_path / "good") == ["completed", "completed"]


def test_a_failing_probe_does_not_stop_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed probe gives no estimate and leaves no folder; nor does the probe of a killed sweep."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    (tmp_path / "ablate-probe-x" / "cell").mkdir(parents=True)  # nobody has locked it
    raising = [*BASE, "env.id=faulty_envs:Raises-v0", "evaluation.every_seconds=null"]
    config = compose_and_plan(raising).config
    study = Study("invented", config.sweep, (Arm("raises", "", ()),), (0,))
    assert estimate(make_plan(study, {"raises": config}, tmp_path / "sweep")) is None
    assert os.listdir(tmp_path) == []
