"""The command line's arguments, checked and completed before Hydra sees them."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from ablate.config.schema import SCHEMAS, ConfigError
from ablate.config.serial import with_new_name
from ablate.config.validation import suggest
from ablate.paths import ROOT

PATHS = ("resume", "load", "hydra.run.dir", "hydra.sweep.dir")


def complete_arguments(arguments: list[str]) -> list[str]:
    """The arguments as Hydra should see them.

    `env.id=<id>` without an `env=` means the file for any game, or else for any id, not another id under Pendulum's
    settings.
    A study is a sweep, also if its file does not say so. A path may hold a =, as a cell's does.
    Raises ConfigError for what is no override, and where `_target_` is named: code is chosen by names from the schema,
    never from outside."""
    parser = OverridesParser.create()
    arguments = [_with_new_name(_with_quoted_path(argument)) for argument in arguments]
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


def named_plugins(arguments: Sequence[str]) -> list[str]:
    """The modules that plugins=[...] names. Raises ConfigError if it is no list of names."""
    values = [argument.partition("=")[2] for argument in arguments if argument.lstrip("+").startswith("plugins=")]
    modules: list[str] = []
    for value in values:
        listed = re.fullmatch(r"\[([\w., ]*)\]", value.strip("'\""))
        if not listed:
            raise ConfigError(f"plugins={value}: a list of modules is needed, as in plugins=[my_algorithm]")
        modules += [name.strip() for name in listed[1].split(",") if name.strip()]
    return modules


def _with_new_name(argument: str) -> str:
    """The argument with the name that its key has today; an old name is accepted with a note."""
    if (new := with_new_name(argument)) != argument:
        print(f"note: {argument} is now {new}", file=sys.stderr)
    return new


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


def quoted(value: str) -> str:
    """The value as Hydra's override grammar takes it, whatever is in it."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
