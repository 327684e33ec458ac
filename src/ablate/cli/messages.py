"""One line for the user: what is wrong with which key and value, and the nearest right one."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import fields

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ablate.config.schema import SCHEMAS, Config, ConfigError
from ablate.config.validation import known_keys, suggest

REFUSALS = (ConfigError, HydraException, OmegaConfBaseException, YAMLError)  # what the user can mend, told in a line


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
