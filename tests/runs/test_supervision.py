"""The table of faults: with any fault, a run ends as it should, says why, leaves nothing behind and can be resumed.

Each test starts a run, waits until it has a checkpoint and some rows, lets the fault happen (faults of environments are
in faulty_envs.py), checks what is left, and resumes the run with the fault mended. The backend is the choice of
backend=auto: compiled for Pendulum, manual for the environments of faulty_envs.py, which have no kernels."""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty_envs import DAEMON_S, DISARMED
from processes import GONE_S, START_S, Run, all_processes, command_of, eventually, read_proc

from ablate.analysis.load import load_run
from ablate.cli.compose import compose_and_plan
from ablate.config.schema import ConfigError
from ablate.parallel.shared import SharedState
from ablate.parallel.supervisor import ABANDON_S, Child, Supervisor
from ablate.records.checkpoint import read_checkpoint
from ablate.records.run_files import read_manifest
from ablate.records.schema import EVALUATIONS, LAST_CHECKPOINT, STATUS

HANG_TIMEOUT_S = 3.0
STUCK_EPISODES = 26  # with +env.kwargs.after=200: 13 episodes of 15 steps for each of two workers
SETTINGS = (
    "workers=2", "max_episodes=100000", "env=gymnasium", "env.max_ep_step=20", "log_interval=10", "figures=false",
    "checkpoint_every_seconds=0.5", "evaluation.every_seconds=0.5",
    "evaluation.episodes=1", "logger.display=plain",
)  # fmt: skip
SOUND = {  # an environment without faults, by the backend that backend=auto chooses
    "compiled": ("env.id=Pendulum-v1", "env.max_ep_step=200", "max_episodes=100000000", "log_interval=100"),
    "manual": ("env.id=faulty_envs:Faulty-v0",),
}


def shared_memory_files() -> set[str]:
    return set(os.listdir("/dev/shm"))


def left_in_shared_memory(before: set[str], run: Run) -> set[str]:
    """New files in /dev/shm that no foreign process holds: other programs run on this machine too."""
    new = shared_memory_files() - before
    mine = set(run.processes())
    for pid in all_processes() if new else ():
        if pid not in mine:
            maps = read_proc(pid, "maps").decode(errors="replace")
            new -= {name for name in new if f"/dev/shm/{name}" in maps}
    return new


def new_run(start: Callable[..., Run], tmp_path: Path, *arguments: str, **options: Any) -> Run:
    return start(f"hydra.run.dir={tmp_path / 'run'}", *SETTINGS, *arguments, **options)


def wait_until_it_trains(run: Run, evaluations: int = 1, rows: int = 5) -> None:
    run.wait_until(
        lambda: (run.folder / LAST_CHECKPOINT).exists() and run.rows() >= rows and run.rows(EVALUATIONS) >= evaluations,
        "training with a checkpoint and rows",
    )


def wait_until_stuck(run: Run) -> None:
    """Wait until all workers hang or are slow. The status counts rows that may not be in episodes.csv yet."""
    stuck = lambda: (run.folder / STATUS).exists() and run.status()["episodes"] >= STUCK_EPISODES  # noqa: E731
    run.wait_until(stuck, "stuck")


# The faults.


def kill_child(index: int) -> Callable[[Run], None]:
    return lambda run: kill_between_two_writes(run, run.child(index))


def kill_parent(run: Run) -> None:
    kill_between_two_writes(run, run.process.pid)


def kill_parent_of_hung(run: Run) -> None:
    wait_until_stuck(run)
    kill_parent(run)


def kill_between_two_writes(run: Run, pid: int) -> None:
    """kill -9 while there is no temporary file: another test kills a process while it writes."""
    stop_between_two_writes(run, pid)
    os.kill(pid, signal.SIGKILL)


def stop_between_two_writes(run: Run, pid: int) -> None:
    """Stop the process while there is no temporary file: a stopped process would leave its own for ever."""
    while True:
        os.kill(pid, signal.SIGSTOP)
        if not run.temporary_files():
            return
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.01)


def signal_to_group(number: signal.Signals) -> Callable[[Run], None]:
    return lambda run: os.killpg(run.process.pid, number)


def signal_to_parent(number: signal.Signals) -> Callable[[Run], None]:
    return lambda run: os.kill(run.process.pid, number)


def two_interrupts(run: Run) -> None:
    """The second comes while the workers, in the middle of slow steps, have not stopped yet."""
    wait_until_stuck(run)
    os.killpg(run.process.pid, signal.SIGINT)
    run.wait_until(lambda: "stopping" in run.output, "stopping")
    os.killpg(run.process.pid, signal.SIGINT)


def terminate_in_its_evaluation(run: Run) -> None:
    """Training waits for the evaluation, so its steps stand still."""

    def stands_still() -> bool:
        if not (run.folder / STATUS).exists() or (before := run.status()["steps"]) < 500:
            return False
        time.sleep(2.5)  # a status is written every two seconds
        return bool(run.status()["steps"] == before)

    run.wait_until(stands_still, "evaluating")
    os.kill(run.process.pid, signal.SIGTERM)


def stop_child(index: int) -> Callable[[Run], None]:
    """Like a worker that hangs in a kernel: it does not run at all."""
    return lambda run: os.kill(run.child(index), signal.SIGSTOP)


def two_interrupts_of_stopped(run: Run) -> None:
    stop_child(0)(run)
    os.killpg(run.process.pid, signal.SIGINT)
    run.wait_until(lambda: "stopping" in run.output, "stopping")
    os.killpg(run.process.pid, signal.SIGINT)


def interrupt_and_kill_a_stopped(run: Run) -> None:
    """Its last state is lost, so the checkpoint is older than the counters."""
    worker = run.child(0)
    stop_between_two_writes(run, worker)
    steps = run.status()["steps"]
    run.wait_until(lambda: run.status()["steps"] > steps, "training after the checkpoint")
    os.kill(run.process.pid, signal.SIGINT)
    run.wait_until(lambda: "stopping" in run.output, "stopping")
    os.kill(worker, signal.SIGKILL)  # without a moment in which it runs on: it would end as it should


def kill_parent_of_stopped(run: Run) -> None:
    stop_between_two_writes(run, run.child(0))
    kill_parent(run)


def fill_the_disk(run: Run) -> None:
    """The parent can write only tiny files: status.json fits."""
    resource.prlimit(run.process.pid, resource.RLIMIT_FSIZE, (1024, 1024))


def wait_for_it(run: Run) -> None:
    """The fault is in the environment and comes by itself."""


@dataclass(frozen=True)
class Fault:
    """A row of the table. reason: a regular expression, in which WORKER is the name of a worker process.

    env: the environment with the fault; None if the fault comes from outside. runs: "<backend> <schedule>", the kinds
    of runs in which it happens. Each fault happens in those kinds that differ for it, not in all four."""

    name: str
    happen: Callable[[Run], None]
    state: str
    reason: str
    exit_code: int
    env: str | None = None
    settings: tuple[str, ...] = ()
    runs: tuple[str, ...] = ("compiled async", "manual interleaved")
    quick: tuple[str, ...] = ()  # those of `runs` for which it is a quick test
    finishes: bool = False  # the run writes a checkpoint of its last state


ALONE = "evaluation.every_seconds=null"  # schedule=async without a test process
BROKEN = "+env.kwargs.after=1500"
IN_TEST_PROCESS = ("+env.kwargs.after=30", "+env.kwargs.process=test process")
FAULTS = (
    Fault(
        "kill -9 of a worker", kill_child(0), "failed", "^WORKER was killed by SIGKILL$", 1,
        settings=(ALONE,), quick=("compiled async",),
    ),
    Fault(
        "kill -9 of a worker, locked updates", kill_child(1), "failed", "^WORKER was killed by SIGKILL$", 1,
        settings=(ALONE, "algo.lock_updates=true", "workers=4"), runs=("manual async",),
    ),
    Fault(
        "kill -9 of the test process", kill_child(2), "failed", "^test process was killed by SIGKILL$", 1,
        runs=("compiled async",),
    ),
    Fault(
        "exception in an environment step", wait_for_it, "failed",
        "^WORKER raised ValueError: the environment is broken$", 1, "Raises-v0", (BROKEN,),
        runs=("manual interleaved",), quick=("manual interleaved",),
    ),
    Fault(
        "exception in the test process", wait_for_it, "failed",
        "^test process raised ValueError: the environment is broken$", 1, "Raises-v0", IN_TEST_PROCESS,
        runs=("manual async",),
    ),
    Fault(
        "hang in an environment step", wait_for_it, "failed", r"^WORKER hangs: no step for \d+ s", 1, "Hangs-v0",
        (BROKEN, ALONE, f"hang_timeout_s={HANG_TIMEOUT_S}"), runs=("manual interleaved",),
    ),
    Fault(
        "hang of a worker", stop_child(0), "failed", r"^WORKER hangs: no step for \d+ s", 1,
        settings=(ALONE, f"hang_timeout_s={HANG_TIMEOUT_S}"), runs=("compiled async",),
    ),
    Fault(
        "hang in the test process", wait_for_it, "failed", r"^test process hangs: no step for \d+ s", 1, "Hangs-v0",
        (*IN_TEST_PROCESS, f"hang_timeout_s={HANG_TIMEOUT_S}"), runs=("manual async",),
    ),
    Fault(
        "sys.exit(0) in an environment step", wait_for_it, "failed", "^WORKER exited with code 0$", 1, "SysExit0-v0",
        (BROKEN, ALONE), runs=("manual interleaved",),
    ),
    Fault(
        "os._exit(0) in an environment step", wait_for_it, "failed", "^WORKER exited with code 0$", 1, "OsExit0-v0",
        (BROKEN, ALONE), runs=("manual async",),
    ),
    Fault(
        "Ctrl-C", signal_to_group(signal.SIGINT), "interrupted", "^SIGINT$", 130,
        runs=("manual async", "compiled interleaved"), quick=("manual async",), finishes=True,
    ),
    Fault(
        "SIGTERM to the parent", signal_to_parent(signal.SIGTERM), "interrupted", "^SIGTERM$", 143,
        settings=(ALONE,), runs=("manual interleaved",), finishes=True,
    ),
    Fault(
        "SIGHUP", signal_to_parent(signal.SIGHUP), "interrupted", "^SIGHUP$", 129, settings=(ALONE,),
        runs=("compiled async",), finishes=True,
    ),
    Fault(
        "SIGTERM in an evaluation that never ends", terminate_in_its_evaluation, "interrupted", "^SIGTERM$", 143,
        "Endless-v0", ("evaluation.horizon=1000000000000", ALONE),
        runs=("manual interleaved",), quick=("manual interleaved",), finishes=True,
    ),
    Fault(
        "Ctrl-C, and a worker is killed before it stops", interrupt_and_kill_a_stopped, "interrupted",
        "^SIGINT: the last checkpoint stays, because WORKER was killed by SIGKILL$", 130, runs=("compiled async",),
    ),
    Fault(
        "two Ctrl-C", two_interrupts, "interrupted", "^SIGINT a second time: stopped at once", 130, "Slow-v0",
        ("+env.kwargs.after=200", "evaluation.every_seconds=0.1", "+env.kwargs.process=worker"), runs=("manual async",),
    ),
    Fault(
        "two Ctrl-C", two_interrupts, "interrupted", "^SIGINT a second time: stopped at once", 130, "Slow-v0",
        ("+env.kwargs.after=200", "evaluation.every_steps=100"), runs=("manual interleaved",),
    ),
    Fault(
        "two Ctrl-C, a worker hangs", two_interrupts_of_stopped, "interrupted",
        "^SIGINT a second time: stopped at once", 130, runs=("compiled async",),
    ),
    Fault(
        "kill -9 of the parent of hung workers", kill_parent_of_hung, "running", "^$", -signal.SIGKILL, "Hangs-v0",
        ("+env.kwargs.after=200", ALONE), runs=("manual async",),
    ),
    Fault(
        "kill -9 of the parent of a stopped worker", kill_parent_of_stopped, "running", "^$", -signal.SIGKILL,
        runs=("compiled interleaved",),
    ),
    Fault("kill -9 of the parent", kill_parent, "running", "^$", -signal.SIGKILL, quick=("compiled async",)),
    Fault(
        "NaN reward", wait_for_it, "failed", "^WORKER raised ValueError: the environment returned reward nan;", 1,
        "NanReward-v0", (BROKEN, ALONE), runs=("manual async",),
    ),
    Fault(
        "full disk", fill_the_disk, "failed", "^the records could not be written: .*File too large", 1,
        runs=("compiled interleaved",),
    ),
)  # fmt: skip
TABLE = [
    pytest.param(
        fault, *run.split(), id=f"{fault.name}, {run.replace(' ', ', ')}",
        marks=() if run in fault.quick else pytest.mark.slow,
    )
    for fault in FAULTS
    for run in fault.runs
]  # fmt: skip


@pytest.mark.parametrize(("fault", "backend", "schedule"), TABLE)
def test_a_run_with_a_fault_ends_properly_and_can_be_resumed(
    fault: Fault, backend: str, schedule: str, start: Callable[..., Run], tmp_path: Path
) -> None:
    shared_memory = shared_memory_files()
    env = SOUND[backend] if fault.env is None else (f"env.id=faulty_envs:{fault.env}",)
    every_steps = {"async": "null", "interleaved": "50000" if backend == "compiled" else "500"}[schedule]
    chosen = (f"schedule={schedule}", *env, f"evaluation.every_steps={every_steps}", *fault.settings)
    run = new_run(start, tmp_path, *chosen)
    if fault.env is None:
        wait_until_it_trains(run, evaluations=int(ALONE not in fault.settings or schedule == "interleaved"))
    fault.happen(run)

    assert run.exit_code() == fault.exit_code, run.errors
    worker = r"worker-\d" if schedule == "async" else "worker-0-1"
    status = run.status()
    assert status["state"] == fault.state, run.errors
    assert re.search(fault.reason.replace("WORKER", worker), status["reason"])
    assert status["pid"] == run.process.pid
    assert read_manifest(run.folder).config["backend"] == backend
    if fault.state == "failed":
        assert f"failed: {status['reason']}" in run.errors
    else:
        assert "Traceback" not in run.errors
    assert_nothing_is_left(run, shared_memory)
    assert_it_can_go_on(run, start, fault.finishes)


def assert_nothing_is_left(run: Run, shared_memory: set[str]) -> None:
    assert eventually(lambda: not run.processes()), [command_of(pid) for pid in run.processes()]
    assert eventually(lambda: not left_in_shared_memory(shared_memory, run)), left_in_shared_memory(shared_memory, run)
    # a process that is killed while it writes cannot tidy up; the resume does
    assert run.process.returncode == -signal.SIGKILL or run.temporary_files() == []


def assert_it_can_go_on(run: Run, start: Callable[..., Run], whole: bool = False) -> None:
    """Its tables and checkpoint can be read, and resume= completes it with every episode recorded once.

    whole: its last checkpoint is of its last state and counts all its episodes."""
    tables = load_run(run.folder)
    episodes = len(tables.episodes)
    assert tables.episodes["episode"].tolist() == list(range(1, episodes + 1))
    assert tables.torn <= 1
    counted = 0
    if (run.folder / LAST_CHECKPOINT).exists():
        checkpoint = read_checkpoint(run.folder / LAST_CHECKPOINT)
        assert all(np.isfinite(tensor).all() for tensor in checkpoint.tensors.values())
        counted = checkpoint.state["counters"]["episodes"]
        assert counted <= episodes
    if whole:
        assert counted == episodes
        assert tables.torn == 0

    end = episodes + 40
    resumed = start(f"resume={run.folder}", "plugins=[faulty_envs]", f"max_episodes={end}", **{DISARMED: "1"})
    assert resumed.exit_code() == 0, resumed.errors
    assert "resumed  at step" in resumed.output or not counted
    status = resumed.status()
    assert (status["state"], status["reason"]) == ("completed", f"max_episodes={end} reached")
    after = load_run(run.folder)
    assert after.torn == 0
    assert after.episodes["episode"].tolist() == list(range(1, end + 1))
    races = after.setting("schedule") == "async" and after.setting("backend") != "compiled"
    assert after.episodes["global_step"].is_monotonic_increasing or races
    assert after.updates["update"].is_unique
    assert not after.evaluations.duplicated(["evaluation", "episode"]).any()
    kept = min(counted, episodes)
    assert after.episodes.head(kept).equals(tables.episodes.head(kept))
    assert eventually(lambda: not resumed.processes())
    assert resumed.temporary_files() == []


# Faults that are not in the table.


@pytest.mark.parametrize(
    ("backend", "schedule", "env"),
    [
        pytest.param("compiled", "interleaved", "Pendulum-v1"),
        pytest.param("manual", "async", "Pendulum-v1", marks=pytest.mark.slow),
        pytest.param("autograd", "interleaved", "CartPole-v1", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_diverges_says_where(
    backend: str, schedule: str, env: str, start: Callable[..., Run], tmp_path: Path
) -> None:
    """Also, its files hold no numbers that are not finite."""
    chosen = (f"env.id={env}", f"backend={backend}", f"schedule={schedule}", "evaluation.every_steps=100000", ALONE)
    run = new_run(start, tmp_path, *chosen, "optimizer.lr=1e30", "log_interval=1")
    assert run.exit_code() == 1, run.output
    status = run.status()
    assert status["state"] == "failed"
    assert re.fullmatch(r"diverged: loss \S+, gradient norm \S+ at update [1-9]\d* \(worker [01]\)", status["reason"])
    assert f"failed: {status['reason']}\n" in run.errors
    assert "Traceback" not in run.errors
    assert eventually(lambda: not run.processes())
    assert np.isfinite(load_run(run.folder).updates.to_numpy()).all()


@pytest.mark.slow
def test_a_signal_while_kernels_are_compiled_ends_the_run(start: Callable[..., Run], tmp_path: Path) -> None:
    """For many seconds no worker reads a command."""
    shared_memory = shared_memory_files()
    chosen = ("schedule=async", *SOUND["compiled"])
    run = new_run(start, tmp_path, *chosen, NUMBA_CACHE_DIR=str(tmp_path / "cold"))
    run.wait_until(lambda: "compiling the kernels" in run.output, "compiling")
    os.killpg(run.process.pid, signal.SIGINT)
    assert run.exit_code() == 130, run.errors
    assert (run.status()["state"], run.status()["reason"]) == ("interrupted", "SIGINT")
    assert list((tmp_path / "cold").rglob("*advance*.nbc")) == [], "it waited for the compilation"
    assert_nothing_is_left(run, shared_memory)
    assert_it_can_go_on(run, start, whole=True)


# Moments that are hard to hit.

SIGNALLED_AT_THE_END = """
import multiprocessing, os, runpy, signal, sys
sys.path.insert(0, "src")
from ablate.records import checkpoint
write = checkpoint.write_checkpoint
def write_and_signal(path, content):
    if not multiprocessing.active_children():  # this is the last checkpoint: the workers have ended
        os.kill(os.getpid(), getattr(signal, os.environ["SIGNAL"]))
    write(path, content)
checkpoint.write_checkpoint = write_and_signal
sys.argv[0] = "src/run.py"
runpy.run_path("src/run.py", run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "first"), [(signal.SIGTERM, True), (signal.SIGINT, False)])
def test_a_signal_during_the_last_checkpoint_does_no_harm(
    number: signal.Signals, first: bool, start: Callable[..., Run], tmp_path: Path
) -> None:
    """first: the run has reached its limit. Otherwise it is writing its checkpoint after a Ctrl-C."""
    settings = ("schedule=interleaved", "env.id=faulty_envs:Faulty-v0", f"max_episodes={20 if first else 100000}")
    run = new_run(start, tmp_path, *settings, program=("-c", SIGNALLED_AT_THE_END), SIGNAL=number.name)
    if not first:
        wait_until_it_trains(run, evaluations=0)
        os.kill(run.process.pid, signal.SIGINT)
    code, state = run.exit_code(), run.status()["state"]
    allowed = {("interrupted", 130), ("interrupted", 128 + number)}
    if first:
        allowed |= {("completed", 0), ("completed", 128 + number)}
    assert (state, code) in allowed, f"{run.status()} {run.errors}"
    assert run.temporary_files() == []
    assert_it_can_go_on(run, start)


@pytest.mark.slow
def test_a_signal_while_the_workers_start_ends_the_run(start: Callable[..., Run], tmp_path: Path) -> None:
    shared_memory = shared_memory_files()
    run = new_run(start, tmp_path, "schedule=async", "env.id=faulty_envs:Faulty-v0")
    run.wait_until(lambda: (run.folder / STATUS).exists(), "started")
    os.killpg(run.process.pid, signal.SIGINT)
    assert run.exit_code() == 130, run.errors
    assert (run.status()["state"], run.status()["reason"]) == ("interrupted", "SIGINT")
    assert_nothing_is_left(run, shared_memory)
    assert_it_can_go_on(run, start, whole=True)


def sleeps(send: Callable[[Any], None], shared: SharedState, *_: object) -> None:
    """A child that reads no command."""
    shared.beat(0)
    time.sleep(START_S)


def test_a_signal_while_children_are_asked_to_end_kills_them() -> None:
    """The parent receives a second signal there if the first came while the workers started."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    shared = SharedState(1, 0, 1)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with Supervisor([Child("sleeper", __name__, "sleeps", (shared,))], shared, START_S) as supervisor:
            while shared.silent_for_s(0) is None:
                list(supervisor.messages(0.1))
            signal.setitimer(signal.ITIMER_REAL, ABANDON_S / 4)
            with pytest.raises(KeyboardInterrupt):
                supervisor.kill()
            assert not multiprocessing.active_children()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Interrupting:
    """An argument of a child. While it is sent, the parent gets a Ctrl-C."""

    def __reduce__(self) -> tuple[Any, ...]:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]
        return int, ()


def test_a_signal_while_children_are_started_leaves_none() -> None:
    shared = SharedState(1, 0, 1)
    supervisor = Supervisor([Child("sleeper", __name__, "sleeps", (shared, Interrupting()))], shared, START_S)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest's own worker processes ignore the signal
    try:
        with pytest.raises(KeyboardInterrupt), supervisor:
            pass
    finally:
        signal.signal(signal.SIGINT, before)
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_third_interrupt_leaves_no_process(start: Callable[..., Run], tmp_path: Path) -> None:
    """The workers hang, and a third Ctrl-C comes while the parent ends its children."""
    shared_memory = shared_memory_files()
    settings = ("schedule=async", ALONE, "env.id=faulty_envs:Hangs-v0", "+env.kwargs.after=200")
    run = new_run(start, tmp_path, *settings)
    wait_until_stuck(run)
    os.killpg(run.process.pid, signal.SIGINT)
    run.wait_until(lambda: "stopping" in run.output, "stopping")
    for _ in range(2):
        os.killpg(run.process.pid, signal.SIGINT)
        time.sleep(0.2)  # within the second in which children may end by themselves
    assert run.exit_code(GONE_S) == 130, run.errors
    assert run.status()["state"] == "interrupted"
    assert_nothing_is_left(run, shared_memory)
    assert_it_can_go_on(run, start)


@pytest.mark.parametrize(
    ("env", "reason", "exit_code"),
    [
        ("StartsDaemon-v0", "^max_episodes=40 reached$", 0),
        ("StartsDaemonAndCrashes-v0", "^worker-0 was killed by SIGSEGV$", 1),
    ],
)
def test_a_process_that_an_environment_started_hides_no_end(
    env: str, reason: str, exit_code: int, start: Callable[..., Run], tmp_path: Path
) -> None:
    """It holds the pipe of the worker open for longer than this test waits."""
    settings = (f"env.id=faulty_envs:{env}", "+env.kwargs.process=worker", "schedule=async", "workers=1", ALONE)
    run = new_run(start, tmp_path, *settings, "max_episodes=40")
    assert run.exit_code(DAEMON_S - 10) == exit_code, run.errors
    assert re.search(reason, run.status()["reason"])


def test_an_environment_that_ends_the_program_is_refused() -> None:
    message = r"^env\.id=faulty_envs:ExitsAtOnce-v0: its constructor ends the program, sys\.exit\(3\)$"
    with pytest.raises(ConfigError, match=message):
        compose_and_plan(["env.id=faulty_envs:ExitsAtOnce-v0"])


@pytest.mark.slow
def test_a_long_message_of_an_exception_is_shortened(start: Callable[..., Run], tmp_path: Path) -> None:
    settings = ("schedule=interleaved", "workers=1", "evaluation.every_steps=null", "+env.kwargs.after=30")
    run = new_run(start, tmp_path, "env.id=faulty_envs:RaisesLongMessage-v0", *settings)
    assert run.exit_code() == 1
    reason = run.status()["reason"]
    assert re.fullmatch(r"worker-0 raised ValueError: first x+ \.\.\. \d+ characters \.\.\. x+ last", reason)
    assert len(reason) < 2100
    assert len(run.output + run.errors) < 50_000


@pytest.mark.parametrize("then", ["deleted", pytest.param("moved, and another one made", marks=pytest.mark.slow)])
def test_a_run_whose_folder_is_gone_fails(then: str, start: Callable[..., Run], tmp_path: Path) -> None:
    run = new_run(start, tmp_path, "schedule=interleaved", *SOUND["manual"], ALONE, "max_episodes=3000")
    wait_until_it_trains(run, evaluations=0)
    run.folder.rename(tmp_path / "moved")
    if then == "deleted":  # only now, when the run no longer writes into it
        shutil.rmtree(tmp_path / "moved")
    if "made" in then:
        (run.folder / "checkpoints").mkdir(parents=True)
    assert run.exit_code() == 1
    assert f"{run.folder}: the folder is gone: it was moved or deleted during the training" in run.errors
    assert run.folder.exists() == ("made" in then)


def test_two_runs_started_in_one_folder_do_not_mix(start: Callable[..., Run], tmp_path: Path) -> None:
    settings = ("schedule=interleaved", *SOUND["manual"], ALONE, "max_episodes=300")
    runs = [new_run(start, tmp_path, *settings, f"seed={seed}") for seed in (1, 2)]
    codes = [run.exit_code() for run in runs]
    assert sorted(codes) == [0, 2]
    winner = codes.index(0) + 1
    assert read_manifest(runs[0].folder).config["seed"] == winner
    assert runs[0].status()["state"] == "completed"


@pytest.mark.slow
def test_nohup_keeps_a_run_through_a_hangup(start: Callable[..., Run], tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # children inherit it
    try:
        run = new_run(start, tmp_path, "schedule=interleaved", *SOUND["manual"], ALONE, "evaluation.every_steps=500")
    finally:
        signal.signal(signal.SIGHUP, before)
    wait_until_it_trains(run)
    rows = run.rows()
    os.killpg(run.process.pid, signal.SIGHUP)
    run.wait_until(lambda: run.rows() > rows + 20, "training on")


@pytest.mark.slow
def test_a_slow_start_is_not_a_hang(start: Callable[..., Run], tmp_path: Path) -> None:
    """Importing torch and making an environment takes longer than hang_timeout_s, and compiling takes even longer."""
    settings = ("schedule=async", *SOUND["compiled"], "max_episodes=20", "hang_timeout_s=1")
    run = new_run(start, tmp_path, *settings, NUMBA_CACHE_DIR=str(tmp_path / "cold"))
    assert run.exit_code() == 0, run.errors
    assert run.status()["state"] == "completed"


@pytest.mark.slow
def test_resume_of_a_completed_run_adds_nothing(start: Callable[..., Run], tmp_path: Path) -> None:
    settings = ("schedule=interleaved", *SOUND["manual"], "max_episodes=20", "evaluation.every_seconds=null")
    run = new_run(start, tmp_path, *settings)
    assert run.exit_code() == 0, run.errors
    before, status = load_run(run.folder), run.status()
    parameters = read_checkpoint(run.folder / LAST_CHECKPOINT).tensors["parameters"]
    resumed = start(f"resume={run.folder}", "plugins=[faulty_envs]")
    assert resumed.exit_code() == 0, resumed.errors
    after = load_run(run.folder)
    assert after.episodes.equals(before.episodes)
    assert after.updates.equals(before.updates)
    assert after.evaluations.equals(before.evaluations)
    for key in ("state", "reason", "episodes", "steps", "updates"):
        assert resumed.status()[key] == status[key], key
    assert np.array_equal(read_checkpoint(run.folder / LAST_CHECKPOINT).tensors["parameters"], parameters)


@pytest.mark.slow
def test_resume_removes_the_temporary_files_of_a_killed_process(start: Callable[..., Run], tmp_path: Path) -> None:
    """kill -9 in the middle of a write leaves one."""
    run = new_run(start, tmp_path, "schedule=interleaved", "env.id=faulty_envs:Faulty-v0")
    wait_until_it_trains(run, evaluations=0)
    run.kill()
    for path in (run.folder / LAST_CHECKPOINT, run.folder / STATUS):
        path.with_name(f".{path.name}.{run.process.pid}.tmp").write_bytes(b"half")
    assert_it_can_go_on(run, start)


@pytest.mark.slow
def test_a_run_stopped_by_ctrl_z_continues(start: Callable[..., Run], tmp_path: Path) -> None:
    """All processes stand still for longer than hang_timeout_s, but none of them hangs."""
    run = new_run(start, tmp_path, "schedule=async", *SOUND["manual"], "hang_timeout_s=6")
    wait_until_it_trains(run, evaluations=0)
    os.killpg(run.process.pid, signal.SIGSTOP)
    time.sleep(8)  # a crowded machine itself may take seconds for a step: hence not shorter
    os.killpg(run.process.pid, signal.SIGCONT)
    rows = run.rows()
    run.wait_until(lambda: run.rows() > rows + 20, "training again")
    os.kill(run.process.pid, signal.SIGINT)
    assert run.exit_code() == 130


@pytest.mark.slow
def test_a_child_that_holds_the_interpreter_dies_with_its_parent(start: Callable[..., Run], tmp_path: Path) -> None:
    run = new_run(start, tmp_path, "schedule=interleaved", "env.id=faulty_envs:HangsInC-v0")
    run.wait_until(lambda: run.rows() > 0, "training")
    time.sleep(2)  # until the worker hangs
    os.kill(run.process.pid, signal.SIGKILL)
    run.exit_code()
    assert eventually(lambda: not run.processes())


@pytest.mark.slow
def test_kill_9_of_all_leaves_nothing_in_shared_memory(start: Callable[..., Run], tmp_path: Path) -> None:
    before = shared_memory_files()
    run = new_run(start, tmp_path, "schedule=async", *SOUND["compiled"])
    wait_until_it_trains(run, evaluations=0)
    os.killpg(run.process.pid, signal.SIGKILL)
    run.exit_code()
    assert eventually(lambda: not run.processes())
    assert shared_memory_files() - before == set()


@pytest.mark.slow
def test_ctrl_c_does_not_wait_for_a_test_process_that_hangs(start: Callable[..., Run], tmp_path: Path) -> None:
    settings = ("schedule=async", "env.id=faulty_envs:Hangs-v0", "+env.kwargs.process=test process",
                "+env.kwargs.after=5", "hang_timeout_s=100", "evaluation.every_seconds=0.2")  # fmt: skip
    run = new_run(start, tmp_path, *settings)
    wait_until_it_trains(run, evaluations=0)
    os.kill(run.process.pid, signal.SIGINT)
    assert run.exit_code(20) == 130
    assert run.status()["state"] == "interrupted"
    assert_it_can_go_on(run, start, whole=True)
