"""A fork server: what its forks are like, and what happens if one of them, the server or its owner dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import TEST_ID, all_processes, eventually, read_proc
from served import COMMAND

from ablate.parallel.fork_server import Ended, Fork, ForkServer, NotForked
from ablate.parallel.signals import SIGNALS


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """The environment variables of all processes of this module."""
    token, path = uuid.uuid4().hex, os.pathsep.join([*sys.path, os.path.dirname(__file__)])
    yield {**os.environ, TEST_ID: token, "PYTHONPATH": path}
    for pid in running(token):
        os.kill(pid, signal.SIGKILL)


def running(token: str) -> list[int]:
    mark = f"{TEST_ID}={token}".encode()
    return [pid for pid in all_processes() if mark in read_proc(pid, "environ").split(b"\0")]


@pytest.fixture(scope="module")
def shared(environment: dict[str, str]) -> Iterator[ForkServer]:
    """A server for all tests that leave it as it is."""
    one = ForkServer(COMMAND, environment)
    yield one
    one.close()


@pytest.fixture
def started(environment: dict[str, str]) -> Callable[[], list[int]]:
    """The processes that the test has started and that still run."""
    before = running(environment[TEST_ID])
    return lambda: [pid for pid in running(environment[TEST_ID]) if pid not in before]


@pytest.fixture
def server(environment: dict[str, str], started: Callable[[], list[int]]) -> Iterator[ForkServer]:
    """A server of the test's own."""
    one = ForkServer(COMMAND, environment)
    yield one
    one.close()
    assert started() == []


def forked(server: ForkServer, request: str, path: Path = Path(os.devnull)) -> Fork:
    """A process that the server has forked for a request. path: the file for its output."""
    with path.open("wb") as output:
        one = server.fork(request.encode(), output.fileno(), lambda: False)
    assert one is not None
    return one


def end_of(one: Fork) -> Ended:
    ended: list[Ended] = []
    assert eventually(lambda: ended.extend(filter(None, [one.poll()])) or ended, 60.0)
    one.close()
    return ended[0]


def test_a_fork_is_as_if_started_afresh(shared: ForkServer, tmp_path: Path) -> None:
    paths = [tmp_path / "first", tmp_path / "second"]
    forks = [forked(shared, "describe", path) for path in paths]
    assert [end_of(one).code for one in forks] == [0, 0]
    described = [json.loads(path.read_text()) for path in paths]
    for one, path, description in zip(forks, paths, described, strict=True):
        assert description["descriptors"] == {"0": "/dev/null", "1": str(path), "2": str(path)}
        assert description["session"] == description["pid"] == one.pid
        ignored = {number.name for number in SIGNALS if signal.getsignal(number) == signal.SIG_IGN}  # under nohup
        assert {name for name, is_default in description["handlers"].items() if not is_default} <= ignored
        assert description["may fork"]
        assert description["prepared"][-1] == "describe", "before the fork, in the server"
    assert not set(described[0]["draws"]) & set(described[1]["draws"])


def test_how_a_fork_ends_is_known(shared: ForkServer, tmp_path: Path) -> None:
    forks = [forked(shared, request, tmp_path / request.split()[0]) for request in ("exit 3", "raise", "sleep")]
    assert forks[2].poll() is None
    os.kill(forks[2].pid, signal.SIGKILL)
    assert [end_of(one).code for one in forks] == [3, 1, -signal.SIGKILL]
    assert (tmp_path / "raise").read_text().splitlines()[-1] == "ValueError: broken"
    small, large = (end_of(forked(shared, request)).peak_mb for request in ("exit 0", "allocate"))
    assert 50 < large - small < 90


def test_an_error_before_the_fork_is_left_to_the_fork(shared: ForkServer) -> None:
    assert end_of(forked(shared, "prepare badly")).code == 0


def test_who_gives_up_need_not_wait(shared: ForkServer) -> None:
    os.kill(shared._process.pid, signal.SIGSTOP)
    assert shared.fork(b"sleep", 1, lambda: True) is None
    os.kill(shared._process.pid, signal.SIGCONT)


def test_a_server_with_a_thread_does_not_fork(server: ForkServer) -> None:
    with pytest.raises(NotForked):
        forked(server, "start a thread")


def test_a_killed_server_takes_its_forks_along(server: ForkServer, started: Callable[[], list[int]]) -> None:
    one = forked(server, "sleep")
    os.kill(server._process.pid, signal.SIGKILL)
    assert eventually(lambda: not server.runs)
    with pytest.raises(NotForked, match="was killed"):
        end_of(one)
    with pytest.raises(NotForked):
        forked(server, "describe")
    assert eventually(lambda: not started())


OWNER = """
import os, time
import served
server = served.ForkServer(served.COMMAND, dict(os.environ))
if {forks}:
    server.fork(b"sleep", 1, lambda: False)
print("ready", flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("forks", [True, False], ids=["while a fork runs", "while the server starts"])
def test_kill_9_of_the_owner_leaves_nothing(
    forks: bool, environment: dict[str, str], started: Callable[[], list[int]], tmp_path: Path
) -> None:
    command = [sys.executable, "-c", OWNER.format(forks=forks)]
    own = {**environment, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True, env=own) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"ready\n"
        begun = eventually(lambda: len(started()) == 2 + forks)  # /proc shows a program's environment a moment later
        owner.kill()
    assert begun
    assert eventually(lambda: not started())
    assert os.listdir(tmp_path) == []


# What the children of a fork start, which are forks too.


@pytest.mark.parametrize(
    ("simulated", "said"),
    [
        ("program returns wait", ""),
        ("child returns wait", ""),
        ("daemon waits kill", "it was killed by SIGKILL\n"),
        ("forked waits kill", "it was killed by SIGKILL\n"),
        ("forked waits leave", ""),
    ],
)
def test_no_simulator_is_left(
    simulated: str, said: str, shared: ForkServer, started: Callable[[], list[int]], tmp_path: Path
) -> None:
    ended = end_of(forked(shared, f"simulate {simulated}", tmp_path / "output"))
    assert (ended.code, (tmp_path / "output").read_text()) == (0, said)
    assert started() == []


@pytest.mark.parametrize("how", ["daemon", "forked"])
def test_kill_9_of_a_fork_leaves_no_simulator(how: str, shared: ForkServer, started: Callable[[], list[int]]) -> None:
    one = forked(shared, f"simulate {how} waits wait")
    assert eventually(lambda: len(started()) >= 4, 60.0)  # fork, guard, child, simulator
    os.kill(one.pid, signal.SIGKILL)
    assert end_of(one).code == -signal.SIGKILL
    assert eventually(lambda: not started()), [read_proc(pid, "comm") for pid in started()]
