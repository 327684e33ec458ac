"""A cell's curve as one number: windows, budgets, censoring, divergence, and what cannot be compared."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic import DEFAULTS, write_sweep

from ablate.analysis.load import Sweep, load_sweep
from ablate.analysis.metrics import (
    budget,
    cell_curves,
    curves,
    environments,
    moving_average,
    refuse_mixed,
    score_cells,
    shortest_cell,
)
from ablate.config.choices import Axis, Budget, Source
from ablate.config.schema import ConfigError, MetricConfig
from ablate.records.schema import COLUMNS, EPISODES, EVALUATIONS
from ablate.records.study_file import Provenance, StudyArm, StudyFile

HORIZON = 100
Points = dict[tuple[str, int], list[tuple[float, float]]]  # by cell: global_step and score of each row


def sweep_of(evaluations: Points, episodes: Points | None = None, **metric: Any) -> Sweep:
    """A sweep with these curves and the metric `m`. Each step takes 2 s."""
    episodes = episodes or {cell: [(x, y) for x, y in rows] for cell, rows in evaluations.items()}
    arms = list(dict.fromkeys(arm for arm, _ in [*evaluations, *episodes]))
    config = {"env": {"id": "Pendulum-v1", "kwargs": {}, "max_ep_step": HORIZON}}
    study = StudyFile(
        name="invented",
        question="",
        baseline=arms[0],
        metric="m",
        metrics={
            "m": MetricConfig(**{**DEFAULTS, "label": "m", "source": "evaluations", "statistic": "mean", **metric})
        },
        smallest_effect=None,
        claims=[],
        arms={arm: StudyArm(label="", overrides=[], identity="", config=copy.deepcopy(config)) for arm in arms},
        seeds=[],
        provenance=Provenance(command=[], machine={"cpus": 2}, started=""),
    )
    played = [
        (arm, seed, k, x, x // 10, 2.0 * x, i, (y + tilt) * HORIZON, HORIZON, HORIZON, "mode")
        for (arm, seed), rows in evaluations.items()
        for k, (x, y) in enumerate(rows, start=1)
        for i, tilt in enumerate((-0.5, 0.5), start=1)  # an evaluation's score is the mean of its two episodes
    ]
    trained = [
        (arm, seed, k, 0, x, 2.0 * x, y * HORIZON, HORIZON, y, 0.0, False, True)
        for (arm, seed), rows in episodes.items()
        for k, (x, y) in enumerate(rows, start=1)
    ]
    return Sweep(
        Path("nowhere"),
        study,
        pd.DataFrame([{"arm": arm, "seed": seed, "state": "completed"} for arm, seed in evaluations]),
        pd.DataFrame(trained, columns=["arm", "seed", *COLUMNS[EPISODES]]),
        pd.DataFrame(played, columns=["arm", "seed", *COLUMNS[EVALUATIONS]]),
        torn=0,
    )


def values_of(sweep: Sweep) -> dict[tuple[str, int], float]:
    table = score_cells(sweep, "m")
    return {(arm, seed): value for arm, seed, value in zip(table["arm"], table["seed"], table["value"], strict=True)}


TWO: Points = {("a", 1): [(100, 1), (200, 2), (300, 3), (400, 4)], ("b", 1): [(100, 10), (200, 20)]}


@pytest.mark.parametrize(
    ("window", "of_budget", "expected"),
    [
        ((0.0, 1.0), "equal", {("a", 1): 1.5, ("b", 1): 15}),  # 200 steps for both
        ((0.0, 1.0), "own", {("a", 1): 2.5, ("b", 1): 15}),
        ((0.5, 1.0), "own", {("a", 1): 3.5, ("b", 1): 20}),  # a·B itself is outside, b·B inside
        ((0.25, 0.75), "own", {("a", 1): 2.5, ("b", 1): 10}),
        ((1.0, 1.0), "own", {("a", 1): 4, ("b", 1): 20}),  # no row within: the last one
        ((1.0, 1.0), "equal", {("a", 1): 2, ("b", 1): 20}),
        ((0.8, 0.9), "own", {("a", 1): 3, ("b", 1): 10}),  # no row within: the last before, nothing from beyond
    ],
)
def test_the_window_is_a_range_of_the_budget(window: tuple[float, float], of_budget: str, expected: dict) -> None:
    assert values_of(sweep_of(TWO, window=window, budget=of_budget)) == pytest.approx(expected)


def test_the_equal_budget_is_the_shortest_cells_end() -> None:
    points: Points = {("a", 1): [(400, 1)], ("a", 2): [(300, 1)], ("b", 1): [(350, 1)]}
    sweep = sweep_of(points)
    assert budget(sweep, Source.evaluations, Axis.global_step) == {"a": 300, "b": 350}
    assert budget(sweep, Source.evaluations, Axis.wall_time_s) == {"a": 600, "b": 700}
    assert shortest_cell(sweep, Source.evaluations, Axis.global_step) == ("a", 2)


def test_a_cell_without_a_row_up_to_the_windows_end_has_no_value() -> None:
    values = values_of(sweep_of({("a", 1): [(100, 1)], ("b", 1): [(150, 5), (200, 6)]}))
    assert values["a", 1] == 1
    assert np.isnan(values["b", 1])


def test_standard_deviation_over_the_window() -> None:
    values = values_of(sweep_of(TWO, statistic="std", budget="own"))
    assert values == pytest.approx({("a", 1): np.std([1, 2, 3, 4], ddof=1), ("b", 1): np.std([10, 20], ddof=1)})


def test_auc_ends_where_the_window_does_between_two_rows() -> None:
    line: Points = {("a", 1): [(x, 0.1 * x) for x in (50, 130, 290, 410)], ("b", 1): [(80, 0.0), (200, 0.0)]}
    # the mean of a straight line is its height in the middle of [50, 200]: a's own start, and the equal budget
    assert values_of(sweep_of(line, statistic="auc"))["a", 1] == pytest.approx(12.5)
    assert values_of(sweep_of(line, statistic="auc", window=(0.5, 1.0)))["a", 1] == pytest.approx(15)


def test_a_cell_whose_window_is_not_finite_diverged_and_is_the_worst() -> None:
    points: Points = {
        ("a", 1): [(100, 1), (200, np.nan)],
        ("a", 2): [(100, 1), (200, -np.inf)],
        **{("b", 1): TWO["b", 1]},
    }
    for statistic in ("mean", "auc", "std"):
        values = values_of(sweep_of(points, statistic=statistic))
        assert values["a", 1] == values["a", 2] == -np.inf
        values = values_of(sweep_of(points, statistic=statistic, smaller_is_better=True))
        assert values["a", 1] == np.inf
    assert values_of(sweep_of(points, window=(0.0, 0.5)))["a", 1] == 1  # not yet


def test_one_diverged_episode_makes_its_evaluation_diverged() -> None:
    sweep = sweep_of({("a", 1): [(100, 1)]})
    sweep.evaluations.loc[0, "episodic_return"] = np.nan
    assert values_of(sweep)["a", 1] == -np.inf


def test_first_reach_is_censored_at_the_budget() -> None:
    metric = {"statistic": "first_reach", "score": 3.0, "smaller_is_better": True}
    points: Points = {
        ("a", 1): [(100, 1), (200, 3.5), (300, 1)],
        ("a", 2): [(100, 1), (300, 2), (400, 9)],
        ("b", 1): [(250, 3)],
    }
    table = score_cells(sweep_of(points, **metric), "m")
    assert table["value"].tolist() == [200, 250, 250]
    assert table["censored"].tolist() == [False, True, False]
    table = score_cells(sweep_of(points, **metric, budget="own"), "m")  # arm a ends at 300, with its shortest cell
    assert table["value"].tolist() == [200, 300, 250]
    assert table["censored"].tolist() == [False, True, False]


def test_training_episodes_reach_a_score_by_their_moving_average() -> None:
    rng = np.random.default_rng(0)
    scores = np.where(np.arange(400) < 150, -6.0, 0.0) + rng.normal(0, 3, 400)
    points: Points = {("a", 1): [(10 * (i + 1), y) for i, y in enumerate(scores)]}
    average = [scores[0]]
    for score in scores[1:]:
        average.append(0.99 * average[-1] + 0.01 * score)
    np.testing.assert_allclose(moving_average(scores), average)
    first = next(i for i, y in enumerate(average) if y >= -3)
    values = values_of(sweep_of(points, points, source="episodes", x="episode", statistic="first_reach", score=-3.0))
    assert values["a", 1] == first + 1 > 150
    assert (scores[:100] > -3).any()  # single episodes reach it sooner


def test_duration_is_x_when_the_budget_is_done() -> None:
    episodes: Points = {("a", 1): [(10 * i, 0) for i in range(1, 101)], ("b", 1): [(30 * i, 0) for i in range(1, 51)]}
    metric = {"source": "episodes", "statistic": "duration", "x": "wall_time_s"}
    # equal: 50 episodes; an episode takes 20 s in a, 60 s in b
    assert values_of(sweep_of(TWO, episodes, **metric)) == {("a", 1): 1000, ("b", 1): 3000}
    assert values_of(sweep_of(TWO, episodes, **metric, window=(0.0, 0.5))) == {("a", 1): 500, ("b", 1): 1500}
    assert values_of(sweep_of(TWO, episodes, **metric, budget="own")) == {("a", 1): 2000, ("b", 1): 3000}
    assert values_of(sweep_of(TWO, statistic="duration", x="wall_time_s")) == {("a", 1): 400, ("b", 1): 400}


def test_evaluations_are_placed_among_the_training_episodes_by_their_step() -> None:
    episodes: Points = {("a", 1): [(30, 0), (90, 0), (60, 0), (120, 0)]}  # two workers, rows out of order
    drawn = cell_curves(sweep_of({("a", 1): [(20, 1), (60, 2), (100, 3)]}, episodes), Source.evaluations, Axis.episode)
    x, score = drawn["a", 1]
    assert x.tolist() == [0, 2, 3]
    assert score == pytest.approx([1, 2, 3])


def test_training_episodes_are_placed_among_the_updates_by_their_step(tmp_path: Path) -> None:
    sweep = load_sweep(write_sweep(tmp_path, {"a": {}}, range(2)))  # in this sweep, an update has ten steps
    for (_, seed), (x, _) in cell_curves(sweep, Source.episodes, Axis.update).items():
        steps = sweep.episodes.loc[sweep.episodes["seed"] == seed, "global_step"]
        np.testing.assert_allclose(x, steps / 10)


def test_the_score_is_the_return_if_episodes_end_by_themselves() -> None:
    sweep = sweep_of({("a", 1): [(100, 1), (200, 2)]})
    sweep.episodes["terminated"] = True
    assert values_of(sweep)["a", 1] == pytest.approx(1.5 * HORIZON)


def test_curves_of_evaluations_share_a_grid_without_extrapolation() -> None:
    points: Points = {
        ("a", 1): [(x, 2 * x) for x in (10, 130, 400)],
        ("a", 2): [(x, 3 * x) for x in (40, 90, 500)],
        ("b", 1): [(x, -x) for x in (20, 300)],
    }
    table = curves(sweep_of(points), Source.evaluations, Axis.global_step)
    for (arm, seed), rows in table.groupby(["arm", "seed"]):
        assert (rows["x"].min(), rows["x"].max()) == (40, 300)
        slope = {("a", 1): 2, ("a", 2): 3, ("b", 1): -1}[arm, seed]
        np.testing.assert_allclose(rows["score"], slope * rows["x"])
    own = curves(sweep_of(points), Source.evaluations, Axis.global_step, Budget.own)
    assert own.groupby("arm")["x"].max().to_dict() == {"a": 400, "b": 300}


def test_curves_of_training_are_means_over_bins_or_the_value_before() -> None:
    many = [(x, float(x)) for x in range(1, 1001)]
    table = curves(sweep_of(TWO, {("a", 1): many, ("a", 2): many[:800]}), Source.episodes, Axis.global_step)
    first = table[table["seed"] == 1]
    assert first["x"].tolist() == pytest.approx([8 * (i + 1) for i in range(100)])  # to 800, a hundred bins
    assert first["score"].tolist() == pytest.approx([8 * i + 4.5 for i in range(100)])  # the mean of 8i + 1 ... 8i + 8
    gaps = {("a", 1): [(100, 1.0), (110, 3.0), (390, 5.0), (400, 7.0)]}
    table = curves(sweep_of(TWO, gaps), Source.episodes, Axis.global_step)
    assert table["x"].tolist() == [100, 200, 300, 400]
    assert table["score"].tolist() == [1, 3, 3, 6]


def test_a_sweep_without_a_completed_cell_has_empty_curves(tmp_path: Path) -> None:
    sweep = load_sweep(write_sweep(tmp_path, {"a": {}}, range(2), failed=(("a", 0), ("a", 1))))
    for source in Source:
        for x in Axis:
            assert curves(sweep, source, x).empty
            assert budget(sweep, source, x) == {}
    assert score_cells(sweep, "auc").columns.tolist() == ["arm", "seed", "value", "censored"]
    assert shortest_cell(sweep, Source.episodes, Axis.episode) is None


def refusal_of(sweep: Sweep, source: Source = Source.evaluations) -> str:
    with pytest.raises(ConfigError) as refusal:
        refuse_mixed(sweep, source)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_arms_with_the_same_evaluation_are_compared() -> None:
    refuse_mixed(sweep_of(TWO))
    refuse_mixed(sweep_of(TWO), Source.episodes)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("horizon", 500, "horizon differs: a: 100; b: 500"),
        ("protocol", "sample", "protocol differs: a: mode; b: sample"),
    ],
)
def test_evaluations_of_another_horizon_or_protocol_are_refused(column: str, value: Any, words: str) -> None:
    sweep = sweep_of(TWO)
    sweep.evaluations.loc[sweep.evaluations["arm"] == "b", column] = value
    assert words in refusal_of(sweep)
    refuse_mixed(sweep, Source.episodes)  # training episodes can still be compared


def test_other_settings_of_the_environment_are_refused() -> None:
    sweep = sweep_of(TWO)
    sweep.study.arms["b"].config["env"]["kwargs"] = {"repeat_action_probability": 0.25}
    for source in Source:
        assert 'a: {}; b: {"repeat_action_probability": 0.25}' in refusal_of(sweep, source)


def test_arms_of_two_environments_are_refused_and_compared_apart() -> None:
    sweep = sweep_of(TWO)
    sweep.study.arms["b"].config["env"]["id"] = "CartPole-v1"
    assert "env.id differs: a: Pendulum-v1; b: CartPole-v1" in refusal_of(sweep)
    parts = environments(sweep)
    assert {env: list(part.arms) for env, part in parts.items()} == {"Pendulum-v1": ["a"], "CartPole-v1": ["b"]}
    for part in parts.values():
        refuse_mixed(part)
        assert set(part.episodes["arm"]) | set(part.evaluations["arm"]) | set(part.cells["arm"]) == set(part.arms)


def test_training_returns_of_episodes_of_another_length_are_refused() -> None:
    sweep = sweep_of(TWO)
    sweep.study.arms["b"].config["env"]["max_ep_step"] = 500
    refuse_mixed(sweep, Source.episodes)  # rewards per step
    returns = sweep_of(TWO)
    returns.episodes["terminated"] = True
    returns.study.arms["b"].config["env"]["max_ep_step"] = 500
    assert "env.max_ep_step differs: a: 100; b: 500" in refusal_of(returns, Source.episodes)


@pytest.mark.parametrize(
    ("metric", "name", "words"),
    [
        ({}, "auk", "metric=auk: the study has no such metric, only m"),
        ({"statistic": "first_reach"}, "m", "sweep.metrics.m.score=null"),
        ({"window": (0.9, 0.1)}, "m", "sweep.metrics.m.window=[0.9, 0.1]"),
    ],
)
def test_an_invalid_metric_is_refused_in_one_line(metric: dict, name: str, words: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        score_cells(sweep_of(TWO, **metric), name)
    assert str(refusal.value).startswith(words)
    assert "\n" not in str(refusal.value)
