"""Environments of users: seeded whatever generator they use, told apart by number, and owners of what they get."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty_envs import Numbered
from helpers import config_of, job_of, work

from ablate.config.schema import ConfigError
from ablate.envs.make import kind_of, make_env, spec_of
from ablate.envs.placeholders import numbered
from ablate.nn.acting import Action
from ablate.play.episodes import make_envs, play
from ablate.types import EpisodeRecord

SOURCES = ["random", "numpy", "action_space", "observation_space"]
UNREPEATABLE = "it is not reproducible"


def rows(folder: Path, *overrides: str, evaluates: bool = True) -> list[EpisodeRecord]:
    """The episodes of a short training with two workers that take turns."""
    config = config_of(
        "env.id=faulty_envs:DrawsElsewhere-v0", "schedule=interleaved", "workers=2", "backend=manual", "max_episodes=8",
        "evaluation.every_steps=50", "evaluation.episodes=1", "evaluation.horizon=20", *overrides,
    )  # fmt: skip
    folder.mkdir()
    messages = work(job_of(config, folder, evaluates))
    return [message._replace(wall_time_s=0.0) for message in messages if isinstance(message, EpisodeRecord)]


@pytest.mark.parametrize("source", SOURCES)
def test_the_same_seed_gives_the_same_rows_whatever_generator_is_used(source: str, tmp_path: Path) -> None:
    """Evaluations in the same process change nothing, and another seed does."""
    chosen = f"+env.kwargs.source={source}"
    first = rows(tmp_path / "first", chosen)
    random.seed()
    np.random.seed()  # noqa: NPY002
    assert rows(tmp_path / "again", chosen) == first
    assert rows(tmp_path / "without", chosen, evaluates=False) == first
    assert rows(tmp_path / "other", chosen, "seed=2") != first


@pytest.mark.parametrize("source", [*SOURCES, "system"])
def test_an_environment_that_no_seed_reaches_has_a_note(source: str) -> None:
    notes = spec_of(config_of("env.id=faulty_envs:DrawsElsewhere-v0", f"+env.kwargs.source={source}").env).notes
    assert any(UNREPEATABLE in note for note in notes) == (source == "system")


def test_a_plan_leaves_the_generators_of_its_process_as_they_were() -> None:
    """A user's notebook goes on as without it."""
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[union-attr]  # noqa: NPY002
    spec_of(config_of("env.id=faulty_envs:DrawsElsewhere-v0").env)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # type: ignore[union-attr]  # noqa: NPY002


# Numbers.


@pytest.mark.parametrize(
    ("given", "filled"),
    [
        ("{worker}", 3),
        ("{worker+5000}", 5003),
        ("/tmp/simulator-{worker}", "/tmp/simulator-3"),
        ("127.0.0.1:50{worker+10}", "127.0.0.1:5013"),
        (["{worker}", {"port": "{worker+1}"}], [3, {"port": 4}]),
        ("{workers}", "{workers}"),
        (7, 7),
    ],
)
def test_a_placeholder_becomes_the_number_of_the_environment(given: Any, filled: Any) -> None:
    env = config_of("env.id=faulty_envs:Takes-v0").env
    env.kwargs["value"] = given
    assert numbered(env, 3).kwargs == {"value": filled}
    assert env.kwargs == {"value": given}


def test_each_environment_of_a_run_has_a_number_of_its_own(tmp_path: Path) -> None:
    """Two workers train, with 0 and 1; the evaluation has 2."""
    Numbered.made.clear()
    config = config_of(
        "env.id=faulty_envs:Numbered-v0", "+env.kwargs.port='{worker+5000}'", "schedule=interleaved", "workers=2",
        "backend=manual", "max_episodes=2", "evaluation.every_steps=50", "evaluation.episodes=1",
    )  # fmt: skip
    job = job_of(config, tmp_path, evaluates=True)
    Numbered.made.clear()
    work(job)
    assert Numbered.made == [5000, 5001, 5002]
    Numbered.made.clear()
    kind_of(config.env).make_side_by_side(config.env, 3)
    make_env(config.env)
    assert Numbered.made == [5000, 5001, 5002, 5000]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("env.id=faulty_envs:Numbered-v0", "+env.kwargs.port='{worker}'", "+env.kwargs.changes_the_task=true"),
         "env.kwargs.port={worker}: a placeholder changes the task"),
        (("env.id=Pendulum-v1", "+env.kwargs.g='{worker+9}'"),
         "env.kwargs.g={worker+9}: the arguments of Pendulum-v1 are its task"),
    ],
)  # fmt: skip
def test_a_placeholder_that_changes_the_task_is_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        spec_of(config_of(*overrides).env)
    assert str(refusal.value).startswith(message)


# What an environment gets is its own.


class Ones:
    """A policy that always gives the same array."""

    def __init__(self) -> None:
        self.action = np.ones(1, np.float32)

    def act_on(self, *_: object) -> list[Action]:
        return [self.action]

    def reset(self, game: int) -> None:
        """Nothing is remembered."""


def test_recorded_actions_are_those_that_were_chosen() -> None:
    policy: Any = Ones()
    config = config_of("env.id=faulty_envs:ChangesItsAction-v0")
    (episode,) = play(policy, make_envs(config, 5, 1), [np.random.default_rng(0)])
    assert [float(np.ravel(action)[0]) for action in episode.actions] == [1.0] * 5
    assert policy.action[0] == 1.0
