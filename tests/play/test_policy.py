"""A saved policy as outside programs use it, and the episodes that it plays."""

from dataclasses import asdict

import ale_py  # noqa: F401 (registers its games)
import gymnasium
import numpy as np
import pytest
import torch
from helpers import config_of

import ablate
from ablate.config.serial import to_dict
from ablate.envs.make import make_env, spec_of
from ablate.nn.architecture import architecture_of
from ablate.play.episodes import play
from ablate.play.policy import Policy
from ablate.records.checkpoint import Checkpoint, write_checkpoint
from ablate.seeding import Role, generator


@pytest.fixture(params=["env=pendulum", "env=cartpole"])
def saved(request: pytest.FixtureRequest, tmp_path):  # type: ignore[no-untyped-def]
    config = config_of(request.param)
    spec = spec_of(config.env)
    layout = architecture_of(config.model, spec).layout()
    parameters = np.zeros(layout.size, np.float32)
    layout.initialise(parameters, generator(1, Role.parameters), 0.5)
    path = tmp_path / "run/checkpoints/last.safetensors"
    state = {"config": to_dict(config), "env_spec": asdict(spec)}
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(path, Checkpoint({"parameters": parameters}, state))
    return config, layout.views(torch.from_numpy(parameters)), path


def test_the_most_likely_action_is_the_networks(saved) -> None:  # type: ignore[no-untyped-def]
    config, p, path = saved
    policy = ablate.Policy.load(path.parents[1])
    rng = np.random.default_rng(0)
    for _ in range(20):
        observation = rng.standard_normal(p["actor.0.weight"].shape[1]).astype(np.float32)
        hidden = torch.nn.functional.relu6(p["actor.0.weight"] @ torch.from_numpy(observation) + p["actor.0.bias"])
        z = p["actor.1.weight"] @ hidden + p["actor.1.bias"]
        action = policy.act(observation)
        if config.env.id == "CartPole-v1":
            assert action == int(z.argmax())
        else:
            np.testing.assert_allclose(action, 2 * np.tanh(z[:1].numpy()), atol=1e-5)


def test_the_environment_accepts_all_actions(saved) -> None:  # type: ignore[no-untyped-def]
    config, _, path = saved
    env = make_env(config.env)
    policy = Policy.load(path, sample=True, seed=3)
    observation, _ = env.reset(seed=0)
    for _ in range(30):
        action = policy.act(observation)
        assert env.action_space.contains(action)
        observation = env.step(action)[0]


def test_the_same_stream_plays_the_same_episodes(saved) -> None:  # type: ignore[no-untyped-def]
    config, _, path = saved
    env = make_env(config.env, 30)
    streams = [np.random.default_rng(7).spawn(3) for _ in range(2)]
    scores = [[episode.score for episode in play(Policy.load(path), [env], stream)] for stream in streams]
    assert scores[0] == scores[1]
    assert len({score.episodic_return for score in scores[0]}) > 1 or config.env.id == "CartPole-v1"
    assert all(score.episodic_length <= 30 for score in scores[0])


def test_seed_and_actions_are_enough_to_replay_an_episode(saved) -> None:  # type: ignore[no-untyped-def]
    config, _, path = saved
    env = make_env(config.env, 30)
    for episode in play(Policy.load(path, sample=True), [env], np.random.default_rng(7).spawn(2)):
        env.reset(seed=episode.seed)
        rewards = [float(env.step(action)[1]) for action in episode.actions]
        total = float(np.cumsum(rewards)[-1])  # added one by one, as in `play`; sum() does not since Python 3.12
        assert (total, len(rewards)) == episode.score


@pytest.mark.parametrize("shape", [(5,), (2, 2, 2), ()])
def test_an_observation_of_another_size_is_refused(saved, shape: tuple[int, ...]) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"^an observation of \d numbers is needed, not of shape \(.*\)$"):
        Policy.load(saved[2]).act(np.zeros(shape, np.float32))


def test_actions_for_outside_programs_are_in_the_games_own_set(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """An agent without FIRE has 3 actions of Breakout's 4: NOOP, FIRE, RIGHT, LEFT."""
    config = config_of("algo=dqn", "env=breakout", "env.fire_action=false", "env.preprocessing=nature_84")
    spec = spec_of(config.env)
    layout = architecture_of(config.model, spec).layout()
    parameters = np.zeros(layout.size, np.float32)
    state = {"config": to_dict(config), "env_spec": asdict(spec)}
    meanings = gymnasium.make("ALE/Breakout-v5").unwrapped.get_action_meanings()  # type: ignore[attr-defined]
    chosen = []
    for best in range(3):
        layout.views(parameters)["q.bias"][:] = np.arange(3) == best
        write_checkpoint(tmp_path / "x.safetensors", Checkpoint({"parameters": parameters}, state))
        policy = Policy.load(tmp_path / "x.safetensors")
        chosen.append(meanings[policy.act(np.zeros((210, 160, 3), np.uint8))])  # type: ignore[call-overload]
    assert chosen == ["NOOP", "RIGHT", "LEFT"]
