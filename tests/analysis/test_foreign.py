"""Runs of other programs (docs/judging.md): what is read of their files, and what is said of bad ones."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from latex_check import check_latex
from omegaconf import OmegaConf

import ablate
from ablate.analysis import sweep_figures
from ablate.analysis.foreign import ForeignSweep
from ablate.analysis.foreign_files import read_events, read_monitors
from ablate.analysis.summary import judged, summarise
from ablate.cli import judge
from ablate.config.schema import ConfigError

CLAIM = {"id": "C", "words": "a ends higher", "metric": "final_score", "inequality": "a > b"}
COLUMNS = {"arm": "algo", "seed": "seed", "step": "step", "score": "return"}


def write_monitor(folder: Path, returns: list[float], lengths: list[int] | None = None, start: float = 1e9) -> None:
    """As stable-baselines3's Monitor writes it, with its line ends."""
    folder.mkdir(parents=True, exist_ok=True)
    lengths = lengths or [100] * len(returns)
    rows = [f"{r},{n},{0.5 * i}" for i, (r, n) in enumerate(zip(returns, lengths, strict=True), 1)]
    header = json.dumps({"t_start": start, "env_id": "CartPole-v1"})
    (folder / "monitor.csv").write_bytes("\r\n".join([f"#{header}", "r,l,t", *rows, ""]).encode())


def write_events(folder: Path, scalars: dict[str, list[tuple[int, float]]]) -> None:
    """Event files by tensorboard's own writer, which torch.utils.tensorboard uses, too."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(folder))
    for tag, points in scalars.items():
        for step, value in points:
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            writer.add_event(Event(wall_time=1000.0 + step, step=step, summary=summary))
    writer.close()


@pytest.fixture
def study(tmp_path: Path) -> Callable[..., Path]:
    """Write a study with the arms a and b; keys replace its own."""

    def write(**keys: Any) -> Path:
        sweep = {"arms": {"a": {"runs": "a_*"}, "b": {"runs": "b_*"}}, "claims": [CLAIM], **keys}
        OmegaConf.save({"sweep": sweep}, tmp_path / "study.yaml")
        return tmp_path / "study.yaml"

    return write


@pytest.fixture
def monitors(tmp_path: Path) -> Path:
    """Six runs of each arm; those of a end about 5 higher."""
    runs = tmp_path / "runs"
    for arm, level in (("a", 15.0), ("b", 10.0)):
        for seed in range(6):
            rng = np.random.default_rng([int(level), seed])
            write_monitor(runs / f"{arm}_seed{seed}", list(level + rng.standard_normal(40)))
    return runs


def long_table(
    rng: np.random.Generator, arms: dict[str, int], steps: int = 4000, seeds: int = 8, rise: float = 20.0
) -> pd.DataFrame:
    """Curves that rise alike in all arms, with noise of each row and of each seed. arms: the steps between two rows."""
    parts = []
    for arm, every in arms.items():
        for seed in range(seeds):
            step = np.arange(every, steps + 1, every)
            score = rise * step / steps + rng.standard_normal() + 3 * rng.standard_normal(len(step))
            parts.append(pd.DataFrame({"algo": arm, "seed": seed, "step": step, "return": score}))
    return pd.concat(parts, ignore_index=True)


def test_monitor_files_are_read_as_stable_baselines3_reads_them(tmp_path: Path) -> None:
    results = pytest.importorskip("stable_baselines3.common.results_plotter")
    from stable_baselines3.common.monitor import load_results

    rng = np.random.default_rng(0)
    for env, start in enumerate((100.0, 100.25, 99.9)):  # three environments of one run
        write_monitor(tmp_path / "once", list(rng.standard_normal(20)), list(rng.integers(5, 50, 20)), start)
        (tmp_path / "once/monitor.csv").rename(tmp_path / f"{env}.monitor.csv")
    (tmp_path / "once").rmdir()
    table = read_monitors(tmp_path).table
    step, score = results.ts2xy(load_results(str(tmp_path)), results.X_TIMESTEPS)
    assert table["step"].tolist() == step.tolist()
    assert table["score"].tolist() == pytest.approx(score.tolist())


def test_what_a_killed_program_left_is_read_up_to_there(tmp_path: Path) -> None:
    write_monitor(tmp_path / "sb3", [1.0, 2.0, 3.0])
    path = tmp_path / "sb3/monitor.csv"
    path.write_bytes(path.read_bytes()[:-6])  # "3.0,100,1.5\r\n" has lost its end
    rows = read_monitors(tmp_path / "sb3")
    assert (rows.table["score"].tolist(), rows.torn) == ([1.0, 2.0], 1)
    write_events(tmp_path / "tb", {"charts/episodic_return": [(i, float(i)) for i in range(10, 60, 10)]})
    (path,) = (tmp_path / "tb").iterdir()
    path.write_bytes(path.read_bytes()[:-5])
    assert read_events(tmp_path / "tb", None).table["step"].tolist() == [10, 20, 30, 40]


def test_a_report_of_runs_of_stable_baselines3(
    monitors: Path, study: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = study(figures={"width_mm": 86}, arms={"a": {"runs": "a_*", "label": "A & B_1"}, "b": {"runs": "b_*"}})
    drawn = sweep_figures.drawings
    monkeypatch.setattr(sweep_figures, "drawings", lambda summary: drawn(summary)[-2:])  # the others take seconds
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["src/judge.py", str(path), "--runs", str(monitors), "--out", str(out)])
    assert judge.main() == 0
    written = capsys.readouterr()
    assert "C         supported" in written.out
    assert "training episodes" in written.err
    assert "training episodes" in (out / "report.html").read_text()
    assert "training episodes" in (out / "verdict.md").read_text()
    tidy = pd.read_csv(out / "summary.csv").query("metric == 'final_score' and statistic == 'mean'").set_index("arm")
    seeds = pd.read_csv(out / "seeds.csv").query("metric == 'final_score'").groupby("arm")["value"]
    for arm in "ab":  # 40 episodes of 100 steps: the last tenth is episodes 37 to 40
        last = [pd.read_csv(monitors / f"{arm}_seed{s}/monitor.csv", skiprows=1)["r"][36:].mean() for s in range(6)]
        assert seeds.get_group(arm).tolist() == pytest.approx(last)
        assert tidy.loc[arm, ["value", "n"]].tolist() == pytest.approx([np.mean(last), 6])
    pdf = (out / "paper/scores_final_score.pdf").read_bytes()
    width = float(re.search(rb"/MediaBox \[ 0 0 ([\d.]+)", pdf)[1])  # type: ignore[index]
    assert width * 25.4 / 72 == pytest.approx(86, abs=0.1)
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf
    check_latex((out / "tables.tex").read_text())
    assert r"A \& B\_1 & 6 &" in (out / "tables.tex").read_text()
    assert "6 seeds each" in (out / "methods.tex").read_text()
    assert not list(out.glob(".*")), "nothing half-made is left"


def test_cleanrls_runs_have_their_seeds_in_their_names(tmp_path: Path, study: Callable[..., Path]) -> None:
    for name, level in (("ppo", 30.0), ("dqn", 20.0)):
        for seed in (3, 14, 15, 92, 65):
            points = [(step, level + seed / 100 + step / 1000) for step in range(100, 2001, 100)]
            run = tmp_path / f"runs/CartPole-v1__{name}__{seed}__16{seed:02}123456"
            write_events(run, {"charts/episodic_return": points, "charts/SPS": [(100, 1.0)]})
    arms = {"a": {"runs": "*__ppo__*"}, "b": {"runs": "*__dqn__*"}}
    made = ablate.judge(study(arms=arms), tmp_path / "runs")
    assert sorted(made.cells.query("arm == 'a'")["seed"]) == [3, 14, 15, 65, 92]
    assert made.verdicts["verdict"].tolist() == ["supported"]
    assert made.verdicts["effect"].tolist() == pytest.approx([10.0], abs=1e-4)
    assert "charts/episodic_return" in made.caveats[0]
    with pytest.raises(ValueError, match=r"no tag charts/episodic_returns; did you mean charts/episodic_return\?"):
        ablate.judge(study(arms=arms, runs={"tag": "charts/episodic_returns"}), tmp_path / "runs")


def test_unequal_logging_gives_no_false_verdicts(tmp_path: Path, study: Callable[..., Path]) -> None:
    """Arms that differ only in how often they were logged: no metric, not even the maximum, tells them apart."""
    metrics = {
        "best": {"statistic": "max"},
        "reach": {"statistic": "first_reach", "score": 12.0},
        "worst": {"statistic": "min", "window": [0.5, 1.0]},
    }
    claims = [
        {**CLAIM, "id": name, "metric": name} for name in ("final_score", "auc", "best", "reach", "worst")
    ]  # fmt: skip
    rng, false, studies = np.random.default_rng(5), 0, 15
    for _ in range(studies):
        long_table(rng, {"a": 10, "b": 100}).to_csv(tmp_path / "runs.csv", index=False)
        path = study(metrics=metrics, claims=claims, runs={"columns": COLUMNS}, arms={"a": {}, "b": {}})
        false += any(v.verdict != "undecided" for v in judged(judge.read(path, tmp_path / "runs.csv")))
    assert false <= 3  # with an error of 5 %, more are seen in one of 180 such tests


def test_a_run_that_ended_early_counts_as_failed(monitors: Path, study: Callable[..., Path]) -> None:
    write_monitor(monitors / "b_seed2", [10.0] * 5)
    (monitors / "b_seed3/monitor.csv").write_bytes(b"")
    path = study(total_steps=4000)
    summary = summarise(judge.read(path, monitors))
    row = summary.arms.query("metric == 'final_score' and arm == 'b'").iloc[0]
    assert (row["n"], row["n_planned"], row["failed"]) == (4, 6, "2 ended early")
    assert [*summary.sweep.failures["reason"]] == [
        "ended at step 500 of 4,000 (b_seed2)",
        "ended before its first score (b_seed3)",
    ]
    assert summary.verdicts[0].verdict == "undecided"  # four seeds have a score if failed ones are left out
    assert not summary.verdicts[0].preliminary


def test_a_run_without_a_score_up_to_total_steps_counts_as_failed(tmp_path: Path, study: Callable[..., Path]) -> None:
    table = long_table(np.random.default_rng(1), {"a": 100, "b": 100}, seeds=6)
    late = (table["algo"] == "a") & (table["seed"] == 0)
    table = table[~late | (table["step"] == table["step"].max())]
    table.to_csv(tmp_path / "runs.csv", index=False)
    path = study(arms={"a": {}, "b": {}}, runs={"columns": COLUMNS}, total_steps=3900)
    summary = summarise(judge.read(path, tmp_path / "runs.csv"))
    row = summary.arms.query("metric == 'final_score' and arm == 'a'").iloc[0]
    assert (row["n"], row["n_planned"], row["failed"]) == (5, 6, "1 without a score")
    assert [*summary.sweep.failures["reason"]] == ["no score up to step 3,900 (runs.csv)"]


def test_arms_may_have_different_seeds_and_an_absent_planned_one_is_preliminary(
    monitors: Path, study: Callable[..., Path]
) -> None:
    for seed in range(6):
        (monitors / f"b_seed{seed}").rename(monitors / f"b_seed{seed + 100}")
    (verdict,) = judged(judge.read(study(), monitors))
    assert (verdict.verdict, verdict.preliminary, verdict.n) == ("supported", False, "6, 6")
    (verdict,) = judged(judge.read(study(seeds="0-9"), monitors))
    assert verdict.preliminary


def test_evaluations_of_one_step_are_one_evaluation(tmp_path: Path, study: Callable[..., Path]) -> None:
    rng = np.random.default_rng(0)
    rows = [
        (arm, seed, step, level + rng.standard_normal())
        for arm, level in (("a", 5.0), ("b", 0.0))
        for seed in range(5)
        for step in (1000, 2000, 3000)
        for _ in range(4)
    ]
    pd.DataFrame(rows, columns=list(COLUMNS.values())).to_csv(tmp_path / "runs.csv", index=False)
    path = study(arms={"a": {}, "b": {}}, runs={"columns": COLUMNS, "source": "evaluations", "score": "success"})
    summary = summarise(judge.read(path, tmp_path / "runs.csv"))
    assert isinstance(summary.sweep, ForeignSweep)
    assert summary.sweep.evaluations["evaluation"].max() == 3
    assert summary.sweep.score_name == "success"
    table = pd.DataFrame(rows, columns=list(COLUMNS.values()))
    expected = table[table["step"] == 3000].groupby(["algo", "seed"])["return"].mean()
    scores = summary.scores.query("metric == 'final_score'").set_index(["arm", "seed"])["value"]
    assert scores.tolist() == pytest.approx(expected.tolist())


def test_a_score_that_is_not_finite_is_a_diverged_run_and_an_empty_one_was_not_logged(
    tmp_path: Path, study: Callable[..., Path]
) -> None:
    table = long_table(np.random.default_rng(1), {"a": 100, "b": 100}, seeds=5).astype({"return": "str"})
    late = (table["algo"] == "a") & (table["step"] >= 3800)
    table.loc[late & (table["seed"] == 1), "return"] = "nan"
    table.loc[late & (table["seed"] == 2) & (table["step"] == 4000), "return"] = ""
    table.to_csv(tmp_path / "runs.csv", index=False)
    summary = summarise(judge.read(study(arms={"a": {}, "b": {}}, runs={"columns": COLUMNS}), tmp_path / "runs.csv"))
    row = summary.arms.query("metric == 'final_score' and arm == 'a'").iloc[0]
    assert (row["n"], row["failed"]) == (4, "1 diverged")
    assert any("without a score" in note and note.endswith(": 1") for note in summary.notes)


def test_a_score_that_is_not_finite_counts_between_two_points_of_the_comparison(
    tmp_path: Path, study: Callable[..., Path]
) -> None:
    """The points are those of the arm with the fewest rows."""
    table = long_table(np.random.default_rng(1), {"a": 100, "b": 1000}, seeds=5).astype({"return": "str"})
    table.loc[(table["algo"] == "a") & (table["seed"] == 1) & (table["step"] == 3900), "return"] = "nan"
    table.to_csv(tmp_path / "runs.csv", index=False)
    keys = {"columns": COLUMNS, "source": "evaluations"}
    summary = summarise(judge.read(study(arms={"a": {}, "b": {}}, runs=keys), tmp_path / "runs.csv"))
    row = summary.arms.query("metric == 'final_score' and arm == 'a'").iloc[0]
    assert (row["n"], row["failed"]) == (4, "1 diverged")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"arms": {"a": {"runs": "a_*"}, "b": {"runs": "c_*"}}}, "sweep.arms.b.runs=c_*: nothing in"),
        ({"arms": {"a": {"runs": "a_*"}, "b": {"runs": "?_seed1"}}}, "a_seed1 is also a run of the arm a"),
        ({"arms": {"a": {"runs": "a_*"}, "b": {}}}, "sweep.arms.b.runs: it is missing"),
        ({"arms": {"a": {"run": "a_*"}}}, "sweep.arms.a.run: no such key; did you mean runs?"),
        ({"arms": {}}, "sweep.arms: it is missing"),
        ({"metricks": {}}, "sweep.metricks: no such key; did you mean metrics?"),
        ({"metric": "final"}, "sweep.metric=final: no such metric; did you mean final_score?"),
        ({"metrics": {"m": {"statistic": "mode"}}}, "sweep.metrics.m.statistic=mode"),
        ({"metrics": {"m": {"label": "x"}}}, "sweep.metrics.m: it has no statistic"),
        (
            {"metrics": {"m": {"statistic": "last", "x": "update"}}},
            "sweep.metrics.m.x=update: these rows do not have it; one of global_step, episode, wall_time_s",
        ),
        (
            {
                "metrics": {"m": {"statistic": "first_reach", "score": 9, "x": "episode"}},
                "runs": {"source": "evaluations"},
            },
            "sweep.metrics.m.x=episode: these rows do not have it; one of global_step, wall_time_s",
        ),
        ({"claims": [{**CLAIM, "inequality": "a > c"}]}, "no such arm"),
        ({"claims": [{"id": "C", "metric": "auc", "inequality": "a > b"}]}, "sweep.claims[0]: it has no words"),
        ({"runs": {"format": "tensorboard"}}, "a_seed0 has no event file"),
        ({"runs": {"seed": "seed"}}, "it needs one group"),
        ({"runs": {"seed": "x(\\d+)"}}, "sweep.runs.seed=x(\\d+): it is not found in a_seed0"),
        ({"env": "Acrobot-v1"}, "a_seed0 is of CartPole-v1, sweep.env=Acrobot-v1"),
        ({"figures": {"width_mm": 5}}, "sweep.figures.width_mm=5"),
        ({"arms": {"a": {"runs": "."}, "b": {"runs": "b_*"}}}, "sweep.arms.a.runs=.: no pattern of paths"),
        ({"arms": {"a": {"runs": "a_**x"}, "b": {"runs": "b_*"}}}, "sweep.arms.a.runs=a_**x: no pattern of paths"),
        ({"arms": {"a": {"runs": {"x": 1}}, "b": {"runs": "b_*"}}}, "sweep.arms.a.runs={'x': 1}: "),
        ({"runs": {"columns": {**COLUMNS, "score": "step"}}}, "columns.score=step: it is also the column of step"),
        ({"seeds": "50-59"}, "no run has completed: none has one of sweep.seeds=50-59"),
        ({"claims": [CLAIM, CLAIM]}, "2 claims have this id; give each its own"),
        ({"claims": [{**CLAIM, "environment": "each"}]}, "environment=each: judged runs are of one environment"),
        ({"total_steps": 40000}, "no run has completed: a/seed=0 has failed (ended at step 4,000 of 40,000"),
        ({"seeds": "3-1"}, "sweep.seeds=3-1: 3-1 runs backwards"),
    ],
)
def test_a_bad_study_is_one_line(
    keys: dict[str, Any], message: str, monitors: Path, study: Callable[..., Path], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], tmp_path: Path,
) -> None:  # fmt: skip
    refused(["--runs", str(monitors)], study(**keys), message, monkeypatch, capsys, tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"algo,seed,step\na,0,1\n", "no column return"),
        (b"algo,seed,step,Return\na,0,1,2\n", "no column return; did you mean Return?"),
        (b"", "it is empty"),
        (b"algo,seed,step,return\n", "sweep.arms.a: column algo has no a"),
        (b"algo,seed,step,return\na,0,1,2\nb,0,x,2\n", "row 2: column step has 'x'; a number is needed"),
        (b"algo,seed,step,return\na,0,1,2\nb,0,1,good\n", "row 2: column return has 'good'"),
        (b"algo,seed,step,return\na,0.5,1,2\nb,0,1,2\n", "column seed=0.5: a seed is a whole number"),
        (b"algo,seed,step,return\na,0,1,2\nB,0,1,2\n", "column algo has no b"),
        (b"algo,seed,step,return\na,0,1000,2\nb,0,100,2\n", "give sweep.total_steps"),
        (b"\xff\xfe\x00", "no CSV that can be read"),
    ],
)
def test_a_bad_csv_file_is_one_line(
    content: bytes, message: str, study: Callable[..., Path], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], tmp_path: Path,
) -> None:  # fmt: skip
    (tmp_path / "runs.csv").write_bytes(content)
    path = study(arms={"a": {}, "b": {}}, runs={"columns": COLUMNS})
    refused(["--runs", str(tmp_path / "runs.csv")], path, message, monkeypatch, capsys, tmp_path)


def test_two_runs_of_an_arm_with_the_same_seed_are_not_mixed(
    study: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    long_table(np.random.default_rng(0), {"v1": 100, "v2": 100, "b": 100}).to_csv(tmp_path / "runs.csv", index=False)
    path = study(arms={"a": {"runs": ["v1", "v2"]}, "b": {}}, runs={"columns": COLUMNS})
    message = "sweep.arms.a.runs: runs.csv and runs.csv both have seed 0"
    refused(["--runs", str(tmp_path / "runs.csv")], path, message, monkeypatch, capsys, tmp_path)


def test_arms_of_a_contrast_are_independent(tmp_path: Path, study: Callable[..., Path]) -> None:
    """Their seeds say nothing of their random numbers; those of a are others, and fewer."""
    table = long_table(np.random.default_rng(0), {"a": 100, "b": 100, "c": 100}, seeds=9)
    table = table[(table["algo"] != "a") | (table["seed"] < 6)]
    table.loc[table["algo"] == "a", "seed"] += 100
    table.to_csv(tmp_path / "runs.csv", index=False)
    contrast = [{**CLAIM, "inequality": "c > (a + b) / 2"}]
    path = study(arms={"a": {}, "b": {}, "c": {}}, runs={"columns": COLUMNS}, claims=contrast)
    summary = summarise(judge.read(path, tmp_path / "runs.csv", tmp_path / "out"))
    (verdict,) = summary.verdicts
    means = summary.arms[summary.arms["metric"] == "final_score"].set_index("arm")["mean"]
    assert verdict.effect == pytest.approx(means["c"] - (means["a"] + means["b"]) / 2)
    assert verdict.n == "9, 6, 9"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"r,l,t\r\n1,2,3\r\n", "its first line must be #{JSON}"),
        (b'#{"t_start": 1.0, "env_id": "CartPole-v1"}\r\nr,t\r\n1.0,2.0\r\n', "no column l"),
        (b'#{"t_start": 1.0, "env_id": "CartPole-v1"}\r\nr,l,t\r\n1.0,0,2.0\r\n', "an episode's length, above 0,"),
        (b'#{"t_start": 1.0, "env_id": "Pong-v1"}\r\nr,l,t\r\n1.0,100,2.0\r\n', "b_seed1 of Pong-v1"),
    ],
)
def test_a_damaged_monitor_file_is_one_line(
    content: bytes, message: str, monitors: Path, study: Callable[..., Path], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], tmp_path: Path,
) -> None:  # fmt: skip
    (monitors / "b_seed1/monitor.csv").write_bytes(content)
    refused(["--runs", str(monitors)], study(total_steps=4000), message, monkeypatch, capsys, tmp_path)


def refused(
    arguments: list[str], path: Path, message: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], tmp_path: Path,
) -> None:  # fmt: skip
    """One line, exit code 2, and nothing written."""
    monkeypatch.setattr(sys, "argv", ["src/judge.py", str(path), *arguments, "--out", str(tmp_path / "out")])
    assert judge.main() == 2
    written = capsys.readouterr()
    assert message in written.err
    assert written.err.count("\n") == 1
    assert written.out == ""
    assert not (tmp_path / "out").exists()


def test_a_sweeps_folder_is_not_written_over(monitors: Path, study: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep/study.json").write_text("{}")
    with pytest.raises(ConfigError, match="it is a sweep's folder"):
        judge.read(study(), monitors, tmp_path / "sweep")
