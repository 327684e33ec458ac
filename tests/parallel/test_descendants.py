"""What environments start ends with the process that started it, and is not touched by that process's own settings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from processes import TEST_ID, all_processes, eventually, read_proc
from simulator_env import Simulated

from ablate.parallel import closing, supervisor
from ablate.parallel.closing import close_at_end, close_now, closing_at_end
from ablate.parallel.descendants import PYTHONS_OWN, ending_descendants
from ablate.parallel.shared import SharedState
from ablate.parallel.supervisor import Child, ChildFailed, Supervisor

TIMEOUT_S = 60.0


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[int]]]:
    """The processes that the test has started and that still run, but not Python's own helper of this process."""
    token = f"{TEST_ID}={uuid.uuid4().hex}"
    monkeypatch.setenv(*token.split("="))

    def alive() -> list[int]:
        mine = [pid for pid in all_processes() if token.encode() in read_proc(pid, "environ").split(b"\0")]
        return [pid for pid in mine if PYTHONS_OWN not in read_proc(pid, "cmdline")]

    yield alive
    for pid in alive():
        os.kill(pid, signal.SIGKILL)


def simulates(send: Callable[[Any], None], shared: SharedState, how: str, closes: bool, then: str) -> None:
    """A child whose environment has started its simulator, ended it and started it again."""
    env = Simulated(how=how, closes=closes)
    close_at_end(env.close)
    env.reset(seed=0)
    env.reset()
    shared.beat(0)
    send("simulates")
    if then == "raises":
        raise ValueError("broken")
    if then == "leaves":
        sys.exit(3)
    if then == "waits":
        time.sleep(1000)


def run(how: str, closes: bool, then: str, end: Callable[[Supervisor], None]) -> None:
    shared = SharedState(1, 0, 1)
    with Supervisor([Child("it", __name__, "simulates", (shared, how, closes, then))], shared, TIMEOUT_S) as running:
        said: list[Any] = []
        while not said:
            said += [message for _, message in running.messages(0.1)]
        end(running)


def wait(running: Supervisor) -> None:
    while running.running:
        list(running.messages(0.1))


def kill(running: Supervisor) -> None:
    os.kill(running._processes["it"].pid or 0, signal.SIGKILL)
    wait(running)


def leave(running: Supervisor) -> None:
    """The parent has an exception, or does not wait."""


@pytest.mark.parametrize(
    ("how", "closes", "then", "end", "failure"),
    [
        pytest.param("program", True, "returns", wait, None, id="closed at the end"),
        pytest.param("program", False, "returns", wait, None, id="not closed by its environment"),
        pytest.param("child", True, "returns", wait, None, id="a child of multiprocessing"),
        pytest.param("daemon", True, "raises", wait, "it raised ValueError: broken", id="a daemon, an exception"),
        pytest.param("forked", True, "leaves", wait, "it exited with code 3", id="a fork, sys.exit"),
        pytest.param("daemon", False, "waits", kill, "it was killed by SIGKILL", id="a daemon, kill -9 of the child"),
        pytest.param("forked", False, "waits", leave, None, id="a fork, the parent does not wait"),
    ],
)
def test_no_simulator_is_left(
    how: str, closes: bool, then: str, end: Callable[[Supervisor], None], failure: str | None,
    started: Callable[[], list[int]],
) -> None:  # fmt: skip
    if failure is None:
        run(how, closes, then, end)
    else:
        with pytest.raises(ChildFailed, match=failure):
            run(how, closes, then, end)
    assert started() == []


PARENT = """
import test_descendants
end = lambda running: (print("ready", flush=True), test_descendants.wait(running))
test_descendants.run("daemon", False, "waits", end)
"""


def test_kill_9_of_the_parent_leaves_no_simulator(started: Callable[[], list[int]]) -> None:
    path = os.pathsep.join([*sys.path, os.path.dirname(__file__)])
    command, env = [sys.executable, "-c", PARENT], {**os.environ, "PYTHONPATH": path}
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, env=env)
    with parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        assert len(started()) >= 4  # parent, guard, child, simulator
        parent.kill()
    assert eventually(lambda: not started()), [read_proc(pid, "cmdline") for pid in started()]


def test_what_a_probe_starts_ends_with_it(started: Callable[[], list[int]]) -> None:
    with ending_descendants():
        for how in ("program", "daemon", "forked"):
            Simulated(how=how, closes=False).reset(seed=0)
        assert len(started()) >= 2
    assert eventually(lambda: not started())


# Closing.


def test_all_is_closed_the_newest_first_whatever_happens() -> None:
    closed: list[str] = []

    def close_badly() -> None:
        closed.append("second")
        raise OSError("already gone")

    def work() -> None:
        close_at_end(lambda: closed.append("first"))
        close_at_end(close_badly)
        raise KeyError

    with pytest.raises(KeyError), closing_at_end():
        work()
    assert closed == ["second", "first"]
    close_at_end(lambda: closed.append("nobody will"))
    assert closed == ["second", "first"]


def test_a_failed_close_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def close() -> None:
        raise OSError("two\nlines")

    close_now(close)
    assert capsys.readouterr().err == "an environment could not be closed: OSError: two lines\n"


def test_a_close_that_never_ends_is_given_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(closing, "CLOSE_S", 0.05)
    close_now(lambda: time.sleep(1000))
    assert "TimeoutError: it took longer than 0.05 s" in capsys.readouterr().err


def closes_for_ever(send: Callable[[Any], None], shared: SharedState) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])  # as in C code, which no handler interrupts
    close_at_end(lambda: time.sleep(1000))
    shared.beat(0)
    send("result")


def test_a_child_that_cannot_close_is_ended_and_its_results_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "CLOSING_S", 0.3)
    shared = SharedState(1, 0, 1)
    with Supervisor([Child("it", __name__, "closes_for_ever", (shared,))], shared, TIMEOUT_S) as running:
        said: list[Any] = []
        while running.running:
            said += running.messages(0.1)
    assert said == [("it", "result")]
