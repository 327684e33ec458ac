"""Check and complete the command line's arguments before Hydra sees them."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from ablate.config.plugins import plugin_configurations
from ablate.config.schema import SCHEMAS, ConfigError
from ablate.config.serial import with_new_name
from ablate.config.validation import suggest
from ablate.paths import CONF

PATHS = ("resume", "load", "hydra.run.dir", "hydra.sweep.dir")


def complete_arguments(arguments: list[str]) -> list[str]:
    """The arguments in the form that Hydra needs.

    `env.id=<id>` without `env=`: adds env=atari or env=gymnasium. Otherwise the id would get Pendulum's settings.
    `sweep=<study>`: adds hydra.mode=MULTIRUN, also if the study's file lacks it. A path with a =, such as the path of a
    cell: puts it in quotes.
    Raises ConfigError for an argument that Hydra cannot parse, and for `_target_`: code is chosen by names from the
    schema, never by an import path."""
    parser = OverridesParser.create()
    arguments = [_with_new_name(_with_quoted_path(argument)) for argument in arguments]
    for argument in arguments:
        if "_target_" in argument:
            raise ConfigError(
                f"{argument}: _target_ is not allowed; code is chosen by a group's option, such as algo=a3c"
            )
        if argument.startswith("="):
            raise ConfigError(f"{argument}: there is no key before the =")
        if "=" in argument and not argument.startswith("-"):
            try:
                parser.parse_override(argument)
            except HydraException as error:
                hint = "; write a list without spaces, or in quotes" if argument.endswith(",") else ""
                message = str(error).splitlines()[0]
                raise ConfigError(f"{argument}: not of the form key=value ({message}){hint}") from error
    keys = [argument.partition("=")[0].lstrip("+") for argument in arguments]
    for group in {"algo_env", "algo_env_optimizer"} & set(keys):  # Hydra ignores a missing option of these groups
        raise ConfigError(
            f"{arguments[keys.index(group)]}: this key cannot be given; algo=, env= and optimizer= set it"
        )
    for group, argument in zip(keys, arguments, strict=True):
        if group in SCHEMAS and "=" in argument:
            _refuse_missing_option(group, argument)
    if "env.protocol" in keys:
        argument = arguments[keys.index("env.protocol")]
        raise ConfigError(
            f"{argument}: this key only records the name; {argument.lstrip('+').removeprefix('env.')} sets all values"
        )
    if "env.id" in keys and not {"env", "experiment", "resume"} & set(keys):
        index = keys.index("env.id")  # insert here: argparse requires that all overrides are in one block
        arguments = [*arguments[:index], f"env={_file_for(arguments[index])}", *arguments[index:]]
    studies = [a for a in arguments if a.startswith("sweep=") and a != "sweep=null"]
    if studies and not {"hydra.mode", "-m", "--multirun"} & {a.partition("=")[0] for a in arguments}:
        index = arguments.index(studies[0])
        arguments = [*arguments[:index], "hydra.mode=MULTIRUN", *arguments[index:]]
    return arguments


def named_plugins(arguments: Sequence[str]) -> list[str]:
    """The modules in plugins=[...]. Raises ConfigError if the value is not a list of names."""
    values = [argument.partition("=")[2] for argument in arguments if argument.lstrip("+").startswith("plugins=")]
    modules: list[str] = []
    for value in values:
        names = re.fullmatch(r"\[([\w., ]*)\]", value.strip("'\""))
        if not names:
            raise ConfigError(f"plugins={value}: a list of modules is needed, as in plugins=[my_algorithm]")
        modules += [name.strip() for name in names[1].split(",") if name.strip()]
    return modules


def quoted(value: str) -> str:
    """The value in quotes, so that Hydra's override grammar accepts any character in it."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _with_new_name(argument: str) -> str:
    """The argument with its key's present name. An old name is accepted with a note."""
    if (new := with_new_name(argument)) != argument:
        print(f"note: {argument} is now {new}", file=sys.stderr)
    return new


def _refuse_missing_option(group: str, argument: str) -> None:
    """Raise ConfigError for <group>=null, and for a missing option of `replay`.

    The group `replay` is optional, so Hydra would ignore a missing option without a message."""
    folders = (CONF, *plugin_configurations())
    options = sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})
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
    """The argument; a path that contains a =, as in resume=outputs/sweeps/x/y/seed=0, is put in quotes for Hydra."""
    key, _, value = argument.partition("=")
    return f"{key}={quoted(value)}" if key in PATHS and "=" in value and value[0] not in "'\"" else argument
