"""What an environment returns: refused in one line before anything is made, or a run that fails by name later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from faulty_envs import Faulty
from gymnasium.envs.classic_control import CartPoleEnv
from helpers import config_of, job_of, work

from ablate.config.schema import ConfigError, EnvConfig
from ablate.envs.checked import Checked
from ablate.envs.make import kind_of, make_env, spec_of

MANUAL = ("schedule=interleaved", "workers=1", "backend=manual", "evaluation.every_steps=null")


def env_of(name: str, *more: str) -> EnvConfig:
    return config_of(f"env.id=faulty_envs:{name}-v0", *more).env


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("BroadcastsObservation", "its reset returns an observation of shape (1,); its space has (3,)"),
        ("BroadcastsStep", "its step returns an observation of shape (1,); its space has (3,)"),
        ("OldReset", "its reset returns an array of shape (3,); gymnasium's reset(seed=..., options=...) returns"),
        ("OldSignature", "its first reset(seed=0) fails (TypeError: "),
        ("OldStep", "its step returns a tuple of 4; gymnasium's step(action) returns"),
        ("TwoRewards", "the environment returned reward an array of shape (2,); one number is needed"),
        ("NoEnd", "the environment returned terminated NoneType 'None'; one number is needed"),
        ("NanObservation", "its reset returns an observation that is not finite"),
        ("InfReward", "its step returns reward inf; a finite number is needed"),
        ("Words", "its reset returns list \"['a', 'b', 'c']\" as observation; numbers are needed"),
        ("RaisesAtOnce", "its first step fails (ValueError: the environment is broken and says so over two lines)"),
        ("NoSpace", "its observation_space is no space of gymnasium.spaces"),
    ],
)
def test_another_interface_is_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        spec_of(env_of(name))
    assert f"env.id=faulty_envs:{name}-v0: {message}" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_sound_environment_is_accepted_without_a_note() -> None:
    assert spec_of(env_of("Faulty")).notes == ()


def test_what_gymnasiums_checker_warns_of_becomes_a_note() -> None:
    (note, *_) = spec_of(env_of("OutOfItsSpace")).notes
    assert note == (
        "env.id=faulty_envs:OutOfItsSpace-v0: "
        "The obs returned by the `reset()` method is not within the observation space."
    )


def test_arrays_with_one_element_are_taken_by_value() -> None:
    env = make_env(env_of("ArrayRewards"))
    env.reset(seed=1)
    _, reward, terminated, truncated, _ = env.step(np.zeros(1, np.float32))
    assert [type(value) for value in (reward, terminated, truncated)] == [float, bool, bool]


def test_array_flags_give_the_rows_of_plain_flags(tmp_path: Path) -> None:
    """With both algorithms' ways to an environment."""
    rows = {}
    for name in ("Faulty", "ArrayRewards"):
        config = config_of(f"env.id=faulty_envs:{name}-v0", *MANUAL, "max_episodes=3")
        rows[name] = [message for message in work(job_of(config, tmp_path)) if hasattr(message, "episodic_return")]
    assert [row._replace(wall_time_s=0.0) for row in rows["Faulty"]] == [
        row._replace(wall_time_s=0.0) for row in rows["ArrayRewards"]
    ]
    side_by_side = kind_of(env_of("ArrayRewards")).make_side_by_side(env_of("ArrayRewards"), 1)
    side_by_side.reset(0, 1)
    (stepped,) = side_by_side.step(np.zeros((1, 1), np.float32))
    assert stepped[1:4] == (stepped.raw_reward, False, False)
    assert type(stepped.terminated) is bool


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ShrinksLater", r"returned an observation of shape \(1,\); its space has \(3,\)"),
        ("GrowsLater", r"returned an observation of shape \(3, 3\); its space has \(3,\)"),
        ("NanLater", "returned an observation with nan; finite numbers are needed"),
        ("InfLater", "returned an observation with inf; finite numbers are needed"),
        ("NanRewardLater", "returned reward nan; a finite number is needed"),
        ("FlagsLater", r"returned terminated an array of shape \(2,\); one number is needed"),
    ],
)
def test_a_later_broken_promise_fails_the_run_by_name(name: str, message: str, tmp_path: Path) -> None:
    config = config_of(f"env.id=faulty_envs:{name}-v0", "+env.kwargs.after=40", *MANUAL)
    with pytest.raises(ValueError, match=message):
        work(job_of(config, tmp_path))


def wrapped(observation: np.ndarray | list[float], space: gymnasium.Space[Any]) -> Checked:
    env = Faulty()
    env.observation_space = space  # type: ignore[assignment]
    env.reset = lambda **_: (observation, {})  # type: ignore[method-assign, assignment]
    return Checked(env)


BOX = gymnasium.spaces.Box


@pytest.mark.parametrize(
    "observation",
    [
        pytest.param(np.array([1e30, -3e38, 0.0], np.float32), id="squares overflow"),
        pytest.param(np.array([3e4, 1.0, 0.0], np.float16), id="float16"),
        pytest.param(np.array([255, 255, 255], np.uint8), id="bytes"),
        pytest.param([1, 2, 3], id="a list"),
    ],
)
def test_large_numbers_and_other_types_are_no_broken_promise(observation: Any) -> None:
    env = wrapped(observation, BOX(-np.inf, np.inf, (3,), np.float32))
    assert np.array_equal(env.reset()[0], observation)


def test_an_image_is_checked_before_it_is_flattened() -> None:
    """Its transpose has as many numbers."""
    with pytest.raises(ConfigError, match=r"observation of shape \(2, 3\); its space has \(3, 2\)"):
        spec_of(env_of("Transposed"))


@pytest.mark.parametrize("overrides", [("env=cartpole",), ("env=pendulum",)])
def test_gymnasiums_own_environments_are_not_wrapped(overrides: tuple[str, ...]) -> None:
    env: Any = make_env(config_of(*overrides).env)
    while isinstance(env, gymnasium.Wrapper):
        assert not isinstance(env, Checked)
        env = env.env


def test_a_subclass_of_gymnasiums_environment_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(CartPoleEnv):
        def step(self, action: Any) -> Any:
            return super().step(action)[:4]

    monkeypatch.setattr(gymnasium, "make", lambda *_, **__: Mine())
    with pytest.raises(ConfigError, match="its step returns a tuple of 4"):
        spec_of(config_of("env=cartpole", "env.max_ep_step=77").env)  # no other test has looked at it
