"""Published scores: the file, and the points in figures."""

import pytest
import yaml
from helpers import ROOT
from matplotlib.figure import Figure

from ablate.analysis.published import draw_published, published_scores
from ablate.config.derived import game_of
from ablate.envs.reference_scores import SCORES

BREAKOUT = {"env": {"id": "BreakoutNoFrameskip-v4", "sticky_actions": 0.0}, "algo": {"name": "a3c"}}


def drawn(last_step: int, config: dict) -> dict[str, list[tuple[float, float]]]:
    """The points that are drawn next to a curve that ends at last_step, by label."""
    ax = Figure().subplots()
    ax.plot([0, last_step], [0.0, 10.0], label="training")
    values = draw_published(ax, config)
    lines = {str(line.get_label()): list(map(tuple, line.get_xydata())) for line in ax.lines[1:]}
    assert sorted(values) == sorted(score for points in lines.values() for _, score in points)
    return lines


def test_the_file_lists_known_games_with_rising_steps() -> None:
    listed = yaml.safe_load((ROOT / "conf/published_scores.yaml").read_text())
    assert listed.keys() <= SCORES.keys()
    for game, entries in listed.items():
        for algo in ("a3c", "dqn"):
            config = {"env": {"id": f"ALE/{game}-v5"}, "algo": {"name": algo}}
            scores = published_scores(config)
            assert [score.program for score in scores] == [e["program"] for e in entries if e["algo"] == algo]
            for score in scores:
                steps = [at for at, _ in score.points]
                assert steps == sorted(set(steps))
                assert score.source


def test_points_are_drawn_as_far_as_the_curve_reaches() -> None:
    assert drawn(1_000_000, BREAKOUT) == {}
    lines = drawn(10_000_000, BREAKOUT)
    assert lines["A2C of stable-baselines3 (RL Zoo, benchmark.md)"] == [(10_000_000, 280.0)]
    assert {at for points in lines.values() for at, _ in points} == {10_000_000}
    dopamine = drawn(2_500_000, {**BREAKOUT, "algo": {"name": "dqn"}})
    assert list(dopamine.values()) == [[(500_000, 6.5), (1_250_000, 23.7), (2_500_000, 46.9)]]


@pytest.mark.parametrize(
    ("sticky", "program", "difference"),
    [
        (0.0, "A2C of SLM-Lab v5", "; sticky actions 0.25"),
        (0.25, "A2C of SLM-Lab v5", ""),
        (0.25, "A2C of stable-baselines3", "; no sticky actions"),
        (0.0, "A3C, LSTM", "; human starts"),
        (0.0, "A3C of PFRL", "; best of its evaluations"),
    ],
)
def test_a_label_says_how_the_protocol_differs(sticky: float, program: str, difference: str) -> None:
    env = {"id": "BreakoutNoFrameskip-v4", "sticky_actions": sticky}
    (score,) = (s for s in published_scores(BREAKOUT) if s.program == program)
    assert score.label(env) == f"{program} ({score.source}{difference})"


@pytest.mark.parametrize(
    ("env_id", "game"),
    [("ALE/Pong-v5", "Pong"), ("PongNoFrameskip-v4", "Pong"), ("Pendulum-v1", "Pendulum"), ("module:Name", None)],
)
def test_the_game_of_an_id(env_id: str, game: str | None) -> None:
    assert game_of(env_id) == game


def test_other_tasks_have_no_points() -> None:
    for env_id in ("Pendulum-v1", "ALE/Tennis-v5", "None"):
        assert drawn(10**9, {"env": {"id": env_id}, "algo": {"name": "a3c"}}) == {}
