"""Turn an error of Hydra, OmegaConf or YAML into one line for the user."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ablate.cli.folders import option_folders
from ablate.config.schema import SCHEMAS, Config, ConfigError
from ablate.config.validation import known_keys, suggest
from ablate.paths import shown

REFUSALS = (ConfigError, HydraException, OmegaConfBaseException, YAMLError, OSError)  # errors that the user can correct
FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)  # of the machine: no other argument helps
LONGEST = 199  # letters of a message, without its long paths
FROM_RESOLVER = "ConfigError raised while resolving interpolation: "  # raised by our resolvers


def is_fault(error: BaseException) -> bool:
    """Whether the error is the machine's, such as a full disk, so that the program has failed and not refused."""
    if not isinstance(error, OSError) or isinstance(error, HydraException):  # Hydra's are both if an option is missing
        return False
    return error.errno in FAULTS or not error.filename


def tell(error: BaseException) -> int:
    """Print an expected error in one line. Returns the exit code: 1 if the machine failed, 2 if this is a refusal."""
    fault = is_fault(error)
    print(f"failed: {error}" if fault else explain(error), file=sys.stderr)
    return 1 if fault else 2


def explain(error: BaseException, given: Sequence[str] = ()) -> str:
    """One line for the user: which key and value are wrong, why, and the nearest right one.

    given: the overrides that the error is about, if they are not those of the command line."""
    overrides = {a.lstrip("+~").partition("=")[0]: a for a in given or sys.argv[1:] if "=" in a}
    return one_line(_explained(error, overrides))


def one_line(text: str) -> str:
    """The text as one line of printable letters, at most LONGEST without its long paths, which must stay usable.

    What is too long loses its middle, words first."""
    text = "".join(c if c.isprintable() else " " if c.isspace() else ascii(c)[1:-1] for c in text)
    paths = [w for w in re.findall(r"\S+", text) if "/" in w and "://" not in w and 40 < len(w) <= LONGEST]
    longest = LONGEST + sum(map(len, paths))

    def shortened(half: int, word: str) -> str:
        return word if word in paths or len(word) < 2 * half + 2 else f"{word[:half]}…{word[-half:]}"

    for half in (40, 24):
        if len(text) > longest:
            text = re.sub(r"\S+", lambda match, half=half: shortened(half, match[0]), text)  # type: ignore[misc]
    return text if len(text) <= longest else f"{text[: longest - 79]}…{text[-78:]}"


def _explained(error: BaseException, overrides: dict[str, str]) -> str:
    text = str(error).removeprefix(FROM_RESOLVER)
    cause = str(error.__cause__ or "")
    if match := re.match(r"Ambiguous value for argument '([^']+)'", text):
        return f"{match[1]}: for several values add -m; a list is written key=[a,b]"
    resumed = "a resumed run keeps its configuration (load= starts a new run from saved parameters)"
    if match := re.match(r"(?:Could not override|Could not delete from config\.|Key) '([^']+)'", text):
        key = match[1].rpartition("@")[0] or match[1]
        if key in _all_keys() and "resume" in overrides:  # a valid key, but not with the default options
            return f"{overrides.get(key, key)}: {resumed}"
        if key.startswith("env.kwargs."):
            return f"{overrides.get(key, key)}: a new argument of the environment is written +{overrides.get(key, key)}"
        group, _, name = key.partition(".")
        if key in _all_keys() and group in SCHEMAS:
            name = name.partition(".")[0]
            schemas = SCHEMAS[group].items()
            owners = [option for option, schema in schemas if name in {item.name for item in fields(schema)}]
            ours = next((schema for _, schema in schemas if f"'{schema.__name__}'" in text + cause), None)
            alike = get_close_matches(name, [item.name for item in fields(ours)] if ours else [], n=1)
            hint = f"; did you mean {group}.{alike[0]}?" if alike else ""
            return f"{overrides.get(key, key)}: only {group}.name={' or '.join(owners)} has this key{hint}"
        if key in _all_keys() and "{" in overrides.get(key, ""):  # it has been given a dictionary with new keys
            return f"{overrides.get(key, key)}: new keys of a dictionary are written ++{overrides.get(key, key)}"
        return f"{overrides.get(key, key)}: no such key{suggest(key, _all_keys())}"
    if match := re.match(r"In '(protocol|preprocessing)/([^']+)': .*not in 'GymnasiumConfig'", text, re.DOTALL):
        if "resume" in overrides:
            return f"{match[1]}={match[2]}: {resumed}"
        return f"{match[1]}={match[2]}: this setting is only for games; use env=breakout, env=riverraid or env=atari"
    if match := re.match(r"Error merging override (.+)", text):
        key, _, value = match[1].partition("=")
        if key == "sweep.environments" and "Cannot merge" in cause + text:
            return f"{match[1]}: the study has values for each of its environments; leave one out with ~{key}.<name>"
        if "is not a ListConfig" in cause + text:
            return f"{match[1]}: a list is needed, as in {key}=[{value},{value}]"
        hint = '; for several seeds write -m "seed=range(5)", or sweep.seeds=0-4 with a study' if key == "seed" else ""
        exponent = re.fullmatch(r"\d+(\.\d+)?[eE]\+?\d+", value)
        if exponent and "to Integer" in cause + text and float(value).is_integer():  # 5e6 is a float
            hint = f"; write {key}={float(value):.0f}"
        return f"{match[1]}: {_sentence(cause or text.partition(chr(10))[2])}{hint}"
    if match := re.match(r"In '(sweep/[^']+)': .*?(Key .+|Cannot .+|Value .+)", text, re.DOTALL):
        hint = "; its first line must be # @package _global_" if "'hydra' not in" in match[2] else ""
        return f"{_file_of(match[1], overrides)}: {_sentence(match[2])}{hint}"
    if match := re.search(r"Could not find '([^']+)'\n\nAvailable options in '([^']+)':\n((?:\t.+\n?)+)", text):
        group, options = match[2], match[3].split()
        option = match[1].removeprefix(f"{group}/")
        others = "; for others give an id: env.id=ALE/Pong-v5" if group == "env" else ""
        return f"{group}={option}: no such option{suggest(option, options)} (there are: {', '.join(options)}{others})"
    if isinstance(error, OSError):
        name = str(error.filename)
        key = next((o for o in overrides.values() if (name and name in o) or o.partition("=")[2] in name), name)
        return f"{key}: {error.strerror or error}"
    key = getattr(error, "full_key", None)
    if key and not str(error).startswith(FROM_RESOLVER):
        return f"{overrides.get(key, key)}: {_sentence(text)}"
    return _sentence(text)


def _file_of(option: str, overrides: dict[str, str]) -> str:
    """The file of an option (sweep/x), as Hydra found it; without its folder if that was given in another way."""
    named = re.findall(r"://([^\s,\]'\"]+)", overrides.get("hydra.searchpath", ""))
    paths = (Path(folder) / f"{option}.yaml" for folder in (named or option_folders()))
    return next((shown(path) for path in paths if path.is_file()), f"{option}.yaml")


def _sentence(text: str) -> str:
    """Hydra's message in one line, without its internal details."""
    lines = [line.strip() for line in text.splitlines()]
    return " ".join(
        line
        for line in lines
        if line and not line.startswith(("full_key:", "reference_type=", "object_type=", "See https"))
    )


def _all_keys() -> list[str]:
    """Every key of every schema, and the groups. A wrong key is compared with them."""
    keys: set[str] = {"experiment"}
    alternatives = max(len(options) for options in SCHEMAS.values())
    for i in range(alternatives):
        schema = OmegaConf.structured(Config)
        for group, options in SCHEMAS.items():
            schema[group] = OmegaConf.structured(list(options.values())[i % len(options)])
        keys |= set(known_keys(schema))
    return sorted(keys)
