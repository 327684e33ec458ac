"""What docs/security.md promises of a folder that somebody sent: looking at it runs nothing and reveals nothing."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ROOT, config_of
from hydra.errors import HydraException
from hypothesis import example, given
from hypothesis import strategies as st
from synthetic import write_sweep

from ablate.analysis.load import load_run, load_sweep
from ablate.cli import evaluate, plot, reproduce, status
from ablate.cli.arguments import complete_arguments, import_named
from ablate.cli.hydra_app import exit_code
from ablate.config import plugins
from ablate.config.schema import ConfigError
from ablate.config.serial import from_dict, to_dict
from ablate.envs.make import spec_of
from ablate.nn.architecture import architecture_of, initial_parameters
from ablate.play import random_policy
from ablate.play.policy import Policy
from ablate.records.checkpoint import Checkpoint, write_checkpoint
from ablate.records.files import write_json
from ablate.records.manifest import StillThere, write_manifest, write_status
from ablate.records.schema import COLUMNS, EPISODES, EVALUATIONS, LAST_CHECKPOINT, MANIFEST, STUDY, UPDATES
from ablate.records.terminal import PlainConsole
from ablate.runs.plan import Resolved, plan
from ablate.seeding import Role, generator
from ablate.types import Counters

SECRET = "the value of a variable"
CONFIG = ("env=cartpole", "backend=manual", "workers=1", "schedule=interleaved", "evaluation.every_seconds=null")
MODULE = """
from pathlib import Path
import gymnasium
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
Path(__file__).with_name("it_ran").touch()
gymnasium.register("Theirs-v0", CartPoleEnv, max_episode_steps=5)
"""


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A user who has named no module yet."""
    monkeypatch.setattr(plugins, "_NAMED", {})
    monkeypatch.setattr(plugins, "_IMPORTED", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("theirs", None)


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: None) -> Path:
    """A run's folder from somebody else, with a module in it that its configuration names. We are in that folder."""
    folder = tmp_path / "run"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "theirs.py").write_text(MODULE)
    config = replace(config := config_of(*CONFIG), env=replace(config.env, id="theirs:Theirs-v0", max_ep_step=5))
    spec = spec_of(config_of("env=cartpole").env)
    parameters = initial_parameters(architecture_of(config.model, spec), generator(1, Role.parameters))
    state = {
        "config": to_dict(config), "env_spec": asdict(spec), "counters": Counters()._asdict(), "workers": {},
        "evaluations_done": 0, "starts": 0, "wall_time_s": 0.0, "moving_average": None, "turns": [],
    }  # fmt: skip
    write_checkpoint(folder / LAST_CHECKPOINT, Checkpoint({"parameters": parameters}, state))
    write_manifest(folder, config, [], [])
    write_status(folder, "interrupted", "", Counters())
    for name in (EPISODES, EVALUATIONS):
        (folder / name).write_text(",".join(COLUMNS[name]) + "\n")
    (folder / UPDATES).write_text("update,global_step,wall_time_s,learning_rate\n")
    return folder


def ran(folder: Path) -> bool:
    return (folder / "it_ran").exists()


def evaluated(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["src/evaluate.py", "episodes=1", *arguments])
    return exit_code(evaluate.main)


def resumed(folder: Path, *overrides: str) -> None:
    import_named(overrides)
    plan(replace(config_of(), resume=str(folder)), [f"resume={folder}", *overrides])


def test_looking_at_a_folder_imports_none_of_its_modules(theirs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Policy.load(theirs)
    assert policy.act(np.zeros(4, np.float32)) in (0, 1)
    load_run(theirs)
    monkeypatch.setattr(sys, "argv", ["src/plot.py", str(theirs)])
    assert plot.main() == 0
    assert not ran(theirs)


def test_evaluating_imports_a_module_only_if_the_user_names_it(
    theirs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluated(monkeypatch, f"run={theirs}") == 2
    line = "env.id=theirs:Theirs-v0: it imports code from theirs; add plugins=[theirs] if you trust it\n"
    assert capsys.readouterr().err == line
    assert not ran(theirs)
    assert evaluated(monkeypatch, f"run={theirs}", "plugins=[theirs]") == 0
    assert ran(theirs)


@pytest.mark.parametrize("argument", ["plugins=[theirs]", "env.id=theirs:Theirs-v0"])
def test_resuming_imports_a_module_only_if_the_user_names_it(theirs: Path, argument: str) -> None:
    with pytest.raises(ConfigError, match=r"^env\.id=theirs:Theirs-v0: .*add plugins=\[theirs\] if you trust it$"):
        resumed(theirs)
    assert not ran(theirs)
    import_named([argument])
    assert "theirs" in plugins.named_modules()
    plugins.refuse_unknown_environment("theirs:Theirs-v0")


def test_reproducing_imports_a_module_only_if_the_user_names_it(theirs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run itself is left out. A forged manifest is one line, and its hash cannot lead out of outputs/reproduced."""
    manifest = json.loads((theirs / MANIFEST).read_text())
    for key, value in {"overrides": 3, "versions": [1], "machine": 0}.items():
        write_json(theirs / MANIFEST, {**manifest, key: value})
        with pytest.raises(ConfigError, match=f"{MANIFEST}: damaged: {key}"):
            reproduce.reproduce([f"reproduce={theirs}"])
    write_json(theirs / MANIFEST, {**manifest, "config_hash": "../../x"})
    write_status(theirs, "completed", "", Counters())
    runs: list[Path] = []

    def record(resolved: Resolved, folder: Path, overrides: list[str], still_there: StillThere) -> None:
        runs.append(folder)
        shutil.copytree(theirs, folder, dirs_exist_ok=True)

    monkeypatch.setattr(reproduce, "run", record)
    monkeypatch.setattr(reproduce, "OUTPUTS", theirs.parent / "outputs")
    with pytest.raises(ConfigError, match=r"^env\.id=theirs:Theirs-v0: .*add plugins=\[theirs\] if you trust it$"):
        reproduce.reproduce([f"reproduce={theirs}"])
    assert not ran(theirs)
    assert not runs
    reproduce.reproduce([f"reproduce={theirs}", "plugins=[theirs]"])
    assert ran(theirs)
    assert [folder.parent for folder in runs] == [theirs.parent / "outputs/reproduced"]


@pytest.mark.parametrize("modules", [[], ["theirs"]])
def test_random_play_imports_a_module_only_if_the_user_names_it(
    theirs: Path, modules: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sweep sends the configuration and the modules that the user named to the process that plays at random."""
    config = json.loads((theirs / MANIFEST).read_text())["config"]
    request = {"config": config, "modules": modules, "episodes": 2}
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(request)))
    if modules:
        random_policy.main()
        assert [length for _, length in json.loads(capsys.readouterr().out.splitlines()[-1])] == [5, 5]
    else:
        with pytest.raises(ConfigError, match=r"add plugins=\[theirs\]"):
            random_policy.main()
    assert ran(theirs) == bool(modules)


def test_a_module_that_a_configuration_file_names_needs_the_users_word(named: None) -> None:
    config = config_of("env=cartpole")
    stored = to_dict(replace(config, env=replace(config.env, id="theirs:Theirs-v0")))
    with pytest.raises(ConfigError, match=r"add plugins=\[theirs\]"):
        plan(from_dict(stored), [])
    with pytest.raises(ConfigError, match=r"add plugins=\[mine\]"):
        from_dict({**stored, "plugins": ["mine"]})


def test_several_ids_of_a_sweep_are_all_named(named: None) -> None:
    import_named(["-m", "env.id=one:A-v0,two.three:B-v0", "+env.id='four:C-v0'", "env.id=CartPole-v1"])
    assert plugins.named_modules() == ["one", "two.three", "four"]


def test_the_current_folder_is_searched_only_for_a_named_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: None
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code(lambda: None) == 0
    assert str(tmp_path) not in sys.path
    plugins.name_modules(["mine"])
    assert sys.path[-1] == str(tmp_path)


def test_hydras_plugins_in_the_current_folder_are_not_imported(tmp_path: Path) -> None:
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins/theirs.py").write_text(MODULE)
    command = [sys.executable, str(ROOT / "src/run.py"), "--cfg", "job"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=240)
    assert not ran(tmp_path / "hydra_plugins")


# ./conf and ./sweeps of the current folder are searched unasked, so they hold values only.


CALLBACK = "hydra: {callbacks: {theirs: {_target_: theirs.anything}}}\n"
OUTSIDE = {  # files of a stranger's folder that would run code, reach Hydra's parts or read a variable
    "env/cartpole": "_target_: theirs.anything\n",  # ours is found first
    "hydra/launcher/local": "_target_: theirs.anything\n",
    "hydra/callbacks/ablate": "# @package hydra.callbacks\nvalidate_first: {_target_: theirs.anything}\n",
    "schema/algo/a3c": "{}\n",
    "config_schema": "{}\n",
}
REFUSED = {
    "target": ("# @package _global_\nenv: {kwargs: {x: {_target_: theirs.anything}}}\n", "_target_ is not allowed"),
    "hydras": (f"# @package _global_\n{CALLBACK}", "only hydra: {mode: MULTIRUN} is allowed here"),
    "package": ("# @package hydra.callbacks\ntheirs: {}\n", "this file may not set Hydra's own keys"),
    "override": ("defaults: [override /hydra/launcher: local]\n", "defaults: override /hydra/launcher: not allowed"),
    "placed": ("defaults: [{/env@hydra.launcher: cartpole}]\n", "defaults: /env@hydra.launcher: not allowed"),
    "above": ("defaults: [../../theirs]\n", "defaults: ../../theirs: not allowed"),
    "absolute": ("defaults: [//tmp/theirs]\n", "defaults: //tmp/theirs: not allowed"),
    "variable": ("# @package _global_\nseed: ${oc.env:TOKEN}\n", "${oc.env:TOKEN}: only references"),
    "built": ("# @package _global_\nseed: ${${load}.env:TOKEN}\n", "only references to other keys"),
}


@pytest.fixture
def folder_of_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: None) -> Path:
    """We are in a stranger's folder."""
    (tmp_path / "theirs.py").write_text(MODULE)
    for name, text in {**OUTSIDE, **{f"experiment/{name}": text for name, (text, _) in REFUSED.items()}}.items():
        path = tmp_path / f"conf/{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "conf/experiment/good.yaml").write_text("# @package _global_\nlog_interval: ${seed}\nseed: 77\n")
    monkeypatch.setattr("ablate.cli.folders.STARTED_IN", tmp_path)
    return tmp_path


def test_options_in_the_current_folder_are_found_and_replace_none_of_ours(folder_of_values: Path) -> None:
    config = config_of("env=cartpole", "experiment=good")
    assert (config.seed, config.log_interval, config.env.id) == (77, 77, "CartPole-v1")
    assert config.algo == config_of("env=cartpole").algo
    with pytest.raises(HydraException, match="hydra/launcher"):
        config_of("hydra/launcher=theirs")
    assert not ran(folder_of_values)


@pytest.mark.parametrize("name", REFUSED)
def test_options_in_the_current_folder_hold_values_only(
    name: str, folder_of_values: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "99")
    with pytest.raises(ConfigError, match=re.escape(REFUSED[name][1])):
        config_of(f"experiment={name}")
    assert not ran(folder_of_values)


def test_values_that_fit_an_algorithm_are_checked_too(folder_of_values: Path) -> None:
    """They need no argument: algo_env is chosen by the names of algorithm and environment."""
    (folder_of_values / "conf/algo_env").mkdir()
    (folder_of_values / "conf/algo_env/a3c_gymnasium.yaml").write_text(f"# @package _global_\n{CALLBACK}")
    with pytest.raises(ConfigError, match="only hydra"):
        config_of("env=gymnasium", "env.id=CartPole-v1")


# Stored values are plain data.


@pytest.mark.parametrize("text", ["${oc.env:TOKEN}", "a${oc.env:TOKEN}b", r"\\${oc.env:TOKEN}", "${seed}", "${"])
def test_a_stored_text_is_never_resolved(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", SECRET)
    stored = to_dict(config_of())
    for place in ({"token": text}, {"token": [text]}, {"token": {"deep": text}}):
        assert from_dict({**stored, "env": {**stored["env"], "kwargs": place}}).env.kwargs == place
    config = from_dict({**stored, "env": {**stored["env"], "id": text}})
    assert config.env.id == text
    assert SECRET not in json.dumps(to_dict(config))


@pytest.mark.parametrize(
    ("group", "key"), [(None, "seed"), ("algo", "gamma"), ("model", "activation"), ("logger", "tensorboard")]
)
def test_a_stored_number_cannot_be_an_interpolation(
    group: str | None, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "1")
    stored = to_dict(config_of())
    (stored if group is None else stored[group])[key] = "${oc.decode:${oc.env:TOKEN}}"
    with pytest.raises(ConfigError):
        from_dict(stored)


@given(st.text(alphabet=st.sampled_from("\\${}:ab'\" ."), max_size=12))
@example(r"\${a}")
@example(r"\\\${a}\\")
def test_any_stored_text_is_the_same_when_it_is_read(text: str) -> None:
    stored = {**STORED, "env": {**STORED["env"], "kwargs": {"text": text}}}
    assert from_dict(stored).env.kwargs["text"] == text


STORED: dict[str, Any] = to_dict(config_of())


# Nothing leads out of the folder.


@pytest.mark.parametrize("kind", ["arms", "metrics"])
@pytest.mark.parametrize("name", ["../../theirs", "/tmp/theirs", "a/b", "..", ""])
def test_names_in_a_study_cannot_lead_out_of_its_folder(tmp_path: Path, kind: str, name: str) -> None:
    folder = write_sweep(tmp_path, {"a": {}, "b": {}}, range(1), 5)
    study = json.loads((folder / STUDY).read_text())
    study[kind][name] = next(iter(study[kind].values()))
    (folder / STUDY).write_text(json.dumps(study))
    with pytest.raises(ConfigError, match="part of a file's name"):
        load_sweep(folder)
    with pytest.raises(ConfigError, match="part of a file's name"):
        status.status(folder, PlainConsole())


@pytest.mark.parametrize("argument", ["--experimental-rerun=config.pickle", "+x._target_=os.system"])
def test_the_command_line_offers_no_way_to_run_a_file(argument: str) -> None:
    with pytest.raises(ConfigError, match=r"may run any code|not allowed"):
        complete_arguments([argument])


def test_a_manifest_has_no_environment_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", SECRET)
    write_manifest(tmp_path, config_of(), ["src/run.py"], [])
    assert SECRET not in (tmp_path / MANIFEST).read_text()
