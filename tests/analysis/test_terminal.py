"""What a run and a sweep print at their ends: the numbers are those of their files."""

from pathlib import Path

import numpy as np
from scipy import stats
from synthetic import write_sweep

from ablate.analysis.load import load_run, load_sweep
from ablate.analysis.summary import summarise
from ablate.analysis.terminal import result_lines, run_lines
from ablate.analysis.verdicts import number


def test_a_table_of_the_arms_and_a_line_per_verdict(tmp_path: Path) -> None:
    arms = {"a": {"label": "the first"}, "b": {"label": "x" * 60, "level": -3.0}}
    claim = {"id": "C1", "words": "b ends lower", "metric": "final_score", "inequality": "b < a"}
    sweep = load_sweep(write_sweep(tmp_path / "s", arms, claims=(claim,), failed=(("b", 2),)))
    head, first, second, verdict = result_lines(summarise(sweep))
    assert head.split()[:2] == ["results", "arm"]

    last = sweep.evaluations[sweep.evaluations["evaluation"] == sweep.evaluations["evaluation"].max()]
    scores = (last["episodic_return"] / last["episodic_length"]).groupby([last["arm"], last["seed"]]).mean()["a"]
    low, high = stats.t.interval(0.95, len(scores) - 1, scores.mean(), stats.sem(scores))
    assert [part.strip() for part in first.split("  ")[-2:]] == [
        f"{number(np.mean(scores))} [{number(low)}, {number(high)}]",
        "6",
    ]
    assert second.strip().startswith("x" * 39 + "…")
    assert second.endswith("5, 1 crashed")
    assert verdict.startswith("C1        supported: b ends lower (b < a; difference -")
    assert verdict.endswith(" in final_score)")


def test_a_sweep_without_claims_says_that_it_has_no_verdict(tmp_path: Path) -> None:
    lines = list(result_lines(summarise(load_sweep(write_sweep(tmp_path / "s", {"a": {}, "b": {}})))))
    assert lines[-1] == "verdict   none: the study makes no claim (sweep.claims)"


def test_a_run_ends_with_its_training_and_its_evaluations(tmp_path: Path) -> None:
    run = load_run(write_sweep(tmp_path / "s", {"a": {}}, seeds=range(1)) / "a/seed=0")
    training, evaluation = run_lines(run)
    assert training == (
        f"  training    average reward per step {number(run.episodes['mean_step_reward'].tail(6).mean())}, "
        "mean of the last 6 episodes"
    )
    scores = run.evaluations["episodic_return"] / run.evaluations["episodic_length"]
    means = scores.groupby(run.evaluations["global_step"]).mean()
    assert f"average reward per step {number(means.iloc[-1])}" in evaluation
    assert evaluation.endswith(f"at step {means.index[-1]}; best {number(means.max())} at step {means.idxmax()}")
