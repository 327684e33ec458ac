"""A cell's curve as one number: windows, budgets, censoring, divergence, and what cannot be compared."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic import DEFAULTS, write_sweep

from ablate.analysis.load import Sweep, load_sweep
from ablate.analysis.metrics import (
    cell_curves,
    collapsed,
    curves,
    environments,
    moving_average,
    noise_share,
    planned_end,
    refuse_mixed,
    score_cells,
    span_of,
)
from ablate.config.choices import Axis, Budget, ScoreUnit, Source
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


def configured(sweep: Sweep, **by_arm: dict[str, Any]) -> Sweep:
    """The sweep with more settings in its arms' configurations."""
    for arm, settings in by_arm.items():
        sweep.study.arms[arm].config.update(settings)
    return sweep


def test_the_equal_budget_is_the_shortest_cells_end_if_nothing_is_planned() -> None:
    points: Points = {("a", 1): [(100, 1), (400, 1)], ("a", 2): [(100, 1), (300, 1)], ("b", 1): [(150, 1), (350, 1)]}
    span = span_of(sweep_of(points), Source.evaluations, Axis.global_step)
    assert (span.start, span.end, span.latest, span.shortest) == (150, 300, ("b", 1), ("a", 2))
    assert span_of(sweep_of(points), Source.evaluations, Axis.wall_time_s).end == 600


def test_the_equal_budget_is_where_the_plan_ends_the_shortest_arm() -> None:
    """Not where its fastest cell happened to stop, which in async runs is beyond the plan."""
    points: Points = {("a", 1): [(100, 1), (430, 1)], ("b", 1): [(100, 1), (317, 1)]}
    sweep = configured(sweep_of(points), a={"total_steps": 400}, b={"total_steps": 300})
    span = span_of(sweep, Source.evaluations, Axis.global_step)
    assert (span.end, span.shortest) == (300, None)
    sweep = configured(sweep, b={"total_steps": 320})  # no cell of b has a row up to there
    assert span_of(sweep, Source.evaluations, Axis.global_step).shortest == ("b", 1)


@pytest.mark.parametrize(
    ("env_id", "settings", "x", "end"),
    [
        ("Pendulum-v1", {"total_steps": 500}, Axis.global_step, 500),
        ("Pendulum-v1", {"max_episodes": 3}, Axis.global_step, 300),
        ("Pendulum-v1", {"max_episodes": 3, "total_steps": 250}, Axis.global_step, 250),
        ("Pendulum-v1", {"max_episodes": 3}, Axis.episode, 3),
        ("CartPole-v1", {"max_episodes": 3}, Axis.global_step, None),  # a pole may fall at any time
        ("CartPole-v1", {"max_episodes": 3, "total_steps": 250}, Axis.episode, None),
        ("Pendulum-v1", {"total_steps": 500}, Axis.wall_time_s, None),
    ],
)
def test_a_plan_fixes_the_end_or_leaves_it_open(env_id: str, settings: dict, x: Axis, end: float | None) -> None:
    assert planned_end({"env": {"id": env_id, "max_ep_step": 100}, **settings}, x) == end


def test_cells_without_a_common_range_are_not_compared() -> None:
    with pytest.raises(
        ConfigError, match=r"the first evaluation of b/seed=1 is at 150 .* after the equal budget of 100"
    ):
        score_cells(sweep_of({("a", 1): [(50, 1), (100, 1)], ("b", 1): [(150, 5), (200, 6)]}), "m")
    rare: Points = {("a", 1): [(20 * k, 1) for k in range(1, 21)], ("b", 1): [(336, 5), (400, 6)]}
    with pytest.raises(ConfigError, match=r"the first evaluation of b/seed=1 is at 336 .*, others have one at 20"):
        score_cells(sweep_of(rare, statistic="auc"), "m")
    values_of(sweep_of(rare, window=(1.0, 1.0), budget="own"))  # their ends are comparable


def looked_at(every: int, first: int = 0, last: int = 100_000, arm: int = 0) -> Points:
    """Forty seeds of one learning curve, whose evaluations have noise: one every `every` steps."""
    points: Points = {}
    for seed in range(40):
        speed = 20_000 * np.exp(0.2 * np.random.default_rng(seed).standard_normal())
        noise = np.random.default_rng([arm, seed])
        steps = range(first, last + 1, every)
        points["ab"[arm], seed] = [(x, 100 * (1 - np.exp(-x / speed)) + 3 * noise.standard_normal()) for x in steps]
    return points


@pytest.mark.parametrize(
    "rare",
    [
        {},
        {"first": 10_000},  # without the evaluation at the start
        {"last": 90_000},  # without that at the end
        {"first": 10_000, "last": 90_000},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "metric",
    [
        {"statistic": "auc"},
        {"statistic": "mean", "window": (0.5, 1.0)},
        {"statistic": "mean", "window": (1.0, 1.0), "budget": "own"},
        {"statistic": "first_reach", "score": 60.0},
    ],
    ids=lambda metric: metric["statistic"],
)
def test_how_often_an_arm_is_evaluated_makes_no_difference(metric: dict, rare: dict) -> None:
    """Both arms train alike. Earlier, `auc` of the arm with few looks was 36 to 94 higher in all of 40 seeds."""
    sweep = sweep_of({**looked_at(1000), **looked_at(10_000, arm=1, **rare)}, **metric)
    sweep = configured(sweep, a={"total_steps": 100_000}, b={"total_steps": 100_000})
    table = score_cells(sweep, "m").pivot(index="seed", columns="arm", values="value")
    unit = 10_000 if metric["statistic"] == "first_reach" else 10  # a tenth of what training changes
    gap = table["a"] - table["b"]
    assert abs(gap.mean()) < unit / 5
    assert abs(gap.mean()) < 3 * gap.std() / len(gap) ** 0.5 + 1e-9


@pytest.mark.parametrize("episodes", [2, 3, 5])
def test_half_of_a_spread_that_is_noise_is_told(episodes: int) -> None:
    """A score is the mean of k episodes with the variance k σ², so its noise has the variance σ², as the seeds have."""
    rng = np.random.default_rng(0)
    points: Points = {(arm, seed): [(100, rng.normal())] for arm in "ab" for seed in range(200)}
    sweep = sweep_of(points, window=(1.0, 1.0), budget="own")
    first = sweep.evaluations[::2]
    rows = first.loc[first.index.repeat(episodes)].reset_index(drop=True)
    rows["episode"] = np.tile(np.arange(1, episodes + 1), len(first))
    rows["episodic_return"] += HORIZON * rng.normal(0, episodes**0.5, len(rows))
    assert noise_share(replace(sweep, evaluations=rows), "m") == pytest.approx(0.5, abs=0.08)
    assert np.isnan(noise_share(sweep_of(points, source="episodes"), "m"))


def test_pure_noise_rarely_collapses_however_often_it_is_evaluated() -> None:
    """Earlier it did so in 61 % of the curves with 9 evaluations, and in 86 % with 80."""
    for count in (3, 9, 80):
        rng = np.random.default_rng(count)
        lost = 0
        for _ in range(400):
            episodes = rng.normal(size=(count, 10))
            noise = episodes.var(axis=1, ddof=1) / 10
            lost += collapsed(np.arange(count, dtype=float), episodes.mean(axis=1), noise)
        assert lost / 400 <= 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5


@pytest.mark.parametrize("count", [6, 20, 200])
def test_a_curve_that_falls_back_has_collapsed_whatever_its_unit(count: int) -> None:
    x = np.linspace(0, 1, count)
    falls = np.where(x < 0.5, -6 + 10 * x, -1 - 8 * (x - 0.5))
    rises, noise = -6 + 5 * x, np.full(count, 0.01)
    for scale, shift in ((1.0, 0.0), (7.0, -30.0)):
        assert collapsed(x, scale * falls + shift, scale**2 * noise)
        assert not collapsed(x, scale * rises + shift, scale**2 * noise)
    assert not collapsed(x, falls, noise, smallest_gain=6.0)
    assert collapsed(x, np.append(rises[:-1], np.nan), noise)
    assert not collapsed(x, falls, noise * 1e5)


def test_standard_deviation_over_the_window() -> None:
    values = values_of(sweep_of(TWO, statistic="std", budget="own"))
    assert values == pytest.approx({("a", 1): np.std([1, 2, 3, 4], ddof=1), ("b", 1): np.std([10, 20], ddof=1)})


@pytest.mark.parametrize(("statistic", "expected"), [("median", 3.5), ("min", 2), ("max", 9), ("last", 4)])
def test_one_number_of_the_window(statistic: str, expected: float) -> None:
    """The window is of 0 to 400, without its first quarter; the last score is outside of it."""
    line: Points = {("a", 1): [(100, 10), (150, 3), (200, 9), (250, 2), (300, 4), (400, -1)]}
    values = values_of(sweep_of(line, line, source="episodes", window=(0.25, 0.75), statistic=statistic))
    assert values == {("a", 1): expected}


def test_auc_ends_where_the_window_does_between_two_rows() -> None:
    line: Points = {("a", 1): [(x, 0.1 * x) for x in (50, 130, 290, 410)], ("b", 1): [(80, 0.0), (200, 0.0)]}
    # the mean of a straight line is its height in the middle of [80, 200]: where both have begun, and the equal budget
    assert values_of(sweep_of(line, statistic="auc"))["a", 1] == pytest.approx(14)
    assert values_of(sweep_of(line, statistic="auc", window=(0.5, 1.0)))["a", 1] == pytest.approx(15)


def test_a_cell_whose_window_is_not_finite_diverged_and_is_the_worst() -> None:
    points: Points = {
        ("a", 1): [(100, 1), (200, np.nan)],
        ("a", 2): [(100, 1), (200, -np.inf)],
        **{("b", 1): TWO["b", 1]},
    }
    for statistic in ("mean", "median", "min", "max", "last", "auc", "std"):
        values = values_of(sweep_of(points, statistic=statistic, smaller_is_better=False))
        assert values["a", 1] == values["a", 2] == -np.inf
        values = values_of(sweep_of(points, statistic=statistic, smaller_is_better=True))
        assert values["a", 1] == np.inf
    assert values_of(sweep_of(points, window=(0.0, 0.5)))["a", 1] == 1  # not yet
    for statistic in ("mean", "auc"):  # the row after the window is interpolated with the last one in it
        assert values_of(sweep_of(points, statistic=statistic, window=(0.0, 0.75)))["a", 1] == 1


def test_one_diverged_episode_makes_its_evaluation_diverged() -> None:
    sweep = sweep_of({("a", 1): [(100, 1)]})
    sweep.evaluations.loc[0, "episodic_return"] = np.nan
    assert values_of(sweep)["a", 1] == -np.inf


def test_evaluations_that_share_an_episode_keep_the_axis_of_episodes() -> None:
    """Evaluated several times per episode, most distances on this axis are 0."""
    points: Points = {
        (arm, 1): [(x, x / 100 + shift) for x in range(0, 1001, 20)] for arm, shift in (("a", 0), ("b", 4))
    }
    ends: Points = {cell: [(x, 0) for x in range(100, 1001, 100)] for cell in points}
    metric = {"statistic": "first_reach", "x": "episode", "score": 6.0}
    assert values_of(sweep_of(points, ends, **metric)) == {("a", 1): 6, ("b", 1): 2}


def test_first_reach_is_censored_at_the_budget() -> None:
    metric = {"statistic": "first_reach", "score": 3.0, "smaller_is_better": True}
    points: Points = {
        ("a", 1): [(100, 1), (200, 3.5), (300, 1), (400, 9)],
        ("a", 2): [(100, 1), (200, 2), (300, 2), (400, 9)],
        ("b", 1): [(100, 1), (200, 1), (300, 3)],
    }
    for budget in ("equal", "own"):  # all arms have one horizon, as restricted means need it
        table = score_cells(sweep_of(points, **metric, budget=budget), "m")
        assert table["value"].tolist() == [200, 300, 300]
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


def test_the_unit_of_a_score_is_the_studys_and_not_the_datas() -> None:
    points: Points = {("a", 1): [(100, 1), (200, 2)]}
    assert values_of(sweep_of(points))["a", 1] == pytest.approx(1.5)
    for terminated in (False, True):
        sweep = sweep_of(points)
        sweep.episodes["terminated"] = terminated
        assert values_of(sweep)["a", 1] == pytest.approx(1.5)
        sweep.study.arms["a"].config["env"]["id"] = "CartPole-v1"
        assert values_of(sweep)["a", 1] == pytest.approx(1.5 * HORIZON)
        given = replace(sweep, study=replace(sweep.study, score_units={"CartPole-v1": ScoreUnit.reward_per_step}))
        assert values_of(given)["a", 1] == pytest.approx(1.5)


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


def test_curves_of_equal_training_are_equal_whatever_their_cadence() -> None:
    """Between its evaluations, the arm with few of them was drawn as a straight line, above or below the other."""
    points: Points = {(arm, 1): [(x, x**0.5) for x in range(0, 10_001, n)] for arm, n in (("a", 500), ("b", 2500))}
    table = curves(sweep_of(points), Source.evaluations, Axis.global_step)
    for _, rows in table.groupby("arm"):
        assert rows["x"].tolist() == [0, 2500, 5000, 7500, 10_000]
        np.testing.assert_allclose(rows["score"], rows["x"] ** 0.5)


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
            assert span_of(sweep, source, x) is None
    assert score_cells(sweep, "auc").columns.tolist() == ["arm", "seed", "value", "censored"]


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
    returns.study.score_units["Pendulum-v1"] = ScoreUnit.episodic_return
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
