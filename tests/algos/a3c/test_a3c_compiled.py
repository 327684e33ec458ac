"""The loop in kernels equals the loop in Python with backend=manual, for any length of its slices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import MadeRun, columns, config_of, job_of, trained_arrays, work

from ablate.algos.a3c import compiled as a3c_compiled
from ablate.algos.a3c.spec import UpdateRecord
from ablate.algos.job import WorkerJob
from ablate.config.schema import Config
from ablate.nn.architecture import architecture_of
from ablate.parallel.supervisor import ChildFailed
from ablate.types import EpisodeRecord, EvaluationSummary, ProcessState, SliceRecords

ENVS = ("pendulum", "cartpole", "acrobot", "mountain_car", "mountain_car_continuous")
# What the order of float32 operations may change, relative to the largest number of a column. All other columns are
# equal.
APPROXIMATE = {"episodic_return", "policy_loss", "value_loss", "entropy", "grad_norm", "learning_rate", "mean_return"}
TOLERANCE = 1e-3


def configure(*overrides: str) -> Config:
    """Short episodes and a small learning rate: over time a pendulum, and Adam too, amplify differences of rounding."""
    return config_of(
        "schedule=interleaved", "backend=compiled", "workers=3", "log_interval=1", "max_episodes=null",
        "total_steps=1500", "optimizer.lr=3e-4", "env.max_ep_step=47", *overrides,
    )  # fmt: skip


def run(config: Config, folder: Path, evaluates: bool = False) -> MadeRun:
    job = job_of(config, folder, evaluates)
    *rows, state = work(job)
    return MadeRun(job, rows, state)


def assert_same(ours: MadeRun, theirs: MadeRun) -> None:
    for kind in (EpisodeRecord, UpdateRecord, EvaluationSummary):
        got, expected = columns(ours, kind), columns(theirs, kind)
        for name in expected.keys() - APPROXIMATE:
            assert got[name] == expected[name], name
        for name in expected.keys() & APPROXIMATE:
            margin = TOLERANCE * np.abs(expected[name]).max(initial=0)
            np.testing.assert_allclose(got[name], expected[name], 0, margin, err_msg=name)
    assert ours.job.shared.counters() == theirs.job.shared.counters()
    assert ours.state.state["turn"] == theirs.state.state["turn"]
    for worker, expected in theirs.state.state["workers"].items():
        got = ours.state.state["workers"][worker]
        for key in ("pulled_at", "episodic_length", "action_rng"):
            assert got[key] == expected[key]
        for key in ("episodic_return", "observation"):
            assert got[key] == pytest.approx(expected[key], TOLERANCE, TOLERANCE)
        for key in ("random", "elapsed_steps"):
            assert got["env"][key] == expected["env"][key]
        assert got["env"]["state"] == pytest.approx(expected["env"]["state"], TOLERANCE, TOLERANCE)
    for got, expected in zip(trained_arrays(ours.job), trained_arrays(theirs.job), strict=True):
        np.testing.assert_allclose(got, expected, 0, TOLERANCE * np.abs(expected).max())
    for name, expected in theirs.state.tensors.items():
        np.testing.assert_allclose(ours.state.tensors[name], expected, 0, TOLERANCE)


@pytest.mark.parametrize(
    "overrides",
    [
        *(pytest.param((f"env={env}",), marks=[pytest.mark.slow] * (env == ENVS[-1])) for env in ENVS),
        (
            "algo.t_max=5",
            "optimizer=rmsprop",
            "algo.max_grad_norm=0.5",
            "algo.entropy_coef=0.1",
            "optimizer.eps_inside_root=true",
            "optimizer.schedule=linear",
            "optimizer.lr_end=1e-4",
        ),
        ("algo.t_max=20", "optimizer.amsgrad=true", "algo.loss_reduction=sum", "algo.value_loss_coef=0.25"),
        ("algo.bootstrap_truncated=false", "algo.gae_lambda=0.9", "algo.gamma=0.99", "optimizer.weight_decay=0.1"),
        ("workers=2", "model.torso_hidden=[64]", "model.activation=tanh", "env.reward_scale=16", "+env.kwargs.g=3"),
        ("env=cartpole", "algo.t_max=7", "model.actor_hidden=[]", "model.activation=elu", "optimizer=rmsprop"),
        (
            "env=cartpole",
            "env.max_ep_step=10",
            "max_episodes=77",
            "total_steps=null",
            "log_interval=7",
            "optimizer.schedule=linear",
        ),
        ("total_steps=1234", "workers=4"),
        ("workers=1", "env.max_ep_step=null", "total_steps=123"),
    ],
    ids=" ".join,
)
def test_a_compiled_run_equals_one_in_python(overrides: tuple[str, ...], tmp_path: Path) -> None:
    assert_same(run(configure(*overrides), tmp_path), run(configure(*overrides, "backend=manual"), tmp_path))


def test_compiled_evaluations_equal_those_in_python(tmp_path: Path) -> None:
    made = []
    for backend in ("compiled", "manual"):
        (tmp_path / backend).mkdir()
        config = configure(
            "evaluation.every_steps=333", "evaluation.at_start=true", "evaluation.horizon=50", f"backend={backend}"
        )
        made.append(run(config, tmp_path / backend, evaluates=True))
    assert_same(*made)
    summaries = [row for row in made[0].rows if isinstance(row, EvaluationSummary)]
    assert len(summaries) == 6
    assert summaries[0].global_step == 0


def without_times(rows: list[Any]) -> tuple[list[Any], list[Any]]:
    """Episodes and updates without their times, which never decrease."""
    kinds = [[row for row in rows if isinstance(row, kind)] for kind in (EpisodeRecord, UpdateRecord)]
    for kind in kinds:
        assert [row.wall_time_s for row in kind] == sorted(row.wall_time_s for row in kind)
    episodes, updates = ([row._replace(wall_time_s=0.0) for row in kind] for kind in kinds)
    return episodes, updates


def work_with_pauses(job: WorkerJob) -> list[Any]:
    """MadeRun the loop while a parent asks for a state after each slice and then releases the workers."""
    messages: list[Any] = []

    def send(message: Any) -> None:
        if isinstance(message, SliceRecords):
            messages.extend(message.unpacked())
            job.shared.ask_pause()
            job.shared.release_pause()
        else:
            messages.append(message)

    a3c_compiled.work(send, job)
    assert sum(isinstance(message, ProcessState) for message in messages) > 1
    return messages


@pytest.mark.parametrize("env", ["pendulum", "cartpole"])
@pytest.mark.parametrize(
    "constants",
    [
        {"SLICE_S": 0.0},
        {"SLICE_S": 1e9},
        {"SLICE_S": 1e9, "EPISODES_PER_SLICE": 1},
        {"SLICE_S": 1e9, "UPDATES_PER_SLICE": 3},
        {"SLICE_S": 1e9, "DRAWS": 1},
        {"SLICE_S": 1e9, "DRAWS": 100},
        {"SLICE_S": 0.0, "pauses": True},
        {"SLICE_S": 1e9, "DRAWS": 100, "pauses": True},
    ],
    ids=str,
)
def test_the_division_into_slices_changes_nothing(
    constants: dict[str, Any], env: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(f"env={env}", "log_interval=2")
    usual = run(config, tmp_path)
    for name, value in constants.items():
        if name != "pauses":
            monkeypatch.setattr(a3c_compiled, name, value)
    job = job_of(config, tmp_path)
    *rows, state = work_with_pauses(job) if "pauses" in constants else work(job)
    assert without_times(rows) == without_times(usual.rows)
    assert state.state == usual.state.state
    for name, tensor in usual.state.tensors.items():
        np.testing.assert_array_equal(state.tensors[name], tensor)
    for got, expected in zip(trained_arrays(job), trained_arrays(usual.job), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("env", "parameter", "value"),
    [
        ("pendulum", "actor.0.weight", np.nan),
        ("pendulum", "critic.0.bias", np.nan),
        ("pendulum", "critic.1.bias", np.inf),
        ("pendulum", "critic.1.bias", 1e30),  # its square is inf in float32
        ("cartpole", "actor.1.bias", np.nan),
        ("cartpole", "actor.1.weight", -np.inf),
        ("cartpole", "critic.1.weight", np.nan),
    ],
)
def test_a_gradient_that_is_not_finite_is_not_pushed(env: str, parameter: str, value: float, tmp_path: Path) -> None:
    config = configure(f"env={env}")
    job = job_of(config, tmp_path)
    view = architecture_of(config.model, job.spec).layout().views(job.shared.parameters_view())[parameter]
    view[(0,) * view.ndim] = value
    before = [array.copy() for array in trained_arrays(job)]
    with pytest.raises(ChildFailed, match=r"loss (nan|-?inf), gradient norm (nan|inf) at update 1 \(worker 0\)$"):
        work(job)
    assert job.shared.counters() == (0, 0, 0)
    for array, copy in zip(trained_arrays(job), before, strict=True):
        np.testing.assert_array_equal(array, copy)


LARGE_STEPS = ("optimizer.lr=1e38", "optimizer.schedule=constant")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("env", ["pendulum", "cartpole"])
def test_a_run_that_diverges_ends_where_it_does_in_python(env: str, tmp_path: Path) -> None:
    ends, jobs = [], []
    for backend in ("manual", "compiled"):
        job = job_of(configure(f"env={env}", f"backend={backend}", *LARGE_STEPS), tmp_path)
        with pytest.raises(ChildFailed) as failure:
            work(job)
        ends.append((str(failure.value).partition(" at ")[2], job.shared.counters()))
        jobs.append(job)
    assert ends[0] == ends[1]
    steps = jobs[1].shared.counters().steps
    assert steps > 0
    # the arrays equal those of a run that ends one update earlier
    shorter = run(configure(f"env={env}", *LARGE_STEPS, f"total_steps={steps}"), tmp_path)
    for array, expected in zip(trained_arrays(jobs[1]), trained_arrays(shorter.job), strict=True):
        np.testing.assert_array_equal(array, expected)


LOCKED = ("schedule=async", "workers=1", "algo.lock_updates=true")


def test_a_lock_around_updates_changes_nothing_for_one_worker(tmp_path: Path) -> None:
    locked, free = (run(configure("workers=1", *overrides), tmp_path) for overrides in (LOCKED, ()))
    assert without_times(locked.rows) == without_times(free.rows)
    assert locked.job.shared.spin_lock_view().tolist() == [0]


def test_a_lock_that_is_never_released_ends_the_run(tmp_path: Path) -> None:
    job = job_of(configure(*LOCKED), tmp_path)
    job.shared.spin_lock_view()[0] = 1
    with pytest.raises(RuntimeError, match="its holder died or hangs"):
        work(job)
    assert job.shared.counters() == (0, 0, 0)
