"""DQN's loop in kernels equals the loop in Python with backend=manual, for any length of its slices."""

from __future__ import annotations

import json
from dataclasses import fields, make_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import MadeRun, columns, config_of, learn, started, trained_arrays

from ablate.algos.a3c.spec import A3C
from ablate.algos.algorithm import Algorithm
from ablate.algos.dqn import compiled as dqn_compiled
from ablate.algos.dqn.spec import DQN, UpdateRecord
from ablate.config.schema import Config, ConfigError
from ablate.nn.architecture import architecture_of
from ablate.parallel.supervisor import ChildFailed
from ablate.records.checkpoint import read_checkpoint
from ablate.runs.plan import plan
from ablate.types import EpisodeRecord, EvaluationSummary, ProcessState, SliceRecords

# What the order of float32 operations may change, relative to the largest number of a column. All other columns are
# equal, among them `sample_age`, which tells which transitions were drawn.
APPROXIMATE = {"td_loss", "q_mean", "grad_norm", "effective_sample_size", "mean_return"}
ROUNDED = {"epsilon", "beta", "learning_rate"}  # float64, to the last digit or two
TOLERANCE = 1e-3
QUIET = ("evaluation.every_steps=null", "evaluation.every_seconds=null")


def configure(*overrides: str) -> Config:
    """Short episodes and a small learning rate: over time Adam amplifies differences of rounding."""
    return config_of(
        "algo=dqn", "env=cartpole", "schedule=interleaved", "backend=compiled", "log_interval=1", "max_episodes=null",
        "total_steps=600", "optimizer.lr=1e-4", "env.max_ep_step=37", "model.hidden=[33,16]", "algo.warmup_steps=60",
        "algo.batch_size=16", "algo.target_update=90", "algo.n_step=1", "algo.loss=smooth_l1",
        "optimizer.schedule=constant", "algo.epsilon_decay_steps=300", "replay.capacity=250",
        *QUIET, *overrides,
    )  # fmt: skip


def run(config: Config, folder: Path, evaluates: bool = False) -> MadeRun:
    return learn(started(config, folder, evaluates))


def assert_same(ours: MadeRun, theirs: MadeRun) -> None:
    for kind in (EpisodeRecord, UpdateRecord, EvaluationSummary):
        got, expected = columns(ours, kind), columns(theirs, kind)
        for name, column in expected.items():
            if name in APPROXIMATE:
                margin = TOLERANCE * np.abs(column).max(initial=0)
                np.testing.assert_allclose(got[name], column, 0, margin, err_msg=name)
            elif name in ROUNDED and column and column[0] is not None:
                np.testing.assert_allclose(got[name], column, 1e-12, err_msg=name)
            else:
                assert got[name] == column, name
    assert ours.job.shared.counters() == theirs.job.shared.counters()
    for name, expected in theirs.state.tensors.items():
        np.testing.assert_allclose(ours.state.tensors[name], expected, 0, TOLERANCE * np.abs(expected).max())
    for got, expected in zip(trained_arrays(ours.job), trained_arrays(theirs.job), strict=True):
        np.testing.assert_allclose(got, expected, 0, TOLERANCE * np.abs(expected).max())
    assert_same_state(ours.state.state, theirs.state.state)
    assert len(columns(theirs, UpdateRecord)["update"]) > 0


def assert_same_state(ours: Any, theirs: Any) -> None:
    """JSON values: the same keys, and numbers that are equal but for rounding (a random stream has none)."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            assert_same_state(ours[key], theirs[key])
    elif isinstance(theirs, list) and theirs:
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same_state(one, other)
    else:
        assert ours == (pytest.approx(theirs, TOLERANCE, TOLERANCE) if isinstance(theirs, float) else theirs)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("replay=prioritized",),
        ("algo.double=true", "model.dueling=true", "algo.n_step=3", "replay=prioritized", "replay.capacity=100"),
        (
            "replay=prioritized",
            "replay.new_priority=td_error",
            "replay.draws=independent",
            "replay.weights=mean",
            "algo.n_step=4",
            "algo.bootstrap_truncated=false",
        ),
        ("replay=prioritized", "replay.first_half_only=true", "replay.weights=none", "envs_per_worker=2"),
        ("envs_per_worker=4", "algo.train_freq=2", "algo.noisy_start=9", "replay.capacity=101"),
        ("envs_per_worker=2", "algo.train_freq=6", "algo.noisy_start=3", "algo.target_update=4", "algo.target_tau=0.1"),
        ("algo.loss=squared", "algo.max_grad_value=0.01", "optimizer=rmsprop", "optimizer.eps_inside_root=true"),
        (
            "optimizer.amsgrad=true",
            "optimizer.weight_decay=0.01",
            "optimizer.schedule=linear",
            "optimizer.decay_steps=500",
            "model.activation=tanh",
        ),
        ("max_episodes=17", "total_steps=null", "model.hidden=[]", "env.reward_scale=3", "env.reward_shift=-1"),
        ("model.activation=elu", "optimizer.schedule=linear", "optimizer.decay_episodes=20", "log_interval=7"),
        ("algo.n_step=38", "env.max_ep_step=null", "replay.storage=memmap", "algo.warmup_steps=38"),
        pytest.param(("env=acrobot", "algo.n_step=2"), marks=pytest.mark.slow),
        ("env=mountain_car", "replay=prioritized"),
    ],
    ids=" ".join,
)
def test_a_compiled_run_equals_one_in_python(overrides: tuple[str, ...], tmp_path: Path) -> None:
    ours, theirs = (run(configure(*overrides, *more), tmp_path) for more in ((), ("backend=manual",)))
    assert_same(ours, theirs)


def test_a_thousand_updates_equal_those_in_python(tmp_path: Path) -> None:
    """With the network and the batches of the defaults."""
    options = (
        "model.hidden=[120,84]",
        "algo.batch_size=64",
        "algo.warmup_steps=64",
        "total_steps=2100",
        "log_interval=10",
        "optimizer.lr=2e-5",
    )
    ours, theirs = (run(configure(*options, *more), tmp_path) for more in ((), ("backend=manual",)))
    assert ours.job.shared.counters().updates >= 1000
    assert_same(ours, theirs)


def test_compiled_evaluations_equal_those_in_python(tmp_path: Path) -> None:
    made = []
    for backend in ("compiled", "manual"):
        options = (
            "evaluation.every_steps=150",
            "evaluation.at_start=true",
            "evaluation.horizon=50",
            "algo.train_freq=4",
        )
        made.append(run(configure(*options, f"backend={backend}"), tmp_path / backend, evaluates=True))
    assert_same(*made)
    summaries = [row for row in made[0].rows if isinstance(row, EvaluationSummary)]
    assert [summary.global_step for summary in summaries] == [0, 152, 300, 452, 600]


def without_times(rows: list[Any]) -> list[list[Any]]:
    """Episodes and updates without their times, which never decrease."""
    kinds = [[row for row in rows if isinstance(row, kind)] for kind in (EpisodeRecord, UpdateRecord)]
    for kind in kinds:
        assert [row.wall_time_s for row in kind] == sorted(row.wall_time_s for row in kind)
    return [[row._replace(wall_time_s=0.0) for row in kind] for kind in kinds]


def assert_identical(got: MadeRun, expected: MadeRun) -> None:
    assert without_times(got.rows) == without_times(expected.rows)
    assert got.state.state == expected.state.state
    for name, tensor in expected.state.tensors.items():
        np.testing.assert_array_equal(got.state.tensors[name], tensor)
    for ours, theirs in zip(trained_arrays(got.job), trained_arrays(expected.job), strict=True):
        np.testing.assert_array_equal(ours, theirs)


SLICED = ("replay.capacity=101", "algo.noisy_start=5", "algo.n_step=2", "log_interval=2")


@pytest.mark.parametrize(
    "constants",
    [
        {"SLICE_S": 0.0},
        {"SLICE_S": 1e9},
        {"SLICE_S": 1e9, "RECORDS_PER_SLICE": 1},
        {"SLICE_S": 1e9, "DRAWS": 1},
        {"SLICE_S": 0.0, "DRAWS": 100, "pauses": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("replay", ["uniform", "prioritized"])
def test_the_division_into_slices_changes_nothing(
    constants: dict[str, Any], replay: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(f"replay={replay}", *SLICED, "envs_per_worker=2", "algo.train_freq=4")
    usual = run(config, tmp_path)
    for name, value in constants.items():
        if name != "pauses":
            monkeypatch.setattr(dqn_compiled, name, value)
    job = started(config, tmp_path)
    if "pauses" not in constants:
        assert_identical(learn(job), usual)
        return
    messages: list[Any] = []

    def send(message: Any) -> None:
        """As a parent that asks for a state after each slice, and then lets training go on."""
        if isinstance(message, SliceRecords):
            messages.extend(message.unpacked())
            job.shared.ask_pause()
            job.shared.release_pause()
        else:
            messages.append(message)

    learn(job, send)
    assert sum(isinstance(message, ProcessState) for message in messages) > 1
    rows = [message for message in messages if not isinstance(message, ProcessState)]
    assert_identical(MadeRun(job, rows, messages[-1]), usual)


@pytest.mark.parametrize("first", ["compiled", "manual"])
@pytest.mark.parametrize("replay", ["uniform", "prioritized"])
def test_a_resumed_run_equals_one_without_a_stop(replay: str, first: str, tmp_path: Path) -> None:
    """With save_replay, through JSON. A state of backend=manual serves, too."""
    beta = () if replay == "uniform" else ("replay.beta_steps=600",)
    options = (f"replay={replay}", *SLICED, *beta, "save_replay=true", "envs_per_worker=2", "algo.train_freq=4")
    whole = run(configure(*options), tmp_path / "whole")
    stopped = run(configure(*options, f"backend={first}", "total_steps=300"), tmp_path / "stopped")
    workers = json.loads(json.dumps(stopped.state.state["workers"]))
    tensors = stopped.state.tensors
    resumed = {
        member: ProcessState(
            workers[str(member)],
            {name.removeprefix(f"worker.{member}."): array for name, array in tensors.items() if f".{member}." in name},
        )
        for member in (0, 1)
    }
    job = started(configure(*options), tmp_path / "stopped")._replace(resumed=resumed, starts=1)
    for ours, theirs in zip(trained_arrays(job), trained_arrays(stopped.job), strict=True):
        ours[:] = theirs
    job.shared.elapsed_before = stopped.job.shared.wall_time_s()
    job.shared.set_counters(stopped.job.shared.counters())
    made = learn(job)
    both = MadeRun(job, stopped.rows + made.rows, made.state)
    if first == "manual":
        assert_same(both, whole)
        return
    assert_identical(both, whole)
    files = [
        tmp_path / folder / "checkpoints" / whole.state.state["workers"]["0"]["replay"]
        for folder in ("whole", "stopped")
    ]
    one, other = (read_checkpoint(file, None) for file in files)
    assert one.state == other.state
    for name, tensor in one.tensors.items():
        np.testing.assert_array_equal(other.tensors[name], tensor)


@pytest.mark.parametrize(
    ("parameter", "value", "reason"),
    [
        ("hidden.0.weight", np.nan, r"loss nan, gradient norm \S+ at update 1$"),
        ("q.bias", np.inf, r"loss (nan|inf), gradient norm \S+ at update 1$"),
        ("q.bias", 1e30, r"loss inf, gradient norm \S+ at update 1$"),
    ],
)
def test_an_update_that_diverges_is_not_made(parameter: str, value: float, reason: str, tmp_path: Path) -> None:
    """During the warm-up no action value is looked at. ‖1e30‖² is inf in float32."""
    job = started(configure("algo.loss=squared"), tmp_path)
    architecture_of(job.config.model, job.spec).layout().views(job.shared.parameters_view())[parameter].flat[0] = value
    before = [array.copy() for array in trained_arrays(job)]
    with pytest.raises(ChildFailed, match=f"^diverged: {reason}"):
        learn(job)
    assert job.shared.counters().updates == 0
    for array, copy in zip(trained_arrays(job), before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("algo.epsilon_start=0", "algo.epsilon_end=0", "optimizer.lr=1e38"), "action values"),
        (("replay=prioritized", "replay.new_priority=td_error", "env.reward_scale=1e-300"), "TD errors"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_run_that_diverges_ends_where_it_does_in_python(
    overrides: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    ends = []
    for backend in ("manual", "compiled"):
        job = started(configure(f"backend={backend}", *overrides), tmp_path)
        with pytest.raises(ChildFailed, match=words) as failure:
            learn(job)
        ends.append((str(failure.value).partition(" at ")[2], job.shared.counters()))
    assert ends[0] == ends[1]


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (("schedule=async",), "backend=compiled: schedule=async: .* use interleaved"),
        (("algo.reset_after_evaluation=true",), "backend=compiled: algo.reset_after_evaluation=true has no kernel"),
        (("env=lunar_lander",), "backend=compiled: LunarLander-v3 has no kernel"),
        (("device=cuda",), "device=cuda: "),
        (("replay.capacity=10",), "replay.capacity=10: too few frames"),
        (("replay.capacity=1000000000000",), "replay.capacity=1000000000000: it takes"),
        (("+env.kwargs.sutton_barto_reward=3",), r"env.kwargs.sutton_barto_reward=3: not true or false"),
    ],
)
def test_what_kernels_lack_is_refused_in_one_line(overrides: tuple[str, ...], line: str) -> None:
    given = [option for option in overrides if option.startswith("env=")]
    others = [option for option in overrides if option not in given]
    with pytest.raises(ConfigError, match=f"^{line}[^\n]*$"):
        plan(
            config_of("algo=dqn", *(given or ["env=cartpole"]), "backend=compiled", "schedule=interleaved", *others), []
        )


@pytest.mark.parametrize("algorithm", [A3C(), DQN()], ids=["a3c", "dqn"])
def test_a_key_that_is_added_later_has_no_kernel_unless_it_has_its_default(algorithm: Algorithm) -> None:
    config = config_of(f"algo={algorithm.name}", "env=cartpole", "schedule=interleaved")
    added = make_dataclass("Added", [("munchausen_alpha", float, 0.0)], bases=(type(config.algo),))
    values = {f.name: getattr(config.algo, f.name) for f in fields(config.algo)}
    assert algorithm.refuse_backend(replace(config, algo=added(**values))) == ""
    with_it = replace(config, algo=added(**values, munchausen_alpha=0.9))
    assert algorithm.refuse_backend(with_it) == "algo.munchausen_alpha=0.9 has no kernel"


def test_auto_chooses_kernels_where_there_are_any() -> None:
    chosen = [
        str(plan(config_of("algo=dqn", *overrides), []).config.backend)
        for overrides in (
            ("env=cartpole",),
            ("env=cartpole", "schedule=async"),
            ("env=breakout", "replay.capacity=1000"),
        )
    ]
    assert chosen == ["compiled", "manual", "manual"]
