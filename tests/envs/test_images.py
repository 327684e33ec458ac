"""Images of any environment: made grey, resized, stacked, and given to a network for images."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from catch_env import SIZE, Catch, NumberedCatch
from helpers import config_of, job_of

from ablate.algos.a3c.game_worker import GameWorker
from ablate.algos.dqn.spec import check_replay
from ablate.config.schema import ConfigError
from ablate.config.serial import to_dict
from ablate.envs.make import kind_of, make_env, spec_of
from ablate.play.episodes import Share, play_share
from ablate.records.checkpoint import Checkpoint
from ablate.runs.plan import plan
from ablate.types import ProcessState

IMAGES = ("env=images", "env.id=catch_env:Catch-v0")


@pytest.mark.parametrize(("algo", "network"), [("a3c", "conv"), ("dqn", "q")])
def test_a_network_for_images_is_the_default(algo: str, network: str) -> None:
    resolved = plan(config_of(f"algo={algo}", *IMAGES), [])
    assert resolved.config.model.name == network
    assert resolved.spec.observation_shape == (4, 84, 84)
    assert resolved.spec.observation_dtype == "uint8"
    assert (resolved.spec.action.n, resolved.spec.action.start) == (3, 1)


def test_an_observation_is_the_stack_of_the_last_grey_images() -> None:
    config = plan(config_of(*IMAGES, "model.input=[3,40,48]"), []).config
    made, plain = make_env(config.env), Catch()
    seen, raw = [made.reset(seed=3)[0]], [plain.reset(seed=3)[0]]
    for action in (1, 3, 2, 1):
        seen.append(made.step(action)[0])
        raw.append(plain.step(action)[0])
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in raw]
    grey = [cv2.resize(image, (48, 40), interpolation=cv2.INTER_AREA) for image in grey]
    for time, observation in enumerate(seen):
        expected = [grey[max(0, k)] for k in (time - 2, time - 1, time)]
        np.testing.assert_array_equal(observation, expected)


def test_images_are_not_flattened_silently() -> None:
    for algo in ("a3c", "dqn"):
        with pytest.raises(ConfigError, match=r"observations are images, shape \(12, 12, 3\); use env=images$"):
            plan(config_of(f"algo={algo}", "env.id=catch_env:Catch-v0"), [])
    assert spec_of(config_of("env.id=catch_env:Flat-v0").env).observation_shape == (SIZE * SIZE,)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("env.id=CartPole-v1",), r"its observation is Box\(.*; env=images needs a Box\(height, width, 1, 3 or 4\)"),
        (("env.id=catch_env:Catch-v0", "model=mlp"), "its observations are images; use model=conv_lstm_42"),
        (("env.id=catch_env:Catch-v0", "env.image=[4,42,42]"), r"env.image=\[4, 42, 42\]: the model takes"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(given: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(config_of("env=images", *given), [])


def test_the_memory_of_a_replay_is_that_of_its_observations(tmp_path: Path) -> None:
    """The line once said 29.9 MB for 2, 4 and 3888 numbers alike."""
    for given, shape, dtype in (
        (("env=cartpole",), (4,), "float32"),
        (("env.id=catch_env:Flat-v0",), (SIZE * SIZE,), "float32"),
        (IMAGES, (84, 84), "uint8"),
    ):
        config = plan(config_of("algo=dqn", *given), []).config
        line = check_replay(config, spec_of(config.env), tmp_path)
        amount, unit = re.search(r"up to ([\d.]+) (MB|GB) of memory$", line).groups()  # type: ignore[union-attr]
        per_frame = float(amount) * {"MB": 1e6, "GB": 1e9}[unit] / 100_000
        frame = np.empty(shape, dtype).nbytes
        assert frame <= per_frame <= 1.01 * frame + 64  # and what is stored next to it


def test_a3c_plays_whole_episodes_and_resumes(tmp_path: Path) -> None:
    """Its actions are the environment's own, from 1; its returns are sums of raw rewards."""
    small = ("model.convolutions=[{channels:4,kernel:8,stride:4}]", "model.hidden=8", "envs_per_worker=2")
    config = plan(config_of(*IMAGES, *small, "backend=manual", "precision=float32", "workers=1"), []).config
    worker = GameWorker(0, job_of(config, tmp_path))
    returns, steps = [], 0
    for _ in range(8):
        rollout, ended = worker.collect(1000)
        steps += rollout.rewards.size
        returns += [(episode.episodic_return, episode.episodic_length) for episode in ended]
    assert len(returns) == 2 * (steps // 2 // (SIZE - 1))
    assert {abs(value) for value, _ in returns} == {1.0}
    assert {length for _, length in returns} == {SIZE - 1}
    values, tensors = worker.state()
    assert values["env"] is None  # an environment of somebody else's cannot be saved in mid-episode: a new one begins
    GameWorker(0, job_of(config, tmp_path)._replace(resumed={0: ProcessState(values, tensors)})).collect(10)


def test_each_environment_has_a_number_of_its_own(tmp_path: Path) -> None:
    """Two workers with two games each train with 0 to 3; two processes evaluate in those from 4 on."""
    numbered = ("env.id=catch_env:NumberedCatch-v0", "+env.kwargs.port='{worker+5000}'")
    workers = ("workers=2", "envs_per_worker=2", "backend=manual", "precision=float32")
    small = ("model.convolutions=[{channels:4,kernel:8,stride:4}]", "model.hidden=8")
    resolved = plan(config_of("env=images", *numbered, *workers, *small), [])
    NumberedCatch.made.clear()
    for index in range(2):
        GameWorker(index, job_of(resolved.config, tmp_path))
    assert NumberedCatch.made == [5000, 5001, 5002, 5003]
    state = {"config": to_dict(resolved.config), "env_spec": asdict(resolved.spec)}
    policy = Checkpoint({"parameters": resolved.parameters}, state)
    NumberedCatch.made.clear()
    streams = np.random.default_rng(0).spawn(3)
    for process in range(2):
        play_share(lambda episode: None, Share(policy, 20, True, process, [0, 1, 2], streams))
    assert len(set(NumberedCatch.made)) == len(NumberedCatch.made) == 6
    assert min(NumberedCatch.made) == 5004


def test_a_network_for_images_chooses_the_environments_own_actions() -> None:
    """They are numbered from 1 here. Of each algorithm, drawn and most likely."""
    for algo in ("a3c", "dqn"):
        resolved = plan(config_of(f"algo={algo}", *IMAGES), [])
        policy = resolved.architecture.acting(resolved.parameters, resolved.spec.action, 1, epsilon=0.5)
        image, rng = np.zeros(resolved.spec.observation_shape, np.uint8), np.random.default_rng(0)
        drawn = {int(policy.actions([image], [rng])[0]) for _ in range(60)}
        assert drawn | {int(policy.actions([image], None)[0])} == {1, 2, 3}


def test_a_policy_takes_the_environments_own_images() -> None:
    config = plan(config_of(*IMAGES), []).config
    interface = kind_of(config.env).raw_interface(config.env, spec_of(config.env))
    made, plain = make_env(config.env), Catch()
    made.reset(seed=1)
    interface.reset()
    interface.preprocess(plain.reset(seed=1)[0])
    np.testing.assert_array_equal(interface.preprocess(plain.step(1)[0]), made.step(1)[0])
    with pytest.raises(ValueError, match=r"an image \(height, width, 1, 3 or 4\) of uint8 is needed, not \(12, 12\)"):
        interface.preprocess(np.zeros((12, 12), np.uint8))
