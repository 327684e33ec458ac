"""The command line's side of Hydra: arguments checked before it starts, errors told in one line, nothing made in vain.

Hydra reports a bad configuration over several lines, with exit code 1, and suggests `+key`, which would hide the typo;
it makes the run's folder before the program sees the configuration. `main` and `ValidateFirst` mend both.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ablate.config.schema import SCHEMAS, Config, ConfigError, SweepConfig
from ablate.config.serial import config_hash
from ablate.config.validation import known_keys, suggest, sweep_settings, validate
from ablate.paths import CONF, OUTPUTS, ROOT, locate
from ablate.runs.plan import plan
from ablate.runs.run import RunFailed, refuse_used
from ablate.sweeps.study import study_name

SHOW_TRACEBACKS = "ABLATE_SHOW_TRACEBACKS"
REFUSALS = (ConfigError, HydraException, OmegaConfBaseException, YAMLError)  # what the user can mend, told in a line
PATHS = ("resume", "load", "hydra.run.dir", "hydra.sweep.dir")


def register() -> None:
    """Make the schema and the resolvers of `conf/` known to Hydra."""
    store = ConfigStore.instance()
    store.store("config_schema", Config)
    for group, options in SCHEMAS.items():
        for name, schema in options.items():
            store.store(name, schema, group=f"schema/{group}")
    OmegaConf.register_new_resolver("ablate.outputs", lambda: str(OUTPUTS), replace=True)
    OmegaConf.register_new_resolver("ablate.sweeps", lambda: str(ROOT / "sweeps"), replace=True)
    OmegaConf.register_new_resolver("ablate.model", _default_model, replace=True)
    OmegaConf.register_new_resolver("ablate.suited", _suited, replace=True)
    OmegaConf.register_new_resolver("ablate.replay", _default_replay, replace=True)
    OmegaConf.register_new_resolver("ablate.beta_steps", lambda total_steps: total_steps or 1_000_000, replace=True)
    OmegaConf.register_new_resolver("ablate.game", _registered_with, replace=True)
    OmegaConf.register_new_resolver("ablate.run_dir", _run_dir, replace=True)
    OmegaConf.register_new_resolver("ablate.sweep_dir", _sweep_dir, replace=True)
    OmegaConf.register_new_resolver("ablate.output_subdir", _output_subdir, replace=True)


def validated(composed: DictConfig) -> Config:
    """The checked configuration of what Hydra composed. Raises ConfigError."""
    return validate(_without_hydra(composed))


def validated_sweep(composed: DictConfig) -> SweepConfig:
    """The checked settings of a sweep in what Hydra composed, without what its arms will add. Raises ConfigError."""
    return sweep_settings(_without_hydra(composed))


def refuse_resume(config: Config) -> None:
    """Raise ConfigError for resume= in a sweep's job."""
    if config.resume:
        raise ConfigError(f"resume={config.resume}: a sweep starts new runs; resume one run at a time")


def quoted(value: str) -> str:
    """The value as Hydra's override grammar takes it, whatever is in it."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _without_hydra(composed: DictConfig) -> DictConfig:
    """The configuration as the program sees it: as composed, less Hydra's own node."""
    task = composed.copy()
    OmegaConf.set_struct(task, False)
    task.pop("hydra", None)
    return task


@cache
def _is_game(env: str) -> bool:
    """Whether an option of the group `env` is a game: by what its file says it is made of."""
    path = CONF / f"env/{env}.yaml"
    made_of = OmegaConf.select(OmegaConf.load(path), "defaults", default=[]) if path.exists() else []
    return "/schema/env/atari@_here_" in made_of or any(isinstance(o, str) and _is_game(o) for o in made_of)


def _default_model(algo: str, env: str) -> str:
    """The option of the group `model` that suits this pair of options."""
    if algo == "dqn":
        return "dqn_84" if _is_game(env) else "dqn_mlp"
    return "conv_pool_lstm_80" if env == "breakout" else "conv_lstm_42" if _is_game(env) else "mlp"


def _suited(group: str, algo: str, env: str, *more: str) -> str:
    """The option of `group` with values for this pair: its own, or else that of games, or of all others."""
    own = "_".join((algo, env, *more))
    kind = "atari" if _is_game(env) else "gymnasium"
    return own if (CONF / group / f"{own}.yaml").exists() else "_".join((algo, kind, *more))


def _default_replay(algo: str) -> str:
    """The option of the group `replay`: of an algorithm that has none a name that is no option."""
    return "uniform" if algo == "dqn" else "none"


def _registered_with(env_id: str, switch: str) -> Any:
    """What a game's id is registered with: its frame_skip, sticky_actions or full_action_space. Raises ConfigError."""
    from ablate.envs.games import registered  # imports ale-py, which only games need

    value = getattr(registered(env_id), switch)
    return list(value) if isinstance(value, tuple) else value


def _run_dir(*, _root_: DictConfig) -> str:
    """The folder of a run: the one that is resumed, or outputs/runs/<algo>-<env>/<date>_<time>_<hash>/."""
    if _root_.resume:
        return str(locate(_root_.resume))
    choices = _root_.hydra.runtime.choices
    env = choices.env if choices.env not in ("gymnasium", "atari") else _root_.env.id
    pair = re.sub(r"[^\w.-]+", "-", f"{_root_.algo.name}-{env}").lower()
    name = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{config_hash(validated(_root_))}"
    return str(_unused(OUTPUTS / "runs" / pair / name))


def _sweep_dir(now: str, *, _root_: DictConfig) -> str:
    """The folder of a sweep: outputs/sweeps/<name>, the same for the same command; other sweepers' by the time."""
    if _root_.hydra.runtime.choices["hydra/sweeper"] != "ablate":
        return str(OUTPUTS / "sweeps" / now)
    return str(OUTPUTS / "sweeps" / (_root_.sweep.name or study_name(list(_root_.hydra.overrides.task))))


def _unused(folder: Path) -> Path:
    """The folder, or with a number behind it if the same configuration was started in the same second."""
    candidate, number = folder, 2
    while candidate.exists():
        candidate, number = folder.with_name(f"{folder.name}_{number}"), number + 1
    return candidate


def _output_subdir(*, _root_: DictConfig) -> str:
    """Where Hydra writes its files: a resumed run keeps the first ones."""
    return f".hydra/resumed_{time.strftime('%Y-%m-%d_%H-%M-%S')}" if _root_.resume else ".hydra"


class ValidateFirst(Callback):
    """Hydra callback: refuse a configuration, or any of a sweep's, before a folder is made or anything is trained.

    Hydra only warns of exceptions in callbacks, so a refusal leaves as SystemExit."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            if of_sweeps := [o for o in config.hydra.overrides.task if o.lstrip("+~").startswith("sweep.")]:
                raise ConfigError(f"{of_sweeps[0]}: a setting of sweeps; add -m, or sweep=<study>")
            checked = plan(validated(config), list(config.hydra.overrides.task))
            if checked.new:
                refuse_used(Path(config.hydra.run.dir))
        except Exception as error:
            _refuse(error)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if config.hydra.runtime.choices["hydra/sweeper"] != "basic":
            return  # ours looks at its arms itself; what others will try is theirs to say
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

        loader = GlobalHydra.instance().config_loader()
        try:
            overrides = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
            for batch in BasicSweeper.split_arguments(overrides, max_batch_size=None):
                for job in batch:
                    checked = validated(loader.load_sweep_config(config, list(job)))
                    refuse_resume(checked)
                    plan(checked, list(job))
        except Exception as error:
            _refuse(error)


def _refuse(error: Exception) -> None:
    """Hydra would only warn of what a callback raises, and go on."""
    if not isinstance(error, REFUSALS):
        traceback.print_exception(error)
        raise SystemExit(1)
    print(explain(error), file=sys.stderr)
    raise SystemExit(2)


def complete_arguments(arguments: list[str]) -> list[str]:
    """The arguments as Hydra should see them.

    `env.id=<id>` without an `env=` means the file for any game, or else for any id, not another id under Pendulum's
    settings.
    A study is a sweep, also if its file does not say so. A path may hold a =, as a cell's does.
    Raises ConfigError for what is no override, and where `_target_` is named: code is chosen by names from the schema,
    never from outside."""
    parser = OverridesParser.create()
    arguments = [_with_quoted_path(argument) for argument in arguments]
    for argument in arguments:
        if "_target_" in argument:
            raise ConfigError(
                f"{argument}: _target_ is not allowed; code is chosen by a group's option, such as algo=a3c"
            )
        if argument.startswith("="):
            raise ConfigError(f"{argument}: no key before the =")
        if "=" in argument and not argument.startswith("-"):
            try:
                parser.parse_override(argument)
            except HydraException as error:
                hint = "; a list has no spaces, or is quoted" if argument.endswith(",") else ""
                told = str(error).splitlines()[0]
                raise ConfigError(f"{argument}: not of the form key=value ({told}){hint}") from error
    keys = [argument.partition("=")[0].lstrip("+") for argument in arguments]
    for group in {"algo_env", "algo_env_optimizer"} & set(keys):  # optional: Hydra ignores an option that is not there
        raise ConfigError(f"{arguments[keys.index(group)]}: chosen by algo=, env= and optimizer=, not to be given")
    for group, argument in zip(keys, arguments, strict=True):
        if group in SCHEMAS and "=" in argument:
            _refuse_no_option(group, argument)
    if "env.protocol" in keys:
        argument = arguments[keys.index("env.protocol")]
        raise ConfigError(
            f"{argument}: a name that sets nothing; {argument.lstrip('+').removeprefix('env.')} sets it all"
        )
    if "env.id" in keys and not {"env", "experiment", "resume"} & set(keys):
        at = keys.index("env.id")  # beside it: argparse wants all overrides in one piece
        arguments = [*arguments[:at], f"env={_file_for(arguments[at])}", *arguments[at:]]
    studies = [a for a in arguments if a.startswith("sweep=") and a != "sweep=null"]
    if studies and not {"hydra.mode", "-m", "--multirun"} & {a.partition("=")[0] for a in arguments}:
        at = arguments.index(studies[0])
        arguments = [*arguments[:at], "hydra.mode=MULTIRUN", *arguments[at:]]
    return arguments


def _refuse_no_option(group: str, argument: str) -> None:
    """Raise ConfigError for <group>=null, and for an option of replay that is not there: as an optional group it would
    be left out without a word."""
    options = sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))
    known = {*options, "none"} if group == "replay" else None
    for value in argument.partition("=")[2].split(","):
        if value == "null" or (known and re.fullmatch(r"\w+", value) and value not in known):
            hint = suggest(value, options) if value != "null" else ""
            raise ConfigError(f"{argument}: no such option{hint} (there are: {', '.join(options)})")


def _file_for(argument: str) -> str:
    """The option of the group `env` for env.id=<id>, or for the first of several ids."""
    from ablate.envs.games import looks_like_a_game  # imports ale-py, which only games need

    return "atari" if looks_like_a_game(re.split(r"[=,]", argument)[1].strip("'\"")) else "gymnasium"


def _with_quoted_path(argument: str) -> str:
    """resume=outputs/sweeps/x/y/seed=0 with its value in quotes, as Hydra's grammar wants it."""
    key, _, value = argument.partition("=")
    return f"{key}={quoted(value)}" if key in PATHS and "=" in value and value[0] not in "'\"" else argument


def explain(error: BaseException, given: Sequence[str] = ()) -> str:
    """One line for the user: what is wrong with which key and value, and the nearest right one.

    given: the overrides that the error is about, where they are not the command line's."""
    text = str(error).removeprefix(
        "ConfigError raised while resolving interpolation: "
    )  # refused by a resolver of ours
    cause = str(error.__cause__ or "")
    overrides = {a.lstrip("+~").partition("=")[0]: a for a in given or sys.argv[1:] if "=" in a}
    resumed = "a resumed run keeps its configuration (load= starts a new run from saved parameters)"
    if found := re.match(r"(?:Could not override|Could not delete from config\.|Key) '([^']+)'", text):
        key = found[1].rpartition("@")[0] or found[1]
        if key in _all_keys() and "resume" in overrides:  # composed without the run's own options: no matter which key
            return f"{overrides.get(key, key)}: {resumed}"
        if key.startswith("env.kwargs."):
            return f"{overrides.get(key, key)}: a new argument of the environment is written +{overrides.get(key, key)}"
        group, _, name = key.partition(".")
        if key in _all_keys() and group in SCHEMAS:
            name = name.partition(".")[0]
            schemas = SCHEMAS[group].items()
            having = [option for option, schema in schemas if name in {item.name for item in fields(schema)}]
            return f"{overrides.get(key, key)}: a key of {group}.name={' or '.join(having)}, and another one was chosen"
        return f"{overrides.get(key, key)}: no such key{suggest(key, _all_keys())}"
    if found := re.match(r"In '(protocol|preprocessing)/([^']+)': .*not in 'GymnasiumConfig'", text, re.DOTALL):
        if "resume" in overrides:
            return f"{found[1]}={found[2]}: {resumed}"
        return f"{found[1]}={found[2]}: of games only; choose one with env=breakout, env=riverraid or env=atari"
    if found := re.match(r"Error merging override (.+)", text):
        key, _, value = found[1].partition("=")
        if "is not a ListConfig" in cause + text:
            return f"{found[1]}: a list is needed, as in {key}=[{value},{value}]"
        hint = '; several seeds are "seed=range(5)", or sweep.seeds=0-4' if key == "seed" else ""
        exponent = re.fullmatch(r"\d+(\.\d+)?[eE]\+?\d+", value)
        if exponent and "to Integer" in cause + text and float(value).is_integer():  # 5e6 is a float
            hint = f"; write {key}={float(value):.0f}"
        return f"{found[1]}: {_sentence(cause or text.partition(chr(10))[2])}{hint}"
    if found := re.match(r"In '(sweep/[^']+)': .*?(Key .+|Cannot .+|Value .+)", text, re.DOTALL):
        hint = "; does it begin with # @package _global_ ?" if "'hydra' not in" in found[2] else ""
        return f"sweeps/{found[1]}.yaml: {_sentence(found[2])}{hint}"
    if found := re.search(r"Could not find '([^']+)'\n\nAvailable options in '([^']+)':\n((?:\t.+\n?)+)", text):
        group, options = found[2], found[3].split()
        option = found[1].removeprefix(f"{group}/")
        others = "; any other is env.id=<gymnasium's id>, as env.id=ALE/Pong-v5" if group == "env" else ""
        return f"{group}={option}: no such option{suggest(option, options)} (there are: {', '.join(options)}{others})"
    return _sentence(text)


def _sentence(text: str) -> str:
    """Hydra's message without its lines of internals."""
    lines = [line.strip() for line in text.splitlines()]
    return " ".join(
        line for line in lines if line and not line.startswith(("full_key:", "reference_type=", "object_type="))
    )


def _all_keys() -> list[str]:
    """Every key of every schema, and the groups: what a typo is compared with."""
    keys: set[str] = {"experiment"}
    alternatives = max(len(options) for options in SCHEMAS.values())
    for i in range(alternatives):
        schema = OmegaConf.structured(Config)
        for group, options in SCHEMAS.items():
            schema[group] = OmegaConf.structured(list(options.values())[i % len(options)])
        keys |= set(known_keys(schema))
    return sorted(keys)


def exit_code(program: Callable[[], Any]) -> int:
    """Run a program and turn what it raises into one line and an exit code: 0, 1 failed, 2 refused, 128+n signal n."""
    sys.path.append(os.getcwd())  # env.id=<module>:<Name>-v0 of the user's own
    try:
        program()
    except REFUSALS as error:
        if os.environ.get(SHOW_TRACEBACKS):
            raise
        print(explain(error), file=sys.stderr)
        return 2
    except RunFailed as failure:
        print(f"failed: {failure}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `--help | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt as interrupt:
        return 128 + getattr(interrupt, "signal", signal.SIGINT)
    return 0


def main(program: Callable[[], Any]) -> int:
    """`exit_code` for a Hydra program, with the schema registered and the arguments checked.

    HYDRA_FULL_ERROR=1 in the environment shows tracebacks, as in any Hydra program."""
    if os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0"):
        os.environ[SHOW_TRACEBACKS] = "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let exceptions come here instead of being printed by Hydra

    def checked() -> None:
        register()
        sys.argv[1:] = complete_arguments(sys.argv[1:])
        program()

    return exit_code(checked)
