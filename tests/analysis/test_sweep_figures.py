"""A sweep's figures show the content of its CSV files: the drawn artists are compared with the tables."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import ROOT
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from scipy import stats
from synthetic import write_sweep

from ablate.analysis import sweep_figures
from ablate.analysis.figure_parts import mean_band
from ablate.analysis.figures import Paper, printed_on
from ablate.analysis.load import Sweep, load_sweep
from ablate.analysis.metrics import curves
from ablate.analysis.scores import untimed
from ablate.analysis.statistics import interval, mean
from ablate.analysis.summary import summarise
from ablate.analysis.sweep_figures import (
    IDEAL,
    KINDS,
    Drawing,
    axes,
    draw_arms,
    draw_curves,
    draw_scores,
    draw_staleness,
    drawings,
    rendered,
    shows_data,
    write_figures,
)
from ablate.config.choices import Axis, Source
from ablate.config.schema import ConfigError

ARMS: dict[str, dict[str, Any]] = {
    "four": {"overrides": ["workers=4"], "label": "4 workers", "length": 300, "speed": 10.0},
    "two": {"overrides": ["workers=2"], "level": -2.0, "length": 200},  # its cells end at 2/3 of the others' steps
}
SEEDS = range(6)
EPISODES = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sweeps") / "crews"
    return write_sweep(path, ARMS, seeds=SEEDS, episodes=EPISODES, failed=(("two", 3),))


@pytest.fixture
def sweep(folder: Path) -> Sweep:
    return load_sweep(folder)


def evaluations(folder: Path, arm: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps and mean score per step of a cell's evaluations, read directly from the file."""
    table = pd.read_csv(folder / arm / f"seed={seed}" / "evaluations.csv")
    rows = [
        (own["global_step"].iloc[0], np.mean(own["episodic_return"] / own["episodic_length"]))
        for _, own in table.groupby("evaluation")
    ]
    steps, scores = zip(*rows, strict=True)
    return np.array(steps), np.array(scores)


def lines(figure: Figure, panel: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """x and y of the lines by label."""
    return {
        str(line.get_label()): (np.asarray(line.get_xdata()), np.asarray(line.get_ydata()))
        for line in figure.axes[panel].lines
    }


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_curves_are_the_means_of_the_cells_up_to_the_shortest_arms_end(folder: Path, sweep: Sweep) -> None:
    drawn = lines(draw_curves(sweep, Source.evaluations, Axis.global_step))
    assert list(drawn) == ["4 workers  (n = 6)", "two  (n = 5)"]
    for (x, y), (arm, seeds) in zip(drawn.values(), (("four", SEEDS), ("two", [0, 1, 2, 4, 5])), strict=True):
        assert x[-1] == EPISODES * 200
        assert x[0] == 1000  # "four" is evaluated first after 1000 steps, "two" earlier: no value is invented before
        expected = np.mean([np.interp(x, *evaluations(folder, arm, seed)) for seed in seeds], axis=0)
        np.testing.assert_allclose(y, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("x", "end"),
    [
        (Axis.global_step, 8000),
        (Axis.update, 800),
        (Axis.episode, 40),
        (Axis.wall_time_s, 0.08),
        (IDEAL, 3000),
    ],
)  # "four" has 40 · 300 steps of 4 workers: 12000 / 4 = 3000 < 8000 / 2
def test_every_axis_ends_where_the_shortest_arm_does(sweep: Sweep, x: Axis | str, end: float) -> None:
    figure = draw_curves(sweep, Source.episodes, x)
    for at, _ in lines(figure).values():
        assert at.max() == pytest.approx(end)
    assert sweep_figures.X_LABELS[x] == figure.axes[0].get_xlabel()


def test_ideal_parallel_time_gives_each_arm_its_workers_times_the_steps(folder: Path, sweep: Sweep) -> None:
    drawn = lines(draw_curves(sweep, Source.evaluations, IDEAL))
    for (x, y), (arm, workers, seeds) in zip(
        drawn.values(), (("four", 4, SEEDS), ("two", 2, [0, 1, 2, 4, 5])), strict=True
    ):
        expected = np.mean([np.interp(x * workers, *evaluations(folder, arm, seed)) for seed in seeds], axis=0)
        np.testing.assert_allclose(y, expected, rtol=1e-9)


def test_bands_are_drawn_from_five_seeds_on(sweep: Sweep) -> None:
    assert len(draw_curves(sweep, Source.evaluations, Axis.global_step).axes[0].collections) == 2
    few = replace(sweep, evaluations=sweep.evaluations[sweep.evaluations["seed"] < 4])
    figure = draw_curves(few, Source.evaluations, Axis.global_step)
    assert legend(figure) == ["4 workers  (n = 4)", "two  (n = 3)"]
    assert len(figure.axes[0].collections) == 0
    assert "confidence" not in figure.legends[0].get_title().get_text()


def test_a_marker_is_where_something_was_measured(sweep: Sweep) -> None:
    """Against the steps, at each evaluation. On other axes a curve is read between evaluations."""
    for x, marker in ((Axis.global_step, "o"), (Axis.wall_time_s, "None")):
        (first, *_) = draw_curves(sweep, Source.evaluations, x).axes[0].lines
        assert first.get_marker() == marker
    (first, *_) = draw_curves(sweep, Source.evaluations, Axis.global_step).axes[0].lines
    assert set(first.get_xdata()) <= set(sweep.evaluations["global_step"])
    assert draw_curves(sweep, Source.episodes, Axis.global_step).axes[0].lines[0].get_marker() == "None"


def test_no_band_goes_beyond_what_was_observed(sweep: Sweep) -> None:
    ax = draw_curves(sweep, Source.evaluations, Axis.global_step).axes[0]
    points = curves(sweep, Source.evaluations, Axis.global_step)["score"]
    drawn = np.concatenate([path.vertices[:, 1] for band in ax.collections for path in band.get_paths()])
    assert points.min() <= drawn.min()
    assert drawn.max() <= points.max()


def test_the_band_of_few_curves_is_students_t_and_of_many_the_bootstrap() -> None:
    scores = np.random.default_rng(0).normal(size=(8, 3)) * [1, 2, 3]
    low, high = mean_band(scores)
    expected = stats.t.interval(0.95, 7, loc=scores.mean(axis=0), scale=stats.sem(scores))
    np.testing.assert_allclose((low, high), expected)
    scores = np.random.default_rng(1).gamma(2, size=(30, 3))
    for point, bounds in zip(scores.T, zip(*mean_band(scores), strict=True), strict=True):
        own = interval(point, mean)
        np.testing.assert_allclose(bounds, (own.low, own.high), atol=0.03 * (own.high - own.low))


def test_a_diverged_seed_is_counted_and_kept_out_of_the_mean(sweep: Sweep) -> None:
    broken = sweep.evaluations.copy()
    broken.loc[(broken["arm"] == "four") & (broken["seed"] == 2), "episodic_return"] = -np.inf
    drawn = lines(draw_curves(replace(sweep, evaluations=broken), Source.evaluations, Axis.global_step))
    assert list(drawn) == ["4 workers  (n = 5, 1 diverged)", "two  (n = 5)"]
    assert all(np.isfinite(y).all() for _, y in drawn.values())


def test_a_caveat_says_if_wall_time_is_not_that_of_parallel_workers(sweep: Sweep) -> None:
    def caveat(**settings: object) -> str:
        arms = {name: replace(arm, config={**arm.config, **settings}) for name, arm in sweep.study.arms.items()}
        provenance = replace(sweep.study.provenance, machine={"cpus": 4})
        study = replace(sweep.study, arms=arms, provenance=provenance)
        return draw_curves(replace(sweep, study=study), Source.episodes, Axis.wall_time_s).axes[0].get_title()

    assert "NOT the time" in caveat(schedule="interleaved")
    assert caveat(schedule="async") == ""
    assert "five had" not in caveat(schedule="async")
    assert "NOT VALID" in caveat(schedule="async", workers=5)
    assert "5 workers on 4 CPUs" in caveat(schedule="async", workers=5)
    assert "NOT" not in draw_curves(sweep, Source.episodes, Axis.update).axes[0].get_title()


def test_ideal_time_is_offered_if_all_workers_take_turns(sweep: Sweep) -> None:
    assert IDEAL in axes(sweep)
    sweep.study.arms["two"].config["schedule"] = "async"
    assert IDEAL not in axes(sweep)


def test_arms_side_by_side_show_a_moving_average_of_every_seed(folder: Path, sweep: Sweep) -> None:
    figure = draw_arms(sweep)
    assert [ax.get_title() for ax in figure.axes] == ["4 workers  (n = 6)", "two  (n = 5)"]
    for ax, arm, seeds in ((figure.axes[0], "four", SEEDS), (figure.axes[1], "two", [0, 1, 2, 4, 5])):
        (thin,) = (c for c in ax.collections if isinstance(c, LineCollection))
        tables = [pd.read_csv(folder / arm / f"seed={seed}" / "episodes.csv") for seed in seeds]
        recorded = [table["mean_step_reward"].ewm(alpha=1 / 5, adjust=False).mean() for table in tables]
        for segment, expected in zip(thin.get_segments(), recorded, strict=True):
            np.testing.assert_allclose(segment, np.column_stack([np.arange(1, EPISODES + 1), expected]))
        x, y = np.asarray(ax.lines[0].get_xydata()).T
        np.testing.assert_allclose(y, np.interp(x, np.arange(1, EPISODES + 1), np.mean(recorded, axis=0)))
        assert ax.get_xlabel() == "episodes"
    assert "moving average" in figure.axes[0].get_ylabel()


def test_arms_side_by_side_show_every_evaluation(folder: Path, sweep: Sweep) -> None:
    (thin,) = (c for c in draw_arms(sweep, Source.evaluations).axes[1].collections if isinstance(c, LineCollection))
    np.testing.assert_allclose(thin.get_segments()[0], np.column_stack(evaluations(folder, "two", 0)))


def test_a_long_seed_is_thinned_to_its_first_and_last_row_and_between() -> None:
    rows = sweep_figures._thinned(100_000)
    assert (len(rows), rows[0], rows[-1]) == (sweep_figures.POINTS, 0, 99_999)
    assert np.ptp(np.diff(rows)) <= 1
    assert sweep_figures._thinned(7).tolist() == list(range(7))


def test_scores_have_a_dot_per_seed_and_mark_the_censored_ones(folder: Path) -> None:
    summary = summarise(load_sweep(folder))
    figure = draw_scores(summary, "final_score")
    ax = figure.axes[0]
    dots = np.sort(np.asarray(ax.collections[0].get_offsets())[:, 0])
    np.testing.assert_allclose(dots, np.sort([evaluations(folder, "four", seed)[1][-1] for seed in SEEDS]))
    assert [text.get_text() for text in ax.get_yticklabels()] == ["4 workers\nn = 6", "two\nn = 5 of 6, 1 crashed"]
    assert ax.get_xlabel() == "final evaluation [average reward per step]"
    assert legend(figure) == ["one seed", "mean, 95 % CI"]

    figure = draw_scores(summary, "speed")
    ax = figure.axes[0]
    reached = [
        seed for seed in SEEDS if (scores := evaluations(folder, "four", seed))[1][scores[0] <= 8000].max() >= -1
    ]
    assert 0 < len(reached) < 6
    # dots and triangles of "four", then of "two", which ends near -2: none of its seeds reaches -1
    marks = [np.asarray(c.get_offsets()) for c in ax.collections if isinstance(c, PathCollection)]
    assert [len(offsets) for offsets in marks[:4]] == [len(reached), 6 - len(reached), 0, 5]
    of_two = marks[3]
    np.testing.assert_allclose(of_two[:, 0], 8000)
    assert "5 censored" in ax.get_yticklabels()[1].get_text()
    assert "score not reached" in legend(figure)


def test_dqn_has_neither_staleness_nor_ideal_parallel_time(tmp_path: Path) -> None:
    settings = ["algo=dqn", "env=cartpole", "workers=1"]  # resolved configurations of DQN have one worker
    arms = {name: {"overrides": [*settings, f"replay={name}"]} for name in ("uniform", "prioritized")}
    made = load_sweep(write_sweep(tmp_path, arms, seeds=[0, 1]))
    assert IDEAL not in axes(made)
    assert not any(untimed(made, arm) for arm in arms)
    assert "staleness" not in [drawing.name for drawing in drawings(summarise(made))]


def test_staleness_is_the_share_of_the_recorded_updates(folder: Path, sweep: Sweep) -> None:
    figure = draw_staleness(sweep)
    for ax, arm, seeds in ((figure.axes[0], "four", SEEDS), (figure.axes[1], "two", [0, 1, 2, 4, 5])):
        recorded = np.concatenate(
            [pd.read_csv(folder / arm / f"seed={seed}" / "updates.csv")["staleness"] for seed in seeds]
        )
        heights = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in ax.patches}
        assert heights == pytest.approx({k: np.mean(recorded == k) for k in np.unique(recorded)})
        assert f"mean {recorded.mean():.3g}" in ax.get_title(loc="left")
    assert "W = 4" in figure.axes[0].get_title(loc="left")


def test_a_refused_figure_names_the_reason_and_removes_the_old_file(tmp_path: Path) -> None:
    arms = {
        "short": {"overrides": ["evaluation.horizon=100"]},
        "long": {"overrides": ["evaluation.horizon=400"]},
    }
    summary = summarise(load_sweep(write_sweep(tmp_path / "mixed", arms, seeds=range(2), episodes=10)))
    old = tmp_path / "mixed" / "figures" / "curves_evaluation_global_step.png"
    old.parent.mkdir()
    old.write_bytes(b"of another day")
    renamed, own = old.with_name("scores_old_metric.pdf"), old.with_name("my_own.png")
    for path in (renamed, own):
        path.write_bytes(b"")
    drawn = {drawing.name: png for drawing, png in write_figures(summary)}
    assert (old.exists(), renamed.exists(), own.exists()) == (False, False, True)
    assert {name.split("_")[0] for name in drawn} <= set(KINDS)
    for name, png in drawn.items():
        if "evaluation" in name or name in ("scores_final_score", "scores_auc", "scores_speed"):
            assert isinstance(png, ConfigError)
            assert "horizon" in str(png)
            assert "100" in str(png)
            assert "400" in str(png)
            assert "\n" not in str(png)
        else:
            assert isinstance(png, bytes)
    assert isinstance(drawn["scores_fluctuation"], bytes)  # of training, per step


def test_each_environment_has_figures_of_its_own(tmp_path: Path) -> None:
    arms = {"pole": {"overrides": ["env=cartpole"]}, "bob": {"overrides": ["env=pendulum"]}}
    summary = summarise(load_sweep(write_sweep(tmp_path / "two", arms, seeds=range(2), episodes=10)))
    listed = {drawing.name: drawing for drawing in drawings(summary)}
    assert {"arms_training_pendulum_v1", "arms_training_cartpole_v1"} <= set(listed)
    figure = listed["arms_training_cartpole_v1"].draw()
    assert [ax.get_title() for ax in figure.axes] == ["pole  (n = 2)"]


def test_the_reproduction_draws_the_arms_of_both_studies(tmp_path: Path) -> None:
    folders = [write_sweep(tmp_path / name, {arm: {}}, range(2), EPISODES) for name, arm in (("a", "x"), ("b", "y"))]
    runpy.run_path(str(ROOT / "sweeps/reproduce.py"))["draw"](folders)
    for kind, start in (("png", b"\x89PNG"), ("pdf", b"%PDF")):
        assert (folders[0].parent / f"{folders[0].name}-{folders[1].name}.{kind}").read_bytes().startswith(start)


def test_a_sweep_without_a_completed_cell_refuses_each_figure(tmp_path: Path) -> None:
    failed = tuple((arm, seed) for arm in ARMS for seed in range(2))
    summary = summarise(load_sweep(write_sweep(tmp_path / "none", ARMS, seeds=range(2), episodes=5, failed=failed)))
    for drawing in drawings(summary):
        with pytest.raises(ConfigError, match="completed cell"):
            drawing.draw()


def thin(folder: Path, arm: str, keep: Any) -> None:
    """Leave only those evaluations of an arm for which keep(global_step) holds."""
    for path in folder.glob(f"{arm}/*/evaluations.csv"):
        table = pd.read_csv(path)
        table[keep(table["global_step"])].to_csv(path, index=False)


@pytest.mark.parametrize(
    ("keep_four", "keep_two"),
    [
        (lambda x: x >= 8000, lambda x: x > 0),  # one begins with its first evaluation where the other ends
        (lambda x: x >= 11_000, lambda x: x <= 4000),  # no range is common
        (lambda x: x == 12_000, lambda x: x == 8000),
    ],
)
def test_no_figure_is_an_empty_picture(tmp_path: Path, keep_four: Any, keep_two: Any) -> None:
    """A curve of a single point is a mark; without a common range, each arm has its own, and the figure says so."""
    folder = write_sweep(tmp_path / "thin", ARMS, seeds=SEEDS, episodes=EPISODES)
    thin(folder, "four", keep_four)
    thin(folder, "two", keep_two)
    for drawing in drawings(summarise(load_sweep(folder))):
        try:
            figure = drawing.draw()
        except ConfigError:  # the reason stands in the figure's place
            continue
        assert shows_data(figure), drawing.name
        if drawing.name.startswith("curves"):
            for line in figure.axes[0].lines:
                assert len(line.get_xdata()) > (line.get_marker() in (None, "None")), drawing.name
                assert "n = 0" not in str(line.get_label())


def test_a_picture_without_a_value_is_refused_with_its_reason() -> None:
    empty = Figure()
    ax = empty.subplots()
    assert not shows_data(empty)
    ax.plot([], [], label="an arm")
    ax.plot([1], [2])
    ax.plot([1, 2], [np.nan, 3])
    ax.scatter([], [])
    assert not shows_data(empty)
    with pytest.raises(ConfigError, match="invented: no value can be drawn"):
        rendered(Drawing("invented", "group", "tab", lambda: empty))
    ax.plot([1], [2], marker="o")
    assert shows_data(empty)


def test_nine_arms_have_a_panel_each(tmp_path: Path) -> None:
    arms = {f"arm-{i}": {"label": f"arm {i}", "level": -i / 4} for i in range(9)}
    sweep = load_sweep(write_sweep(tmp_path / "nine", arms, seeds=SEEDS, episodes=10))
    figure = draw_curves(sweep, Source.evaluations, Axis.global_step)
    assert [ax.get_title() for ax in figure.axes] == [f"arm {i}  (n = 6)" for i in range(9)]
    assert [len(ax.collections) for ax in figure.axes] == [1] * 9  # only the panel's own arm has a band
    labels = legend(figure)
    assert labels[:2] == ["the baseline, arm 0", "other arms"]
    few = sweep.only([f"arm-{i}" for i in range(4)])
    assert len(draw_curves(few, Source.evaluations, Axis.global_step).axes) == 1


def test_one_evaluation_per_cell_is_drawn_as_a_point(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "lone", ARMS, seeds=range(2), episodes=8)
    for path in folder.glob("*/*/evaluations.csv"):
        table = pd.read_csv(path)
        table[table["evaluation"] == 1].to_csv(path, index=False)
    for drawing in drawings(summarise(load_sweep(folder))):
        if drawing.name.startswith("curves_evaluation"):
            with pytest.raises(ConfigError, match=r"no curve; see evaluation\.every_steps$"):
                drawing.draw()
        elif drawing.name == "arms_evaluation":
            assert {line.get_marker() for ax in drawing.draw().axes for line in ax.lines if len(line.get_xdata())} == {
                "o"
            }  # type: ignore[arg-type]


def test_an_arm_without_a_cell_yet_has_its_place_and_n_0(tmp_path: Path) -> None:
    missing = tuple(("two", seed) for seed in range(2))
    summary = summarise(load_sweep(write_sweep(tmp_path / "half", ARMS, seeds=range(2), episodes=8, missing=missing)))
    for drawing in drawings(summary):
        figure = drawing.draw()
        texts = [t.get_text() for ax in figure.axes for t in [*ax.get_yticklabels(), ax.title, ax._left_title]]
        texts += legend(figure) if figure.legends else []
        assert any("two" in text and "n = 0" in text for text in texts), drawing.name


def test_long_labels_leave_room_for_the_scores(tmp_path: Path) -> None:
    arms = {"a": {"label": "all: double, dueling, n-step returns and prioritized replay together"}, "b": {}}
    summary = summarise(load_sweep(write_sweep(tmp_path / "long", arms, seeds=range(2), episodes=5)))
    with printed_on(Paper(width_mm=86, font_size=8)):
        figure = draw_scores(summary, "auc")
    figure.draw_without_rendering()
    assert figure.axes[0].get_window_extent().width > 0.45 * figure.bbox.width


@pytest.mark.parametrize("count", [2, 3, 7])
def test_long_labels_stay_inside_the_figure(tmp_path: Path, count: int) -> None:
    arms = {f"arm-{i}": {"label": f"what a careful author writes, with the number {i}"} for i in range(count)}
    summary = summarise(load_sweep(write_sweep(tmp_path / "long", arms, seeds=range(2), episodes=5)))
    for figure in (
        draw_curves(summary.sweep, Source.evaluations, Axis.global_step),
        draw_scores(summary, "auc"),
        draw_arms(summary.sweep),
    ):
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        whole = figure.bbox
        shown = [text for ax in figure.axes for text in (ax.title, *ax.get_yticklabels())] + list(figure.legends)
        for artist in shown:
            box = artist.get_window_extent(canvas.get_renderer())
            assert whole.x0 <= box.x0, artist
            assert box.x1 <= whole.x1, artist
