"""Logs besides the CSV files: what MLflow and Weights & Biases stored, read without the code that wrote it."""

import importlib.util
import sqlite3
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import config_of
from here import resume, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from ablate.config.schema import ConfigError
from ablate.records.log import MOST_ROWS, RunName, Waiting
from ablate.records.logs import Logs
from ablate.runs.plan import plan

CELL = RunName("speed_of_learning", "fast", "fast seed=3", "speed_of_learning/fast seed=3 2026-11-29")


def test_a_package_that_is_not_installed_is_refused_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    config = config_of("logger=mlflow")
    with pytest.raises(ConfigError, match=r"logger\.mlflow=.*: mlflow is not installed; run pip install .*\[mlflow\]"):
        plan(config, [])
    with pytest.raises(ConfigError, match=r"pip install .*\[wandb\]"):
        plan(replace(config, logger=replace(config.logger, mlflow=None, wandb="offline")), [])


def test_a_log_that_fails_does_not_end_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    def server() -> Waiting:  # it has no method that Logs calls
        return Waiting()

    def broken() -> Waiting:
        raise OSError("no route to host")

    logs = Logs(server, broken)  # type: ignore[arg-type]
    for _ in range(3):
        logs.write(1, {"charts/SPS": 1.0})
    assert capsys.readouterr().err.count("the run goes on without this log") == 2


def test_a_long_table_is_thinned_to_its_last_row_and_a_short_one_is_kept() -> None:
    waiting = Waiting()
    for step in range(1, 2502):
        waiting.add(step, {"charts/episodic_return": 0.0})
    waiting.add(7, {"charts/evaluation_return": 1.0})
    rows = waiting.taken()
    steps = [step for step, scalars in rows if "charts/episodic_return" in scalars]
    assert steps == [*range(2501, 0, -3)][::-1]
    assert len(steps) <= MOST_ROWS
    assert (7, {"charts/evaluation_return": 1.0}) in rows
    assert rows == sorted(rows, key=lambda row: row[0])
    assert waiting.taken() == []


def test_tensorboard_has_the_hyperparameters_with_the_final_score(tmp_path: Path) -> None:
    train(tmp_path / "run", "logger.tensorboard=true", "algo.gamma=0.97")
    events = EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    start = HParamsPluginData.FromString(
        events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    ).session_start_info.hparams
    assert start["algo.gamma"].number_value == 0.97
    assert start["env.id"].string_value == "CartPole-v1"
    rows = [line.split(",") for line in (tmp_path / "run/evaluations.csv").read_text().splitlines()[1:]]
    last = [float(row[5]) for row in rows if row[0] == rows[-1][0]]
    assert events.Scalars("final_score")[-1].value == pytest.approx(sum(last) / len(last))


def test_mlflow_has_each_row_once_after_a_kill(tmp_path: Path) -> None:
    """A run is killed after step 300, and its last checkpoint is of step 200."""
    pytest.importorskip("mlflow")
    from ablate.records.mlflow_log import MlflowLog

    store = tmp_path / "store/mlflow.db"
    for steps in ((100, 200, "checkpoint", 300), (300, 400, "checkpoint", "end")):
        log = MlflowLog(str(store), CELL, {"algo.gamma": 0.9})
        for step in steps:
            if step == "checkpoint":
                log.flush()
            elif step == "end":
                log.close("completed", 12.5)
            else:
                log.write(int(step), {"charts/episodic_return": -float(step)})
    with sqlite3.connect(store) as database:
        rows = database.execute("select step, value from metrics where key = 'charts/episodic_return' order by step")
        assert rows.fetchall() == [(step, -float(step)) for step in (100, 200, 300, 400)]
        assert database.execute("select value from metrics where key = 'final_score'").fetchall() == [(12.5,)]
        assert database.execute("select name, status from runs").fetchall() == [("fast seed=3", "FINISHED")]
        assert database.execute("select value from tags where key = 'arm'").fetchall() == [("fast",)]
        assert database.execute("select key, value from params").fetchall() == [("algo.gamma", "0.9")]
        assert ("speed_of_learning",) in database.execute("select name from experiments").fetchall()


def leveldb_log(content: bytes) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format, in blocks of 32 KiB; a header of 7 bytes names the format."""
    at, record = 7, b""
    while at < len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def test_wandb_offline_is_grouped_by_study_and_arm(tmp_path: Path) -> None:
    wandb = pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    from ablate.records.wandb_log import WandbLog

    log = WandbLog("offline", tmp_path, CELL, {"algo": {"gamma": 0.9}})
    for step in (100, 200):
        log.write(step, {"charts/episodic_return": -float(step)})
    log.flush()
    log.write(300, {"charts/episodic_return": 0.0})  # after the last checkpoint: a resume makes it again
    log.close("interrupted", 12.5)
    assert wandb.run is None
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    records = [Record.FromString(data) for data in leveldb_log(file.read_bytes())]
    run = next(record.run for record in records if record.HasField("run"))
    assert (run.run_group, run.job_type, run.display_name) == ("speed_of_learning", "fast", "fast seed=3")
    rows = [
        {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    assert [float(row["charts/episodic_return"]) for row in rows] == [-100.0, -200.0]
    assert [float(row["global_step"]) for row in rows] == [100.0, 200.0]


@pytest.mark.slow
def test_a_run_that_is_resumed_is_one_run_in_mlflow(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    store = tmp_path / "mlflow.db"
    train(tmp_path / "a3c-cartpole/run", f"logger.mlflow={store}", "max_episodes=10")
    resume(tmp_path / "a3c-cartpole/run", "max_episodes=20")
    episodes = (tmp_path / "a3c-cartpole/run/episodes.csv").read_text().splitlines()[1:]
    with sqlite3.connect(store) as database:
        assert database.execute("select name, status from runs").fetchall() == [("run", "FINISHED")]
        (rows,) = database.execute("select count(*) from metrics where key = 'charts/episodic_return'").fetchone()
    assert rows == len(episodes) == 20
