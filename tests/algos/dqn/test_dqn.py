"""DQN's loop, in this process and as a program: its updates, when they come, its actions, and reproducibility."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import config_of, job_of

import ablate.algos.job
from ablate.algos.dqn import learner as dqn
from ablate.algos.dqn import replay_memory
from ablate.algos.dqn import spec as dqn_spec
from ablate.algos.dqn.actor import Actor
from ablate.algos.dqn.spec import DQNConfig, UpdateRecord, make_exchange
from ablate.algos.job import WorkerJob
from ablate.config.schema import Config, ConfigError, QConfig
from ablate.envs.make import spec_of
from ablate.nn import precision
from ablate.parallel import heartbeat
from ablate.parallel.shared import Command
from ablate.parallel.supervisor import ChildFailed
from ablate.play.evaluator import Snapshot
from ablate.play.evaluator import test_process as evaluating_process
from ablate.records.schema import EPISODES, EVALUATIONS, UPDATES
from ablate.runs.plan import plan
from ablate.runs.run import run as train
from ablate.types import Counters, EpisodeRecord, ProcessState

QUICK = (
    "algo=dqn", "env=cartpole", "schedule=interleaved", "backend=manual", "precision=float32", "log_interval=1",
    "model.hidden=[16]", "algo.warmup_steps=40", "algo.batch_size=8", "replay.capacity=200", "total_steps=400",
    "algo.train_freq=4", "algo.target_update=60", "algo.n_step=1", "algo.loss=smooth_l1", "optimizer.schedule=constant",
    "evaluation.every_steps=null", "evaluation.every_seconds=null",
)  # fmt: skip


def quick(*overrides: str) -> Config:
    return config_of(*QUICK, *overrides)


def learn(send: Callable[[Any], None], job: WorkerJob) -> None:
    """Run the learner's loop in this process."""
    try:
        dqn.learn(send, job)
    finally:
        torch.set_flush_denormal(False)  # a learner sets it for its whole process


def learned(config: Config, folder: Path) -> tuple[list[Any], np.ndarray]:
    """The messages of an interleaved run and its final parameters."""
    folder.mkdir(parents=True, exist_ok=True)
    messages: list[Any] = []
    job = job_of(config, folder)._replace(members=(0, 1))
    learn(messages.append, job)
    return messages, job.shared.parameters_view().copy()


def rows_of(messages: list[Any], kind: type) -> list[Any]:
    return [message._replace(wall_time_s=0.0) for message in messages if isinstance(message, kind)]


@pytest.mark.parametrize(("envs", "every"), [(1, 4), (1, 1), (2, 4), (8, 4), (3, 3)])
def test_updates_come_every_train_freq_steps(envs: int, every: int, tmp_path: Path) -> None:
    config = quick(f"envs_per_worker={envs}", f"algo.train_freq={every}", "algo.warmup_steps=48")
    messages, _ = learned(config, tmp_path)
    updates = rows_of(messages, UpdateRecord)
    assert [u.update for u in updates] == list(range(1, len(updates) + 1))
    block = max(envs, every)
    end = -(-400 // block) * block
    assert len(updates) == (end - 48) // every
    for u in updates:  # the update of these steps comes in the block that took them
        assert 0 <= u.global_step - (48 + u.update * every) < block


def test_epsilon_is_1_in_the_warm_up_and_then_decays_linearly() -> None:
    algo = quick("algo.epsilon_end=0.2", "algo.epsilon_decay_steps=100").algo
    assert isinstance(algo, DQNConfig)
    actual = [algo.epsilon(step) for step in (0, 39, 40, 90, 140, 10**6)]
    np.testing.assert_allclose(actual, [1, 1, 1, 0.6, 0.2, 0.2])


@pytest.mark.parametrize("step", [0, 65, 1000])
def test_the_fraction_of_random_actions_is_epsilon(step: int) -> None:
    """With a network that prefers action 1, action 0 comes with probability ε/2."""
    config = quick("algo.epsilon_end=0.1", "algo.epsilon_decay_steps=50", "algo.train_freq=4000")
    spec = spec_of(config.env)
    actor = Actor(job_of(config, Path()))
    actor.parameters[-1] = 1.0  # the bias of the last action's value
    out = make_exchange(config, spec).experience()
    probability = config.algo.epsilon(step) / 2  # type: ignore[arg-type]
    actor._algo = quick(f"algo.epsilon_start={2 * probability}", f"algo.epsilon_end={2 * probability}").algo  # type: ignore[assignment]
    actor.act(out, 10_000)
    share = float((out.actions == 0).mean())
    assert abs(share - probability) < 4 * np.sqrt(probability * (1 - probability) / 4000) + 1e-9


def plain_q(config: Config, size: int, actions: int) -> torch.nn.Sequential:
    assert isinstance(config.model, QConfig)
    (hidden,) = config.model.hidden
    return torch.nn.Sequential(
        torch.nn.Linear(size, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, actions)
    ).double()


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("algo.double=true", "replay=prioritized"),
        ("algo.n_step=3", "algo.loss=squared", "algo.target_tau=0.5"),
    ],
)
def test_an_update_follows_the_equations_of_q_learning(
    overrides: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 90 updates its parameters equal those of torch.nn and torch.optim on the same batches, by the equations."""
    config = quick(*overrides, "algo.max_grad_value=0.01")
    algo = config.algo
    assert isinstance(algo, DQNConfig)
    batches: list[tuple[np.ndarray, ...]] = []
    steps: list[int] = []
    learner_update = dqn.Learner.update

    def spy(learner: dqn.Learner, at: Counters, wait: Any) -> Any:
        row = learner_update(learner, at, wait)
        computer = learner._computer
        batches.append((computer.observations.copy(), computer.next_observations.copy()))
        steps.append(at.steps)
        return row

    samples = []
    make = replay_memory.make_replay

    def make_replay(*arguments: Any) -> Any:
        replay = make(*arguments)
        draw = replay.sample

        def sample(*of: Any) -> Any:
            samples.append(draw(*of))
            return samples[-1]

        replay.sample = sample
        return replay

    monkeypatch.setattr(dqn.Learner, "update", spy)
    monkeypatch.setattr(replay_memory, "make_replay", make_replay)
    job = job_of(config, tmp_path)._replace(members=(0, 1))
    theta = job.shared.parameters_view()
    online, target = plain_q(config, 4, 2), plain_q(config, 4, 2)
    from ablate.nn.architecture import architecture_of

    views = architecture_of(config.model, job.spec).layout().views(theta)
    names = {"0.weight": "hidden.0.weight", "0.bias": "hidden.0.bias", "2.weight": "q.weight", "2.bias": "q.bias"}
    state = {ours: torch.tensor(views[theirs].copy(), dtype=torch.float64) for ours, theirs in names.items()}
    online.load_state_dict(state)
    target.load_state_dict(state)
    learn(lambda message: None, job)

    optimizer = torch.optim.Adam(online.parameters(), config.optimizer.lr, config.optimizer.betas, config.optimizer.eps)  # type: ignore[attr-defined]
    last = 0
    assert len(batches) == 90
    for (s, s_next), batch, step in zip(batches, samples, steps, strict=True):
        if last // algo.target_update < (step - algo.train_freq) // algo.target_update:
            for of_target, of_online in zip(target.parameters(), online.parameters(), strict=True):
                of_target.data.lerp_(of_online.data, algo.target_tau)
            last = step - algo.train_freq
        s_t, s_tn = torch.tensor(s, dtype=torch.float64), torch.tensor(s_next, dtype=torch.float64)
        with torch.no_grad():
            chooser = online if algo.double else target
            best = chooser(s_tn).argmax(1, keepdim=True)
            y = torch.tensor(batch.returns) + torch.tensor(batch.discounts) * target(s_tn).gather(1, best).squeeze(1)
        q = online(s_t).gather(1, torch.tensor(batch.actions)[:, None]).squeeze(1)
        each = torch.nn.functional.smooth_l1_loss(q, y, reduction="none") if algo.loss == "smooth_l1" else (q - y) ** 2
        optimizer.zero_grad()
        (each * torch.tensor(batch.weights)).mean().backward()
        torch.nn.utils.clip_grad_value_(online.parameters(), 0.01)
        optimizer.step()
    for ours, theirs in names.items():
        np.testing.assert_allclose(views[theirs], online.state_dict()[ours].numpy(), atol=2e-5)


@pytest.mark.parametrize("envs", [1, 8, 16])
def test_the_target_network_follows_as_often_with_any_environments(
    envs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One soft step per target_update steps, in turn with the updates, not one per block of the environments' steps."""
    calls: list[str] = []
    for name in ("update", "follow"):
        method = getattr(dqn.Learner, name)
        monkeypatch.setattr(dqn.Learner, name, lambda *a, method=method, name=name: (calls.append(name), method(*a))[1])
    options = ("algo.train_freq=4", "algo.target_update=4", "algo.target_tau=0.1", "algo.warmup_steps=64")
    learned(quick(f"envs_per_worker={envs}", *options, "total_steps=320"), tmp_path)
    assert calls == ["follow"] * 16 + ["update", "follow"] * 64


@pytest.mark.parametrize("replay", ["uniform", "prioritized"])
@pytest.mark.parametrize("envs", [1, 16])
def test_reading_an_updates_metrics_later_changes_nothing(
    replay: str, envs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU, what a learner on a GPU does: it draws the next batch before it reads the last metrics."""
    config = quick(f"replay={replay}", f"envs_per_worker={envs}", "algo.warmup_steps=64", "algo.train_freq=1")
    at_once = learned(config, tmp_path / "at_once")
    monkeypatch.setattr(dqn, "updates_ahead", lambda device: 1)
    later = learned(config, tmp_path / "later")
    assert rows_of(later[0], UpdateRecord) == rows_of(at_once[0], UpdateRecord) != []
    np.testing.assert_array_equal(later[1], at_once[1])


def test_games_in_threads_learn_the_same_every_time(tmp_path: Path) -> None:
    config = config_of(
        "algo=dqn", "env=breakout", "env.threads=2", "env.fire_on_reset=false", "envs_per_worker=2",
        "schedule=interleaved", "preprocessing=nature_84", "backend=manual", "precision=float32", "log_interval=1",
        "algo.warmup_steps=64", "algo.batch_size=2", "total_steps=160",
        "replay.capacity=500", "evaluation.every_steps=null", "evaluation.every_seconds=null",
    )  # fmt: skip
    first, again = (learned(config, tmp_path / name) for name in ("first", "again"))
    assert rows_of(first[0], EpisodeRecord) == rows_of(again[0], EpisodeRecord)
    assert rows_of(first[0], UpdateRecord) == rows_of(again[0], UpdateRecord) != []
    (sent,) = [message for message in first[0] if isinstance(message, ProcessState)]
    assert sent.state["workers"]["1"]["env"] is None  # a resume starts new games, and says so


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("backend", ["autograd", "manual"])
@pytest.mark.parametrize("graph", ["false", "true"])
def test_a_gpu_learns_as_a_processor_does(backend: str, graph: str, tmp_path: Path) -> None:
    config = quick(f"backend={backend}", "envs_per_worker=16", "algo.warmup_steps=64", "total_steps=160")
    on_cpu, cpu_parameters = learned(config, tmp_path / "cpu")
    algo = replace(config.algo, cuda_graph=graph == "true")  # type: ignore[type-var]
    on_gpu, gpu_parameters = learned(replace(config, device="cuda", algo=algo), tmp_path / "gpu")
    losses, expected = ([u.td_loss for u in rows_of(messages, UpdateRecord)] for messages in (on_gpu, on_cpu))
    np.testing.assert_allclose(losses, expected, rtol=1e-2)
    np.testing.assert_allclose(gpu_parameters, cpu_parameters, atol=1e-3)


def test_same_seed_same_run_and_another_seed_another(tmp_path: Path) -> None:
    first, again, other = (learned(quick(f"seed={seed}"), tmp_path / str(i)) for i, seed in enumerate((1, 1, 2)))
    for kind in (EpisodeRecord, UpdateRecord):
        assert rows_of(first[0], kind) == rows_of(again[0], kind) != []
    np.testing.assert_array_equal(first[1], again[1])
    assert rows_of(first[0], UpdateRecord) != rows_of(other[0], UpdateRecord)


def test_a_noisy_start_takes_random_actions_for_noisy_start_steps(tmp_path: Path) -> None:
    config = quick("algo.noisy_start=6", "algo.epsilon_start=0", "algo.epsilon_end=0", "algo.train_freq=400")
    spec = spec_of(config.env)
    actor = Actor(job_of(config, Path()))
    actor.parameters[-1] = 1.0
    out = make_exchange(config, spec).experience()
    actor.act(out, 10_000)
    ends = np.flatnonzero(out.lengths[:, 0])
    assert len(ends) > 5
    starts = [0, *(ends[:-1] + 1)]
    early = [out.actions[start : end + 1, 0] for start, end in zip(starts, ends, strict=True)]
    assert any((episode[:6] == 0).any() for episode in early)
    assert all((episode[6:] == 1).all() for episode in early)


def test_a_run_that_ends_in_its_warm_up_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, "total_steps=40", "logger.display=plain")
    assert "total_steps=40 ends in algo.warmup_steps=40: nothing is learned" in capsys.readouterr().out


def run(folder: Path, *overrides: str) -> Path:
    """A whole run of the program, with all its processes."""
    config = config_of(*QUICK, "figures=false", "logger.display=off", *overrides)
    folder.mkdir(exist_ok=True)
    train(plan(config, []), folder, [], lambda: True)
    return folder


def tables(folder: Path) -> list[pd.DataFrame]:
    return [pd.read_csv(folder / name).drop(columns="wall_time_s") for name in (EPISODES, UPDATES)]


def test_two_processes_give_the_same_result_every_time(tmp_path: Path) -> None:
    """schedule=async acts with parameters one block older, so its first block equals that of schedule=interleaved."""
    first, again, turns = (
        run(tmp_path / name, f"schedule={schedule}", "algo.epsilon_start=0.1", "optimizer.lr=0.05")
        for name, schedule in (("a", "async"), ("b", "async"), ("c", "interleaved"))
    )
    for one, other in zip(tables(first), tables(again), strict=True):
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    ours, theirs = tables(first)[1], tables(turns)[1]
    assert list(pd.read_csv(first / UPDATES)) == list(UpdateRecord._fields)
    assert len(ours) == len(theirs) == 90
    pd.testing.assert_frame_equal(ours[:1], theirs[:1], check_exact=True)  # it learns from the same data
    assert not ours.equals(theirs)


def test_evaluations_do_not_change_the_training(tmp_path: Path) -> None:
    without = run(tmp_path / "without")
    with_them = run(
        tmp_path / "with",
        "evaluation.every_steps=100",
        "evaluation.at_start=true",
        "evaluation.episodes=3",
        "evaluation.action=sample",
    )
    for one, other in zip(tables(without), tables(with_them), strict=True):
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    evaluations = pd.read_csv(with_them / EVALUATIONS)
    assert list(evaluations.groupby("evaluation")["global_step"].first()) == [0, 100, 200, 300, 400]
    assert set(evaluations["protocol"]) == {"sample"}


@pytest.mark.slow
def test_a_test_process_can_evaluate_at_the_start(tmp_path: Path) -> None:
    """In addition to the evaluation at the end."""
    folder = run(
        tmp_path, "schedule=async", "evaluation.at_start=true", "evaluation.every_steps=100000", "total_steps=8000"
    )
    evaluations = pd.read_csv(folder / EVALUATIONS)
    assert evaluations["evaluation"].max() == 2
    assert evaluations["global_step"].iloc[-1] >= 8000 > evaluations["global_step"].iloc[0]


def test_a_test_process_does_not_count_the_time_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the learner is imported or compiled, the initial network is not evaluated again and again."""
    config = quick("evaluation.every_seconds=1e-9", "evaluation.episodes=1", "evaluation.horizon=5")
    job = job_of(config, tmp_path)
    messages: list[Any] = []
    before: list[int] = []  # evaluations at each pause

    def pause(seconds: float) -> None:
        before.append(len(messages))
        if len(before) == 5:
            job.shared.begin()
        if len(before) == 9:
            job.shared.command = Command.abandon

    monkeypatch.setattr("ablate.play.evaluator.time.sleep", pause)
    start = Snapshot.of(job.shared, job.shared.counters())
    evaluating_process(messages.append, config, job.spec, job.architecture, tmp_path, job.shared, 0, start)
    assert before == [0, 0, 0, 0, 0, 1, 2, 3, 4]


def test_an_episode_is_given_up_at_an_evaluation(tmp_path: Path) -> None:
    config = quick("algo.reset_after_evaluation=true", "evaluation.every_steps=4", "algo.train_freq=12")
    spec = spec_of(config.env)
    actor = Actor(job_of(config, Path()))
    out = make_exchange(config, spec).experience()
    actor.act(out, 0)
    assert list(np.flatnonzero(out.truncated[:, 0])) == [3, 7, 11]
    assert not out.lengths.any()  # no episode ended


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (("env=pendulum",), "box"),
        (("workers=2",), "workers=2"),
        (("algo.batch_size=64",), "algo.warmup_steps=40"),
        (("replay.capacity=10",), "replay.capacity=10"),
        (("replay.capacity=1000000000000",), "of memory"),
        (("replay.capacity=1000000000000", "replay.storage=memmap"), "of disk"),
        (("envs_per_worker=3",), "envs_per_worker=3"),
        (("model=mlp",), "model.name=mlp"),
        (("replay=prioritized", "replay.beta_end=0.1"), "replay.beta_end"),
        (("device=[cpu,cpu]",), "device"),
        (("envs_per_worker=8", "algo.train_freq=8", "algo.n_step=6"), "algo.warmup_steps=40"),
        (("precision=bf16",), "precision=bf16"),
        (("algo.cuda_graph=true",), "algo.cuda_graph=true"),
        (("algo.reset_after_evaluation=true", "schedule=async", "evaluation.every_seconds=5"), "every_seconds=5"),
        (("algo.n_step=38", "replay=prioritized", "replay.first_half_only=true", "replay.capacity=60"), "capacity=60"),
    ],
)
def test_what_dqn_cannot_do_is_refused_in_one_line(overrides: tuple[str, ...], named: str) -> None:
    options = [o for o in QUICK if not (o.startswith("model.hidden") and "model=mlp" in overrides)]
    with pytest.raises(ConfigError) as caught:
        plan(config_of(*options, *overrides), [])
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bf16_is_refused_if_torch_would_compute_it_in_software(monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("algo=dqn", "env=breakout", "replay.capacity=1000", "algo.warmup_steps=100")
    for has in ("bf16", "float32"):
        monkeypatch.setattr(precision, "resolve_precision", lambda wanted, device, has=has: has)
        assert plan(config_of(*options), []).config.precision == has
        assert plan(config_of(*options, "precision=float32"), []).config.precision == "float32"
    assert plan(config_of(*options, "precision=bf16"), []).config.precision == "bf16"
    with pytest.raises(ConfigError, match=r"^precision=bf16: this machine .* use float32 or backend=manual$"):
        plan(config_of(*options, "precision=bf16", "backend=autograd"), [])


def test_the_state_of_a_run_holds_no_replay_unless_asked(tmp_path: Path) -> None:
    messages, _ = learned(quick(), tmp_path)
    (state,) = [message for message in messages if isinstance(message, ProcessState)]
    assert state.state["workers"]["0"]["replay"] is None
    assert not any("frames" in name for name in state.tensors)


@pytest.mark.parametrize("saved", [True, False])
def test_no_transition_leads_from_before_a_resume_into_a_new_episode(tmp_path: Path, saved: bool) -> None:
    """As with an environment that cannot be saved: the first transition after a resume starts with a new episode."""
    config = quick("save_replay=true", "total_steps=200")
    messages, _ = learned(config, tmp_path)
    (sent,) = [message for message in messages if isinstance(message, ProcessState)]
    states = {
        k: ProcessState(
            sent.state["workers"][str(k)],
            {
                name.removeprefix(f"worker.{k}."): array
                for name, array in sent.tensors.items()
                if f"worker.{k}." in name
            },
        )
        for k in (0, 1)
    }
    if not saved:
        states[1].state["env"] = None
    job = job_of(config, tmp_path)._replace(resumed=states, starts=1)
    learner, actor = dqn.Learner(job, [].append), Actor(job)
    store = learner._replay.store
    out = make_exchange(config, job.spec).experience()
    actor.act(out, 200)
    (before,) = np.flatnonzero(store.times == 200)
    learner.absorb(out)
    (first,) = np.flatnonzero(store.times == 201)
    np.testing.assert_array_equal(store.frames[first], out.firsts[0])
    assert not store.terminated[before]
    assert saved == (first == store.following(np.array([before]))[0])
    assert saved != store.truncated[before]


def test_each_checkpoints_replay_has_a_file_of_its_own(tmp_path: Path) -> None:
    """Also in the warm-up, which has no updates to number them by: the file of the last checkpoint must stay whole."""
    config = quick("save_replay=true", "algo.warmup_steps=300")
    (tmp_path / "checkpoints").mkdir()
    learner = dqn.Learner(job_of(config, tmp_path), [].append)
    names = {learner.state(steps)[0]["replay"] for steps in (100, 200)}
    assert len(names) == 2
    assert names == {path.name for path in (tmp_path / "checkpoints").iterdir()}


def test_writing_a_replay_to_a_slow_disk_is_not_a_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(quick("save_replay=true"), tmp_path)
    beats: list[int] = []
    heartbeat.install(lambda: beats.append(1))
    monkeypatch.setattr(ablate.algos.job, "BEAT_S", 0.001)

    def write_checkpoint(path: Path, checkpoint: Any) -> None:
        before = len(beats)
        while len(beats) < before + 3:
            time.sleep(0.001)

    monkeypatch.setattr(replay_memory, "write_checkpoint", write_checkpoint)
    dqn.Learner(job, [].append).state(100)
    before = len(beats)
    time.sleep(0.02)
    assert len(beats) == before  # it stops when the work ends


def test_a_replay_that_cannot_be_written_or_read_is_named_in_one_line(tmp_path: Path) -> None:
    config = quick("save_replay=true", "total_steps=100")
    messages, _ = learned(config, tmp_path)
    (sent,) = [message for message in messages if isinstance(message, ProcessState)]
    (file,) = (tmp_path / "checkpoints").iterdir()
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)
    state = ProcessState(sent.state["workers"]["0"], {"target": sent.tensors["worker.0.target"]})
    job = job_of(config, tmp_path)
    with pytest.raises(ChildFailed, match=f"^the saved replay cannot be read: .*{file.name}: damaged[^\n]*$"):
        dqn.Learner(job._replace(resumed={0: state}), [].append)
    file.unlink()
    file.parent.rmdir()
    file.parent.write_text("no folder")
    with pytest.raises(ChildFailed, match=r"^the replay could not be saved [^\n]*$"):
        dqn.Learner(job, [].append).state(100)


def test_no_more_images_are_stacked_than_the_store_can_count(tmp_path: Path) -> None:
    config = quick()
    spec = replace(spec_of(config.env), observation_shape=(257, 8, 8))
    with pytest.raises(ConfigError, match=r"^model\.input: 257 images in a stack; .* at most 256$"):
        dqn_spec.check_replay(config, spec, tmp_path)


@pytest.mark.parametrize(("storage", "copies"), [("memory", 3), ("memmap", 2)])
def test_the_memory_to_save_a_replay_is_checked_before_the_run(
    storage: str, copies: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = quick(f"replay.storage={storage}", "replay.capacity=1000000")
    size = dqn_spec.replay_bytes(config)
    monkeypatch.setattr(dqn_spec, "available_bytes", lambda: copies * size - 1)
    dqn_spec.check_replay(config, spec_of(config.env), tmp_path)
    with pytest.raises(ConfigError, match="save_replay=true: "):
        dqn_spec.check_replay(replace(config, save_replay=True), spec_of(config.env), tmp_path)
    monkeypatch.setattr(dqn_spec, "available_bytes", lambda: copies * size)
    dqn_spec.check_replay(replace(config, save_replay=True), spec_of(config.env), tmp_path)


def test_a_replay_in_a_file_needs_room_on_the_disk_of_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def disk_usage(path: Path) -> SimpleNamespace:
        asked.append(path)
        return SimpleNamespace(free=0)

    monkeypatch.setattr(dqn_spec.shutil, "disk_usage", disk_usage)
    given = ("algo=dqn", "env=cartpole", "replay.storage=memmap")
    with pytest.raises(ConfigError, match=r"GB of disk, and 0\.00 GB are free"):
        plan(config_of(*given), [], folder=tmp_path / "runs/not/yet/there")
    assert asked == [tmp_path]


def test_a_reward_that_is_not_finite_is_reported(tmp_path: Path) -> None:
    """Also if it would become a priority."""
    config = quick("replay=prioritized", "replay.new_priority=td_error", "env.reward_scale=1e-300")
    with pytest.raises(ChildFailed, match="diverged: TD errors"), np.errstate(over="ignore", invalid="ignore"):
        learned(config, tmp_path)


def test_beta_rises_over_the_whole_run_or_a_million_steps() -> None:
    for limit, expected in (("total_steps=400", 400), ("total_steps=null", 1_000_000)):
        replay = config_of("algo=dqn", "env=cartpole", "replay=prioritized", "max_episodes=9", limit).replay
        assert replay is not None
        assert replay.beta_steps == expected  # type: ignore[attr-defined]


@pytest.mark.parametrize(("envs", "every", "reached"), [(8, 4, 152), (1, 4, 152), (1, 1, 150), (3, 3, 150)])
def test_a_run_ends_at_the_limit_of_its_plan(envs: int, every: int, reached: int, tmp_path: Path) -> None:
    given = quick(f"envs_per_worker={envs}", f"algo.train_freq={every}", "total_steps=150")
    config = plan(given, []).config
    job = job_of(config, tmp_path)._replace(members=(0, 1))
    learn(lambda message: None, job)
    assert job.shared.counters().steps == config.total_steps == reached
