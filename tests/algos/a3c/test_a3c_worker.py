"""The worker's loop, in this process: the gradients, their staleness, the end of a run, and reproducibility."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import config_of, train

from ablate.algos.a3c import worker as a3c
from ablate.algos.a3c.gradients import BACKENDS, LossSettings
from ablate.algos.a3c.spec import UpdateRecord
from ablate.config.schema import Config
from ablate.envs.make import spec_of
from ablate.nn.architecture import architecture_of
from ablate.nn.distributions import make_distribution
from ablate.parallel.shared import Command
from ablate.types import EpisodeRecord, ProcessState, Trajectory


def interleaved(*overrides: str) -> Config:
    return config_of("schedule=interleaved", "log_interval=1", "backend=manual", *overrides)


each_loop = pytest.mark.parametrize("backend", ["manual", "compiled"])


@each_loop
@pytest.mark.parametrize("workers", [1, 3])
def test_staleness_is_what_equally_fast_workers_would_have(backend: str, workers: int, tmp_path: Path) -> None:
    config = interleaved(f"workers={workers}", f"backend={backend}", "max_episodes=null", "total_steps=300")
    messages, _, _ = train(config, tmp_path)
    updates = [m for m in messages if isinstance(m, UpdateRecord)]
    assert [u.update for u in updates] == list(range(1, 31))
    assert [u.staleness for u in updates] == [min(i, workers - 1) for i in range(30)]


@each_loop
def test_same_seed_same_run_and_another_seed_another(backend: str, tmp_path: Path) -> None:
    def run(seed: int) -> tuple[list[Any], np.ndarray]:
        config = interleaved(f"backend={backend}", "workers=2", "max_episodes=4", f"seed={seed}", "env.max_ep_step=50")
        messages, parameters, _ = train(config, tmp_path)
        rows = [m._replace(wall_time_s=0.0) for m in messages if not isinstance(m, ProcessState)]
        # By kind, as in the files: which kind is sent first depends on where kernels were interrupted.
        return sorted(rows, key=lambda row: type(row).__name__), parameters

    first, again, other = run(1), run(1), run(2)
    assert first[0] == again[0]
    np.testing.assert_array_equal(first[1], again[1])
    assert first[0] != other[0]


@each_loop
def test_evaluation_does_not_change_the_training(backend: str, tmp_path: Path) -> None:
    config = interleaved(
        f"backend={backend}", "workers=2", "max_episodes=4", "env.max_ep_step=50", "evaluation.every_steps=40"
    )
    _, without, _ = train(config, tmp_path / "a")
    (tmp_path / "b").mkdir()
    _, with_evaluations, _ = train(config, tmp_path / "b", evaluates=True)
    np.testing.assert_array_equal(without, with_evaluations)
    assert (tmp_path / "b/evaluations.csv").exists()


@each_loop
def test_another_worker_does_not_change_the_streams_of_the_others(backend: str, tmp_path: Path) -> None:
    """With a learning rate of nearly 0, worker 0 plays the same first episode with and without other workers."""
    episodes = {}
    for workers in (1, 2):
        config = interleaved(
            f"backend={backend}", f"workers={workers}", "max_episodes=2", "env.max_ep_step=50", "optimizer.lr=1e-30"
        )
        messages, _, _ = train(config, tmp_path)
        episodes[workers] = next(m for m in messages if isinstance(m, EpisodeRecord) and m.worker == 0)
    assert episodes[1].episodic_return == episodes[2].episodic_return


@each_loop
@pytest.mark.parametrize("overrides", [("max_episodes=3",), ("max_episodes=null", "total_steps=123")])
def test_the_run_ends_exactly_at_its_limit(backend: str, overrides: tuple[str, ...], tmp_path: Path) -> None:
    config = interleaved(f"backend={backend}", "workers=2", "env.max_ep_step=37", *overrides)
    messages, _, shared = train(config, tmp_path)
    counters = shared.counters()
    assert shared.command == Command.stop
    if "max_episodes=3" in overrides:
        assert counters.episodes == 3
        assert sum(isinstance(m, EpisodeRecord) for m in messages) == 3
    else:
        assert counters.steps == 123
    assert isinstance(messages[-1], ProcessState)


@pytest.mark.parametrize("backend", ["autograd", "manual"])
def test_each_push_is_the_gradient_of_this_rollout(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The optimizer gets the gradient of the last rollout at the parameters that its worker had pulled, as a new
    autograd network computes it. In well-known programs, torch 2 adds up the gradients of all rollouts instead."""
    config = interleaved("workers=3", f"backend={backend}", "max_episodes=3", "env.max_ep_step=25")
    spec = spec_of(config.env)
    settings = LossSettings.of(config.algo)  # type: ignore[arg-type]
    collected: list[tuple[Trajectory, torch.Tensor]] = []
    checked = []
    collect, make_optimizer = a3c.Worker.collect, a3c.make_optimizer

    def collecting(worker: a3c.Worker, *args: Any) -> Any:
        before = worker.computer.parameters.clone()
        trajectory, record = collect(worker, *args)
        collected.append((Trajectory(*(array.copy() for array in trajectory)), before))
        return trajectory, record

    def checking(*args: Any) -> Any:
        optimizer = make_optimizer(*args)

        class Checking:
            def step(self, gradient: torch.Tensor, update: int, lr: float) -> None:
                trajectory, parameters = collected[-1]
                architecture = architecture_of(config.model, spec)
                fresh = BACKENDS["autograd"](architecture, make_distribution(spec.action), settings)
                fresh.parameters.copy_(parameters)
                fresh.compute(trajectory)
                torch.testing.assert_close(gradient, fresh.gradient, rtol=1e-3, atol=1e-5)
                assert len(collected) == update
                checked.append(update)
                optimizer.step(gradient, update, lr)

        return Checking()

    monkeypatch.setattr(a3c.Worker, "collect", collecting)
    monkeypatch.setattr(a3c, "make_optimizer", checking)
    train(config, tmp_path)
    assert len(checked) > 7


def test_a_rollout_never_crosses_the_end_of_an_episode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """25 steps with t_max 10 are rollouts of 10, 10 and 5. algo.bootstrap_truncated decides about the last."""
    for bootstrap in (True, False):
        seen: list[Trajectory] = []
        collect = a3c.Worker.collect

        def collecting(worker: a3c.Worker, *args: Any, collect: Any = collect, seen: list = seen) -> Any:
            trajectory, record = collect(worker, *args)
            seen.append(Trajectory(*(array.copy() for array in trajectory)))
            return trajectory, record

        with monkeypatch.context() as patch:
            patch.setattr(a3c.Worker, "collect", collecting)
            train(
                interleaved(
                    "workers=1", "max_episodes=2", "env.max_ep_step=25", f"algo.bootstrap_truncated={bootstrap}"
                ),
                tmp_path,
            )
        assert [len(trajectory.rewards) for trajectory in seen] == [10, 10, 5, 10, 10, 5]
        assert seen[2].discounts[-1] == pytest.approx(0.9 if bootstrap else 0.0)
        assert all(trajectory.discounts[:-1] == pytest.approx(0.9) for trajectory in seen)


@each_loop
def test_recorded_returns_are_raw_and_training_sees_them_scaled(backend: str, tmp_path: Path) -> None:
    returns = {}
    for shift, scale in ((0.0, 1.0), (8.1, 8.1)):
        config = interleaved(
            f"backend={backend}", "workers=1", "max_episodes=1", "env.max_ep_step=20", "optimizer.lr=1e-30",
            f"env.reward_shift={shift}", f"env.reward_scale={scale}",
        )  # fmt: skip
        messages, _, _ = train(config, tmp_path)
        returns[shift] = next(m for m in messages if isinstance(m, EpisodeRecord)).episodic_return
    assert returns[0.0] == returns[8.1] < 0


@pytest.mark.parametrize(
    "overrides",
    [
        ("env=cartpole", "optimizer=rmsprop"),
        ("env=acrobot",),
        ("env=mountain_car",),
        ("env=mountain_car_continuous", "algo.t_max=20"),
        ("env=cartpole", "optimizer.amsgrad=true"),
        ("model.torso_hidden=[64]", "model.actor_hidden=[]", "model.critic_hidden=[]"),
    ],
)
def test_other_environments_optimizers_and_networks_train(overrides: tuple[str, ...], tmp_path: Path) -> None:
    config = interleaved(*overrides, "workers=2", "max_episodes=null", "total_steps=400", "algo.max_grad_norm=0.5")
    messages, parameters, _ = train(config, tmp_path)
    assert np.isfinite(parameters).all()
    assert sum(isinstance(m, UpdateRecord) for m in messages) >= 20
