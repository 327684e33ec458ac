"""The verdicts and figures of designs, on invented sweeps: they show what the files hold."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic
from matplotlib.figure import Figure
from scipy import stats
from synthetic import write_sweep

from ablate.analysis.design_figures import design_drawings, draw_effects, draw_heat_map, draw_interactions, draw_path
from ablate.analysis.load import load_sweep
from ablate.analysis.summary import summarise
from ablate.analysis.sweep_figures import drawings, rendered
from ablate.analysis.tables import Summary
from ablate.config.choices import DesignKind
from ablate.config.schema import ConfigError, FactorConfig, MetricConfig, SweepConfig
from ablate.sweeps.design import expanded

FACTORS = {
    "workers": FactorConfig(baseline=1, alternatives=[2, 4]),
    "algo.t_max": FactorConfig(baseline=5, alternatives=[20], label="rollout"),
}
SEEDS = 8


def level(workers: str, t_max: str) -> float:
    """The final score. The interaction of four workers and long rollouts is 1, all others are 0."""
    return -3 + 0.4 * (workers == "2") + 0.8 * (workers == "4") + 0.5 * (t_max == "20") + (workers + t_max == "420")


@pytest.fixture(scope="module", autouse=True)
def _composed_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "config_of", functools.cache(synthetic.config_of))
        yield


def write_design(
    folder: Path,
    design: DesignKind | None,
    factors: dict[str, FactorConfig],
    score: Callable[..., float] = level,
    **more: Any,
) -> Summary:
    """A sweep of this design with invented scores. None: the arms of the factorial, as `-m` makes them."""
    metrics = {"final_score": MetricConfig(**synthetic.METRICS["final_score"])}
    made = expanded(SweepConfig(design=design or DesignKind.factorial, factors=factors, metrics=metrics,
                                metric="final_score"))  # fmt: skip
    arms = {
        name: {"overrides": arm.overrides, "label": arm.label, "levels": made.levels[name],
               "level": score(*made.levels[name].values())}
        for name, arm in made.settings.arms.items()
    }  # fmt: skip
    claims = [
        {"id": claim.id, "words": claim.words, "metric": "final_score", "inequality": claim.inequality}
        for claim in made.settings.claims
    ]
    write_sweep(
        folder, arms, range(SEEDS), episodes=40, factors=made.labels, metrics={"final_score": {
            **synthetic.DEFAULTS, **synthetic.METRICS["final_score"]}},
        **{"claims": tuple(claims) if design else (), "design": design, **more},
    )  # fmt: skip
    return summarise(load_sweep(folder))


@pytest.fixture(scope="module")
def factorial(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    return write_design(tmp_path_factory.mktemp("sweeps") / "factorial", DesignKind.factorial, FACTORS)


def finals(summary: Summary, workers: int, t_max: int) -> np.ndarray:
    """The final scores of an arm (seeds,), read directly from the files."""
    scores = []
    for seed in range(SEEDS):
        name = f"workers-{workers}_rollout-{t_max}/seed={seed}/evaluations.csv"
        table = pd.read_csv(summary.sweep.folder / name)
        last = table[table["evaluation"] == table["evaluation"].max()]
        scores.append((last["episodic_return"] / last["episodic_length"]).mean())
    return np.array(scores)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_an_interaction_is_judged_as_a_difference_of_differences(factorial: Summary) -> None:
    """Arms with the same workers share random numbers, so their seeds are pairs; the two differences are independent.
    So the interval is that of Welch's test of the two groups of pairwise differences."""
    by_id = {verdict.id: verdict for verdict in factorial.verdicts}
    assert list(by_id) == [
        "workers=2", "workers=4", "rollout=20", "workers=2 × rollout=20", "workers=4 × rollout=20",
    ]  # fmt: skip
    verdict = by_id["workers=4 × rollout=20"]
    differences = [finals(factorial, workers, 20) - finals(factorial, workers, 5) for workers in (4, 1)]
    theirs = stats.ttest_ind(*differences, equal_var=False)
    interval = theirs.confidence_interval(verdict.confidence)
    assert verdict.effect == pytest.approx(differences[0].mean() - differences[1].mean())
    assert (verdict.low, verdict.high) == pytest.approx((interval.low, interval.high))
    assert verdict.confidence >= 0.95
    assert verdict.verdict == "supported"
    assert verdict.low < 1 < verdict.high
    assert verdict.n == f"{SEEDS} in each of 4 arms"
    nothing = by_id["workers=2 × rollout=20"]
    assert nothing.low < 0 < nothing.high


def test_an_effect_of_a_factorial_is_an_average_over_the_other_factors(factorial: Summary) -> None:
    by_id = {verdict.id: verdict for verdict in factorial.verdicts}
    means = {key: finals(factorial, *key).mean() for key in ((1, 5), (1, 20), (4, 5), (4, 20))}
    expected = (means[4, 5] + means[4, 20] - means[1, 5] - means[1, 20]) / 2
    assert by_id["workers=4"].effect == pytest.approx(expected)
    assert by_id["workers=4"].verdict == by_id["rollout=20"].verdict == "supported"


def test_effects_are_sorted_and_have_the_intervals_of_their_verdicts(factorial: Summary) -> None:
    ax = draw_effects(factorial).axes[0]
    verdicts = sorted(factorial.verdicts, key=lambda verdict: -verdict.effect)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == [verdict.id for verdict in verdicts]
    for y, (verdict, bar) in enumerate(zip(verdicts, ax.containers, strict=True)):
        point, _, (segments,) = bar.lines  # type: ignore[attr-defined]
        assert point.get_xydata()[0].tolist() == pytest.approx([verdict.effect, y])
        (ends,) = segments.get_segments()
        assert ends[:, 0].tolist() == pytest.approx([verdict.low, verdict.high])
    assert "larger is better" in ax.get_xlabel()


def test_a_heat_map_has_mean_interval_and_n_of_each_cell(factorial: Summary) -> None:
    figure = draw_heat_map(factorial)
    ax = figure.axes[0]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["1", "2", "4"]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["5", "20"]
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("workers", "rollout")
    shown = iter(texts(figure))
    (mesh,) = ax.collections
    drawn = np.asarray(mesh.get_array()).reshape(3, 2)
    for i, workers in enumerate((1, 2, 4)):
        for j, t_max in enumerate((5, 20)):
            own = finals(factorial, workers, t_max)
            low, high = stats.t.interval(0.95, SEEDS - 1, own.mean(), stats.sem(own))
            assert drawn[i, j] == pytest.approx(own.mean())
            assert next(shown) == f"{own.mean():.4g}\n[{low:.4g}, {high:.4g}]\nn = {SEEDS}"


def test_interaction_lines_are_the_means_of_the_arms(factorial: Summary) -> None:
    ax = draw_interactions(factorial).axes[0]
    lines = [bar.lines[0].get_ydata() for bar in ax.containers]  # type: ignore[attr-defined]
    for t_max, line in zip((5, 20), lines, strict=True):
        np.testing.assert_allclose(line, [finals(factorial, workers, t_max).mean() for workers in (1, 2, 4)])
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["5", "20"]


def test_a_grid_without_a_design_has_a_heat_map_and_no_effects(tmp_path: Path) -> None:
    summary = write_design(tmp_path / "grid", None, FACTORS, missing=(("workers-4_rollout-5", 0),))
    assert [drawing.name for drawing in design_drawings(summary)] == ["design_heat_map", "design_interactions"]
    assert "n = 7" in texts(draw_heat_map(summary))[4]
    assert [drawing.tab for drawing in drawings(summary)][:2] == ["heat map", "interactions"]


def test_points_of_three_factors_are_averages_with_an_interval_over_seeds(tmp_path: Path) -> None:
    factors = {**FACTORS, "optimizer.eps": FactorConfig(baseline=1e-8, alternatives=[1e-6])}
    summary = write_design(
        tmp_path / "three", DesignKind.factorial, factors, lambda workers, t_max, _: 1.0 + (workers == "4")
    )
    figure = draw_interactions(summary)
    assert [ax.get_xlabel() for ax in figure.axes] == ["workers", "workers", "rollout"]
    both = [f"workers-4_rollout-20_eps-{eps}" for eps in ("1e-08", "1e-06")]
    scores = summary.scores.pivot(index="seed", columns="arm", values="value")[both].mean(axis=1)
    _, long_rollouts = figure.axes[0].containers
    point, _, (segments,) = long_rollouts.lines  # type: ignore[attr-defined]
    assert point.get_ydata()[2] == pytest.approx(scores.mean())
    expected = stats.t.interval(0.95, SEEDS - 1, scores.mean(), stats.sem(scores))
    assert segments.get_segments()[2][:, 1].tolist() == pytest.approx(expected)
    assert "design_heat_map" not in [drawing.name for drawing in design_drawings(summary)]


def test_a_path_is_a_staircase_with_an_interval_on_every_step(tmp_path: Path) -> None:
    single = {key: FactorConfig(f.baseline, f.alternatives[-1:], f.label) for key, f in FACTORS.items()}
    summary = write_design(tmp_path / "path", DesignKind.path, single)
    first, second, whole = summary.verdicts
    assert [v.inequality for v in summary.verdicts] == [
        "1-workers-4 > start", "2-rollout-20 > 1-workers-4", "2-rollout-20 > start",
    ]  # fmt: skip
    assert whole.effect == pytest.approx(first.effect + second.effect)
    assert [drawing.name for drawing in design_drawings(summary)] == ["design_effects", "design_path"]
    ax = draw_path(summary).axes[0]
    means = summary.arms.set_index("arm")["mean"]
    (stairs,) = ax.patches
    assert stairs.get_data().values.tolist() == pytest.approx(means.tolist())  # type: ignore[attr-defined]
    steps = ax.containers[-2:]
    for verdict, bar, before in zip((first, second), steps, means, strict=False):
        _, _, (segments,) = bar.lines  # type: ignore[attr-defined]
        ends = segments.get_segments()[0][:, 1]
        assert ends.tolist() == pytest.approx([before + verdict.low, before + verdict.high])


@pytest.mark.parametrize("draw", [draw_effects, draw_heat_map, draw_interactions, draw_path])
def test_a_design_without_results_says_so(draw: Callable[[Summary], Figure], factorial: Summary) -> None:
    empty = replace(
        factorial, verdicts=[], scores=factorial.scores.iloc[:0],
        arms=factorial.arms.assign(mean=np.nan, mean_low=np.nan, mean_high=np.nan),
    )  # fmt: skip
    with pytest.raises(ConfigError, match="yet"):
        draw(empty)


def test_every_figure_of_a_design_can_be_drawn(factorial: Summary) -> None:
    for drawing in design_drawings(factorial):
        assert rendered(drawing)["png"].startswith(b"\x89PNG")
