"""The loop's protocol: a stop reaches a running evaluation, and the resumed run makes what it owes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from helpers import config_of, job_of, work

from ablate.algos.dqn import learner as dqn
from ablate.algos.job import WorkerJob
from ablate.config.derived import LONGEST_EVALUATION, evaluation_horizon, horizon_notes
from ablate.config.schema import Config
from ablate.parallel import heartbeat, shared
from ablate.parallel.shared import Command, SharedState
from ablate.play.evaluator import Evaluator
from ablate.records.schema import EVALUATIONS
from ablate.types import Counters, EpisodeRecord, EvaluationSummary, ProcessState

DQN = ("algo=dqn", "algo.warmup_steps=40", "replay.capacity=100", "algo.batch_size=4")


def settings(*more: str) -> Config:
    return config_of(
        "env.id=faulty_envs:Faulty-v0", "schedule=interleaved", "workers=1", "backend=manual", "log_interval=1",
        "evaluation.every_steps=100", "evaluation.episodes=2", "total_steps=200", "max_episodes=null", *more,
    )  # fmt: skip


def run(job: WorkerJob) -> list[Any]:
    if job.config.algo.name == "a3c":
        return work(job)
    messages: list[Any] = []
    try:
        dqn.learn(messages.append, job._replace(members=(0, 1)))
    finally:
        torch.set_flush_denormal(False)  # a learner sets it for its whole process
    return messages


def stop_in_the_first_evaluation(job: WorkerJob) -> None:
    """The parent says stop a few steps after it begins."""
    left = iter(range(5))

    def beat() -> None:
        if job.shared.counters().steps >= 100 and next(left, None) is None:
            job.shared.command = Command.stop

    heartbeat.install(beat)


# NanReward has discrete actions, and here neither its fault nor an end.
ENDLESS = ("env.id=faulty_envs:NanReward-v0", "+env.kwargs.after=1000000000", "+env.kwargs.episode_steps=1000000000")


@pytest.mark.parametrize("algo", [(), DQN], ids=["a3c", "dqn"])
def test_a_stop_reaches_an_evaluation_that_never_ends(algo: tuple[str, ...], tmp_path: Path) -> None:
    config = settings(*ENDLESS, "evaluation.horizon=1000000000", *algo)
    job = job_of(config, tmp_path, evaluates=True)
    stop_in_the_first_evaluation(job)
    messages = run(job)
    assert not [message for message in messages if isinstance(message, EvaluationSummary)]
    assert isinstance(messages[-1], ProcessState)
    assert messages[-1].state["owes_evaluation"] is True
    assert job.shared.counters().steps >= 100
    assert len(pd.read_csv(tmp_path / EVALUATIONS)) == 0


def test_a_resumed_run_first_makes_the_evaluation_that_it_owes(tmp_path: Path) -> None:
    """Its rows are those of a run that was not stopped: the same parameters, the same random stream."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    whole.mkdir()
    stopped.mkdir()
    run(job_of(settings(), whole, evaluates=True))

    job = job_of(settings(), stopped, evaluates=True)
    stop_in_the_first_evaluation(job)
    state = run(job)[-1]
    assert state.state["owes_evaluation"] is True
    stopped_at = job.shared.counters().steps
    heartbeat.install(lambda: None)
    job.shared.command = Command.run
    messages = run(
        job._replace(resumed={0: ProcessState(state.state["workers"]["0"], own(state))}, owes_evaluation=True)
    )
    assert isinstance(messages[0], EvaluationSummary)
    assert messages[0].global_step == stopped_at
    ours, theirs = (pd.read_csv(folder / EVALUATIONS) for folder in (stopped, whole))
    assert ours["global_step"].tolist() == theirs["global_step"].tolist()
    first = theirs["evaluation"] == 1  # later ones follow new episodes, because this environment cannot be saved
    assert ours[first].drop(columns="wall_time_s").equals(theirs[first].drop(columns="wall_time_s"))


def own(state: ProcessState) -> dict[str, Any]:
    return {name.removeprefix("worker.0."): array for name, array in state.tensors.items()}


def test_an_owed_last_evaluation_is_made_without_another_step(tmp_path: Path) -> None:
    job = job_of(settings(), tmp_path, evaluates=True)._replace(owes_evaluation=True)
    job.shared.set_counters(Counters(10, 200, 5))
    messages = run(job)
    assert [type(message) for message in messages] == [EvaluationSummary, ProcessState]
    assert job.shared.counters().steps == 200
    assert messages[-1].state["owes_evaluation"] is False
    assert not [message for message in messages if isinstance(message, EpisodeRecord)]


def test_without_any_limit_an_evaluation_episode_is_cut_with_a_note(tmp_path: Path) -> None:
    config = settings("env.id=faulty_envs:Endless-v0", "total_steps=100", "evaluation.episodes=1")
    (note,) = horizon_notes(config)
    assert f"Endless-v0 has no time limit: an evaluation episode is cut after {LONGEST_EVALUATION} steps" in note
    run(job_of(config, tmp_path, evaluates=True))
    rows = pd.read_csv(tmp_path / EVALUATIONS)
    assert rows[["episodic_length", "horizon"]].to_numpy().tolist() == [[LONGEST_EVALUATION] * 2]


@pytest.mark.parametrize("algo", [(), DQN], ids=["a3c", "dqn"])
def test_the_clock_stands_during_an_evaluation(
    algo: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With schedule=async evaluations run next to training: the seconds of both schedules have one meaning."""
    now = [1000.0]
    monkeypatch.setattr(shared, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def evaluate(self: Evaluator, shared: SharedState, counters: Counters) -> EvaluationSummary:
        now[0] += 5000.0
        return EvaluationSummary(1, counters.steps, 0.0)

    monkeypatch.setattr(Evaluator, "evaluate", evaluate)

    def beat() -> None:
        now[0] += 1.0

    heartbeat.install(beat)
    job = job_of(
        settings("evaluation.at_start=true", *ENDLESS[:2], "+env.kwargs.episode_steps=10", *algo),
        tmp_path,
        evaluates=True,
    )
    times = [message.wall_time_s for message in run(job) if isinstance(message, EpisodeRecord)]
    assert len(times) == 20
    assert times == sorted(times)
    assert 0 < times[0] < times[-1] <= job.shared.wall_time_s() < 5000


@pytest.mark.parametrize("limit", ["evaluation.horizon=30", "env.max_ep_step=30"])
def test_a_chosen_limit_has_no_note(limit: str) -> None:
    config = settings("env.id=faulty_envs:Endless-v0", limit)
    assert evaluation_horizon(config) == 30
    assert list(horizon_notes(config)) == []
