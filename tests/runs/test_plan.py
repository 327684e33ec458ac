"""A plan checks a configuration, and fills it in, before a run starts."""

from pathlib import Path

import pytest
from helpers import config_of

from ablate.algos.a3c.spec import A3C, A3CConfig
from ablate.algos.algorithm import Algorithm
from ablate.config.schema import LARGEST, ConfigError
from ablate.runs import plan as planning
from ablate.runs.console import announcement
from ablate.runs.plan import plan


def test_the_plan_fills_in_what_the_machine_and_the_environment_decide() -> None:
    config = plan(config_of("env.id=CartPole-v1"), []).config
    assert config.env.max_ep_step == 500
    assert config.workers is not None


def test_an_environment_can_come_from_the_users_module() -> None:
    config = plan(config_of("env.id=faulty_envs:Faulty-v0"), []).config
    assert config.env.id == "faulty_envs:Faulty-v0"


def test_first_parameters_depend_on_the_seed_alone() -> None:
    first, again, other = (plan(config_of(*overrides), []).parameters for overrides in ([], ["workers=3"], ["seed=2"]))
    assert (first == again).all()
    assert not (first == other).all()


def test_an_action_without_bounds_needs_a_scale() -> None:
    with pytest.raises(ConfigError, match=r"model\.mu_scale"):
        plan(config_of("env.id=faulty_envs:Unbounded-v0"), [])
    assert plan(config_of("env.id=faulty_envs:Unbounded-v0", "model.mu_scale=1"), []).new


class OneProcess(A3C):
    """As an algorithm that overrides none of the defaults."""

    has_workers, has_envs_per_worker = Algorithm.has_workers, Algorithm.has_envs_per_worker


@pytest.mark.parametrize(
    "overrides", [["workers=4"], ["envs_per_worker=2"], ["save_replay=true"], ["replay=uniform"]], ids=" ".join
)
def test_a_key_without_a_meaning_for_the_algorithm_is_refused(
    overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep over it would compare equal programs."""
    monkeypatch.setattr(A3CConfig, "refuse", lambda *arguments: None)
    monkeypatch.setattr(planning, "algorithm_of", lambda config: OneProcess())
    plan(config_of("workers=1"), [])
    with pytest.raises(ConfigError, match=rf"^{overrides[0]}: algo=a3c has no replay|^{overrides[0]}: .*; use 1$"):
        plan(config_of("workers=1", *overrides), [])


def test_planning_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan(config_of(), [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "given", "reached"),
    [
        (["algo=dqn", "env=cartpole", "envs_per_worker=8"], 1500, 1504),
        (["algo=dqn", "env=cartpole", "algo.train_freq=4"], 1501, 1504),
        (["algo=dqn", "env=cartpole", "algo.train_freq=4"], 1504, 1504),
        (["algo=dqn", "env=cartpole", "envs_per_worker=3", "algo.train_freq=3"], LARGEST, LARGEST - 1),
        (["env=breakout", "envs_per_worker=16"], 1500, 1504),
        (["env=cartpole"], 1501, 1501),
    ],
)
def test_a_run_says_at_which_step_it_can_end(overrides: list[str], given: int, reached: int) -> None:
    config = config_of(*overrides, f"total_steps={given}", "optimizer.schedule=constant")
    planned = plan(config, [])
    assert planned.config.total_steps == reached
    lines = [line for line in announcement(planned, Path("run"), 0) if "total_steps" in line]
    expected = f"so the run ends at {reached}"
    assert len(lines) == (given != reached)
    assert all(line.startswith(f"note     total_steps={given}: ") and line.endswith(expected) for line in lines)
    assert plan(planned.config, []).limit_note == ""
    assert planned.config.optimizer == config.optimizer  # its schedule keeps the given total
