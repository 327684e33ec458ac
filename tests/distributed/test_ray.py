"""hydra/launcher=ray, with its own Ray and on two nodes: a failed cell is reported and affects no other."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faulty_envs import DISARMED
from processes import parent_of
from started_sweep import (
    PACKED,
    Sweep,
    assert_one_ends_with_its_job,
    assert_two_go_on,
    detach_stop_and_go_on,
    env,
    five_cells_of_one_job,
    has_saved,
    kill_and_grow_on,
    resumed_from,
    two_good_and_four_bad,
)

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(1200)]
pytest.importorskip("ray", reason="needs pip install -e '.[ray]'")
WAIT_S = 400.0  # a sweep ends with its report, which takes minutes on a busy machine
SLOW = env("Slow", after=100, step_s=0.05)
NODE = {"num_cpus": 2, "object_store_memory": 100_000_000, "include_dashboard": False}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Sweep]]:
    """Start a sweep over Ray. All processes that a failed test leaves are killed."""
    started: list[Sweep] = []

    def start(arms: dict[str, list[str]], *arguments: str, **environment: Any) -> Sweep:
        started.append(Sweep(tmp_path / "sweep", arms, "hydra/launcher=ray", *arguments, **environment))
        return started[-1]

    yield start
    for sweep in started:
        sweep.kill()


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two nodes on this machine."""
    from ray.cluster_utils import Cluster

    running = Cluster(initialize_head=True, head_node_args=NODE)
    running.add_node(**{key: value for key, value in NODE.items() if key != "include_dashboard"})
    running.wait_for_nodes()
    yield running
    running.shutdown()


def raylet_of(pid: int) -> int:
    """The process of the Ray node that a cell runs on: it started Ray's worker, which started the cell."""
    for _ in range(2):
        pid = parent_of(pid)
    return pid


def assert_gone(sweep: Sweep, within_s: float = 15.0) -> None:
    """The processes of a local Ray are included: they inherit the environment variables of the sweep."""
    deadline = time.monotonic() + within_s
    while sweep.processes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert sweep.processes() == [], subprocess.run(["ps", "-ef"], capture_output=True, text=True).stdout


def test_a_faulty_cell_affects_no_other_cell(start: Callable[..., Sweep]) -> None:
    arms = two_good_and_four_bad()
    good, bad = [arm for arm in arms if arm.startswith("good")], ["raises", "exits", "hangs", "killed"]
    sweep = start(arms)
    sweep.wait_until(lambda: sweep.trains("killed"), "training", WAIT_S)
    sweep.kill_cell("killed")
    assert sweep.exit_code(WAIT_S) == 1, sweep.errors
    assert {sweep.outcome(arm)[0] for arm in good} == {"completed"}
    reasons = {arm: sweep.outcome(arm)[1] for arm in bad if sweep.outcome(arm)[0] == "failed"}
    assert "ValueError" in reasons["raises"]
    assert "exited with code 3" in reasons["exits"]
    assert "hangs" in reasons["hangs"]
    assert "killed by SIGKILL" in reasons["killed"]
    assert all(f"failed    {arm} seed=0: {reason}" in sweep.output for arm, reason in reasons.items()), sweep.output
    assert_gone(sweep)
    before = {arm: (sweep.cell(arm) / "episodes.csv").stat().st_mtime_ns for arm in good}
    again = start(arms, **{DISARMED: "1"})
    assert again.exit_code(WAIT_S) == 0, again.errors
    assert {arm: (again.cell(arm) / "episodes.csv").stat().st_mtime_ns for arm in good} == before
    assert {arm: [a["outcome"] for a in again.attempts(arm)] for arm in bad} == {
        arm: ["failed", "completed"] for arm in bad
    }


def test_only_the_cell_that_ran_ends_with_its_task(start: Callable[..., Sweep]) -> None:
    arms, settings = five_cells_of_one_job(), (*PACKED, "hydra.launcher.max_node_failures=0")
    sweep = start(arms, *settings)
    sweep.wait_until(lambda: has_saved(sweep, "killed"), "training", WAIT_S)
    os.kill(parent_of(sweep.cell_processes("killed")[0]), signal.SIGKILL)  # Ray's worker
    assert_one_ends_with_its_job(sweep, "failed", "lost: Ray: WorkerCrashedError: ", WAIT_S)
    assert_two_go_on(start(arms, *settings, **{DISARMED: "1"}), WAIT_S)


def test_a_task_that_runs_again_skips_its_completed_cells(start: Callable[..., Sweep]) -> None:
    """Ray's worker is killed once, while the third of five cells trains."""
    arms = five_cells_of_one_job()
    sweep = start(arms, *PACKED, "hydra.launcher.max_node_failures=1")
    sweep.wait_until(lambda: has_saved(sweep, "killed"), "training", WAIT_S)
    os.kill(parent_of(sweep.cell_processes("killed")[0]), signal.SIGKILL)
    assert sweep.exit_code(WAIT_S) == 1, f"{sweep.output} {sweep.errors}"
    attempts = {arm: [a["outcome"] for a in sweep.attempts(arm)] for arm in arms}
    once, twice = ["completed"], ["interrupted", "completed"]
    assert attempts == {"first": once, "raises": ["failed"], "killed": twice, "fourth": once, "fifth": once}
    assert resumed_from(sweep, "killed") > 0


def test_a_dead_nodes_cells_are_run_again(cluster: Any, start: Callable[..., Sweep]) -> None:
    arms = {f"slow-{n}": [*SLOW, f"algo.t_max={n}"] for n in range(5, 9)}
    sweep = start(arms, f"hydra.launcher.address={cluster.address}")
    sweep.wait_until(lambda: sweep.trains(*arms), "training", WAIT_S)
    (node,) = cluster.worker_nodes
    raylet = node.all_processes["raylet"][0].process.pid
    there = {arm for arm in arms if raylet_of(sweep.cell_processes(arm)[0]) == raylet}
    assert len(there) == 2
    done = {arm: sweep.checkpointed_episodes(arm) for arm in there}
    cluster.remove_node(node, allow_graceful=False)
    assert sweep.exit_code(WAIT_S) == 0, f"{sweep.output} {sweep.errors}"
    assert {arm: len(sweep.attempts(arm)) for arm in arms} == {arm: 1 + (arm in there) for arm in arms}
    assert {sweep.outcome(arm) for arm in arms} == {("completed", "")}
    assert all(resumed_from(sweep, arm) >= episodes for arm, episodes in done.items())


def test_a_cell_whose_nodes_keep_dying_is_reported(cluster: Any, start: Callable[..., Sweep]) -> None:
    """Ray's worker is killed each time it has started the cell."""
    sweep = start({"good": [], "doomed": SLOW}, f"hydra.launcher.address={cluster.address}",
                  "hydra.launcher.max_node_failures=1")  # fmt: skip
    killed: set[int] = set()  # cells of killed workers, which may live a moment longer

    def new() -> list[int]:
        return [pid for pid in sweep.cell_processes("doomed") if pid not in killed]

    for attempt in (1, 2):
        sweep.wait_until(lambda n=attempt: len(sweep.attempts("doomed")) == n and new(), "training", WAIT_S)
        cells = new()
        os.kill(parent_of(cells[0]), signal.SIGKILL)
        killed |= set(cells)
    assert sweep.exit_code(WAIT_S) == 1, f"{sweep.output} {sweep.errors}"
    assert sweep.outcome("good") == ("completed", "")
    outcome, reason = sweep.outcome("doomed")
    assert outcome == "failed"
    assert reason.startswith("lost: Ray: WorkerCrashedError: ")


@pytest.mark.parametrize("own", [True, False], ids=["own Ray", "cluster"])
def test_ctrl_c_interrupts_running_cells_with_checkpoints(
    own: bool, start: Callable[..., Sweep], request: pytest.FixtureRequest
) -> None:
    """There are more cells than fit; some wait in Ray's queue."""
    address = "null" if own else request.getfixturevalue("cluster").address
    arms = {f"slow-{n}": [*SLOW, f"algo.t_max={n}"] for n in range(5, 9)}
    sweep = start(arms, "hydra.launcher.num_cpus=2", f"hydra.launcher.address={address}")
    sweep.wait_until(lambda: sum(map(sweep.trains, arms)) == 2 - own, "training", WAIT_S)
    running = {arm for arm in arms if sweep.attempts(arm)}
    os.killpg(sweep.process.pid, signal.SIGINT)
    assert sweep.exit_code(WAIT_S) == 130, sweep.errors
    for arm in running:
        assert sweep.outcome(arm) == ("interrupted", "the sweep was stopped")
        assert sweep.checkpointed_episodes(arm) == sweep.episodes(arm) > 0
        assert sweep.cell_processes(arm) == []
    assert all(sweep.attempts(arm) == [] for arm in arms if arm not in running)
    if own:
        assert_gone(sweep)


def test_an_impatient_ctrl_c_leaves_nothing(start: Callable[..., Sweep]) -> None:
    """One cell cannot stop at the first Ctrl-C: its worker hangs."""
    arms = {"hangs": [*SLOW, "algo.t_max=5"], "slow": [*SLOW, "algo.t_max=6"]}
    sweep = start(arms, "hang_timeout_s=200")
    sweep.wait_until(lambda: sweep.trains(*arms), "training", WAIT_S)
    sweep.hang("hangs")
    os.killpg(sweep.process.pid, signal.SIGINT)
    sweep.wait_until(lambda: "stopping" in sweep.output, "stopping", WAIT_S)
    os.killpg(sweep.process.pid, signal.SIGINT)
    assert sweep.exit_code(WAIT_S) == 130, sweep.errors
    assert_gone(sweep)


def test_a_killed_sweep_leaves_nothing_and_goes_on(start: Callable[..., Sweep]) -> None:
    sweep = start({"slow": SLOW})
    sweep.wait_until(lambda: sweep.trains("slow"), "training", WAIT_S)
    (cell,) = sweep.cell_processes("slow")
    sweep.process.kill()
    sweep.exit_code()
    again = start({"slow": SLOW}, **{DISARMED: "1"})
    assert again.exit_code(WAIT_S) == 0, again.errors
    assert again.outcome("slow") == ("completed", "")
    assert resumed_from(again, "slow") > 0
    assert cell not in sweep.processes()
    assert_gone(sweep, within_s=150)  # two agents of Ray try for more than a minute to reach their dead head node
    assert_gone(again)


def test_a_sweep_killed_while_it_grows_goes_on(start: Callable[..., Sweep]) -> None:
    assert_gone(kill_and_grow_on(start, WAIT_S), within_s=150)


def test_a_detached_sweep_survives_its_session(start: Callable[..., Sweep]) -> None:
    assert_gone(detach_stop_and_go_on(start, WAIT_S, kill=False))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("hydra.launcher.address=127.0.0.1:1", "hydra.launcher.address=127.0.0.1:1: Ray: "),
        (
            "hydra.launcher.num_gpus=4096",
            "hydra/launcher=ray: a cell requests num_gpus=4096, but no node has ",
        ),
    ],
)
def test_unavailable_resources_are_refused(setting: str, message: str, start: Callable[..., Sweep]) -> None:
    sweep = start({"good": []}, setting)
    assert sweep.exit_code() == 2, sweep.errors
    assert sweep.errors.splitlines()[-1].startswith(message), sweep.errors
