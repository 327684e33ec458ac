"""Play games with a saved policy: on raw screens, side by side, in several processes; compared with ale-py."""

from __future__ import annotations

import csv
from collections import deque
from dataclasses import asdict
from functools import cache
from pathlib import Path

import ale_py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import config_of

from ablate.config.choices import Preprocessing
from ablate.config.schema import Config, ConfigError
from ablate.config.serial import to_dict
from ablate.envs.make import make_env, spec_of
from ablate.envs.preprocessing import Preprocessor, RunningNormalisation, pipeline_of
from ablate.nn.architecture import architecture_of, initial_parameters
from ablate.nn.conv_architecture import ConvArchitecture
from ablate.parallel import heartbeat
from ablate.parallel.shared import SharedState
from ablate.parallel.supervisor import ChildFailed
from ablate.play.episodes import Episode, make_envs, play, play_in_processes
from ablate.play.evaluator import Evaluator, Snapshot, _watch, frozen_normalisation
from ablate.play.policy import Policy
from ablate.play.random_policy import random_scores
from ablate.records.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from ablate.records.schema import BEST_CHECKPOINT, EVALUATIONS
from ablate.runs.plan import plan
from ablate.runs.training import Training
from ablate.seeding import Role, draw_seed, generator
from ablate.types import Counters

KINDS = {
    "report_42": ["env=breakout", "model=conv_lstm_42", "env.preprocessing=report_42"],
    "report_80": ["env=breakout", "model=conv_pool_lstm_80", "env.preprocessing=report_80"],
    "nature_84": ["env=breakout", "model=conv_84", "env.preprocessing=nature_84"],
}
# A game without additions: the emulator with four frames per step.
PLAIN = ["env.frame_skip=[4,4]", "env.sticky_actions=0", "env.noop_max=0", "env.fire_on_reset=false"]
NORMALISATION = np.array([0.2, 0.3])  # mean and std


def config_for(kind: str, *overrides: str) -> Config:
    return config_of(*KINDS[kind], *overrides)


def logits_by_hand(config: Config, parameters: np.ndarray, observations: np.ndarray) -> np.ndarray:
    """(T, C, H, W) of one game, in order -> logits (T, n), in plain torch."""
    architecture = architecture_of(config.model, spec_of(config.env))
    assert isinstance(architecture, ConvArchitecture)
    p = {name: view.contiguous() for name, view in architecture.layout().views(torch.from_numpy(parameters)).items()}
    activation = getattr(F, architecture.activation)
    x = torch.from_numpy(observations).float()
    if observations.dtype == np.uint8:
        x = x / 255
    for i, layer in enumerate(architecture.convolutions):
        x = activation(F.conv2d(x, p[f"conv.{i}.weight"], p[f"conv.{i}.bias"], layer.stride, layer.padding))
        x = F.max_pool2d(x, 2) if layer.pool else x
    x = x.permute(0, 2, 3, 1).flatten(1)  # features are stored channels-last
    if not architecture.recurrent:
        hidden = list(activation(x @ p["hidden.weight"].T + p["hidden.bias"]))
    else:
        h = c = torch.zeros(architecture.hidden)
        hidden = []
        for features in x:
            a = p["lstm.weight_ih"] @ features + p["lstm.bias_ih"] + p["lstm.weight_hh"] @ h + p["lstm.bias_hh"]
            i_gate, f_gate, g, o_gate = a.chunk(4)
            c = f_gate.sigmoid() * c + i_gate.sigmoid() * g.tanh()
            h = o_gate.sigmoid() * c.tanh()
            hidden.append(h)
    return (torch.stack(hidden) @ p["actor.weight"].T + p["actor.bias"]).numpy()


def random_play(config: Config, steps: int) -> np.ndarray:
    """(T, C, H, W): the observations of a random policy."""
    env, rng = make_env(config.env, training=False), np.random.default_rng(3)
    observations = [env.reset(seed=3)[0]]
    while len(observations) < steps:
        observation, _, terminated, _, _ = env.step(int(rng.integers(4)))
        observations.append(env.reset()[0] if terminated else observation)
    return np.stack(observations)


@cache
def parameters_for(kind: str, sharpness: float) -> np.ndarray:
    """Random parameters whose logits have mean 0 and deviation `sharpness`; initial ones hardly vary."""
    config = config_for(kind)
    architecture = architecture_of(config.model, spec_of(config.env))
    parameters = initial_parameters(architecture, np.random.default_rng(0))
    seen = random_play(config, 200)
    if kind == "report_42":
        seen = ((seen - NORMALISATION[0]) / NORMALISATION[1]).astype(np.float32)
    logits = logits_by_hand(config, parameters, seen)
    views, scale = architecture.layout().views(parameters), sharpness / logits.std(0)
    views["actor.weight"][...] *= scale[:, None]
    views["actor.bias"][...] = -scale * logits.mean(0)
    return parameters


def save(path: Path, config: Config, kind: str = "report_42", sharpness: float = 2.0, normalised: bool = True) -> Path:
    """Save a checkpoint, with a normalisation if the preprocessing has one."""
    tensors = {"parameters": parameters_for(kind, sharpness)}
    if kind == "report_42" and normalised:
        tensors["normalisation"] = NORMALISATION
    state = {"config": to_dict(config), "env_spec": asdict(spec_of(config.env))}
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(path, Checkpoint(tensors, state))
    return path


def plain_emulator() -> ale_py.ALEInterface:
    """Breakout at its start."""
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    ale.setInt("random_seed", 123)  # without sticky actions, nothing in Breakout is random
    ale.loadROM(str(ale_py.roms.get_rom_path("breakout")))
    ale.reset_game()
    return ale


def streams_of(n: int, seed: int = 5) -> list[np.random.Generator]:
    return np.random.default_rng(seed).spawn(n)


def actions_on_screens(policy: Policy, config: Config, seed: int, steps: int) -> list[int]:
    """Act like an outside program, which has only the screens of the emulator."""
    env = make_env(config.env, training=False)
    env.reset(seed=seed)
    policy.reset()
    actions: list[int] = []
    terminated = False
    while len(actions) < steps and not terminated:
        actions.append(int(policy.act(env.unwrapped.ale.getScreenRGB())))  # type: ignore[attr-defined, arg-type]
        terminated = env.step(actions[-1])[2]
    return actions


@pytest.mark.parametrize("kind", KINDS)
def test_the_most_likely_action_is_the_networks(tmp_path: Path, kind: str) -> None:
    config = config_for(kind)
    seen = random_play(config, 80)
    policy = Policy.load(save(tmp_path / "x.safetensors", config, kind))
    actions = [policy.act_on([observation], [policy.rng])[0] for observation in seen]
    if kind == "report_42":
        seen = ((seen - NORMALISATION[0]) / (NORMALISATION[1] + 1e-8)).astype(np.float32)
    logits = logits_by_hand(config, parameters_for(kind, 2.0), seen)
    first, second = np.sort(logits, 1).T[[-1, -2]]
    clear = first - second > 1e-2
    assert clear.mean() > 0.9
    assert len(set(np.array(actions)[clear])) > 1
    np.testing.assert_array_equal(np.array(actions)[clear], logits.argmax(1)[clear])


@pytest.mark.parametrize(("kind", "pooled"), [("report_42", 1), ("report_80", 3)])
def test_a_policy_plays_on_raw_screens_as_in_our_environment(tmp_path: Path, kind: str, pooled: int) -> None:
    """An outside program has its own emulator and passes the pixelwise maximum of a step's last frames."""
    config = config_for(kind, *PLAIN)
    path = save(tmp_path / "x.safetensors", config, kind)
    (episode,) = play(Policy.load(path, sample=True), make_envs(config, 150, 1), streams_of(1))
    assert len(set(episode.actions)) > 1
    policy, ale = Policy.load(path, sample=True), plain_emulator()
    (policy.rng,) = streams_of(1)
    assert draw_seed(policy.rng) == episode.seed
    actions = [policy.act(ale.getScreenRGB())]
    while len(actions) < len(episode.actions):
        screens = []
        for _ in range(4):
            ale.act(ale.getMinimalActionSet()[actions[-1]])  # type: ignore[index]
            screens.append(ale.getScreenRGB())
        actions.append(policy.act(np.max(screens[-pooled:], axis=0)))
    assert actions == episode.actions


@pytest.mark.parametrize("kind", KINDS)
def test_a_reset_forgets_the_game_before(tmp_path: Path, kind: str) -> None:
    config = config_for(kind)
    policy = Policy.load(save(tmp_path / "x.safetensors", config, kind))
    first, _, again = (actions_on_screens(policy, config, seed, 60) for seed in (1, 2, 1))
    assert first == again
    assert len(set(first)) > 1


@pytest.mark.parametrize("kind", ["report_42", "nature_84"])
def test_earlier_screens_matter_until_the_reset(tmp_path: Path, kind: str) -> None:
    """They are in the LSTM's state or in the stacked screens. The policy takes opposite actions on the same screen: one
    if it is the first of a game, the other after bright screens."""
    config = config_for(kind)
    checkpoint = read_checkpoint(save(tmp_path / "x.safetensors", config, kind, normalised=False))
    parameters = checkpoint.tensors["parameters"]
    dark, bright = np.full((210, 160, 3), 50, np.uint8), np.full((210, 160, 3), 200, np.uint8)

    def last_logits(screens: list[np.ndarray]) -> np.ndarray:
        preprocessor = Preprocessor(pipeline_of(Preprocessing(kind), "breakout"))
        return logits_by_hand(config, parameters, np.stack([preprocessor.from_rgb(screen) for screen in screens]))[-1]

    alone, after = last_logits([dark]), last_logits([bright, bright, dark])
    views = architecture_of(config.model, spec_of(config.env)).layout().views(parameters)
    views["actor.bias"][...] -= (alone + after) / 2
    policy = Policy.of(checkpoint)
    for _ in range(2):
        assert policy.act(dark) == np.argmax(alone - after)
        policy.reset()
        assert [policy.act(screen) for screen in (bright, bright, dark)][-1] == np.argmax(after - alone)
        policy.reset()


def test_the_saved_normalisation_is_applied_and_stays_frozen(tmp_path: Path) -> None:
    """Other observations in between do not change how an observation is normalised."""
    config = config_for("report_42")
    policy = Policy.load(save(tmp_path / "x.safetensors", config))
    plain = Policy.load(save(tmp_path / "y.safetensors", config, normalised=False))
    seen = random_play(config, 60)
    mean, std = NORMALISATION

    def actions(of: Policy, observations: np.ndarray) -> list[int]:
        of.reset()
        return [int(of.act_on([observation], [of.rng])[0]) for observation in observations]  # type: ignore[arg-type]

    first = actions(policy, seen)
    assert actions(plain, ((seen - mean) / (std + 1e-8)).astype(np.float32)) == first
    assert actions(plain, seen) != first
    actions(policy, 5 * seen)
    assert actions(policy, seen) == first


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "screen",
    [np.zeros((160, 210, 3), np.uint8), np.zeros((210, 160), np.uint8), np.zeros((210, 160, 3), np.float32)],
    ids=["turned", "grey", "float"],
)
def test_another_shape_of_screen_is_refused_in_one_line(tmp_path: Path, kind: str, screen: np.ndarray) -> None:
    policy = Policy.load(save(tmp_path / "x.safetensors", config_for(kind), kind))
    with pytest.raises(ValueError, match=r"^a frame \(210, 160, 3\) of uint8 is needed, not .*$"):
        policy.act(screen)
    with pytest.raises(
        ValueError,
        match=r"^an observation is needed, not the tuple that reset\(\) or step\(\) returned; pass its first",
    ):
        policy.act((screen, {"lives": 5}))  # type: ignore[arg-type]


def score_by_hand(episode: Episode) -> int:
    """The points that ale-py gives for an episode's actions. The game must end with the last action, not before."""
    ale = plain_emulator()
    legal = ale.getMinimalActionSet()
    points = 0
    for action in episode.actions:
        assert not ale.game_over()
        points += sum(ale.act(legal[action]) for _ in range(4))  # type: ignore[index]
    assert ale.game_over()
    assert ale.lives() == 0
    return points


def test_whole_games_are_played_with_all_lives_and_raw_points(tmp_path: Path) -> None:
    config = config_for("report_42", *PLAIN)
    policy = Policy.load(save(tmp_path / "x.safetensors", config, sharpness=0.5), sample=True)
    episodes = list(play(policy, make_envs(config, None, 1), streams_of(3)))
    assert [episode.number for episode in episodes] == [0, 1, 2]
    for episode in episodes:
        assert episode.score == (score_by_hand(episode), len(episode.actions))
    assert max(episode.score.episodic_return for episode in episodes) > 0


def test_games_side_by_side_are_the_same_as_alone(tmp_path: Path) -> None:
    """Each game has its own random stream. All games are played to their end, including the long ones."""
    config = config_for("report_42")
    path = save(tmp_path / "x.safetensors", config, sharpness=0.5)
    alone = list(play(Policy.load(path, sample=True), make_envs(config, None, 1), streams_of(7)))
    envs = make_envs(config, None, 3)
    together = list(play(Policy.of(read_checkpoint(path), True, games=len(envs)), envs, streams_of(7)))
    assert len({len(episode.actions) for episode in alone}) > 3
    assert sorted(together, key=lambda episode: episode.number) == alone


def test_the_horizon_cuts_a_game_that_never_ends(tmp_path: Path) -> None:
    """Without FIRE the game would never end."""
    config = config_for("report_42", *PLAIN)
    checkpoint = read_checkpoint(save(tmp_path / "x.safetensors", config))
    views = architecture_of(config.model, spec_of(config.env)).layout().views(checkpoint.tensors["parameters"])
    views["actor.bias"][0] += 1e6  # no-op
    beats: list[int] = []
    heartbeat.install(lambda: beats.append(1))
    policy = Policy.of(checkpoint, games=2)
    played = list(play(policy, make_envs(config, 50, 2), streams_of(3)))
    assert [episode.score for episode in played] == [(0.0, 50)] * 3
    assert len(beats) == 150


def test_several_processes_play_the_same_games(tmp_path: Path) -> None:
    config = config_for("report_42")
    checkpoint = read_checkpoint(save(tmp_path / "x.safetensors", config, sharpness=0.5))
    envs = make_envs(config, 100, 5)
    alone = list(play(Policy.of(checkpoint, True, games=len(envs)), envs, streams_of(9)))
    spread = list(play_in_processes(checkpoint, 100, True, streams_of(9), 60.0))
    assert sorted(spread, key=lambda e: e.number) == sorted(alone, key=lambda e: e.number)


def test_a_process_that_fails_is_named(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(save(tmp_path / "x.safetensors", config_for("report_42")))
    short = Checkpoint({"parameters": checkpoint.tensors["parameters"][:-1]}, checkpoint.state)
    with pytest.raises(ChildFailed, match=r"^player 0 raised ConfigError: the checkpoint has \d+ parameters"):
        list(play_in_processes(short, 100, True, streams_of(2), 60.0))


@pytest.mark.parametrize("action", ["mode", "sample"])
def test_an_evaluation_and_its_best_checkpoint(tmp_path: Path, action: str) -> None:
    """The workers' normalisations are weighted by their steps. Each evaluation plays other whole games."""
    config = config_for("report_42", "evaluation.episodes=3", "evaluation.horizon=150", f"evaluation.action={action}")
    parameters = parameters_for("report_42", 0.5)
    shared = SharedState(parameters.size, 0, 1, workers=2)
    shared.parameters_view()[:] = parameters
    n = 1e7  # enough steps to forget the start
    shared.normalisation_view()[:] = [(0.1, 0.2, n), (0.25, 0.35, 2 * n)]
    beats: list[int] = []
    heartbeat.install(lambda: beats.append(1))
    spec = spec_of(config.env)
    architecture = architecture_of(config.model, spec)
    evaluator = Evaluator(config, spec, architecture, tmp_path, 0)
    summary = evaluator.evaluate(shared, Counters(5, 1000, 2))
    normalisation = read_checkpoint(tmp_path / BEST_CHECKPOINT).tensors["normalisation"]
    np.testing.assert_allclose(normalisation, NORMALISATION)
    assert normalisation.dtype == np.float64
    evaluator.evaluate(shared, Counters(6, 2000, 2))

    with (tmp_path / EVALUATIONS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["evaluation"] for row in rows] == ["1"] * 3 + ["2"] * 3
    assert sum(int(row["episodic_length"]) for row in rows) == len(beats)
    assert np.mean([float(row["episodic_return"]) for row in rows[:3]]) == summary.mean_return
    policy = Policy(config, spec, architecture, action == "sample", games=3)
    policy.set_parameters(parameters, NORMALISATION)
    for evaluation in (0, 1):
        streams = generator(config.seed, Role.evaluation, evaluation).spawn(3)
        again = sorted(play(policy, make_envs(config, 150, 3), streams), key=lambda e: e.number)
        found = [(float(row["episodic_return"]), int(row["episodic_length"])) for row in rows[3 * evaluation :][:3]]
        assert found == [episode.score for episode in again]


def test_load_starts_from_the_parameters_and_the_normalisation(tmp_path: Path) -> None:
    """The workers' running normalisation continues from the saved one."""
    path = save(tmp_path / "x.safetensors", config_for("report_42"))
    resolved = plan(config_for("report_42", f"load={path}", "workers=3"), [])
    shared = Training(resolved, tmp_path).shared
    np.testing.assert_array_equal(shared.parameters_view(), parameters_for("report_42", 2.0))
    assert frozen_normalisation(shared) == pytest.approx(NORMALISATION)
    RunningNormalisation(shared.normalisation_view()[1]).update(np.ones((1, 42, 42), np.float32))
    assert frozen_normalisation(shared) == pytest.approx(NORMALISATION, rel=1e-3)


def test_a_checkpoint_of_another_network_cannot_be_loaded(tmp_path: Path) -> None:
    path = save(tmp_path / "x.safetensors", config_for("report_42"))
    with pytest.raises(
        ConfigError, match=r"^load=.*: it has another network, input_shape \(1, 42, 42\) there, \(1, 80, 80\) here"
    ):
        plan(config_for("report_80", f"load={path}"), [])


class Steps:
    """An event that never comes; each wait for it is a moment in which training goes on."""

    def __init__(self, shared: SharedState, steps: list[int]) -> None:
        self._shared, self._steps = shared, iter(steps)

    def wait(self, seconds: float) -> bool:
        steps = next(self._steps, None)
        if steps is None:
            return True
        self._shared.set_counters(Counters(steps // 10, steps, 0))
        self._shared.parameters_view()[:] = steps
        return False


def test_parameters_are_kept_at_each_multiple_of_steps_however_fast_training_is() -> None:
    """The evaluation of one may take longer than training to the next: earlier, those between were left out."""
    shared = SharedState(3, 0, 1)
    kept: deque[Snapshot] = deque()
    _watch(shared, 100, 0, kept, Steps(shared, [40, 90, 103, 180, 205, 299, 300, 420, 430]))  # type: ignore[arg-type]
    assert [snapshot.counters.steps for snapshot in kept] == [103, 205, 300, 420]
    assert [snapshot.parameters.tolist() for snapshot in kept] == [[x] * 3 for x in (103, 205, 300, 420)]


def test_a_random_policy_plays_whole_episodes_on_the_evaluations_horizon() -> None:
    config = config_of("evaluation.horizon=50", "env.max_ep_step=80")
    scores = random_scores(config, 4)
    assert scores == random_scores(config, 4)
    assert [score.episodic_length for score in scores] == [50] * 4
    assert -9 < np.mean([score.episodic_return for score in scores]) / 50 < -3  # README: about -6 per step
