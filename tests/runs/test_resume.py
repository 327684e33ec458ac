"""A killed and resumed run equals an uninterrupted one: in all rows but for the clock, and in all parameters."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import ROOT
from here import Threads, resume, train

from ablate.cli.compose import compose_and_plan
from ablate.config.schema import ConfigError
from ablate.nn import precision
from ablate.records.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from ablate.records.files import read_json, write_json
from ablate.records.manifest import write_status
from ablate.records.schema import (
    BEST_CHECKPOINT,
    CELL,
    EPISODES,
    EVALUATIONS,
    LAST_CHECKPOINT,
    MANIFEST,
    STATUS,
    UPDATES,
    WALL_CLOCK_COLUMNS,
)
from ablate.types import Counters


@pytest.fixture(autouse=True)
def in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of this process train in its threads: a process takes seconds to start."""
    monkeypatch.setattr("ablate.runs.training.Supervisor", Threads)


def command(*overrides: str) -> list[str]:
    return [sys.executable, str(ROOT / "src/run.py"), *overrides]


def run_folder(folder: Path, *overrides: str) -> None:
    subprocess.run(command(*overrides, f"hydra.run.dir={folder}"), check=True, timeout=280, capture_output=True)


def rows(folder: Path, name: str) -> int:
    path = folder / name
    return len(path.read_text().splitlines()) if path.exists() else 0


def same(a: Path, b: Path) -> None:
    for name in (EPISODES, UPDATES, EVALUATIONS):
        ours, theirs = (pd.read_csv(folder / name).drop(columns=list(WALL_CLOCK_COLUMNS)) for folder in (a, b))
        pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
    tensors = [read_checkpoint(folder / LAST_CHECKPOINT).tensors for folder in (a, b)]
    assert tensors[0].keys() == tensors[1].keys()
    for name in tensors[0]:
        np.testing.assert_array_equal(tensors[0][name], tensors[1][name])


def case(*overrides: str, kills: int, slow: bool = True) -> object:
    return pytest.param(overrides, kills, id=" ".join(overrides), marks=[pytest.mark.slow] if slow else [])


COMPILED = ("backend=compiled", "max_episodes=null", "log_interval=70", "evaluation.every_steps=50000")
MANUAL = ("backend=manual",)
GAMES = ("max_episodes=null", "envs_per_worker=2", "workers=2", "log_interval=1")
DQN = ("algo=dqn", "workers=1", "max_episodes=null", "save_replay=true", "algo.warmup_steps=200", "replay.capacity=700")
PRIORITIZED = ("replay=prioritized", "algo.n_step=3", "algo.target_update=300", "envs_per_worker=2")
CONSTANT = "optimizer.schedule=constant"
IN_TWO_PROCESSES = ("schedule=async", "evaluation.every_steps=null", "evaluation.every_seconds=null")
CASES = [
    case("env=pendulum", *COMPILED, "total_steps=1500000", kills=2, slow=False),
    case(
        "env=pendulum",
        *COMPILED,
        "total_steps=1000003",
        "optimizer.amsgrad=true",
        "algo.t_max=7",
        "optimizer.schedule=linear",
        "model.torso_hidden=[32]",
        kills=2,
    ),
    case("env=acrobot", *COMPILED, "total_steps=1500000", "optimizer=rmsprop", "evaluation.action=sample", kills=2),
    case("env=mountain_car", *COMPILED, "total_steps=2000000", "workers=64", kills=2),
    case("env=pendulum", "max_episodes=250", "backend=autograd", "optimizer.amsgrad=true", kills=2),
    case(
        "env=acrobot",
        *MANUAL,
        "max_episodes=null",
        "total_steps=60000",
        "optimizer=rmsprop",
        "optimizer.schedule=linear",
        "optimizer.lr_end=1e-4",
        "optimizer.eps_inside_root=true",
        kills=2,
    ),
    case("env=riverraid", "model=conv_lstm_42", *GAMES, "total_steps=6000", kills=2),
    case("env=breakout", "model=conv_84", "model.hidden=32", "backend=autograd", *GAMES, "total_steps=6000", kills=1),
    case(
        "env=cartpole",
        *DQN,
        *PRIORITIZED,
        *MANUAL,
        "optimizer.schedule=linear",
        "total_steps=8000",
        kills=1,
    ),
    case("env=cartpole", *DQN, *IN_TWO_PROCESSES, "replay.storage=memmap", "total_steps=20000", kills=2),
    case("env=breakout", *DQN, *PRIORITIZED, *IN_TWO_PROCESSES, "model.hidden=[16]", "total_steps=2000", kills=1),
]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("overrides", "kills"), CASES)
def test_killed_and_resumed_equals_uninterrupted(overrides: tuple[str, ...], kills: int, tmp_path: Path) -> None:
    options = ("schedule=interleaved", "workers=3", "evaluation.every_steps=1000", "evaluation.episodes=2",
               "evaluation.horizon=100", "log_interval=7", "checkpoint_every_seconds=0.3", "figures=false",
               "logger.display=off", *overrides)  # fmt: skip
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_folder(whole, *options)
    arguments = [*options, f"hydra.run.dir={broken}"]
    for _ in range(kills):
        process = subprocess.Popen(command(*arguments), start_new_session=True, stdout=subprocess.DEVNULL)
        try:
            before, deadline = rows(broken, UPDATES), time.monotonic() + 60
            while rows(broken, UPDATES) < before + 20 and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            assert process.poll() is None, "it ended before it could be killed"
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        arguments = [f"resume={broken}"]
    output = subprocess.run(command(f"resume={broken}"), check=True, timeout=280, capture_output=True, text=True)
    assert "completed" in output.stdout
    same(whole, broken)


def test_a_completed_run_continues_under_a_higher_limit_or_is_loaded(tmp_path: Path) -> None:
    """The loaded run has another backend: all backends have the same parameters."""
    quick = ("env=pendulum", "env.max_ep_step=50", "backend=compiled")
    train(tmp_path / "run", *quick, "max_episodes=3")
    same_as_it_was = ("workers=1", "env.max_ep_step=50")  # the old command with resume= before it is accepted
    resume(tmp_path / "run", *same_as_it_was, "max_episodes=5")
    manifest = read_json(tmp_path / "run" / MANIFEST)
    assert manifest["config"]["max_episodes"] == 5
    assert manifest["config"]["backend"] == "compiled"
    assert [resume["from"]["episodes"] for resume in manifest["resumes"]] == [3]
    assert list(pd.read_csv(tmp_path / "run" / EPISODES)["episode"]) == [1, 2, 3, 4, 5]
    assert compose_and_plan([f"resume={tmp_path / 'run'}", "max_episodes=+1000"]).config.max_episodes == 1005
    assert compose_and_plan([f"resume={tmp_path / 'run'}", "total_steps=+1000"]).config.total_steps == 1250
    for refused in ("max_episodes=null", "algo.gamma=0.5", "backend=manual"):
        with pytest.raises(ConfigError, match=re.escape(refused)):
            compose_and_plan([f"resume={tmp_path / 'run'}", refused])
    new = ("max_episodes=1", f"load={tmp_path / 'run'}", "optimizer.lr=1e-30", "backend=manual")
    train(tmp_path / "new", *quick, *new)
    old, new = (read_checkpoint(tmp_path / name / LAST_CHECKPOINT).tensors["parameters"] for name in ("run", "new"))
    np.testing.assert_allclose(old, new, atol=1e-12)


def test_episodes_that_ended_together_with_the_last_one_are_in_the_longer_run(tmp_path: Path) -> None:
    """In rounds of eight environments, each episode has five steps, so that eight end at once."""
    options = ("algo=dqn", "env=cartpole", "backend=manual", "envs_per_worker=8", "algo.train_freq=8", "log_interval=1",
               "env.max_ep_step=5", "algo.warmup_steps=100", "save_replay=true", "evaluation.every_steps=null",
               "model.hidden=[8]", "total_steps=null", CONSTANT)  # fmt: skip
    train(tmp_path / "whole", *options, "max_episodes=27")
    train(tmp_path / "broken", *options, "max_episodes=18")
    assert rows(tmp_path / "broken", EPISODES) == 1 + 18
    resume(tmp_path / "broken", "max_episodes=20")  # these have ended already
    resume(tmp_path / "broken", "max_episodes=27")
    same(tmp_path / "whole", tmp_path / "broken")


def test_a_run_without_its_replay_continues_and_says_what_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is no update until it has taken algo.warmup_steps again."""
    options = ("algo=dqn", "env=cartpole", "algo.train_freq=4", "algo.warmup_steps=200", "log_interval=1",
               "evaluation.every_steps=null", "max_episodes=null", "logger.display=plain")  # fmt: skip
    train(tmp_path / "run", *options, "total_steps=1000")
    capsys.readouterr()
    resume(tmp_path / "run", "total_steps=2000", "optimizer.decay_steps=2000")
    assert "replay was not saved" in capsys.readouterr().out
    steps = pd.read_csv(tmp_path / "run" / UPDATES)["global_step"].to_numpy()
    assert not ((steps > 1000) & (steps <= 1200)).any()
    np.testing.assert_array_equal(steps, [*range(204, 1001, 4), *range(1204, 2001, 4)])


def test_an_environment_that_cannot_be_saved_starts_a_new_episode(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("Box2D")
    options = ("env=lunar_lander", "max_episodes=null", "evaluation.every_steps=null", "logger.display=plain")
    train(tmp_path / "run", *options, "total_steps=300")
    capsys.readouterr()
    resume(tmp_path / "run", "total_steps=600", "optimizer.decay_steps=600")
    assert "cannot be saved" in capsys.readouterr().out


@pytest.mark.parametrize("algo", ["a3c", pytest.param("dqn", marks=pytest.mark.slow)])
def test_a_run_goes_on_with_another_precision_on_another_machine(
    algo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It begins on one that multiplies bfloat16 in hardware, and goes on on one that does not."""
    small = {"a3c": ("model=conv_84_small", "workers=1"), "dqn": ("algo.warmup_steps=40", "replay.capacity=100")}
    options = ("env=breakout", f"algo={algo}", *small[algo], "envs_per_worker=2", "schedule=interleaved",
               "log_interval=1", "evaluation.every_steps=null", "figures=false", "logger.display=plain")  # fmt: skip
    folder = tmp_path / "run"

    def resumed(*overrides: str) -> str:
        capsys.readouterr()
        resume(folder, *overrides)
        return capsys.readouterr().out

    monkeypatch.setattr(precision, "cpu_flags", lambda: {"avx512_bf16"})
    train(folder, *options, "total_steps=80")
    before = read_checkpoint(folder / LAST_CHECKPOINT).tensors["parameters"]
    monkeypatch.setattr(precision, "cpu_flags", set)
    assert "precision=float32 is a little faster" in resumed("total_steps=100", "optimizer.decay_steps=1000")
    assert "is a little faster" not in resumed("total_steps=180", "precision=auto")
    manifest = read_json(folder / MANIFEST)
    assert manifest["config"]["precision"] == "float32"
    assert [resume["changed"] for resume in manifest["resumes"]] == [
        {"total_steps": [80, 100], "optimizer.decay_steps": [80, 1000]},
        {"total_steps": [100, 180], "precision": ["bf16", "float32"]},
    ]
    after = read_checkpoint(folder / LAST_CHECKPOINT).tensors["parameters"]
    assert np.isfinite(after).all()
    assert (after != before).mean() > 0.1
    assert compose_and_plan([f"resume={folder}", "total_steps=200", "precision=bf16"]).config.precision == "bf16"
    (folder / CELL).touch()
    with pytest.raises(ConfigError, match="a cell of a sweep keeps its precision"):
        resume(folder, "precision=auto", "total_steps=200")
    with pytest.raises(ConfigError, match="a cell of a sweep keeps its log_interval"):
        resume(folder, "log_interval=7", "hang_timeout_s=50")


@pytest.mark.parametrize("unit", ["steps", "episodes"])
def test_a_longer_run_needs_a_step_size(unit: str, tmp_path: Path) -> None:
    """With schedule=linear it is 0 at the limit of the run, from which a longer run goes on."""
    folder, limit = tmp_path / "run", {"steps": "total_steps", "episodes": "max_episodes"}[unit]
    other = {"steps": "max_episodes", "episodes": "total_steps"}[unit]
    train(folder, "env=cartpole", "optimizer.schedule=linear", f"{limit}=100", f"{other}=null", "log_interval=1")
    refused = (
        rf"^{limit}=250: the run's step size is 0 from {unit[:-1]} 100 on.* give optimizer.decay_{unit}=250 as well$"
    )
    with pytest.raises(ConfigError, match=refused):
        resume(folder, f"{limit}=250")
    with pytest.raises(ConfigError, match=f"^{limit}=250: "):
        compose_and_plan([f"resume={folder}", f"{limit}=+150", f"optimizer.decay_{unit}=200"])
    with pytest.raises(ConfigError, match=f"^{limit}=null: .* give optimizer.decay_{unit}=<a larger number> as well$"):
        resume(folder, f"{limit}=null", f"{other}=100000")
    more = compose_and_plan([f"resume={folder}", f"{limit}=+150", f"optimizer.decay_{unit}=+400"])
    assert more.resumed is not None
    assert getattr(more.config.optimizer, f"decay_{unit}") == more.resumed.state["counters"][unit] + 400
    resume(folder, f"{limit}=250", f"optimizer.decay_{unit}=500")
    table = pd.read_csv(folder / UPDATES)
    lr = read_json(folder / MANIFEST)["config"]["optimizer"]["lr"]
    (first,) = np.flatnonzero(np.diff(table["learning_rate"]) > 0)  # it rises once
    assert table["learning_rate"][first + 1] == pytest.approx(0.8 * lr, rel=0.05)
    assert table["learning_rate"].iloc[-1] == pytest.approx(0.5 * lr, rel=0.05)


def test_a_run_without_a_checkpoint_starts_again(tmp_path: Path) -> None:
    train(tmp_path / "run", "env=pendulum", "env.max_ep_step=50", "max_episodes=2")
    (tmp_path / "run" / LAST_CHECKPOINT).unlink()  # as if it had been killed before its first one
    write_status(tmp_path / "run", "running", "", Counters(3, 30, 0))
    resume(tmp_path / "run")
    assert list(pd.read_csv(tmp_path / "run" / EPISODES)["episode"]) == [1, 2]
    assert [resume["from"]["updates"] for resume in read_json(tmp_path / "run" / MANIFEST)["resumes"]] == [0]


def test_a_key_that_was_added_after_the_run_counts_as_unchanged(tmp_path: Path) -> None:
    train(tmp_path / "run", "env=pendulum", "env.max_ep_step=50", "max_episodes=2")
    manifest = read_json(tmp_path / "run" / MANIFEST)
    assert manifest["config"]["env"].pop("kwargs") == {}
    write_json(tmp_path / "run" / MANIFEST, manifest)
    resume(tmp_path / "run", "max_episodes=4", "optimizer.decay_episodes=4")
    changed = read_json(tmp_path / "run" / MANIFEST)["resumes"][0]["changed"]
    assert changed == {"max_episodes": [2, 4], "optimizer.decay_episodes": [2, 4]}


def test_a_resume_takes_no_limit_that_the_run_has_passed_and_none_that_is_too_large(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(folder, CONSTANT)
    write_status(
        folder, "interrupted", "SIGINT", Counters(*read_checkpoint(folder / LAST_CHECKPOINT).state["counters"].values())
    )
    manifest = read_json(folder / MANIFEST)
    write_json(folder / MANIFEST, manifest | {"config": manifest["config"] | {"max_episodes": 1000}})
    with pytest.raises(
        ConfigError, match=r"^max_episodes=20: the run is at step \d+, episode 30 already; give a larger"
    ):
        resume(folder, "max_episodes=20")
    with pytest.raises(ConfigError, match=r"^max_episodes=1000000000000030: input should be less than or equal to "):
        compose_and_plan([f"resume={folder}", "max_episodes=+1000000000000000"])
    assert read_json(folder / MANIFEST)["config"]["max_episodes"] == 1000


def test_a_resumes_keys_are_judged_with_those_of_its_run(tmp_path: Path) -> None:
    """A command line with nothing but resume= is, by itself, A3C on Pendulum."""
    train(tmp_path / "run", "algo=dqn", "env=cartpole", "total_steps=200", "max_episodes=3", "algo.warmup_steps=100")
    planned = compose_and_plan([f"resume={tmp_path / 'run'}", "save_replay=true", "max_episodes=null"])
    assert (planned.config.save_replay, planned.config.max_episodes, planned.config.total_steps) == (True, None, 200)
    with pytest.raises(ConfigError, match=r"^max_episodes=null total_steps=null: the run would never end"):
        compose_and_plan([f"resume={tmp_path / 'run'}", "max_episodes=null", "total_steps=null"])


def test_a_resume_needs_the_columns_of_its_table(tmp_path: Path) -> None:
    """Rows of another version's columns would be torn ones, or under wrong names."""
    train(tmp_path / "run", CONSTANT)
    path = tmp_path / "run" / UPDATES
    pd.read_csv(path).rename(columns={"entropy": "old_entropy"}).to_csv(path, index=False)
    status = tmp_path / "run" / STATUS
    status.write_text(status.read_text().replace("completed", "failed"))
    with pytest.raises(ConfigError, match=r"updates.csv has the columns .*old_entropy.*; this version of a3c writes"):
        resume(tmp_path / "run", "max_episodes=60")


def test_the_best_policy_is_kept_if_its_evaluation_is_newer_than_the_checkpoint(tmp_path: Path) -> None:
    """After a kill, the row of its evaluation is dropped. With schedule=async, no evaluation repeats it."""
    train(tmp_path / "run", CONSTANT)
    best = read_checkpoint(tmp_path / "run" / BEST_CHECKPOINT)
    newer = {"evaluation": best.state["evaluation"] + 1000, "mean_return": 499.0}  # CartPole has at most 500
    write_checkpoint(tmp_path / "run" / BEST_CHECKPOINT, Checkpoint(best.tensors, best.state | newer))
    resume(tmp_path / "run", "max_episodes=60")
    assert len(pd.read_csv(tmp_path / "run" / EVALUATIONS)["evaluation"].unique()) > best.state["evaluation"]
    assert read_checkpoint(tmp_path / "run" / BEST_CHECKPOINT).state["mean_return"] == 499.0


def test_evaluations_that_waited_when_the_run_was_stopped_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder, shown = tmp_path / "run", ("logger.display=plain",)
    train(folder, CONSTANT, "schedule=async", "evaluation.at_start=true", "evaluation.every_seconds=null")
    table = pd.read_csv(folder / EVALUATIONS)
    kept = table[table["evaluation"] == 1]
    kept.to_csv(folder / EVALUATIONS, index=False)
    checkpoint = read_checkpoint(folder / LAST_CHECKPOINT)
    write_checkpoint(
        folder / LAST_CHECKPOINT, Checkpoint(checkpoint.tensors, checkpoint.state | {"evaluations_done": 1})
    )
    status = folder / STATUS
    status.write_text(status.read_text().replace("completed", "failed"))
    capsys.readouterr()
    resume(folder, "max_episodes=60", *shown)
    assert "evaluations that were due after step 0 and not yet played are left out" in capsys.readouterr().out
    capsys.readouterr()
    resume(folder, "max_episodes=70", *shown)
    assert "left out" not in capsys.readouterr().out


def test_a_users_copy_of_a_replay_does_no_harm(tmp_path: Path) -> None:
    train(tmp_path / "run", CONSTANT)
    copy = tmp_path / "run/checkpoints/replay-mine.safetensors"
    copy.touch()
    resume(tmp_path / "run", "max_episodes=60")
    assert copy.exists()
