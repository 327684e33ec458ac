"""hydra/launcher=slurm with a real Slurm: a failed job is reported and affects no other."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faulty_envs import DISARMED
from processes import parent_of
from slurm_cluster import NODES, SlurmCluster, missing_programs, slurm_cluster
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
pytest.importorskip("submitit", reason="needs pip install -e '.[slurm]'")
WAIT_S = 400.0  # a sweep ends with its report, which takes minutes on a busy machine
SLOW = env("Slow", after=100, step_s=0.05)


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    if missing := missing_programs():
        pytest.skip(f"needs Debian's packages of Slurm, munge and MariaDB (make test-distributed): no {missing[0]}")
    with slurm_cluster() as running:
        yield running


@pytest.fixture
def start(cluster: SlurmCluster, tmp_path: Path) -> Iterator[Callable[..., Sweep]]:
    """Start a sweep over the cluster. All jobs and processes that a failed test leaves are ended."""
    started: list[Sweep] = []

    def start(arms: dict[str, list[str]], *arguments: str, **environment: Any) -> Sweep:
        arguments = ("hydra/launcher=slurm", *arguments)
        started.append(Sweep(tmp_path / "sweep", arms, *arguments, **{**cluster.environment, **environment}))
        return started[-1]

    yield start
    cluster.output("scancel", "--user=root")
    for sweep in started:
        sweep.kill()


def node_of(sweep: Sweep, arm: str) -> str:
    """The node of the arm's cell."""
    (pid,) = sweep.cell_processes(arm)
    variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return next(v.partition("=")[2] for v in variables if v.startswith("SLURMD_NODENAME="))


def assert_gone(cluster: SlurmCluster, sweep: Sweep) -> None:
    assert cluster.jobs() == []
    deadline = time.monotonic() + 10
    while sweep.processes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert sweep.processes() == []


def test_a_faulty_cell_affects_no_other_cell(cluster: SlurmCluster, start: Callable[..., Sweep]) -> None:
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
    assert_gone(cluster, sweep)
    before = {arm: (sweep.cell(arm) / "episodes.csv").stat().st_mtime_ns for arm in good}
    again = start(arms, **{DISARMED: "1"})
    assert again.exit_code(WAIT_S) == 0, again.errors
    assert {arm: (again.cell(arm) / "episodes.csv").stat().st_mtime_ns for arm in good} == before
    assert {arm: [a["outcome"] for a in again.attempts(arm)] for arm in bad} == {
        arm: ["failed", "completed"] for arm in bad
    }


def test_a_job_ended_by_slurm_fails_with_the_reason(cluster: SlurmCluster, start: Callable[..., Sweep]) -> None:
    """One job takes too much memory, one is cancelled, one reaches its time limit: each has Slurm's reason."""
    long = [*SLOW, "max_episodes=10000"]
    arms = {"good": [], "hoards": env("Hoards", after=100), "cancelled": long, "late": [*long, "algo.t_max=7"]}
    limits = ("mem_gb=1", "timeout_min=1", "signal_delay_s=10")
    sweep = start(arms, *(f"hydra.launcher.{limit}" for limit in limits))
    sweep.wait_until(lambda: sweep.trains("cancelled", "late"), "training", WAIT_S)
    cluster.output("scancel", sweep.job_of("cancelled"))
    assert sweep.exit_code(WAIT_S) == 1, sweep.errors
    assert sweep.outcome("good") == ("completed", "")
    assert sweep.outcome("cancelled") == ("interrupted", "SIGTERM")
    failed = {arm: sweep.outcome(arm)[1] for arm in ("hoards", "late") if sweep.outcome(arm)[0] == "failed"}
    assert re.search(r"Slurm job \S+: \w+ on n[12], .*exceeded memory limit", failed["hoards"])
    assert "hydra.launcher.timeout_min=1" in failed["late"]
    assert sweep.checkpointed_episodes("late") == sweep.episodes("late")  # it got the signal early enough
    assert all(f"failed    {arm} seed=0: " in sweep.output for arm in ("hoards", "late"))
    assert_gone(cluster, sweep)


@pytest.mark.parametrize("cancelled", [False, True], ids=["killed", "cancelled"])
def test_only_the_cell_that_ran_ends_with_its_job(
    cancelled: bool, cluster: SlurmCluster, start: Callable[..., Sweep]
) -> None:
    """The job's process is killed, or the job, whose cells are forked, is cancelled."""
    arms, settings = five_cells_of_one_job(), (*PACKED, f"sweep.fork={str(cancelled).lower()}")
    sweep = start(arms, *settings)
    sweep.wait_until(lambda: has_saved(sweep, "killed"), "training", WAIT_S)
    if cancelled:
        cluster.output("scancel", sweep.job_of("killed"))
        assert_one_ends_with_its_job(sweep, "interrupted", "SIGTERM", WAIT_S)
    else:
        os.kill(parent_of(sweep.cell_processes("killed")[0]), signal.SIGKILL)
        assert_one_ends_with_its_job(sweep, "failed", r"lost: Slurm job \S+: \w+ on n[12]", WAIT_S)
    assert_gone(cluster, sweep)
    again = start(arms, *settings, **{DISARMED: "1"})
    assert_two_go_on(again, WAIT_S)
    assert_gone(cluster, again)


def test_a_dead_nodes_cells_are_run_again(cluster: SlurmCluster, start: Callable[..., Sweep]) -> None:
    arms = {f"slow-{n}": [*SLOW, f"algo.t_max={n}"] for n in range(5, 9)}
    sweep = start(arms, "hydra.launcher.cpus_per_task=2")  # two cells on each node
    sweep.wait_until(lambda: sweep.trains(*arms), "training", WAIT_S)
    on_first = {arm for arm in arms if node_of(sweep, arm) == NODES[0]}
    assert len(on_first) == 2
    done = {arm: sweep.checkpointed_episodes(arm) for arm in on_first}
    try:
        cluster.kill_node(NODES[0])
        sweep.wait_until(lambda: len(cluster.jobs("PENDING")) == 2, "queued again", WAIT_S)
        for job in cluster.jobs("PENDING"):  # Slurm would wait two minutes first
            cluster.output("scontrol", "update", f"JobId={job}", "StartTime=now")
        assert sweep.exit_code(WAIT_S) == 0, f"{sweep.output} {sweep.errors}"
    finally:
        cluster.start_node(NODES[0])
    assert {arm: len(sweep.attempts(arm)) for arm in arms} == {arm: 1 + (arm in on_first) for arm in arms}
    for arm in arms:
        assert sweep.outcome(arm) == ("completed", "")
    assert all(resumed_from(sweep, arm) >= episodes for arm, episodes in done.items())
    assert_gone(cluster, sweep)


def test_a_cell_longer_than_the_time_limit_continues(cluster: SlurmCluster, start: Callable[..., Sweep]) -> None:
    """It gets a signal to stop about 30 s after its start, and is queued again up to max_num_timeout times."""
    limits = ("timeout_min=1", "signal_delay_s=30", "max_num_timeout=9")
    sweep = start({"slow": SLOW}, *(f"hydra.launcher.{limit}" for limit in limits))
    while sweep.process.poll() is None:
        time.sleep(1)
        for job in cluster.jobs("PENDING"):  # Slurm would wait two minutes first
            cluster.output("scontrol", "update", f"JobId={job}", "StartTime=now")
    assert sweep.exit_code() == 0, f"{sweep.output} {sweep.errors}"
    assert sweep.outcome("slow") == ("completed", "")
    assert len(sweep.attempts("slow")) > 1
    assert resumed_from(sweep, "slow") > 0
    assert_gone(cluster, sweep)


def test_a_cell_that_shared_a_job_goes_on_in_another(cluster: SlurmCluster, start: Callable[..., Sweep]) -> None:
    """The time limit of its job interrupts it. It had not the whole time, so it has not failed."""
    arms = {"first": [], "slow": env("Slow", after=100, step_s=0.03)}
    limits = ("hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=30")
    sweep = start(arms, "sweep.cells_per_job=2", *limits)
    assert sweep.exit_code(WAIT_S) == 0, f"{sweep.output} {sweep.errors}"
    assert [attempt["outcome"] for attempt in sweep.attempts("first")] == ["completed"]
    assert [attempt["outcome"] for attempt in sweep.attempts("slow")] == ["interrupted", "completed"]
    assert resumed_from(sweep, "slow") > 0
    assert sweep.job_of("first") != sweep.job_of("slow")
    assert_gone(cluster, sweep)


def test_ctrl_c_leaves_no_job(cluster: SlurmCluster, start: Callable[..., Sweep]) -> None:
    """There are more cells than fit; some wait in Slurm's queue."""
    arms = {f"slow-{n}": [*SLOW, f"algo.t_max={n}"] for n in range(5, 9)}
    sweep = start(arms, "hydra.launcher.cpus_per_task=4")  # one cell on each node
    sweep.wait_until(lambda: sum(map(sweep.trains, arms)) == 2, "training", WAIT_S)
    running = {arm for arm in arms if sweep.trains(arm)}
    os.killpg(sweep.process.pid, signal.SIGINT)
    assert sweep.exit_code(WAIT_S) == 130, sweep.errors
    assert_gone(cluster, sweep)
    for arm in running:
        assert sweep.outcome(arm) == ("interrupted", "the sweep was stopped")
        assert sweep.checkpointed_episodes(arm) == sweep.episodes(arm) > 0
    assert all(sweep.attempts(arm) == [] for arm in arms if arm not in running)


def test_an_impatient_ctrl_c_leaves_no_job_either(cluster: SlurmCluster, start: Callable[..., Sweep]) -> None:
    """One cell cannot stop at the first Ctrl-C: its worker hangs."""
    arms = {"hangs": [*SLOW, "algo.t_max=5"], "slow": [*SLOW, "algo.t_max=6"]}
    sweep = start(arms, "hang_timeout_s=200", "hydra.launcher.cpus_per_task=4")
    sweep.wait_until(lambda: sweep.trains(*arms), "training", WAIT_S)
    sweep.hang("hangs")
    os.killpg(sweep.process.pid, signal.SIGINT)
    sweep.wait_until(lambda: "stopping" in sweep.output, "stopping", WAIT_S)
    os.killpg(sweep.process.pid, signal.SIGINT)
    assert sweep.exit_code(WAIT_S) == 130, sweep.errors
    assert_gone(cluster, sweep)


def test_jobs_of_a_killed_sweep_are_ended_by_the_next(cluster: SlurmCluster, start: Callable[..., Sweep]) -> None:
    """Slurm runs jobs on without the process that sent them. The same command continues them from their checkpoints."""
    sweep = start({"slow": SLOW})
    sweep.wait_until(lambda: sweep.trains("slow"), "training", WAIT_S)
    sweep.process.kill()
    sweep.exit_code()
    assert cluster.jobs() != []
    again = start({"slow": SLOW}, **{DISARMED: "1"})
    assert again.exit_code(WAIT_S) == 0, again.errors
    assert again.outcome("slow") == ("completed", "")
    assert resumed_from(again, "slow") > 0
    assert_gone(cluster, again)
    assert_gone(cluster, sweep)


def test_a_sweep_killed_while_it_grows_goes_on(cluster: SlurmCluster, start: Callable[..., Sweep]) -> None:
    assert_gone(cluster, kill_and_grow_on(start, WAIT_S))


def test_a_detached_sweep_survives_its_session(cluster: SlurmCluster, start: Callable[..., Sweep]) -> None:
    """Slurm runs jobs on without the process that sent them: they are stopped without it, too."""
    assert_gone(cluster, detach_stop_and_go_on(start, WAIT_S, kill=True))


def test_a_detached_sweep_is_refused_at_once(start: Callable[..., Sweep]) -> None:
    sweep = start({"good": []}, "hydra.launcher.cpus_per_task=5", "sweep.detach=true")
    assert sweep.exit_code() == 2
    assert sweep.errors.splitlines()[-1].startswith("hydra/launcher=slurm: sbatch: error: ")
    assert not sweep.sweep.exists()


def test_missing_slurm_is_reported(tmp_path: Path, start: Callable[..., Sweep]) -> None:
    nobody = tmp_path / "slurm.conf"
    nobody.write_text("ClusterName=none\nSlurmctldHost=localhost(127.0.0.1)\nSlurmctldPort=1\nAuthType=auth/none\n")
    sweep = start({"good": []}, SLURM_CONF=str(nobody))
    assert sweep.exit_code() == 2
    assert sweep.errors.startswith("hydra/launcher=slurm: Slurm does not answer")
    assert sweep.errors.count("\n") == 1


def test_resources_that_no_node_has_are_refused(start: Callable[..., Sweep]) -> None:
    sweep = start({"good": []}, "hydra.launcher.cpus_per_task=5")
    assert sweep.exit_code() == 2
    assert sweep.errors.splitlines()[-1].startswith("hydra/launcher=slurm: sbatch: error: ")
