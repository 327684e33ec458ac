"""The learning curve shows the content of the files at any length, and plot.py draws it without torch."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from ablate.analysis import figures
from ablate.analysis.figures import (
    Paper,
    draw_learning_curve,
    evaluation_means,
    learning_curve,
    printed_on,
    title,
)
from ablate.analysis.load import Run, load_run
from ablate.analysis.overlay import draw_runs
from ablate.config.schema import ConfigError
from ablate.paths import OUTPUTS
from ablate.records.csv_writer import CsvWriter
from ablate.records.run_files import Manifest
from ablate.records.schema import (
    COLUMNS,
    EPISODES,
    EVALUATIONS,
    LEARNING_CURVE,
    MANIFEST,
    MOVING_AVERAGE_DECAY,
    UPDATES,
)

PLOT = Path(__file__).parents[2] / "src" / "plot.py"
CONFIG = {
    "algo": {"name": "a3c"}, "env": {"id": "Pendulum-v1"}, "workers": 4, "schedule": "interleaved",
    "backend": "manual", "seed": 7,
}  # fmt: skip
LENGTH = 200

pytestmark = pytest.mark.filterwarnings("error")


def make_run(rewards: np.ndarray, evaluations: list[list[float]] | None = None, **settings: object) -> Run:
    """A run with these rewards per step, of its episodes (n,) and of each evaluation's episodes."""
    n = len(rewards)
    rewards = np.asarray(rewards, dtype=float)
    average = pd.Series(rewards).ewm(alpha=1 - MOVING_AVERAGE_DECAY, adjust=False).mean()
    episodes = pd.DataFrame({
        "episode": np.arange(1, n + 1), "worker": 0, "global_step": LENGTH * np.arange(1, n + 1),
        "wall_time_s": 0.0, "episodic_return": LENGTH * rewards, "episodic_length": LENGTH,
        "mean_step_reward": rewards, "moving_average": average,
        "terminated": False, "truncated": True,
    })  # fmt: skip
    rows = [
        (e, e * 1000, e * 100, 0.0, k, reward * LENGTH, LENGTH, LENGTH, "mode")
        for e, test in enumerate(evaluations or [], 1)
        for k, reward in enumerate(test, 1)
    ]
    return Run(
        folder=Path("a run"),
        manifest=Manifest(config={**CONFIG, **settings}),
        status=None,
        episodes=episodes,
        updates=pd.DataFrame(columns=list(COLUMNS[UPDATES])),
        evaluations=pd.DataFrame(rows, columns=list(COLUMNS[EVALUATIONS])).astype(
            {"evaluation": int, "global_step": int, "episodic_return": float, "episodic_length": int}
        ),
        torn=0,
    )


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for box in figure.legends for text in box.get_texts()]


def noisy_curve(n: int) -> np.ndarray:
    """A curve (n,) from about -6 to about -1."""
    return -1 - 5 * np.exp(-np.arange(n) / (0.2 * n)) + 0.3 * np.random.default_rng(0).normal(size=n)


def test_the_panels_show_every_episode_and_the_recorded_moving_average() -> None:
    run = make_run(noisy_curve(2000), [[-5.0, -4.0], [-2.0, -1.0]])
    figure = draw_learning_curve(run)
    left, right = figure.axes
    assert left.get_xlabel() == "episode"
    assert right.get_xlabel() == "environment steps"
    assert left.get_ylabel() == "average reward per step"
    assert legend(figure) == ["episode", "moving average", "evaluation", "95 % confidence interval"]
    for ax, x in ((left, "episode"), (right, "global_step")):
        points, average = ax.lines[:2]
        np.testing.assert_array_equal(points.get_xdata(), run.episodes[x])
        np.testing.assert_array_equal(points.get_ydata(), run.episodes["mean_step_reward"])
        np.testing.assert_array_equal(average.get_ydata(), run.episodes["moving_average"])
    assert np.asarray(right.lines[2].get_xydata()).tolist() == [[1000, -4.5], [2000, -1.5]]
    assert len(left.lines) == 2


def test_the_average_of_a_short_run_has_a_shorter_window() -> None:
    """With 0.99 it would still be near the first episode's value at the end."""
    run = make_run(noisy_curve(300))
    average = draw_learning_curve(run).axes[0].lines[1].get_ydata()
    expected = run.episodes["mean_step_reward"].ewm(alpha=1 / 15, adjust=False).mean()
    np.testing.assert_allclose(average, expected)


def test_on_paper_a_figure_has_the_width_and_the_font_of_the_page(tmp_path: Path) -> None:
    run = make_run(noisy_curve(300), [[-5.0, -4.0], [-2.0, -1.0]])
    with printed_on(Paper(width_mm=86, font_size=7)):
        figure = draw_learning_curve(run)
    assert figure.get_figwidth() * 25.4 == pytest.approx(86)
    assert {label.get_fontsize() for ax in figure.axes for label in ax.get_xticklabels()} <= {7 * 11 / 12}
    assert draw_learning_curve(run).get_figwidth() == 11
    figure.savefig(tmp_path / "figure.png")  # lays it out
    for ax in figure.axes:
        box = ax.get_tightbbox()
        assert box is not None
        assert figure.bbox.x0 <= box.x0
        assert box.x1 <= figure.bbox.x1


def test_the_interval_is_students_t() -> None:
    means = evaluation_means(make_run(np.empty(0), [[1.0, 2.0, 3.0, 4.0], [5.0]]).evaluations)
    assert means["global_step"].tolist() == [1000, 2000]
    assert means["mean"].tolist() == [2.5, 5.0]
    # by hand: t_{0.975, 3} = 3.182446, s = sqrt(5/3)
    assert means["half_width"].iloc[0] == pytest.approx(3.182446 * (5 / 3) ** 0.5 / 2, rel=1e-6)
    assert np.isnan(means["half_width"].iloc[1])


@pytest.mark.parametrize(
    ("workers", "cpus", "crew"), [(4, 2, "4 workers"), (1, 2, "1 worker"), (None, 12, "12 workers")]
)
def test_the_title_says_what_was_run(workers: int | None, cpus: int, crew: str) -> None:
    run = make_run(np.zeros(3), workers=workers)
    run.manifest.machine["cpus"] = cpus
    assert title(run) == f"A3C · Pendulum-v1 · {crew} · interleaved · manual · seed 7"
    assert draw_learning_curve(run).get_suptitle() == title(run)


def test_a_title_without_its_settings_is_refused() -> None:
    run = make_run(np.zeros(3))
    del run.manifest.config["backend"]
    with pytest.raises(ConfigError, match="no backend"):
        draw_learning_curve(run)


def test_a_figure_without_an_episode_says_so(tmp_path: Path) -> None:
    run = make_run(np.empty(0))
    assert texts(draw_learning_curve(run)) == ["no finished episode yet"] * 2
    learning_curve(run, tmp_path / "curve.png")


def test_evaluations_are_shown_before_the_first_episode_ends(tmp_path: Path) -> None:
    run = make_run(np.empty(0), [[-6.0, -5.0], [-4.0, -3.5]])
    figure = draw_learning_curve(run)
    assert texts(figure) == ["no finished episode yet"]
    assert legend(figure) == ["evaluation", "95 % confidence interval"]
    learning_curve(run, tmp_path / "curve.png")


@pytest.mark.parametrize("n", [1, 2, 3, 450])
@pytest.mark.parametrize("evaluations", [[], [[-3.0]], [[-3.0, -2.0]], [[-3.0], [-2.0]]])
def test_short_runs_are_drawn_without_a_warning(tmp_path: Path, n: int, evaluations: list[list[float]]) -> None:
    run = make_run(noisy_curve(n), evaluations)
    learning_curve(run, tmp_path / "curve.png")
    figure = draw_learning_curve(run)
    assert texts(figure) == []
    has_interval = any(len(test) > 1 for test in evaluations)
    assert ("95 % confidence interval" in legend(figure)) == has_interval


@pytest.mark.parametrize("value", [1.0, np.nan])
def test_constant_and_diverged_rewards_are_drawn(tmp_path: Path, value: float) -> None:
    learning_curve(make_run(np.full(50, value)), tmp_path / "curve.png")


@pytest.mark.parametrize("at", [0, 40, 499])
@pytest.mark.parametrize("outlier", [-1e4, 1e4])
def test_one_outlier_does_not_stretch_the_axes(at: int, outlier: float) -> None:
    rewards = noisy_curve(500)
    without = draw_learning_curve(make_run(rewards)).axes[0].get_ylim()
    rewards[at] = outlier
    assert draw_learning_curve(make_run(rewards)).axes[0].get_ylim() == pytest.approx(without, abs=0.5)


def test_the_steep_start_of_a_long_run_and_rare_successes_are_no_outliers() -> None:
    steep = np.full(20_000, -1.0) + 0.01 * np.random.default_rng(0).normal(size=20_000)
    steep[:100] = np.linspace(-6, -1, 100)
    assert draw_learning_curve(make_run(steep)).axes[0].get_ylim()[0] < -5.9
    rare = (np.arange(5000) % 100 == 0).astype(float)
    assert draw_learning_curve(make_run(rare)).axes[0].get_ylim()[1] > 1


def test_a_long_run_is_thinned_evenly_and_its_moving_average_is_not() -> None:
    n = 200_000
    run = make_run(noisy_curve(n))
    points, average = draw_learning_curve(run).axes[0].lines
    assert len(np.asarray(average.get_xydata())) == n
    episode = np.asarray(points.get_xdata())
    assert len(episode) == figures.MAX_POINTS
    stretch = n // figures.MAX_POINTS
    np.testing.assert_array_equal((episode - 1) // stretch, np.arange(figures.MAX_POINTS))  # one of each
    shares = np.bincount(episode % 4) / len(episode)  # if 4 workers take turns, a stride of 50 would select only 2
    np.testing.assert_allclose(shares, 0.25, atol=0.03)
    np.testing.assert_array_equal(points.get_ydata(), run.episodes["mean_step_reward"][episode - 1])


def test_the_file_is_replaced_whole_and_no_temporary_file_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "figures" / "curve.png"
    learning_curve(make_run(noisy_curve(5)), path)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert int.from_bytes(content[16:20], "big") == 11 * figures.DPI  # its width in pixels

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        learning_curve(make_run(noisy_curve(9)), path)
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def write_run(folder: Path, run: Run) -> Path:
    folder.mkdir()
    (folder / MANIFEST).write_text(json.dumps({"config": run.manifest.config}))
    for name, table in ((EPISODES, run.episodes), (EVALUATIONS, run.evaluations)):
        writer = CsvWriter(folder / name)
        for row in table.itertuples(index=False, name=None):
            writer.write(row)
        writer.close()
    return folder


def plot(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120)


def test_plot_draws_several_runs_from_their_files_without_torch(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", make_run(noisy_curve(40), [[-3.0, -2.0]]))
    two = write_run(tmp_path / "two", make_run(np.empty(0)))
    with (one / EPISODES).open("a") as file:
        file.write("41,0,82")  # killed here
    assert load_run(one).torn == 1
    code = f"""
import runpy, sys
try:
    runpy.run_path({str(PLOT)!r}, run_name="__main__")
finally:
    assert "torch" not in sys.modules
    assert "ablate.records.csv_writer" not in sys.modules
"""
    done = plot("-W", "error", "-c", code, str(one), f"run={two}")
    assert (done.returncode, done.stderr) == (0, "")
    together = [str(OUTPUTS / f"figures/one+two.{kind}") for kind in ("png", "pdf")]
    assert done.stdout.splitlines() == [str(one / LEARNING_CURVE), str(two / LEARNING_CURVE), *together]
    for path in together:
        Path(path).unlink()
    assert all((folder / LEARNING_CURVE).stat().st_size > 10_000 for folder in (one, two))


def test_plot_names_what_it_cannot_draw_and_draws_the_rest(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", make_run(noisy_curve(4)))
    done = plot(str(PLOT), str(tmp_path), str(run))
    assert done.returncode == 2
    assert done.stdout.splitlines() == [str(run / LEARNING_CURVE)]
    assert len(done.stderr.splitlines()) == 1
    assert str(tmp_path) in done.stderr


def test_plot_reports_an_unwritable_place_in_one_line(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", make_run(noisy_curve(4)))
    (run / "figures").write_text("a file where the folder should be")
    done = plot(str(PLOT), str(run))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "figures" in done.stderr


def test_a_first_figure_says_nothing_of_fonts(tmp_path: Path) -> None:
    """Matplotlib reports that it has made its cache of fonts; the program's log shows messages of this level."""
    program = "import logging; logging.basicConfig(level=logging.INFO); import ablate.analysis.figures"
    environment = {**os.environ, "MPLCONFIGDIR": str(tmp_path), "PYTHONPATH": str(PLOT.parent)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    assert list(tmp_path.glob("fontlist*"))


@pytest.mark.parametrize("count", [2, 40])
def test_the_legend_of_many_runs_leaves_room_for_their_curves(count: int) -> None:
    figure = draw_runs([replace(make_run(noisy_curve(40)), folder=Path(f"run-{i}")) for i in range(count)])
    figure.draw_without_rendering()
    (drawn,) = figure.legends
    assert all(ax.get_window_extent().height > 200 for ax in figure.axes)
    assert drawn.get_window_extent().y1 < min(ax.get_window_extent().y0 for ax in figure.axes)
    assert len(legend(figure)) == min(count, 31)
    assert (legend(figure)[-1] == "and 10 more") == (count == 40)
    assert texts(figure) == ["no evaluation yet"]


@pytest.mark.parametrize("settings", [{}, {"env": {"id": "ALE/Riverraid-v5", "sticky_actions": 0.0}}])
def test_a_legend_is_no_wider_than_its_figure(settings: dict[str, object]) -> None:
    """The words of published scores are long."""
    run = make_run(np.linspace(1, 30, 60_000), [[9.0, 10.0], [9.0, 20.0]], **settings)
    figure = draw_learning_curve(run)
    figure.draw_without_rendering()
    (drawn,) = figure.legends
    assert len(legend(figure)) == (8 if settings else 4)
    assert figure.bbox.x0 < drawn.get_window_extent().x0 < drawn.get_window_extent().x1 < figure.bbox.x1
    assert len({text.get_window_extent().y0 for text in drawn.get_texts()}) == (4 if settings else 1)  # its rows
