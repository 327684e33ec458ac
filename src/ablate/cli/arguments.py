"""Check and complete the command line's arguments before Hydra sees them."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException

from ablate.cli.folders import STUDIES, groups, option_folders
from ablate.cli.hydra_private import parse_flags
from ablate.config.plugins import import_plugins, modules_of_ids, name_modules
from ablate.config.schema import LARGEST_SEED, SCHEMAS, ConfigError
from ablate.config.serial import quoted, with_new_name
from ablate.config.validation import boolean_keys, suggest
from ablate.paths import locate
from ablate.sweeps.study import key_of, refuse_empty

PATHS = ("resume", "load", "hydra.run.dir", "hydra.sweep.dir")
PARTS_OF_PATHS = ("hydra.output_subdir", "hydra.sweep.subdir")  # inside the folder of a run or a sweep
LONGEST_NAME = 255  # bytes in the name of a file or a folder
OPTION = r"\w[\w.-]*(/\w[\w.-]*)*"  # of a group: the name of a file in its folder


def complete_arguments(arguments: list[str]) -> list[str]:
    """The arguments in the form that Hydra needs.

    `env.id=<id>` without `env=`: adds env=atari or env=gymnasium. Otherwise the id would get Pendulum's settings.
    `sweep.arms=<name>`: as sweep.only=[<name>]. `sweep=<study>`: adds hydra.mode=MULTIRUN, also if the study's file
    lacks it. A path with characters that have a meaning for Hydra, such as the = in the path of a cell: puts it in
    quotes.
    Raises ConfigError for an argument that Hydra cannot parse or would misunderstand."""
    for argument in arguments:
        if any("\ud800" <= letter <= "\udfff" for letter in argument):
            raise ConfigError(
                f"{argument}: it has bytes that are not UTF-8, and manifest.json cannot hold it; rename it"
            )
    multirun = bool({"hydra.mode", "-m", "--multirun"} & {a.partition("=")[0] for a in arguments})
    arguments = [_with_new_name(_with_quoted_path(_chosen_arms(argument), multirun)) for argument in arguments]
    check_overrides(arguments)
    parse_flags(arguments)
    keys = [key_of(argument) if "=" in argument else "" for argument in arguments]
    # Hydra ignores a missing option of these groups.
    for group in {"algo_env", "algo_env_model", "algo_env_optimizer"} & set(keys):
        raise ConfigError(
            f"{arguments[keys.index(group)]}: this key cannot be given; algo=, env=, model= and optimizer= set it"
        )
    if "env.protocol" in keys:
        argument = arguments[keys.index("env.protocol")]
        raise ConfigError(
            f"{argument}: this key only records the name; {argument.lstrip('+').removeprefix('env.')} sets all values"
        )
    for key in {"max_episodes", "total_steps"} & set(keys):
        if (argument := arguments[keys.index(key)]).partition("=")[2].startswith("+") and "resume" not in keys:
            raise ConfigError(
                f"{argument}: a number with + means so many more, and needs resume=<run>; leave out the +"
            )
    if "env.id" in keys and not {"env", "experiment", "resume"} & set(keys):
        index = keys.index("env.id")  # insert here: argparse requires that all overrides are in one block
        arguments = [*arguments[:index], f"env={_file_for(arguments[index])}", *arguments[index:]]
    studies = [a for a in arguments if a.startswith("sweep=")]
    for folder in option_folders() if studies else ():
        if (path := folder / STUDIES / f"{studies[0].removeprefix('sweep=')}.yaml").is_file():
            refuse_empty(path)
            break
    if studies:
        arguments = [_deferred(argument) for argument in arguments]
    if studies and not multirun:
        index = arguments.index(studies[0])
        arguments = [*arguments[:index], "hydra.mode=MULTIRUN", *arguments[index:]]
    return arguments


def _deferred(argument: str) -> str:
    """The argument as a sweep over its one value, if its key is part of a group.

    Hydra then does not set it in the sweep's own configuration, whose algorithm and environment are not the arms':
    algo.double is a key of DQN. `sweeps.study.expand` gives it to the arms, which are checked one by one."""
    key, _, value = argument.partition("=")
    if key.startswith("~") or key.lstrip("+").split(".")[0] not in SCHEMAS or "." not in key or not value:
        return argument
    return (
        argument if OverridesParser.create().parse_override(argument).is_sweep_override() else f"{key}=choice({value})"
    )


def check_overrides(arguments: Sequence[str]) -> None:
    """Raise ConfigError for overrides that Hydra cannot parse, or would accept although they mean nothing.

    Also for `_target_`: code is chosen by names from the schema, never by an import path."""
    parser = OverridesParser.create()
    booleans = boolean_keys()
    known_groups = groups()
    for argument in arguments:
        if re.match(r"hydra([/.]callbacks\b|$)", key_of(argument)):
            raise ConfigError(f"{argument}: this part of Hydra's configuration checks all others; leave it as it is")
        if re.match(r"hydra\.(job|hydra)_logging\b", key_of(argument)):
            raise ConfigError(f"{argument}: the program writes no log through Hydra; leave it as it is")
        if key_of(argument) == "hydra/sweeper" and argument.endswith("=optuna"):
            raise ConfigError(
                f"{argument}: it has no seeds and no report, and it minimises the score; give "
                "sweep.search.trials=30, or so (docs/tuning.md)"
            )
        if "_target_" in argument:
            raise ConfigError(
                f"{argument}: _target_ is not allowed; code is chosen by a group's option, such as algo=a3c"
            )
        if re.match(r"[+~]*[=@]", argument):
            raise ConfigError(f"{argument}: there is no key before {re.findall('[=@]', argument)[0]}")
        if "=" not in argument or argument.startswith("-"):
            continue
        try:
            override = parser.parse_override(argument)
        except HydraException as error:
            hint = "; write a list without spaces, or in quotes" if argument.endswith(",") else ""
            message = str(error).splitlines()[0].partition(" expecting {")[0]  # without the list of all tokens
            raise ConfigError(f"{argument}: not of the form key=value ({message}){hint}") from error
        key = key_of(argument)
        group = key.partition("@")[0]
        if group in known_groups or group.startswith("hydra/"):
            _refuse_missing_option(group, argument, _values(override))
        if key in booleans:
            refuse_number(argument, _values(override))
        if key == "hydra.verbose" and not all(isinstance(value, bool | str | list) for value in _values(override)):
            raise ConfigError(f"{argument}: give true, false or a list of loggers")
        if key in PARTS_OF_PATHS:
            _refuse_outside(argument, _values(override))
        if key in ("hydra.run.dir", "hydra.sweep.dir") and not str(override.value() or "").strip():
            raise ConfigError(f"{argument}: it is empty; give a folder")
        if any(abs(number) > LARGEST_SEED for number in _whole_numbers(_values(override))):
            raise ConfigError(f"{argument}: no whole number may be larger than {LARGEST_SEED}")


def import_named(arguments: Sequence[str]) -> None:
    """Import the plugins that the arguments name, and allow the import of the modules in env.id=module:Name-v0."""
    for argument in arguments:
        if key_of(argument) == "env.id":
            name_modules(modules_of_ids(argument.partition("=")[2]))
    import_plugins(named_plugins(arguments))


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


def refuse_unmakeable(key: str, folder: Path) -> None:
    """Raise ConfigError, which names the key, if the folder and its parents cannot be made. No new folder is left.

    Hydra makes the folder later, by evaluating the key again: by default, a folder that exists gets another name."""
    made: list[Path] = []
    try:
        for path in reversed([folder, *folder.parents]):
            if not path.is_dir():
                path.mkdir(exist_ok=True)  # another run may make it at the same time
                made.append(path)
    except OSError as error:
        part = Path(error.filename).name  # of the folder's path, which is named already
        raise ConfigError(f"{key}={folder}: it cannot be made ({part}: {error.strerror})") from error
    finally:
        with contextlib.suppress(OSError):  # another run has started in it
            for path in reversed(made):
                path.rmdir()


def _values(override: Override) -> list[Any]:
    """The value of an override, or all values that it sweeps over."""
    if not override.is_sweep_override():
        return [override.value()]
    if not override.is_discrete_sweep() or isinstance(override.value(), Glob):
        return []  # refused by the sweeper
    return [value.strip("'\"") for value in override.sweep_string_iterator()]


def _whole_numbers(values: Iterable[Any]) -> Iterator[int]:
    """The whole numbers among values, also in lists, in dictionaries and in the text of a sweep."""
    for value in values:
        if isinstance(value, list):
            yield from _whole_numbers(value)
        elif isinstance(value, dict):
            yield from _whole_numbers(value.values())
        elif isinstance(value, int):
            yield value
        elif isinstance(value, str) and re.fullmatch(r"[+-]?\d{1,4000}", value):
            yield int(value)


def _with_new_name(argument: str) -> str:
    """The argument with its key's present name. An old name is accepted with a note."""
    if (new := with_new_name(argument)) != argument:
        print(f"note: {argument} is now {new}", file=sys.stderr)
    return new


def _refuse_missing_option(group: str, argument: str, values: list[Any]) -> None:
    """Raise ConfigError for a value that cannot be the name of an option, and for a missing option of `replay`.

    The group `replay` is optional, so Hydra would ignore a missing option without a message."""
    options = sorted({path.stem for folder in option_folders() for path in (folder / group).glob("*.yaml")})
    for value in values:
        named = isinstance(value, str) and re.fullmatch(OPTION, value) and value != "null"
        if not named or (group == "replay" and value not in (*options, "none")):
            hint = suggest(str(value), options) if named else ""
            known = f" (there are: {', '.join(options)})" if options else ""
            raise ConfigError(f"{argument}: no such option{hint}{known}")


def refuse_number(argument: str, values: list[Any]) -> None:
    """Raise ConfigError for a number other than 0 and 1, which OmegaConf takes as true."""
    for value in values:
        if re.fullmatch(r"[+-]?[\d_]+", str(value)) and str(value) not in ("0", "1"):
            raise ConfigError(f"{argument}: give true or false")


def _refuse_outside(argument: str, values: list[Any]) -> None:
    for value in values:
        path = Path(str(value))
        if (
            ".." in path.parts
            or path.is_absolute()
            or any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts)
        ):
            raise ConfigError(f"{argument}: it must be a folder inside the folder of the run")


def _file_for(argument: str) -> str:
    """The option of the group `env` for env.id=<id>, or for the first of several ids."""
    from ablate.envs.games import looks_like_a_game  # imports ale-py, which only games need

    return "atari" if looks_like_a_game(re.split(r"[=,]", argument)[1].strip("'\"")) else "gymnasium"


def _chosen_arms(argument: str) -> str:
    """`sweep.arms=dqn` and `sweep.arms=a,b` as a list of the arms to run. Definitions of arms, in braces, stay."""
    key, _, value = argument.partition("=")
    if key not in ("sweep.arms", "sweep.only") or "{" in value or not value:
        return argument
    return f"sweep.only=[{value.strip('[]')}]"


def _with_quoted_path(argument: str, multirun: bool) -> str:
    """The argument; a path with characters that have a meaning for Hydra is put in quotes.

    In a multirun, a comma separates several paths, unless there is a folder of this name."""
    key, _, value = argument.partition("=")
    if key not in PATHS or not re.search(r"[^\w/.+:@%-]", value) or value[0] in "'\"" or "${" in value:
        return argument
    if multirun and "," in value and not locate(value).exists():
        return argument
    return f"{key}={quoted(value)}"
