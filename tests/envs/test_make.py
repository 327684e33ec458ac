"""Environments from the configuration: limits, spaces, and the state that a checkpoint holds."""

import json
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from helpers import config_of

from ablate.config.schema import ConfigError, EnvConfig, GymnasiumConfig
from ablate.envs import saving
from ablate.envs.make import make_env, spec_of

CLASSIC = ["Pendulum-v1", "CartPole-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0"]


def env_config(env_id: str, max_ep_step: int | None = None) -> EnvConfig:
    return GymnasiumConfig(id=env_id, max_ep_step=max_ep_step, reward_shift=0.0, reward_scale=1.0)


def test_the_reports_limit_replaces_gymnasiums_200_steps() -> None:
    env = make_env(config_of("experiment=pendulum_report").env)
    env.reset(seed=0)
    lengths = 0
    truncated = False
    while not truncated:
        _, _, terminated, truncated, _ = env.step(np.zeros(1, np.float32))
        assert not terminated
        lengths += 1
    assert lengths == 4000


def test_spec_of_the_five_classics() -> None:
    specs = {env_id: spec_of(env_config(env_id)) for env_id in CLASSIC}
    assert [specs[env_id].observation_size for env_id in CLASSIC] == [3, 4, 6, 2, 2]
    assert [specs[env_id].action.n for env_id in CLASSIC] == [None, 2, 3, 3, None]
    assert specs["Pendulum-v1"].action.high == (2.0,)


@pytest.mark.parametrize("env_id", ["Blackjack-v1", "FrozenLake-v1", "Pendlum-v1", "no_module:X-v0"])
def test_unsupported_environments_are_refused_in_one_line(env_id: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        spec_of(env_config(env_id))
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).startswith(f"env.id={env_id}: ")


def test_an_unknown_argument_of_the_environment_is_named() -> None:
    with pytest.raises(ConfigError, match="unknown_argument"):
        make_env(replace(env_config("CartPole-v1"), kwargs={"unknown_argument": 1}))


@pytest.mark.parametrize("env_id", CLASSIC)
def test_a_restored_environment_continues_as_the_saved_one(env_id: str) -> None:
    """Bit for bit, over ends of episodes, through JSON, saved after a reset and in mid-episode."""
    for steps_before in (0, 1, 33):
        original, other = make_env(env_config(env_id, 60)), make_env(env_config(env_id, 60))
        original.action_space.seed(1)
        original.reset(seed=5)
        for _ in range(steps_before):
            original.step(original.action_space.sample())
        saving.restore(other, json.loads(json.dumps(saving.save(original))))
        for _ in range(200):
            action = original.action_space.sample()
            expected, got = original.step(action), other.step(action)
            np.testing.assert_array_equal(expected[0], got[0])
            assert expected[1:4] == got[1:4]
            if expected[2] or expected[3]:
                np.testing.assert_array_equal(original.reset()[0], other.reset()[0])


def test_an_environment_with_hidden_state_cannot_be_saved() -> None:
    class Mine(gymnasium.envs.classic_control.PendulumEnv):
        """A subclass may keep more than `state`."""

    assert saving.save(Mine()) is None
    inside = gymnasium.wrappers.DelayObservation(gymnasium.make("Pendulum-v1"), 3)  # its state includes observations
    assert saving.save(inside) is None
