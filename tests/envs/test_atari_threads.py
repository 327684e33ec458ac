"""Threaded games of ale-py's vector environment are compared with AtariGame."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import config_of

from ablate.config.choices import Preprocessing
from ablate.config.schema import AtariConfig, ConfigError
from ablate.envs.atari import AtariGame
from ablate.envs.atari_threads import AtariThreads
from ablate.envs.kind import OneByOne, SideBySide
from ablate.envs.make import kind_of, spec_of

GAMES = 2


def config(*overrides: str) -> AtariConfig:
    options = ("algo=dqn", "env=breakout", "env.threads=2", "env.fire_on_reset=false", "env.noop_max=0")
    env = config_of(*options, *overrides).env
    assert isinstance(env, AtariConfig)
    return replace(env, preprocessing=env.preprocessing or Preprocessing.nature_84)


def side_by_side(env: AtariConfig, count: int) -> SideBySide:
    return kind_of(env).make_side_by_side(env, count)


def threads_of(env: AtariConfig, games: int) -> AtariThreads:
    threads = side_by_side(env, games)
    assert isinstance(threads, AtariThreads)
    return threads


@pytest.mark.parametrize("game", ["Breakout", "Pong", "SpaceInvaders", "Riverraid"])
def test_threaded_games_play_as_the_emulator_does(game: str) -> None:
    """Every screen, point, lost life and end, over more than one game."""
    env = config(f"env.id={game}NoFrameskip-v4")
    threads = threads_of(env, GAMES)
    ours = [AtariGame(replace(env, life_loss_terminates=False, clip_rewards=False), 10**6) for _ in range(GAMES)]
    for e, one in enumerate(ours):
        np.testing.assert_array_equal(threads.reset(e, 7 + e), one.reset(seed=7 + e)[0])
    rng, n = np.random.default_rng(0), spec_of(env).action.n
    ends = lost_lives = points = 0
    for _ in range(1200):
        actions = rng.integers(n, size=GAMES)
        for e, stepped in enumerate(threads.step(actions)):
            lives = ours[e].ale.lives()
            observation, points_made, over, _, _ = ours[e].step(int(actions[e]))
            if not over:  # ale-py leaves out the last frames of a game; training never uses its last screen
                np.testing.assert_array_equal(stepped.observation, observation)
            life_lost = ours[e].ale.lives() < lives
            assert stepped.raw_reward == points_made
            assert stepped.reward == np.sign(points_made)
            assert (stepped.scored_end, stepped.truncated) == (over, False)
            assert stepped.terminated == (over or life_lost)
            if over:
                np.testing.assert_array_equal(threads.reset(e, None), ours[e].reset()[0])
            elif life_lost:  # the same game continues
                np.testing.assert_array_equal(threads.reset(e, None), observation)
            ends, lost_lives, points = ends + over, lost_lives + life_lost, points + points_made
    assert points != 0
    assert game == "Pong" or ends > 0 < lost_lives


def test_a_game_without_lives_goes_on_until_the_emulator_ends_it() -> None:
    """As in AtariGame, its last frames are not a separate episode."""
    threads = threads_of(config(), 1)
    images, over = np.zeros((1, 4, 84, 84), np.uint8), [False, False, False, True]

    class Emulator:
        def __init__(self) -> None:
            self._steps = zip(over, [2, 1, 0, 0], strict=True)

        def step(self, _: np.ndarray) -> tuple[Any, ...]:
            ends, lives = next(self._steps)
            return images.copy(), np.zeros(1), np.array([ends]), np.zeros(1, bool), {"lives": np.array([lives])}

    threads._lives, threads._envs = np.array([2]), Emulator()  # type: ignore[assignment]
    assert [stepped.terminated for _ in over for stepped in threads.step(np.array([0]))] == [False, True, False, True]

    at_limit = threads_of(config("env.max_ep_step=4"), 1)
    at_limit._lives, at_limit._envs = np.array([2]), Emulator()  # type: ignore[assignment]
    ends = [(s.terminated, s.truncated, s.scored_end) for _ in over for s in at_limit.step(np.array([0]))]
    assert ends[2:] == [(False, False, False), (True, True, True)]
    np.testing.assert_array_equal(at_limit.reset(0, None), images[0])  # the emulator has started the next game itself


def test_a_limit_cuts_a_game_and_the_next_one_starts() -> None:
    threads = threads_of(config("env.max_ep_step=5", "env.noop_max=30"), 2)
    starts = [threads.reset(e, e).copy() for e in range(2)]
    for _ in range(3):
        for step in range(1, 6):
            for e, stepped in enumerate(threads.step(np.array([1, 1]))):
                assert not stepped.terminated
                assert stepped.truncated == stepped.scored_end == (step == 5)
                if step == 5:
                    assert not np.array_equal(stepped.observation, threads.reset(e, None))
    again = threads.reset(1, 1)
    np.testing.assert_array_equal(again, starts[1])


def test_a_seed_starts_one_game_and_leaves_the_others_alone() -> None:
    threads, undisturbed = (threads_of(config("env.noop_max=30"), 2) for _ in range(2))
    for envs in (threads, undisturbed):
        for e in range(2):
            envs.reset(e, 3 + e)
        list(envs.step(np.array([1, 1])))
    threads.reset(0, 99)
    for _ in range(20):
        ours, theirs = (list(envs.step(np.array([2, 3])))[1] for envs in (threads, undisturbed))
        np.testing.assert_array_equal(ours.observation, theirs.observation)


def test_sticky_actions_are_those_of_the_configuration() -> None:
    """With probability 1, no action is ever taken, so the ball is never served."""
    threads = threads_of(config("env.sticky_actions=1.0"), 1)
    first = threads.reset(0, 0).copy()
    for _ in range(30):
        (stepped,) = threads.step(np.array([1]))
    np.testing.assert_array_equal(stepped.observation[-1], first[-1])


def test_env_threads_chooses_threaded_games() -> None:
    assert isinstance(side_by_side(config(), 2), AtariThreads)
    assert isinstance(side_by_side(config("env.threads=0"), 2), OneByOne)


@pytest.mark.parametrize(
    "overrides",
    [
        ("env.frame_skip=[2,4]",), ("env.fire_on_reset=true",), ("env.fire_action=false", "env.full_action_space=true"),
        ("env.fill_steps=2",), ("env.mode=4",), ("env.difficulty=1",), ("env.preprocessing=report_180",),
    ],
)  # fmt: skip
def test_what_threaded_games_lack_is_refused(overrides: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=rf"^{overrides[0].split('=')[0]}=.*env\.threads=0$"):
        spec_of(config(*overrides))
