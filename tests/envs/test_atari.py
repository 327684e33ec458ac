"""Games are compared with gymnasium's wrappers, with the raw emulator, and with the definitions of their switches."""

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from ale_py import AtariEnv
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation
from helpers import ROOT, config_of

from ablate.config.choices import Preprocessing
from ablate.config.schema import AtariConfig, ConfigError
from ablate.envs.atari_kind import shape_of
from ablate.envs.games import emulator
from ablate.envs.make import make_env, spec_of


def game(*overrides: str, preprocessing: str = "report_42") -> AtariConfig:
    config = config_of(*overrides).env
    assert isinstance(config, AtariConfig)
    return replace(config, preprocessing=Preprocessing(preprocessing))


BREAKOUT = game("env=breakout")
RIVERRAID = game("env=riverraid")
PLAIN = replace(BREAKOUT, noop_max=0, fire_on_reset=False, clip_rewards=False, preprocessing=Preprocessing.nature_84)


class Recorder:
    """Wraps an emulator and records the action of each frame."""

    def __init__(self, ale: Any) -> None:
        self._ale = ale
        self.actions: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ale, name)

    def act(self, action: int) -> int:
        self.actions.append(action)
        return self._ale.act(action)


def recorded(config: AtariConfig, **kwargs: Any) -> tuple[Any, Recorder]:
    env = make_env(config, **kwargs)
    env.ale = Recorder(env.ale)
    return env, env.ale


def play(env: gymnasium.Env, actions: list[int]) -> list[tuple]:
    """Steps, with a reset after each episode: (observation, reward, terminated, truncated, info)."""
    steps = []
    for action in actions:
        steps.append(env.step(action))
        if steps[-1][2] or steps[-1][3]:
            env.reset()
    return steps


@pytest.mark.parametrize("env_id", ["BreakoutNoFrameskip-v4", "SpaceInvadersNoFrameskip-v4", "QbertNoFrameskip-v4"])
def test_nature_84_is_gymnasiums_wrappers_step_by_step(env_id: str) -> None:
    config = replace(PLAIN, id=env_id, life_loss_terminates=False)
    ours = make_env(config)
    inner = AtariPreprocessing(gymnasium.make(env_id, disable_env_checker=True), noop_max=0)
    theirs = FrameStackObservation(inner, 4)
    rng, games = np.random.default_rng(0), 0
    np.testing.assert_array_equal(ours.reset(seed=1)[0], theirs.reset(seed=1)[0])
    for _ in range(900):
        action = int(rng.integers(ours.action_space.n))
        got, expected = ours.step(action), theirs.step(action)
        assert got[1:4] == expected[1:4]
        assert got[4]["raw_reward"] == expected[1]
        if got[2]:  # at the end of a game, gymnasium leaves out the last frames
            games += 1
            got, expected = ours.reset(), theirs.reset()
        np.testing.assert_array_equal(got[0], expected[0])
    assert games


@pytest.mark.parametrize("preprocessing", ["report_42", "report_80"])
def test_reports_screens_are_the_raw_frames_pooled(preprocessing: str) -> None:
    """report_42 uses the last frame, report_80 the maximum of the last three, as S4's MaxAndSkip does."""
    env = make_env(replace(PLAIN, preprocessing=Preprocessing(preprocessing)), training=False)
    ale, rng = emulator("breakout"), np.random.default_rng(0)
    env.reset(seed=0)
    ale.reset_game()
    differ = 0
    for _ in range(200):
        action = int(rng.integers(4))
        frames = []
        for _ in range(4):
            ale.act(ale.getMinimalActionSet()[action])
            frames.append(ale.getScreenRGB())
        pooled = np.max(frames[-3:], axis=0) if preprocessing == "report_80" else frames[-1]
        differ += (pooled != frames[-1]).any()
        np.testing.assert_array_equal(env.step(action)[0], env.preprocessor.from_rgb(pooled))
    assert differ or preprocessing == "report_42"


def test_a_lost_life_ends_an_episode_in_training_only_and_the_game_goes_on() -> None:
    """With the same actions, both play the same game, and its points are those of the raw emulator."""
    actions = np.random.default_rng(3).integers(4, size=400).tolist()
    training, emulated = recorded(BREAKOUT)
    evaluation, _ = recorded(BREAKOUT, training=False)
    training.reset(seed=5)
    evaluation.reset(seed=5)
    learned, scored, lives = [], [], []
    for action in actions:
        learned.append(training.step(action))
        scored.append(evaluation.step(action))
        if learned[-1][2]:
            lives.append(training.ale.lives())
            if learned[-1][4]["game_over"]:
                break
            training.reset()
    assert lives == [4, 3, 2, 1, 0]
    assert [step[2] for step in scored] == [step[4]["game_over"] for step in learned]
    assert scored[-1][2]
    assert not scored[-1][3]
    ale = emulator("breakout")
    ale.reset_game()
    points = sum(ale.act(action) for action in emulated.actions)
    assert points  # otherwise the next lines would prove little
    assert ale.game_over()
    assert sum(step[4]["raw_reward"] for step in learned) == points
    assert sum(step[4]["raw_reward"] for step in scored) == points
    assert sum(step[1] for step in scored) == points  # evaluation: raw rewards


def test_a_last_life_that_counts_as_none_is_played_to_its_end() -> None:
    """Bank Heist continues with lives() at 0: as in OpenAI baselines, only the end of the game counts."""
    env = make_env(replace(PLAIN, id="BankHeistNoFrameskip-v4"))
    rng, lives, without = np.random.default_rng(0), [], 0
    env.reset(seed=0)
    while True:
        _, _, terminated, _, info = env.step(int(rng.integers(18)))
        without += env.ale.lives() == 0 and not terminated
        if terminated:
            lives.append(env.ale.lives())
        if info["game_over"]:
            break
        if terminated:
            env.reset()
    assert lives == [3, 2, 1, 0]
    assert without


def test_points_of_a_start_are_added_to_the_first_step() -> None:
    """Skiing subtracts time from the first frame on."""
    env, emulated = recorded(replace(PLAIN, id="SkiingNoFrameskip-v4", noop_max=30))
    env.reset(seed=0)
    points_before = env.save()["points_before"]
    other = make_env(replace(PLAIN, id="SkiingNoFrameskip-v4", noop_max=30))
    other.restore(env.save())
    total = 0.0
    for step in range(5):
        info = env.step(0)[4]
        total += info["raw_reward"]
        if step == 0:
            assert other.step(0)[4] == info
    ale = emulator("skiing")
    ale.reset_game()
    assert total == sum(ale.act(action) for action in emulated.actions)
    assert points_before < 0


def test_rewards_are_clipped_in_training_only() -> None:
    config = replace(RIVERRAID, life_loss_terminates=False)
    training, evaluation = make_env(config), make_env(config, training=False)
    steps = []
    for env in (training, evaluation):
        env.reset(seed=2)
        steps.append(play(env, np.random.default_rng(0).integers(18, size=600).tolist()))
    raw = [step[4]["raw_reward"] for step in steps[0]]
    assert set(raw) > {0.0, 30.0}
    assert [step[1] for step in steps[0]] == np.sign(raw).tolist()
    assert [step[1] for step in steps[1]] == raw


def test_fire_is_pressed_at_starts_and_after_lost_lives() -> None:
    for training in (True, False):
        env, emulated = recorded(replace(BREAKOUT, noop_max=0), training=training)
        env.reset(seed=0)
        assert emulated.actions == [1] * 4
        fired, lost, lives = 0, 0, 5
        for _ in range(300):
            before = len(emulated.actions)
            _, _, terminated, _, info = env.step(0)
            if info["game_over"]:
                break
            if terminated:
                env.reset()
            fired += emulated.actions[before + 4 :] == [1] * 4
            lost += env.ale.lives() < lives
            lives = env.ale.lives()
        assert info["game_over"]
        assert fired == lost == 4


def test_a_game_in_which_fire_is_never_pressed_is_refused() -> None:
    silent = replace(BREAKOUT, fire_action=False, fire_on_reset=False)
    with pytest.raises(ConfigError, match="fire_action=false"):
        spec_of(silent)
    assert spec_of(replace(silent, fire_on_reset=True)).action.n == 3
    assert spec_of(replace(silent, full_action_space=True)).action.n == 17  # UPFIRE and others remain


def test_without_fire_a_new_life_begins_with_a_step_of_no_action() -> None:
    env, emulated = recorded(replace(RIVERRAID, life_loss_terminates=True, frame_skip=(3, 3), sticky_actions=0.0))
    env.reset(seed=0)
    assert emulated.actions == []
    while not env.step(2)[2]:
        pass
    before = len(emulated.actions)
    env.reset()
    assert emulated.actions[before:] == [0] * 3


def test_a_game_starts_with_1_to_noop_max_frames_of_no_action() -> None:
    env, emulated = recorded(replace(PLAIN, noop_max=5))
    numbers = []
    for seed in range(60):
        before = len(emulated.actions)
        env.reset(seed=seed)
        assert set(emulated.actions[before:]) == {0}
        numbers.append(len(emulated.actions) - before)
    assert set(numbers) == {1, 2, 3, 4, 5}


def test_frame_skips_are_drawn_evenly() -> None:
    env = make_env(replace(RIVERRAID, frame_skip=(2, 4)))
    env.reset(seed=0)
    numbers = []
    for _ in range(600):
        before = env.ale.getFrameNumber()
        over = env.step(0)[4]["game_over"]
        if over:
            env.reset()
        else:
            numbers.append(env.ale.getFrameNumber() - before)
    counts = [numbers.count(frames) for frames in (2, 3, 4)]
    assert sum(counts) == len(numbers)
    expected = len(numbers) / 3
    assert np.abs(np.array(counts) - expected).max() < 4 * np.sqrt(expected)


def test_an_action_sticks_with_its_probability_at_each_frame() -> None:
    """Two actions alternate. A frame that should change the action keeps the old one with probability 1/4."""
    env, emulated = recorded(replace(PLAIN, sticky_actions=0.25, frame_skip=(1, 1), life_loss_terminates=False))
    env.reset(seed=0)
    held, asked, kept = 0, 0, 0
    for step in range(4000):
        action = 2 + step % 2
        over = env.step(action)[4]["game_over"]
        emulators = [0, 1, 3, 4][action]
        if held != emulators:
            asked += 1
            kept += emulated.actions[-1] == held
            assert emulated.actions[-1] in (held, emulators)
        held = emulated.actions[-1]
        if over:
            env.reset()
            held = 0
    assert abs(kept / asked - 0.25) < 4 * np.sqrt(0.25 * 0.75 / asked)


def test_a_game_is_cut_after_max_ep_step_steps() -> None:
    env = make_env(replace(BREAKOUT, max_ep_step=60, life_loss_terminates=True))
    env.reset(seed=1)
    lost = 0
    for step in range(1, 61):
        _, _, terminated, truncated, info = env.step(0)
        assert truncated == info["game_over"] == (step == 60)
        if terminated and not truncated:
            lost += 1
            env.reset()
    assert lost  # the limit's count continues after a lost life
    env.reset()
    assert env.ale.lives() == 5


def test_a_game_that_is_over_at_its_limit_has_both_flags() -> None:
    config = replace(BREAKOUT, life_loss_terminates=False)
    free = make_env(config)
    free.reset(seed=1)
    ends = [free.step(0)[2:4]]
    while not any(ends[-1]):
        ends.append(free.step(0)[2:4])
    assert ends[-1] == (True, False)
    cut = make_env(replace(config, max_ep_step=len(ends)))
    cut.reset(seed=1)
    assert [cut.step(0)[2:4] for _ in ends] == [*ends[:-1], (True, True)]


@pytest.mark.parametrize("config", [BREAKOUT, RIVERRAID], ids=["breakout", "riverraid"])
def test_a_seed_repeats_the_game(config: AtariConfig) -> None:
    actions = np.random.default_rng(0).integers(4, size=250).tolist()
    env, other = make_env(config), make_env(config)
    runs = []
    for again in (env, env, other):
        runs.append([again.reset(seed=7)[0], *(step[0] for step in play(again, actions))])
    np.testing.assert_array_equal(runs[0], runs[1])
    np.testing.assert_array_equal(runs[0], runs[2])
    env.reset(seed=8)
    assert any((one != two).any() for one, two in zip(runs[0][1:], [s[0] for s in play(env, actions)], strict=True))


@pytest.mark.parametrize("preprocessing", list(Preprocessing))
@pytest.mark.parametrize("config", [BREAKOUT, RIVERRAID], ids=["breakout", "riverraid"])
def test_a_restored_game_continues_as_the_saved_one(config: AtariConfig, preprocessing: Preprocessing) -> None:
    """Bit for bit, through JSON, over lost lives and ends of games, with sticky actions and random frame skips."""
    config = replace(config, preprocessing=preprocessing, sticky_actions=0.25, frame_skip=(2, 4), max_ep_step=160)
    for steps_before in (0, 110):
        original, other = make_env(config), make_env(config)
        rng = np.random.default_rng(steps_before)
        original.reset(seed=5)
        play(original, rng.integers(original.action_space.n, size=steps_before).tolist())
        other.reset(seed=6)
        other.restore(json.loads(json.dumps(original.save())))
        ends = 0
        for _ in range(170):
            action = int(rng.integers(original.action_space.n))
            expected, got = original.step(action), other.step(action)
            np.testing.assert_array_equal(expected[0], got[0])
            assert expected[1:] == got[1:]
            if expected[2] or expected[3]:
                ends += 1
                np.testing.assert_array_equal(original.reset()[0], other.reset()[0])
        assert ends


def test_the_action_that_a_sticky_action_repeats_is_saved() -> None:
    config = replace(PLAIN, sticky_actions=0.7, frame_skip=(1, 1))
    original, emulated = recorded(config)
    other, emulated_again = recorded(config)
    original.reset(seed=5)
    other.reset(seed=6)
    for step in range(40):
        other.restore(original.save())
        original.step(2 + step % 2)
        other.step(2 + step % 2)
        assert emulated.actions[-1] == emulated_again.actions[-1]
    assert set(emulated.actions) >= {3, 4}


def test_a_mode_and_a_difficulty_are_the_emulators_own_and_are_saved() -> None:
    """Breakout's mode 12 has another wall, and difficulty 1 a shorter paddle."""
    actions = np.random.default_rng(0).integers(4, size=60).tolist()
    screens = {}
    for mode, difficulty in ((None, None), (0, 0), (12, 0), (0, 1)):
        config = replace(PLAIN, preprocessing=Preprocessing.report_80, mode=mode, difficulty=difficulty)
        env, ale = make_env(config, training=False), emulator("breakout")
        if mode is not None:
            ale.setMode(mode)
            ale.setDifficulty(difficulty)
        env.reset(seed=0)
        ale.reset_game()
        for action in actions:
            env.step(action)
            for _ in range(4):
                ale.act(ale.getMinimalActionSet()[action])
        np.testing.assert_array_equal(env.ale.getScreenRGB(), ale.getScreenRGB())
        screens[mode, difficulty] = env.ale.getScreenRGB()
        other = make_env(config, training=False)
        other.reset(seed=1)
        other.restore(json.loads(json.dumps(env.save())))
        for action in [*actions, None, *actions]:  # into the next game
            played = [e.reset(seed=3)[0] if action is None else e.step(action)[0] for e in (env, other)]
            np.testing.assert_array_equal(*played)
    assert (screens[None, None] == screens[0, 0]).all()
    assert (screens[12, 0] != screens[0, 0]).any()
    assert (screens[0, 1] != screens[0, 0]).any()


def test_a_game_that_is_over_can_be_saved() -> None:
    original = make_env(replace(BREAKOUT, max_ep_step=3))
    original.reset(seed=5)
    play_on = [original.step(0) for _ in range(3)][-1]
    assert play_on[3]
    other = make_env(replace(BREAKOUT, max_ep_step=3))
    other.restore(original.save())
    np.testing.assert_array_equal(original.reset()[0], other.reset()[0])
    assert other.step(0)[3] is False


@pytest.mark.parametrize("env_id", ["ALE/Breakout-v5", "BreakoutNoFrameskip-v4", "Riverraid-v0", "Pong-v4"])
def test_an_id_means_what_gymnasium_registers(env_id: str) -> None:
    config = game(f"env.id={env_id}")
    registered = gymnasium.make(env_id, disable_env_checker=True).unwrapped
    assert isinstance(registered, AtariEnv)
    skip = registered._frameskip
    assert config.frame_skip == ((skip, skip) if isinstance(skip, int) else (skip[0], skip[1] - 1))
    assert config.sticky_actions == registered.ale.getFloat("repeat_action_probability")
    spec = spec_of(config)
    assert spec.action.n == registered.action_space.n
    assert spec.time_limit is not None
    assert spec.time_limit * sum(config.frame_skip) / 2 == 108_000


def test_given_values_override_those_of_the_id() -> None:
    config = game("env.id=Pong-v0", "env.frame_skip=[4,4]", "env.full_action_space=true")
    assert (config.frame_skip, config.sticky_actions, config.full_action_space) == ((4, 4), 0.25, True)
    assert spec_of(config).action.n == 18
    assert make_env(config).action_space.n == 18
    assert game("env=breakout", "protocol=machado2018").sticky_actions == 0.25
    assert game("env=breakout", "protocol=machado2018", "env.sticky_actions=0.1").sticky_actions == 0.1


@pytest.mark.parametrize("preprocessing", list(Preprocessing))
def test_spec_is_what_the_environment_gives(preprocessing: Preprocessing) -> None:
    config = replace(BREAKOUT, preprocessing=preprocessing)
    spec, env = spec_of(config), make_env(config)
    observation = env.reset(seed=0)[0]
    assert observation.shape == spec.observation_shape == env.observation_space.shape == shape_of(preprocessing)
    assert str(observation.dtype) == spec.observation_dtype == str(env.observation_space.dtype)
    assert spec.action.n == env.action_space.n == 4
    assert env.observation_space.contains(env.step(3)[0])


def test_a_game_that_ale_py_lacks_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError) as refusal:
        spec_of(replace(BREAKOUT, id="ALE/Brekout-v5"))
    assert str(refusal.value) == "env.id=ALE/Brekout-v5: no such game; did you mean ALE/Breakout-v5?"
    with pytest.raises(ConfigError, match=r"env.frame_skip=\[4,2\]: .* use \[2,4\]"):
        spec_of(replace(BREAKOUT, frame_skip=(4, 2)))
    with pytest.raises(ConfigError, match=r"env.kwargs=.*'mode': 1.* no further arguments"):
        spec_of(replace(BREAKOUT, kwargs={"mode": 1}))


def test_the_emulator_prints_nothing() -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); from ablate.envs.games import emulator"
    code += "; emulator('breakout').act(0)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout + run.stderr == ""


def test_render_returns_the_screen() -> None:
    env = make_env(BREAKOUT, training=False, render_mode="rgb_array")
    env.reset(seed=0)
    frame = env.render()
    assert (frame.shape, frame.dtype) == ((210, 160, 3), np.uint8)
    np.testing.assert_array_equal(frame, env.ale.getScreenRGB())
    assert env.metadata["render_fps"] == 15  # 60 frames per second, 4 per step
