"""The schema: presets against the report, ranges, contradictions, and the way through JSON."""

import re
from dataclasses import replace

import pytest
from helpers import ROOT, config_of

from ablate.config import SCHEMAS, Config, ConfigError, config_hash, from_dict, number_of_workers, suggest, to_dict


def test_pendulum_report_is_the_report() -> None:
    """Every constant of REFERENCE.md's S1."""
    config = config_of("experiment=pendulum_report")
    algo, model, optimizer, env = config.algo, config.model, config.optimizer, config.env
    assert (env.id, env.max_ep_step, env.reward_shift, env.reward_scale) == ("Pendulum-v1", 4000, 8.1, 8.1)
    assert (config.workers, config.max_episodes, config.total_steps) == (12, 1000, None)
    assert (model.torso_hidden, model.actor_hidden, model.critic_hidden) == ([], [200], [100])  # type: ignore[attr-defined]
    assert (model.activation, model.mu_scale, model.sigma_min, model.init_std) == ("relu6", 1.0, 1e-4, 0.1)  # type: ignore[attr-defined]
    assert (algo.t_max, algo.gamma, algo.gae_lambda, algo.entropy_coef) == (10, 0.9, 1.0, 0.005)  # type: ignore[attr-defined]
    assert (algo.value_loss_coef, algo.loss_reduction, algo.max_grad_norm) == (1.0, "mean", None)  # type: ignore[attr-defined]
    assert (algo.bootstrap_truncated, algo.lock_updates) == (False, False)  # type: ignore[attr-defined]
    assert (optimizer.name, optimizer.lr, optimizer.eps, optimizer.weight_decay) == ("adam", 1e-4, 1e-8, 0.0)
    assert (tuple(optimizer.betas), optimizer.amsgrad) == ((0.96, 0.999), False)  # type: ignore[attr-defined]
    assert config.schedule == "async"


@pytest.mark.parametrize(
    "overrides",
    [[], ["experiment=pendulum_report"], ["optimizer=rmsprop"], ["logger=tensorboard"], ["env=cartpole"]],
)
def test_through_json_and_back(overrides: list[str]) -> None:
    config = config_of(*overrides)
    assert from_dict(to_dict(config)) == config
    assert config_hash(from_dict(to_dict(config))) == config_hash(config)


def test_the_hash_tells_configurations_apart() -> None:
    config = config_of()
    assert config_hash(config) != config_hash(replace(config, seed=2))


@pytest.mark.parametrize("group", ["algo", "model", "optimizer"])
def test_every_option_has_a_schema_and_every_schema_an_option(group: str) -> None:
    options = [path.read_text() for path in (ROOT / "conf" / group).glob("*.yaml")]
    schemas = [re.search(rf"- /schema/{group}/(\w+)@_here_", option) for option in options]
    assert {schema[1] for schema in schemas if schema} == set(SCHEMAS[group])
    assert all(schemas)


IDS = {"gymnasium": ["env.id=CartPole-v1"], "atari": ["env.id=ALE/Pong-v5"]}


@pytest.mark.parametrize("env", sorted(path.stem for path in (ROOT / "conf/env").glob("*.yaml")))
def test_every_environment_file_composes(env: str) -> None:
    config = config_of(f"env={env}", *IDS.get(env, []))
    assert isinstance(config, Config)


@pytest.mark.parametrize("plus", ["", "+", "++"])
def test_an_id_alone_does_not_inherit_pendulums_settings(plus: str) -> None:
    config = config_of(f"{plus}env.id=CartPole-v1")
    assert (config.env.max_ep_step, config.env.reward_shift, config.env.reward_scale) == (None, 0.0, 1.0)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["workers=0"], "workers=0: "),
        (["algo.gamma=1.5"], "algo.gamma=1.5: "),
        (["optimizer.betas=[0.9,1.0]"], "optimizer.betas=.*element 1"),
        (["+wokers=8"], "wokers=8: no such key; did you mean workers?"),
        (["+algo.gama=0.5"], "algo.gama=0.5: no such key; did you mean algo.gamma?"),
        (["+model.dept=3"], "model.dept=3: no such key"),
        (["max_episodes=null"], "would never end"),
        (["resume=a", "load=b"], "load=b: "),
        (["schedule=interleaved", "algo.lock_updates=true"], "algo.lock_updates=true: "),
        (["device=tpu"], "device=tpu: "),
        (["env=gymnasium"], "env.id: no value"),
        (["algo.name=dqn"], "algo.name=dqn: "),
        (["+env.kwargs.max_episode_steps=3"], "env.max_ep_step"),
    ],
)
def test_refusals_name_key_and_value(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")) as refusal:
        config_of(*overrides)
    assert "\n" not in str(refusal.value)


def test_free_form_arguments_of_an_environment_are_no_typo() -> None:
    assert config_of("+env.kwargs.g=9.81").env.kwargs == {"g": 9.81}


def test_workers_default_to_the_cpus() -> None:
    assert number_of_workers(config_of()) >= 1
    assert number_of_workers(config_of("workers=7")) == 7


def test_suggestions() -> None:
    known = ["workers", "algo.gamma", "optimizer.lr"]
    assert suggest("wokers", known) == "; did you mean workers?"
    assert suggest("gamma", known) == "; did you mean algo.gamma?"
    assert suggest("zzzzzz", known) == ""
