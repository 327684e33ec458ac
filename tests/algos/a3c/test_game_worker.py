"""A worker with several games, on scripted games: its rollouts at the ends of episodes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from helpers import config_of, job_of, train

from ablate.algos.a3c import game_worker as a3c_games
from ablate.algos.a3c.conv_gradients import CONV_BACKENDS
from ablate.algos.a3c.game_worker import GameWorker
from ablate.algos.a3c.gradients import LossSettings
from ablate.envs.make import spec_of
from ablate.nn.architecture import architecture_of
from ablate.types import Rollout

SMALL = (
    "model.convolutions=[{channels:4,kernel:3,stride:2,padding:1},{channels:4,kernel:3,stride:3,padding:0}]",
    "model.hidden=8",
)
GAME = (
    "env=atari", "env.id=ALE/Pong-v5", "model=conv_lstm_42", "algo.t_max=20", "algo.loss_reduction=sum", "workers=1",
    "backend=manual", "schedule=interleaved", *SMALL,
)  # fmt: skip


class Script(gymnasium.Env):
    """Observations are the number of the step. Episodes end at given steps: by death, a lost life or the limit."""

    def __init__(self, ends: dict[int, str]) -> None:
        self.action_space = gymnasium.spaces.Discrete(6)
        self._ends, self._step = ends, 0
        self.preprocessor = SimpleNamespace(pipeline=SimpleNamespace(normalised=False))

    def _observation(self) -> np.ndarray:
        return np.full((1, 42, 42), self._step / 1000, np.float32)

    def reset(self, **_: Any) -> Any:
        self._step += 500  # so that no observation of a reset equals one of a step
        observation = self._observation()
        self._step -= 500
        return observation, {}

    def step(self, action: int) -> Any:
        self._step += 1
        end = self._ends.get(self._step, "")
        info = {"raw_reward": 2.0 * self._step, "game_over": end in ("death", "limit")}
        return self._observation(), 1.0, end in ("death", "life"), end == "limit", info


def worker_on(monkeypatch: pytest.MonkeyPatch, scripts: list[dict[int, str]], *overrides: str) -> GameWorker:
    config = config_of(*GAME, f"envs_per_worker={len(scripts)}", "env.preprocessing=report_42", *overrides)
    waiting = iter(scripts)
    monkeypatch.setattr(a3c_games, "make_env", lambda *_, **__: Script(next(waiting)))
    job = job_of(config, Path())
    size = job.architecture.layout().size
    worker = GameWorker(0, job)
    rng = np.random.default_rng(0)
    worker.pull(torch.from_numpy(rng.normal(0, 0.1, size).astype(np.float32)), 0)
    return worker


def steps_of(rollout: Rollout) -> np.ndarray:
    return np.round(1000 * rollout.observations[:, :, 0, 0, 0]).astype(int)


def test_several_games_continue_when_one_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = worker_on(monkeypatch, [{3: "death"}, {7: "life"}, {}], "algo.t_max=5", "algo.gamma=0.5")
    first, ended = worker.collect(10**9)
    assert steps_of(first).T.tolist() == [[500, 1, 2, 503, 4, 5], [500, 1, 2, 3, 4, 5], [500, 1, 2, 3, 4, 5]]
    assert first.firsts.T.tolist() == [[True, False, False, True, False, False]] + 2 * [[True] + 5 * [False]]
    assert first.discounts.T.tolist() == [[0.5, 0.5, 0.0, 0.5, 0.5], 5 * [0.5], 5 * [0.5]]
    assert np.all(first.rewards == 1.0)
    assert [(e.episodic_return, e.episodic_length, e.terminated) for e in ended] == [(2.0 + 4.0 + 6.0, 3, True)]

    second, ended = worker.collect(10**9)
    assert steps_of(second).T.tolist()[1] == [5, 6, 507, 8, 9, 10]
    assert second.discounts.T.tolist()[1] == [0.5, 0.0, 0.5, 0.5, 0.5]
    assert not ended  # a lost life ends an episode of training, but not the game
    assert not second.firsts[0].any()


def test_a_rollout_of_one_game_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = worker_on(monkeypatch, [{3: "death", 9: "life"}], "algo.t_max=5")
    lengths = [len(worker.collect(10**9)[0].rewards) for _ in range(4)]
    assert lengths == [3, 5, 1, 5]


def test_a_rollout_has_no_more_steps_than_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = worker_on(monkeypatch, [{}, {}], "algo.t_max=5")
    assert worker.collect(5)[0].rewards.shape == (3, 2)


@pytest.mark.parametrize("bootstrap", [True, False])
def test_a_truncated_game_is_bootstrapped_from_its_last_observation(
    bootstrap: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With V(s_T) as autograd computes it, from the state of the LSTM after the steps before the cut."""
    worker = worker_on(
        monkeypatch, [{}, {3: "limit"}], "algo.t_max=5", "algo.gamma=0.5", f"algo.bootstrap_truncated={bootstrap}"
    )
    rollout, ended = worker.collect(10**9)
    assert rollout.discounts[:, 1].tolist() == [0.5, 0.5, 0.0, 0.5, 0.5]
    assert [(e.terminated, e.truncated) for e in ended] == [(False, True)]

    config = config_of(*GAME, "envs_per_worker=1", "env.preprocessing=report_42")
    architecture: Any = architecture_of(config.model, spec_of(config.env))
    settings = LossSettings.of(config.algo)  # type: ignore[arg-type]
    fresh = CONV_BACKENDS["autograd"](architecture, 1, 5, settings)
    fresh.parameters.copy_(worker.computer.parameters)
    fresh.start()
    for t, number in enumerate([500, 1, 2, 3]):
        observation = np.full((1, 1, 42, 42), number / 1000, np.float32)
        _, value = fresh.step(t, observation, np.array([t == 0]))
    assert abs(value[0]) > 1e-4
    assert rollout.rewards[2, 1] == pytest.approx(1.0 + 0.5 * value[0] * bootstrap, rel=1e-5)
    assert np.all(np.delete(rollout.rewards[:, 1], 2) == 1.0)
    assert rollout.firsts[:, 1].tolist() == [True, False, False, True, False, False]

    worker.computer.compute(rollout)  # a row that was stepped twice is kept once
    again = CONV_BACKENDS["autograd"](architecture, 2, 5, settings)
    again.parameters.copy_(worker.computer.parameters)
    again.start()
    for t in range(6):
        again.step(t, rollout.observations[t], rollout.firsts[t])
    again.compute(rollout)
    torch.testing.assert_close(worker.computer.gradient, again.gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("model", ["conv_lstm_42", "conv_84"])
def test_each_push_is_the_gradient_of_this_rollout(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the real loop with the real emulator: every gradient equals that of a new autograd network on the same
    rollouts, with its LSTM state carried from one rollout to the next."""
    small = SMALL if model == "conv_lstm_42" else ("model.hidden=8",)
    config = config_of(
        "env=atari", "env.id=ALE/Pong-v5", f"model={model}", *small, "workers=1", "backend=manual", "total_steps=89",
        "schedule=interleaved", "envs_per_worker=3", "algo.t_max=5", "log_interval=1", "evaluation.every_steps=null",
        "precision=float32",
    )  # fmt: skip
    from ablate.runs.plan import plan

    config = plan(config, []).config
    architecture: Any = architecture_of(config.model, spec_of(config.env))
    fresh = CONV_BACKENDS["autograd"](architecture, 3, 5, LossSettings.of(config.algo))  # type: ignore[arg-type]
    compared = []
    compute = CONV_BACKENDS["manual"].compute

    def computing(computer: Any, rollout: Rollout) -> Any:
        fresh.parameters.copy_(computer.parameters)
        fresh.start()
        for t, (observations, firsts) in enumerate(zip(rollout.observations, rollout.firsts, strict=True)):
            fresh.step(t, observations, firsts)
        fresh.compute(rollout)
        result = compute(computer, rollout)
        torch.testing.assert_close(computer.gradient, fresh.gradient, rtol=2e-3, atol=2e-5)
        compared.append(rollout.rewards.size)
        return result

    monkeypatch.setattr(CONV_BACKENDS["manual"], "compute", computing)
    shared = train(config, tmp_path)[2]
    assert compared == [15] * 6
    assert shared.counters().steps == config.total_steps == 90  # 89 is no multiple of three games
