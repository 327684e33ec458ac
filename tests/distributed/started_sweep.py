"""Sweeps with faulty environments, started like a user starts them, for the tests of launchers."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faulty_envs import DISARMED
from omegaconf import OmegaConf
from processes import (
    LOGIN_SHELL,
    Run,
    all_processes,
    command_of,
    count_rows,
    eventually,
    hang_up,
    is_spawned,
    of_sweep,
    parent_of,
    returned,
)

from ablate.records.checkpoint import read_checkpoint
from ablate.records.run_files import read_manifest
from ablate.records.schema import CELL, EPISODES, LAST_CHECKPOINT
from ablate.sweeps.detached import read_detached

# Two arms that differ by noise alone and want a second block of seeds, and one that differs at once.
GROWING = {"one": [], "two": ["algo.t_max=7"], "low": ["algo.gamma=0.69"]}
UNTIL_DECIDED = (
    "sweep.until=decided", "sweep.max_seeds=6", "sweep.smallest_effect=0.95", "sweep.metric=final_score",
    "sweep.claims=[{id:C1,words:w,metric:final_score,inequality:'low < one'},"
    "{id:C2,words:w,metric:final_score,inequality:'one ~ two'}]",
    "env.id=faulty_envs:ChosenByGamma-v0", "+env.kwargs.after=0", "max_episodes=20", "log_interval=1",
    "hang_timeout_s=60",
)  # fmt: skip
FAULTS = {"raises": "Raises", "exits": "OsExit3", "hangs": "Hangs"}
STUDY = """# @package _global_
hydra: {{mode: MULTIRUN}}
sweep:
  name: study
  base: [env=gymnasium, "env.id=faulty_envs:Faulty-v0", env.max_ep_step=20, schedule=interleaved, workers=2,
         max_episodes=60, log_interval=10, hang_timeout_s=3, checkpoint_every_seconds=0.5, logger.display=plain,
         evaluation.every_steps=200, evaluation.at_start=false, evaluation.episodes=1]
  seeds: "{seeds}"
  arms:
"""


class Sweep(Run):
    """`python src/run.py sweep=study` in its own process group. arms: {name: its overrides}."""

    def __init__(
        self,
        folder: Path,
        arms: dict[str, list[str]],
        *arguments: str,
        seeds: str = "0",
        program: tuple[str, ...] = ("src/run.py",),
        **env: str,
    ) -> None:
        studies = folder.parent / "conf"
        (studies / "sweep").mkdir(parents=True, exist_ok=True)
        yaml_of_arms = "".join(f"    {arm}: {json.dumps({'overrides': own})}\n" for arm, own in arms.items())
        (studies / "sweep/study.yaml").write_text(STUDY.format(seeds=seeds) + yaml_of_arms)
        self.sweep = folder
        settings = (f"--config-dir={studies}", "sweep=study", "plugins=[faulty_envs]", f"hydra.sweep.dir={folder}")
        super().__init__(folder, *settings, *arguments, program=program, **env)

    def cell(self, arm: str, seed: int = 0) -> Path:
        return self.sweep / arm / f"seed={seed}"

    def attempts(self, arm: str, seed: int = 0) -> list[dict[str, Any]]:
        path = self.cell(arm, seed) / CELL
        return json.loads(path.read_text())["attempts"] if path.exists() else []

    def outcome(self, arm: str, seed: int = 0) -> tuple[str, str]:
        """(outcome, reason) of the last attempt."""
        last = self.attempts(arm, seed)[-1]
        return last["outcome"], last["reason"]

    def episodes(self, arm: str, seed: int = 0) -> int:
        return count_rows(self.cell(arm, seed) / EPISODES)

    def trains(self, *arms: str) -> bool:
        """Whether the arms' cells have written a checkpoint and episodes."""
        return all((self.cell(arm) / LAST_CHECKPOINT).exists() and self.episodes(arm) for arm in arms)

    def checkpointed_episodes(self, arm: str) -> int:
        return read_checkpoint(self.cell(arm) / LAST_CHECKPOINT).state["counters"]["episodes"]

    def cell_processes(self, arm: str) -> list[int]:
        """The processes of the arm's cell, on any node of this machine."""
        wanted = [b"ablate.sweeps.train_cell", str(self.cell(arm)).encode()]
        return [pid for pid in all_processes() if command_of(pid)[-3:-1] == wanted]

    def job_of(self, arm: str) -> str:
        """The cluster's name for the job that ran the cell last, from Hydra's files."""
        return OmegaConf.load(self.cell(arm) / ".hydra/hydra.yaml").hydra.job.id

    def hang(self, arm: str) -> None:
        """Stop the worker of the arm's cell, so that it obeys no command."""
        cells = self.cell_processes(arm)
        workers = [pid for pid in all_processes() if is_spawned(pid) and parent_of(pid) in cells]
        assert workers
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)

    def kill_cell(self, arm: str) -> None:
        for pid in self.cell_processes(arm):
            os.kill(pid, signal.SIGKILL)


def env(name: str, **kwargs: Any) -> list[str]:
    """Overrides of an arm with an environment of faulty_envs."""
    return [f"env.id=faulty_envs:{name}-v0", *(f"+env.kwargs.{key}={value}" for key, value in kwargs.items())]


def two_good_and_four_bad() -> dict[str, list[str]]:
    good = {f"good-{n}": [f"algo.t_max={n}"] for n in (6, 7)}
    bad = {arm: env(fault, after=100) for arm, fault in FAULTS.items()}
    return {**good, **bad, "killed": env("Slow", after=100, step_s=0.3)}


PACKED = ("sweep.cells_per_job=5",)


def five_cells_of_one_job() -> dict[str, list[str]]:
    """The second fails, the third trains until its job is killed."""
    return {
        "first": ["algo.t_max=5"],
        "raises": env("Raises", after=100),
        "killed": env("Slow", after=100, step_s=0.05),
        "fourth": ["algo.t_max=6"],
        "fifth": ["algo.t_max=7"],
    }


def has_saved(sweep: Sweep, arm: str) -> bool:
    """Whether the arm's cell has written a checkpoint after an episode."""
    return sweep.trains(arm) and sweep.checkpointed_episodes(arm) > 0


def assert_one_ends_with_its_job(sweep: Sweep, outcome: str, reason: str, wait_s: float) -> None:
    """Of these five, the third: its outcome, and a regular expression for the reason. The others go on without it."""
    assert sweep.exit_code(wait_s) == 1, f"{sweep.output} {sweep.errors}"
    assert "1 job of up to 5 cells" in sweep.output
    assert all(sweep.outcome(arm) == ("completed", "") for arm in ("first", "fourth", "fifth"))
    assert sweep.outcome("raises")[0] == "failed"
    assert "ValueError" in sweep.outcome("raises")[1]
    assert sweep.outcome("killed")[0] == outcome
    assert re.match(reason, sweep.outcome("killed")[1]), sweep.outcome("killed")
    assert {len(sweep.attempts(arm)) for arm in five_cells_of_one_job()} == {1}
    assert sweep.job_of("first") == sweep.job_of("raises") == sweep.job_of("killed")
    assert sweep.job_of("killed") != sweep.job_of("fourth") == sweep.job_of("fifth")


def assert_two_go_on(again: Sweep, wait_s: float) -> None:
    """The same command, with environments that no longer have their faults."""
    assert again.exit_code(wait_s) == 0, f"{again.output} {again.errors}"
    attempts = {arm: [a["outcome"] for a in again.attempts(arm)] for arm in five_cells_of_one_job()}
    killed, once = attempts.pop("killed"), ["completed"]
    assert killed in (["failed", "completed"], ["interrupted", "completed"])
    assert attempts == {"first": once, "raises": ["failed", "completed"], "fourth": once, "fifth": once}
    assert resumed_from(again, "killed") > 0


def kill_and_grow_on(start: Callable[..., Sweep], wait_s: float) -> Sweep:
    """A sweep that grows until its claims are settled, killed in its second block. Returns its repetition."""
    sweep = start(GROWING, *UNTIL_DECIDED)
    sweep.wait_until(lambda: "block     6 seeds per arm: one, two\n" in sweep.output, "a second block", wait_s)
    sweep.process.kill()
    sweep.exit_code()
    again = start(GROWING, *UNTIL_DECIDED)
    assert again.exit_code(wait_s) == 0, f"{again.output} {again.errors}"
    for arm, seeds in {"one": 6, "two": 6, "low": 5}.items():
        assert {cell.name for cell in (again.sweep / arm).iterdir()} == {f"seed={seed}" for seed in range(seeds)}
        for seed in range(seeds):
            outcomes = [attempt["outcome"] for attempt in again.attempts(arm, seed)]
            assert outcomes[-1:] == ["completed"]
            assert outcomes.count("completed") == 1, "run twice"
    return again


def detach_stop_and_go_on(start: Callable[..., Sweep], wait_s: float, kill: bool) -> Sweep:
    """A detached sweep whose session ends and that another shell stops. Its repetition, detached, too, completes.

    kill: its process is killed first, so only the jobs are left. Returns the repetition."""
    arms = {"slow": env("Slow", after=100, step_s=0.05), "good": []}

    def start_detached(**environment: str) -> Sweep:
        sweep = start(arms, "sweep.detach=true", program=LOGIN_SHELL, **environment)
        returned(sweep, 0, wait_s)
        hang_up(sweep)
        return sweep

    sweep = start_detached()
    assert eventually(lambda: sweep.trains("slow"), wait_s)
    started = read_detached(sweep.sweep)
    assert started is not None
    if kill:
        os.kill(started.pid, signal.SIGKILL)
    stopped = of_sweep("stop", sweep.sweep, wait_s)
    assert (stopped.returncode, stopped.stderr) == (0, "")
    # The job of a killed sweep writes it after the end of its cell.
    assert eventually(lambda: sweep.outcome("slow") == ("interrupted", "the sweep was stopped"))
    assert sweep.checkpointed_episodes("slow") == sweep.episodes("slow") > 0
    watched = of_sweep("watch", sweep.sweep, wait_s)
    assert watched.returncode == (1 if kill else 128 + signal.SIGTERM), f"{watched.stdout} {watched.stderr}"
    assert of_sweep("collect", sweep.sweep, wait_s).returncode == 1
    again = start_detached(**{DISARMED: "1"})
    watched = of_sweep("watch", again.sweep, wait_s)
    assert watched.returncode == 0, f"{watched.stdout} {watched.stderr}"
    collected = of_sweep("collect", again.sweep, wait_s)
    assert collected.returncode == 0, collected.stderr
    assert "results   arm" in collected.stdout
    assert resumed_from(again, "slow") > 0
    return again


def resumed_from(sweep: Sweep, arm: str) -> int:
    """The number of episodes from which the cell's last attempt continued."""
    return read_manifest(sweep.cell(arm)).resumes[-1].since.episodes
