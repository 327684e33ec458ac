"""The configuration: presets equal the source reports, wrong values are refused, and JSON loses nothing."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, config_of

from ablate.algos.algorithm import number_of_workers
from ablate.algos.dqn.spec import DQNConfig
from ablate.cli import resolvers
from ablate.config.derived import cuda_index
from ablate.config.schema import SCHEMAS, AtariConfig, Config, ConfigError
from ablate.config.serial import config_hash, differing_key, differing_keys, from_dict, to_dict
from ablate.config.validation import suggest
from ablate.runs.plan import plan
from ablate.sweeps.study import merged


def test_the_pendulum_preset_equals_the_report() -> None:
    """Every constant of the Pendulum report (S1)."""
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


def test_the_riverraid_preset_equals_the_report() -> None:
    """Every constant of the Riverraid report (S2).

    Its value loss is 0.5 · ½ (R - V)². One of its 23 processes is the test process, so there are 22 workers."""
    config: Any = plan(config_of("experiment=riverraid_report"), []).config
    algo, model, optimizer, env = config.algo, config.model, config.optimizer, config.env
    assert (config.workers, config.envs_per_worker, config.backend, config.schedule) == (22, 1, "manual", "async")
    assert (env.id, env.max_ep_step, env.frame_skip, env.sticky_actions) == ("Riverraid-v0", 10**6, (2, 4), 0.25)
    assert (env.preprocessing, env.clip_rewards, env.life_loss_terminates) == ("report_42", True, False)
    assert [(c.channels, c.kernel, c.stride, c.padding, c.pool) for c in model.convolutions] == 4 * [
        (32, 3, 2, 1, False)
    ]
    assert (model.input, model.activation, model.hidden, model.recurrent) == ((1, 42, 42), "elu", 256, True)
    assert (algo.t_max, algo.gamma, algo.gae_lambda, algo.entropy_coef) == (20, 0.99, 1.0, 0.01)
    assert (algo.value_loss_coef, algo.loss_reduction, algo.max_grad_norm) == (0.25, "sum", 50.0)
    assert (optimizer.name, optimizer.lr, optimizer.amsgrad, config.seed) == ("adam", 1e-4, False, 1)
    assert (config.evaluation.every_seconds, config.evaluation.horizon) == (20, None)


def test_the_breakout_a3c_preset_equals_the_report() -> None:
    """Every constant of the report on A3C for Breakout (S4)."""
    config: Any = plan(config_of("experiment=breakout_a3c_report"), []).config
    algo, model, optimizer, env = config.algo, config.model, config.optimizer, config.env
    assert (config.workers, config.envs_per_worker, config.schedule) == (32, 1, "async")
    assert (env.preprocessing, env.clip_rewards) == ("report_80", True)
    assert [(c.channels, c.kernel, c.stride, c.padding, c.pool) for c in model.convolutions] == [
        (32, 5, 1, 2, True), (32, 5, 1, 1, True), (64, 4, 1, 1, True), (64, 3, 1, 1, True)
    ]  # fmt: skip
    assert (model.input, model.activation, model.hidden, model.recurrent) == ((1, 80, 80), "relu", 512, True)
    assert (algo.t_max, algo.gamma, algo.gae_lambda) == (20, 0.99, 1.0)
    assert (optimizer.name, optimizer.lr, optimizer.amsgrad) == ("adam", 1e-4, True)


@pytest.mark.parametrize(
    "overrides",
    [[], ["experiment=pendulum_report"], ["optimizer=rmsprop"], ["logger=tensorboard"], ["env=cartpole"],
     ["env=breakout"], ["env=riverraid", "device=[cuda:0,cuda:1]"]],
)  # fmt: skip
def test_a_configuration_is_the_same_after_json(overrides: list[str]) -> None:
    config = config_of(*overrides)
    assert from_dict(to_dict(config)) == config
    assert config_hash(from_dict(to_dict(config))) == config_hash(config)


def test_an_environment_without_its_own_values_gets_those_of_its_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of("algo=dqn", "env=mountain_car")
    assert (config.total_steps, config.max_episodes, config.optimizer.lr) == (100_000, None, 1e-3)
    for group, files in {"env": ["atari", "breakout", "acrobot"], "algo_env": ["dqn_breakout"]}.items():
        (tmp_path / group).mkdir()
        for name in files:
            (tmp_path / group / f"{name}.yaml").write_text((ROOT / "conf" / group / f"{name}.yaml").read_text())
    for name, base in (("pong", "breakout"), ("tennis", "acrobot")):
        (tmp_path / f"env/{name}.yaml").write_text(f"defaults: [{base}, _self_]")
    monkeypatch.setattr(resolvers, "option_folders", lambda: [tmp_path])
    resolvers._env_kind.cache_clear()
    try:
        chosen = [resolvers._suited("algo_env", "dqn", env) for env in ("breakout", "pong", "tennis", "gone")]
        assert chosen == ["dqn_breakout", "dqn_atari", "dqn_gymnasium", "dqn_gymnasium"]
        assert resolvers._suited("algo_env_optimizer", "a3c", "pong", "adam") == "a3c_atari_adam"
        models = [
            resolvers._default_model(algo, env) for algo, env in (("dqn", "pong"), ("a3c", "pong"), ("dqn", "gone"))
        ]
        assert models == ["dqn_84", "conv_84", "dqn_mlp"]
    finally:
        resolvers._env_kind.cache_clear()


def test_keys_that_older_checkpoints_lack_are_off() -> None:
    stored = to_dict(config_of("algo=dqn", "env=breakout"))
    del stored["algo"]["cuda_graph"], stored["env"]["threads"], stored["evaluation"]["at_start"]
    config = from_dict(stored)
    assert isinstance(config.algo, DQNConfig)
    assert isinstance(config.env, AtariConfig)
    assert (config.algo.cuda_graph, config.env.threads, config.evaluation.at_start) == (False, 0, False)


@pytest.mark.parametrize(("device", "index"), [("cuda", 0), ("cuda:0", 0), ("cuda:12", 12)])
def test_a_cuda_device_without_a_number_is_the_first(device: str, index: int) -> None:
    assert cuda_index(device) == index


def test_different_configurations_have_different_hashes() -> None:
    config = config_of()
    assert config_hash(config) != config_hash(replace(config, seed=2))


@pytest.mark.parametrize("group", ["algo", "model", "optimizer"])
def test_every_option_has_a_schema_and_every_schema_an_option(group: str) -> None:
    options = [path.read_text() for path in (ROOT / "conf" / group).glob("*.yaml")]
    schemas = [re.search(rf"- /schema/{group}/(\w+)@_here_", option) for option in options]
    assert {schema[1] for schema in schemas if schema} == set(SCHEMAS[group])
    built_on_another = [re.search(r"defaults:\n  - (\w+)\n", option) for option in options]
    assert all(schema or base for schema, base in zip(schemas, built_on_another, strict=True))


@pytest.mark.parametrize("env", ["breakout", "riverraid", "atari"])
def test_games_work_with_any_optimizer(env: str) -> None:
    game = [f"env={env}", *IDS.get(env, [])]
    rmsprop, adam = config_of(*game, "optimizer=rmsprop"), config_of(*game, "optimizer=adam")
    assert rmsprop == config_of(*game)
    assert (rmsprop.optimizer.name, rmsprop.optimizer.lr, rmsprop.optimizer.eps) == ("rmsprop", 7e-4, 1e-5)
    assert rmsprop.optimizer.schedule == "linear"
    assert (adam.optimizer.name, adam.envs_per_worker, adam.algo.gamma) == ("adam", 16, 0.99)
    assert (adam.optimizer.betas, adam.optimizer.eps) == ((0.9, 0.999), 1e-5)  # type: ignore[attr-defined]


IDS = {"gymnasium": ["env.id=CartPole-v1"], "images": ["env.id=CarRacing-v3"], "atari": ["env.id=ALE/Pong-v5"]}


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
        (["env=breakout", "env.protocol=nature2015"], "env.protocol=nature2015: .*protocol=nature2015 sets all values"),
        (["algo_env_model=a3c_acrobot_mlp"], "algo_env_model=.*cannot be given"),
        (["algo_env_optimizer=a3c_atari_adam"], "algo_env_optimizer=.*cannot be given"),
        (["resume=a", "load=b"], "load=b: "),
        (["resume="], "resume=: it is empty"),
        (["load=' '"], "load= : it is empty"),
        (["algo.t_max=1000000000000"], "algo.t_max=1000000000000: .*less than or equal to 1000000"),
        (["total_steps=9223372036854775808"], "total_steps=9223372036854775808: "),
        (["seed=9223372036854775808"], "seed=9223372036854775808: "),
        (["model.actor_hidden=[1000000000000]"], "model.actor_hidden=.*: .*less than or equal to 1000000"),
        (["schedule=interleaved", "algo.lock_updates=true"], "algo.lock_updates=true: "),
        (["device=tpu"], "device=tpu: "),
        (["device=[cuda:0,tpu]"], "device=.*tpu.*: "),
        (["device=[]"], "device="),
        (["envs_per_worker=2"], "envs_per_worker=2: "),
        (["optimizer.schedule=linear", "optimizer.decay_episodes=null"], "optimizer.schedule=linear: .*give optimizer"),
        (["precision=bf16"], "precision=bf16: only layers of images"),
        (["model=conv_lstm_42"], "env.id=Pendulum-v1: .*use model=mlp"),
        (["env=breakout", "model=mlp"], "env.id=BreakoutNoFrameskip-v4: .*use model=conv_lstm_42"),
        (["env=gymnasium"], "env.id: no value"),
        (["algo.name=dqn"], "algo.name=dqn: "),
        (["+env.kwargs.max_episode_steps=3"], "env.max_ep_step"),
    ],
)
def test_refusals_name_key_and_value(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")) as refusal:
        config_of(*overrides)
    assert "\n" not in str(refusal.value)


def test_env_kwargs_accepts_any_argument() -> None:
    assert config_of("+env.kwargs.g=9.81").env.kwargs == {"g": 9.81}


def test_workers_has_a_default() -> None:
    assert number_of_workers(config_of()) >= 1
    assert number_of_workers(config_of("workers=7")) == 7


def test_a_mistyped_key_suggests_the_nearest() -> None:
    known = ["workers", "algo.gamma", "optimizer.lr"]
    assert suggest("wokers", known) == "; did you mean workers?"
    assert suggest("gamma", known) == "; did you mean algo.gamma?"
    assert suggest("zzzzzz", known) == ""


@pytest.mark.parametrize(
    "overrides", [[], ["env=breakout", "precision=float32"], ["optimizer=rmsprop", "total_steps=9"]]
)
def test_files_from_before_the_schedules_are_the_same_run(overrides: list[str]) -> None:
    config = config_of(*overrides, "optimizer.schedule=constant")
    if config.optimizer.name == "rmsprop":
        config = replace(config, optimizer=replace(config.optimizer, eps_inside_root=False))  # type: ignore[call-arg]
    stored = to_dict(config)
    for key in ("schedule", "lr_end", "decay_steps", "decay_episodes", "eps_inside_root"):
        stored["optimizer"].pop(key, None)
    stored["model"].pop("layer_norm", None)
    stored["precision"] = "auto"
    assert from_dict(stored) == config
    assert differing_key(stored, to_dict(config)) is None


def test_the_old_name_of_a_key_is_accepted_with_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of("algo=dqn", "env=cartpole", "algo.policy_update=8")
    assert config.algo.train_freq == 8  # type: ignore[attr-defined]
    assert capsys.readouterr().err == "note: algo.policy_update=8 is now algo.train_freq=8\n"
    assert "algo.train_freq=8" in merged(["algo.policy_update=8"])  # an arm of a study


def test_the_old_name_of_a_key_in_a_file_gives_the_same_run() -> None:
    config = config_of("algo=dqn", "env=cartpole")
    stored = to_dict(config)
    stored["algo"]["policy_update"] = stored["algo"].pop("train_freq")
    assert from_dict(stored) == config
    assert differing_key(stored, to_dict(config)) is None


def test_a_cell_needs_its_own_configuration_and_seed() -> None:
    """A sweep on a cluster leaves precision=auto to the machine of the cell."""
    needed = to_dict(config_of("algo=dqn", "env=cartpole", "seed=3"))
    assert needed["precision"] == "auto"
    for same in ({}, {"precision": "float32"}, {"precision": "bf16"}, {"figures": False}, {"hang_timeout_s": 9.0}):
        assert differing_key({**needed, **same}, needed) is None
    assert differing_key({**needed, "seed": 4}, needed) == "seed"
    assert differing_key({**needed, "algo": {**needed["algo"], "gamma": 0.5}}, needed) == "algo.gamma"
    assert differing_key(needed, {**needed, "precision": "float32"}) == "precision"


@pytest.mark.parametrize("key", ["algo.max_grad_value", "algo.cuda_graph", "evaluation.at_start", "env.kwargs", "load"])
def test_a_key_that_was_added_later_has_its_default_in_older_files(key: str) -> None:
    config = config_of("algo=dqn", "env=cartpole")
    needed, stored = to_dict(config), to_dict(config)
    group, _, name = key.rpartition(".")
    part = stored[group] if group else stored
    default = part.pop(name)
    assert not default
    assert differing_key(stored, needed) is None
    (needed[group] if group else needed)[name] = "another"
    assert differing_keys(stored, needed) == {key: (default, "another")}


def test_an_empty_list_of_plugins_does_not_change_the_hash() -> None:
    assert "plugins" not in to_dict(config_of())


def test_hidden_is_the_width_of_every_network() -> None:
    """What is stored are the two keys that it stands for, so a run has the same hash with either."""
    both = config_of("env=cartpole", "model.actor_hidden=[32,16]", "model.critic_hidden=[32,16]")
    assert config_of("env=cartpole", "model.hidden=[32,16]") == both
    assert "hidden" not in to_dict(both)["model"]
    assert config_of("algo=dqn", "env=cartpole", "model.hidden=[32,16]").model.hidden == [32, 16]  # type: ignore
