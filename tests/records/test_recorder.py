"""The written records: moving average, rows beyond the limit, TensorBoard's tags."""

import time
from pathlib import Path

import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ablate.algos.a3c.spec import UpdateRecord
from ablate.records.logs import Logs
from ablate.records.recorder import Recorder
from ablate.records.schema import EPISODES, UPDATES
from ablate.records.tensorboard import TensorBoard
from ablate.types import EpisodeRecord, EvaluationSummary


def episode(mean: float, step: int) -> EpisodeRecord:
    return EpisodeRecord(0, step, 0.5, 10 * mean, 10, False, True)


def tensorboard(folder: Path, first_step: int | None = None) -> Logs:
    return Logs(lambda: TensorBoard(folder, first_step, {"algo.gamma": 0.9, "model.actor_hidden": [200]}))


def test_moving_average_is_the_reports(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, UpdateRecord, max_episodes=None)
    for i, mean in enumerate((-5.0, -3.0, -1.0)):
        recorder.episode(episode(mean, i))
    recorder.close()
    rows = pd.read_csv(tmp_path / EPISODES)
    second = 0.99 * -5.0 + 0.01 * -3.0
    assert rows["moving_average"].tolist() == pytest.approx([-5.0, second, 0.99 * second + 0.01 * -1.0], rel=1e-15)
    assert rows["mean_step_reward"].tolist() == [-5.0, -3.0, -1.0]


def test_episodes_beyond_the_limit_are_not_recorded(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, UpdateRecord, max_episodes=2)
    for i in range(4):
        recorder.episode(episode(-1.0, i))
    recorder.close()
    assert pd.read_csv(tmp_path / EPISODES)["episode"].tolist() == [1, 2]


def test_tensorboard_has_cleanrls_tags(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, UpdateRecord, None, tensorboard(tmp_path))
    recorder.episode(episode(-2.0, 100))
    recorder.update(UpdateRecord(10, 100, 0.5, 0.1, 0.2, 0.3, 0.4, 3, 1e-4))
    recorder.evaluation(EvaluationSummary(1, 100, -7.0))
    recorder.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    expected = {
        "charts/episodic_return": -20.0,
        "charts/episodic_length": 10.0,
        "charts/mean_step_reward": -2.0,
        "charts/SPS": 200.0,
        "charts/learning_rate": 1e-4,
        "charts/staleness": 3.0,
        "charts/evaluation_return": -7.0,
        "losses/policy_loss": 0.1,
        "losses/value_loss": 0.2,
        "losses/entropy": 0.3,
        "losses/grad_norm": 0.4,
    }
    assert set(events.Tags()["scalars"]) == set(expected)
    for tag, value in expected.items():
        assert events.Scalars(tag)[0].value == pytest.approx(value)
        assert events.Scalars(tag)[0].step == 100
    assert len(pd.read_csv(tmp_path / UPDATES)) == 1


def test_tensorboard_shows_only_what_counts_after_a_resume(tmp_path: Path) -> None:
    """A run is killed at step 500 and continues from its checkpoint of step 300."""
    killed = Recorder(tmp_path, UpdateRecord, None, tensorboard(tmp_path))
    for step in range(100, 600, 100):
        killed.episode(episode(-2.0, step))
    killed.close()
    time.sleep(1.0)  # event files are read in the order of their names, which begin with the second
    resumed = Recorder(tmp_path, UpdateRecord, None, tensorboard(tmp_path, 301))
    for step in range(400, 800, 100):
        resumed.episode(episode(-1.0, step))
    resumed.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    shown = [(event.step, event.value) for event in events.Scalars("charts/episodic_return")]
    assert shown == [(step, -20.0 if step < 400 else -10.0) for step in range(100, 800, 100)]
