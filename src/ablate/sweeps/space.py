"""Ranges of a key's values, in the words of Hydra's sweeps: interval(1e-4,1e-2), choice(5,10,20), range(1,9)."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, RangeSweep
from hydra.errors import HydraException

from ablate.config.schema import ConfigError

DIGITS = 4  # significant digits of a drawn number: it stands in labels, tables and commands
TRIES = 1000  # draws until one is new
KEY = r"[+]{0,2}\w[\w./@]*"
FORMS = "interval(1e-4,1e-2), tag(log,interval(1e-4,1e-2)), int(interval(1,8)), choice(5,10,20)"

Values = dict[str, str]  # by key, as in an override


class Range(NamedTuple):
    """The values of a key: either some choices, or all numbers from low to high."""

    key: str
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False  # whole numbers only

    def at(self, share: float) -> str:
        """The value at this share of the range, from 0 to below 1."""
        if self.choices:
            return self.choices[int(share * len(self.choices))]
        low, high = (self.low, self.high + 1) if self.whole else (self.low, self.high)
        value = low * (high / low) ** share if self.log else low + (high - low) * share
        return self.text(math.floor(value) if self.whole else value)

    def text(self, value: float) -> str:
        """A number of this range as in an override: rounded, but never out of the range."""
        if self.whole:
            return str(int(value))
        rounded = float(f"{value:.{DIGITS}g}")
        return repr(rounded if self.low <= rounded <= self.high else float(value))

    def contains(self, text: str) -> bool:
        if self.choices:
            return text in self.choices
        try:
            return self.low <= float(text) <= self.high
        except ValueError:
            return False


def parse_range(where: str, key: str, text: object) -> Range:
    """The range in Hydra's words. where: its place in the study, for errors. Raises ConfigError."""
    if not re.fullmatch(KEY, key):
        raise ConfigError(f"{where}: not the name of a key, such as optimizer.lr")
    try:
        override = OverridesParser.create().parse_override(f"{key}={text}")
    except HydraException as error:
        raise ConfigError(f"{where}={text}: not a range; give {FORMS}") from error
    value = override.value()
    if isinstance(value, IntervalSweep) and value.start is not None and value.end is not None:
        low, high, log = value.start, value.end, "log" in value.tags
        if not low < high or (log and low <= 0):
            must = "start above 0 and end above its start" if log else "end above its start"
            raise ConfigError(f"{where}={text}: the interval must {must}")
        if not math.isfinite(float(high) / float(low) if log else float(high) - float(low)):
            raise ConfigError(f"{where}={text}: the interval is too wide; give finite ends")
        return Range(key, (), float(low), float(high), log, isinstance(low, int) and isinstance(high, int))
    if getattr(value, "shuffle", False):
        raise ConfigError(f"{where}={text}: shuffle would give other values each time; the draws are random anyway")
    if isinstance(value, ChoiceSweep | RangeSweep):
        choices = tuple(override.sweep_string_iterator())
        if len(set(choices)) < max(len(choices), 2):
            raise ConfigError(f"{where}={text}: at least two values are needed, each once")
        return Range(key, choices)
    raise ConfigError(f"{where}={text}: not a range; give {FORMS}")


def draw_new(ranges: Sequence[Range], rng: np.random.Generator, known: Collection[Values]) -> Values | None:
    """One independent value per key, uniform in its range, or in the logarithm of it; none of the known combinations.

    None if no new one was found: the ranges have few combinations."""
    for _ in range(TRIES):
        values = {own.key: own.at(rng.random()) for own in ranges}
        if values not in known:
            return values
    return None


def labels_of(ranges: Sequence[Range]) -> dict[str, str]:
    """The last part of each key, or the whole key if two have the same last part."""
    last = [last_part(own.key) for own in ranges]
    return {own.key: own.key if last.count(part) > 1 else part for own, part in zip(ranges, last, strict=True)}


def described(values: Values, labels: dict[str, str]) -> str:
    """For labels of arms: lr=0.001, t_max=20."""
    return ", ".join(f"{labels[key]}={value}" for key, value in values.items())


def last_part(key: str) -> str:
    return re.split(r"[./]", key.lstrip("+"))[-1]
