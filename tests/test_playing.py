"""Playing games with a saved policy: on raw screens, side by side, in several processes; against ale-py by hand."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import ale_py
import numpy as np
import pytest
from helpers import config_of

from ablate.config import Config, to_dict
from ablate.envs.make import make_env, spec_of
from ablate.evaluation import Evaluator
from ablate.nn.architecture import architecture_of
from ablate.parallel.shared import SharedState
from ablate.playing import Episode, make_envs, play, play_in_processes
from ablate.policy import Policy
from ablate.records.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from ablate.records.schema import BEST_CHECKPOINT
from ablate.types import Counters, EnvSpec

KINDS = {
    "report_42": ["env=breakout", "model=conv_lstm_42", "env.preprocessing=report_42"],
    "report_80": ["env=breakout", "model=conv_pool_lstm_80", "env.preprocessing=report_80"],
    "nature_84": ["env=breakout", "model=conv_84", "env.preprocessing=nature_84"],
}
# A game that is nothing but its emulator and four frames a step.
PLAIN = ["env.frame_skip=[4,4]", "env.sticky_actions=0", "env.noop_max=0", "env.fire_on_reset=false"]
NORMALISATION = np.array([0.2, 0.3])


def config_for(kind: str, *overrides: str) -> Config:
    return config_of(*KINDS[kind], *overrides)


def parameters_for(config: Config, spec: EnvSpec, seed: int = 0) -> np.ndarray:
    """Random ones, so large that the policy's mode looks at the screen."""
    layout = architecture_of(config.model, spec).layout()
    parameters = np.zeros(layout.size, np.float32)
    rng = np.random.default_rng(seed)
    for name, view in layout.views(parameters).items():
        fan_in = np.prod(view.shape[1:])
        view[...] = rng.standard_normal(view.shape) * (0.1 if name.endswith("bias") else 2 / np.sqrt(fan_in))
    layout.views(parameters)["actor.weight"][...] *= 20
    return parameters


def save(path: Path, config: Config, normalised: bool = False, seed: int = 0) -> Path:
    spec = spec_of(config.env)
    tensors = {"parameters": parameters_for(config, spec, seed)}
    if normalised:
        tensors["normalisation"] = NORMALISATION
    write_checkpoint(path, Checkpoint(tensors, {"config": to_dict(config), "env_spec": asdict(spec)}))
    return path


def streams_of(n: int, seed: int = 5) -> list[np.random.Generator]:
    return np.random.default_rng(seed).spawn(n)


def actions_on_screens(policy: Policy, config: Config, seed: int, steps: int) -> list[int]:
    """What an outside program does: it sees nothing but the screens of the emulator."""
    env = make_env(config.env, training=False)
    env.reset(seed=seed)
    policy.reset()
    actions = []
    for _ in range(steps):
        actions.append(int(policy.act(env.unwrapped.ale.getScreenRGB())))  # type: ignore[attr-defined, arg-type]
        env.step(actions[-1])
    return actions


def test_on_raw_screens_it_plays_as_in_our_environment(tmp_path: Path) -> None:
    """report_42 looks at one screen a step: no frames are pooled."""
    config = config_for("report_42")
    path = save(tmp_path / "x.safetensors", config, normalised=True)
    env = make_env(config.env, 150, training=False)
    for stream in streams_of(3):
        (episode,) = play(Policy.load(path), [env], [stream])
        assert len(set(episode.actions)) > 1  # it looks at what it sees
        assert (
            actions_on_screens(Policy.load(path), config, episode.seed, 150)[: len(episode.actions)] == episode.actions
        )


@pytest.mark.parametrize("kind", KINDS)
def test_after_a_reset_nothing_is_left_of_the_game_before(tmp_path: Path, kind: str) -> None:
    config = config_for(kind)
    policy = Policy.load(save(tmp_path / "x.safetensors", config))
    first, other, again = (actions_on_screens(policy, config, seed, 40) for seed in (1, 2, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize("kind", ["report_42", "nature_84"])
def test_what_it_saw_counts_until_the_reset(tmp_path: Path, kind: str) -> None:
    """The LSTM's state, and the screens that are stacked: without a reset the same screen finds another policy."""
    config = config_for(kind)
    policy = Policy.load(save(tmp_path / "x.safetensors", config))
    screens = np.random.default_rng(0).integers(0, 256, (30, 210, 160, 3), dtype=np.uint8)
    first = [policy.act(screen) for screen in screens]
    without = [policy.act(screen) for screen in screens]
    policy.reset()
    assert [policy.act(screen) for screen in screens] == first
    assert without != first


def test_the_saved_normalisation_is_applied_and_stays(tmp_path: Path) -> None:
    config = config_for("report_42")
    mean, std = NORMALISATION
    normalising = Policy.load(save(tmp_path / "x.safetensors", config, normalised=True))
    plain = Policy.load(save(tmp_path / "y.safetensors", config))
    observations = np.random.default_rng(0).random((60, 1, 42, 42), np.float32)
    rng = np.random.default_rng()
    taken = [normalising.act_on([x.copy()], [rng])[0] for x in observations]
    assert [plain.act_on([((x - mean) / (std + 1e-8)).astype(np.float32)], [rng])[0] for x in observations] == taken
    plain.reset()
    assert [plain.act_on([x], [rng])[0] for x in observations] != taken


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "screen",
    [np.zeros((160, 210, 3), np.uint8), np.zeros((210, 160), np.uint8), np.zeros((210, 160, 3), np.float32)],
    ids=["turned", "grey", "float"],
)
def test_another_shape_of_screen_is_refused_in_a_line(tmp_path: Path, kind: str, screen: np.ndarray) -> None:
    policy = Policy.load(save(tmp_path / "x.safetensors", config_for(kind)))
    with pytest.raises(ValueError, match=r"^a frame \(210, 160, 3\) of uint8 is needed, not .*$"):
        policy.act(screen)


def score_by_hand(episode: Episode) -> int:
    """The points that ale-py gives for an episode's actions, whose game must be over with the last and not before."""
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    ale.setInt("random_seed", 123)  # Breakout without sticky actions draws nothing
    ale.loadROM(ale_py.roms.get_rom_path("breakout"))
    ale.reset_game()
    legal = ale.getMinimalActionSet()
    points = 0
    for action in episode.actions:
        assert not ale.game_over()
        points += sum(ale.act(legal[action]) for _ in range(4))
    assert ale.game_over()
    assert ale.lives() == 0
    return points


def test_whole_games_with_all_their_lives_and_raw_points(tmp_path: Path) -> None:
    config = config_for("report_42", *PLAIN)
    policy = Policy.load(save(tmp_path / "x.safetensors", config), sample=True)
    episodes = list(play(policy, make_envs(config, None, 1), streams_of(3)))
    assert [episode.number for episode in episodes] == [0, 1, 2]
    for episode in episodes:
        assert episode.score == (score_by_hand(episode), len(episode.actions))
    assert max(episode.score.episodic_return for episode in episodes) > 0


def test_side_by_side_the_games_are_the_same(tmp_path: Path) -> None:
    """Whoever plays beside it: each game has a stream of its own. All are played, the long ones too."""
    config = config_for("report_42")
    path = save(tmp_path / "x.safetensors", config, normalised=True)
    alone = list(play(Policy.load(path, sample=True), make_envs(config, 300, 1), streams_of(7)))
    envs = make_envs(config, 300, 3)
    together = list(play(Policy.of(read_checkpoint(path), True, games=len(envs)), envs, streams_of(7)))
    assert len({len(episode.actions) for episode in alone}) > 3
    assert sorted(together, key=lambda episode: episode.number) == alone


def test_the_horizon_cuts_a_game_that_hangs(tmp_path: Path) -> None:
    """Nobody fires the ball: the game would go on for ever."""
    config = config_for("report_42", *PLAIN)
    path = save(tmp_path / "x.safetensors", config)
    checkpoint = read_checkpoint(path)
    views = architecture_of(config.model, spec_of(config.env)).layout().views(checkpoint.tensors["parameters"])
    views["actor.bias"][0] += 1e6  # no-op
    policy = Policy.of(checkpoint, games=2)
    beats = []
    played = list(play(policy, make_envs(config, 50, 2), streams_of(3), lambda: beats.append(1)))
    assert [episode.score for episode in played] == [(0.0, 50)] * 3
    assert len(beats) == 150


def test_several_processes_play_the_same_games(tmp_path: Path) -> None:
    config = config_for("report_42")
    path = save(tmp_path / "x.safetensors", config, normalised=True)
    envs = make_envs(config, 60, 4)
    alone = list(play(Policy.of(read_checkpoint(path), games=len(envs)), envs, streams_of(9)))
    spread = list(play_in_processes(path, 60, False, streams_of(9), 60.0))
    assert sorted(spread, key=lambda e: e.number) == sorted(alone, key=lambda e: e.number)


@pytest.mark.parametrize("action", ["mode", "sample"])
def test_an_evaluation_is_of_the_policy_that_its_best_checkpoint_holds(tmp_path: Path, action: str) -> None:
    config = config_for("report_42", "evaluation.episodes=3", "evaluation.horizon=100", f"evaluation.action={action}")
    spec = spec_of(config.env)
    parameters = parameters_for(config, spec)
    shared = SharedState(parameters.size, 0, 1, workers=2)
    shared.parameters_view()[:] = parameters
    n = 1e7  # so many steps that the start is forgotten
    shared.normalisation_view()[:] = [(0.1, 0.2, n), (0.4, 0.6, 2 * n)]
    evaluator = Evaluator(config, spec, tmp_path, 0, lambda: None)
    summary = evaluator.evaluate(shared, Counters(5, 1000, 2))
    best = read_checkpoint(tmp_path / BEST_CHECKPOINT)
    np.testing.assert_allclose(best.tensors["normalisation"], [(0.1 + 2 * 0.4) / 3, (0.2 + 2 * 0.6) / 3])
    assert best.tensors["normalisation"].dtype == np.float64

    evaluator.evaluate(shared, Counters(6, 2000, 2))  # another one, on other games
    rows = [line.split(",") for line in (tmp_path / "evaluations.csv").read_text().splitlines()[1:]]
    assert [row[0] for row in rows] == ["1"] * 3 + ["2"] * 3
    assert np.mean([float(row[5]) for row in rows[:3]]) == summary.mean_return
    assert [row[5:7] for row in rows[:3]] != [row[5:7] for row in rows[3:]]
