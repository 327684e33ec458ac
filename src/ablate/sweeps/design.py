"""The arms and claims that a design makes of a study's factors."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ablate.config.choices import DesignKind
from ablate.config.schema import ArmConfig, ClaimConfig, ConfigError, FactorConfig, SweepConfig
from ablate.sweeps.names import shortened, slug, value_slug
from ablate.sweeps.space import KEY, Values, described, draw_new, last_part, parse_range

MOST_ARMS = 128
ONE_ALTERNATIVE = (DesignKind.leave_one_out, DesignKind.add_one_in, DesignKind.path)

Levels = tuple[str, ...]  # one value per factor


class Factor(NamedTuple):
    """A key with its values as Hydra reads them. The first one is the baseline."""

    key: str
    label: str
    levels: tuple[str, ...]

    def at(self, level: str) -> str:
        """In words: n_step=3."""
        return f"{self.label}={level}"

    def slug(self, level: str) -> str:
        """As part of an arm's name: n_step-3."""
        return f"{slug(self.label)}-{value_slug(level)}"

    @property
    def change(self) -> str:
        """Its only alternative, in words: n_step=3, or double if that is switched on."""
        return self.label if self.levels[1] == "true" else self.at(self.levels[1])

    @property
    def change_slug(self) -> str:
        return slug(self.label) if self.levels[1] == "true" else self.slug(self.levels[1])


class Expanded(NamedTuple):
    """A study's settings with the arms and claims of its design, and each arm's value of each factor."""

    settings: SweepConfig
    levels: dict[str, dict[str, str]]  # by arm and key
    labels: dict[str, str]  # by key


def expanded(settings: SweepConfig) -> Expanded:
    """The settings with the arms and claims of their design; unchanged if they have none.

    Raises ConfigError for factors that make no such design, and for too many arms."""
    kind = settings.design
    if kind is None and not settings.factors:
        return Expanded(settings, {}, {})
    if kind is None:
        raise ConfigError(
            f"sweep.design=null: the factors {', '.join(settings.factors)} need a design; give one of "
            f"{', '.join(DesignKind)}"
        )
    if not settings.factors:
        raise ConfigError(f"sweep.design={kind}: a design needs factors; give sweep.factors")
    if settings.arms:
        raise ConfigError(
            f"sweep.factors: the study also has the arms {', '.join(settings.arms)}; give arms or factors, not both"
        )
    if kind is DesignKind.random:
        return _random(settings)
    factors = [_factor(key, factor) for key, factor in settings.factors.items()]
    _refuse(kind, factors)
    arms: dict[str, tuple[str, Levels]] = {}
    for name, label, levels in _arms(kind, factors):
        if (name := shortened(name)) in arms:
            raise ConfigError(f"sweep.factors: {arms[name][0]} and {label} would share the folder {name}; give labels")
        arms[name] = label, levels
    claims = [
        ClaimConfig(id=id, words=words, metric=settings.metric, inequality=inequality)
        for id, words, inequality in _claims(kind, factors, {levels: name for name, (_, levels) in arms.items()})
    ]
    metric = settings.metrics.get(settings.metric)
    if metric is not None and metric.smaller_is_better:
        claims = [replace(claim, inequality=claim.inequality.replace(" > ", " < ")) for claim in claims]
    made = {
        name: ArmConfig(label=label, overrides=[f"{f.key}={level}" for f, level in zip(factors, levels, strict=True)])
        for name, (label, levels) in arms.items()
    }
    keys = [factor.key for factor in factors]
    return Expanded(
        replace(settings, arms=made, claims=[*claims, *settings.claims]),
        {name: dict(zip(keys, levels, strict=True)) for name, (_, levels) in arms.items()},
        {factor.key: factor.label for factor in factors},
    )


def sizes(settings: SweepConfig) -> dict[DesignKind, int]:
    """How many arms each design of these factors has; designs that these factors cannot make are left out."""
    if settings.design is DesignKind.random:
        return {}
    counts = [1 + len(factor.alternatives) for factor in settings.factors.values()]
    kinds = [kind for kind in DesignKind if kind is not DesignKind.random]
    return {kind: _size(kind, counts) for kind in kinds if max(counts) == 2 or kind not in ONE_ALTERNATIVE}


def _size(kind: DesignKind, counts: list[int]) -> int:
    """The number of arms for factors with so many values."""
    return math.prod(counts) if kind is DesignKind.factorial else 1 + sum(counts) - len(counts)


def _factor(key: str, factor: FactorConfig) -> Factor:
    where = f"sweep.factors.{key}"
    if not re.fullmatch(KEY, key):
        raise ConfigError(f"{where}: not the name of a key, such as algo.n_step")
    if factor.range is not None:
        raise ConfigError(f"{where}.range={factor.range}: only sweep.design=random draws from it; give alternatives")
    if not factor.alternatives:
        raise ConfigError(f"{where}.alternatives=[]: at least one other value is needed")
    levels = [_text(where, value) for value in (factor.baseline, *factor.alternatives)]
    if twice := [level for place, level in enumerate(levels) if level in levels[:place]]:
        raise ConfigError(f"{where}: the value {twice[0]} is given twice; baseline and alternatives must differ")
    return Factor(key, factor.label or last_part(key), tuple(levels))


def _random(settings: SweepConfig) -> Expanded:
    """The baseline, then combinations of values that are drawn from the factors' ranges.

    No claims: which of many combinations is best is no question that a few seeds answer (docs/tuning.md)."""
    ranges, baseline = [], Values()
    for key, factor in settings.factors.items():
        where = f"sweep.factors.{key}"
        if factor.alternatives or factor.range is None:
            raise ConfigError(f"{where}: sweep.design=random needs a range, and no alternatives; give {where}.range")
        ranges.append(parse_range(f"{where}.range", key, factor.range))
        baseline[key] = _text(where, factor.baseline)
    labels = {key: factor.label or last_part(key) for key, factor in settings.factors.items()}
    levels = {"baseline": baseline}
    for i in range(settings.draws):  # a generator of its own for each: the first draws do not depend on their number
        if (values := draw_new(ranges, np.random.default_rng(i), levels.values())) is None:
            raise ConfigError(f"sweep.draws={settings.draws}: the ranges have only {len(levels)} combinations")
        levels[f"draw-{i:03}"] = values
    arms = {
        name: ArmConfig(
            label="baseline: " * (name == "baseline") + described(values, labels),
            overrides=[f"{key}={value}" for key, value in values.items()],
        )
        for name, values in levels.items()
    }
    return Expanded(replace(settings, arms=arms), levels, labels)


def _text(where: str, value: Any) -> str:
    """The value as it stands in an override."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list):
        return f"[{','.join(_text(where, item) for item in value)}]"
    if isinstance(value, dict):
        raise ConfigError(f"{where}: {value}: a factor's value is a single value or a list")
    return str(value)


def _refuse(kind: DesignKind, factors: Sequence[Factor]) -> None:
    for place, factor in enumerate(factors):
        if factor.label in [other.label for other in factors[:place]]:
            raise ConfigError(f"sweep.factors.{factor.key}: another factor is called {factor.label}; give it a label")
        if kind in ONE_ALTERNATIVE and len(factor.levels) > 2:
            raise ConfigError(
                f"sweep.factors.{factor.key}.alternatives=[{', '.join(factor.levels[1:])}]: sweep.design={kind} needs "
                "exactly one; give one, or use one_at_a_time or factorial"
            )
    if kind is DesignKind.factorial and len(factors) < 2:
        raise ConfigError(f"sweep.design=factorial: it needs at least two factors; use {DesignKind.one_at_a_time}")
    counts = [len(factor.levels) for factor in factors]
    size = _size(kind, counts)
    if size > MOST_ARMS:
        words = f"{' x '.join(map(str, counts))} = " if kind is DesignKind.factorial else ""
        raise ConfigError(
            f"sweep.design={kind}: {words}{size} arms, more than {MOST_ARMS}; drop values or factors"
            + ", or use one_at_a_time" * (kind is DesignKind.factorial)
        )


def _arms(kind: DesignKind, factors: Sequence[Factor]) -> Iterator[tuple[str, str, Levels]]:
    """Name, label and values of each arm; the reference comes first."""
    low = tuple(factor.levels[0] for factor in factors)
    high = tuple(factor.levels[1] for factor in factors)
    at_low = ", ".join(factor.at(level) for factor, level in zip(factors, low, strict=True))

    def changed(levels: Levels, place: int, level: str) -> Levels:
        return (*levels[:place], level, *levels[place + 1 :])

    match kind:
        case DesignKind.leave_one_out:
            yield "all", f"all: {', '.join(factor.change for factor in factors)}", high
            for i, factor in enumerate(factors):
                yield f"without-{factor.change_slug}", f"without {factor.change}", changed(high, i, low[i])
        case DesignKind.add_one_in:
            yield "none", f"none: {at_low}", low
            for i, factor in enumerate(factors):
                yield f"with-{factor.change_slug}", f"with {factor.change}", changed(low, i, high[i])
        case DesignKind.one_at_a_time:
            yield "baseline", f"baseline: {at_low}", low
            for i, factor in enumerate(factors):
                for level in factor.levels[1:]:
                    yield factor.slug(level), factor.at(level), changed(low, i, level)
        case DesignKind.factorial:
            for levels in itertools.product(*(factor.levels for factor in factors)):
                own = list(zip(factors, levels, strict=True))
                name = "_".join(factor.slug(level) for factor, level in own)
                yield name, ", ".join(factor.at(level) for factor, level in own), levels
        case DesignKind.path:
            yield "start", f"start: {at_low}", low
            for i, factor in enumerate(factors, 1):
                yield f"{i}-{factor.change_slug}", f"+ {factor.change}", (*high[:i], *low[i:])


def _claims(kind: DesignKind, factors: Sequence[Factor], names: dict[Levels, str]) -> Iterator[tuple[str, str, str]]:
    """Id, words and inequality of each claim, for a metric of which a larger value is better."""
    arms = list(names.values())
    changes = [factor.change for factor in factors]
    match kind:
        case DesignKind.leave_one_out:
            for change, arm in zip(changes, arms[1:], strict=True):
                yield change, f"{change} helps: without it the result is worse", f"{arms[0]} > {arm}"
        case DesignKind.add_one_in:
            for change, arm in zip(changes, arms[1:], strict=True):
                yield change, f"{change} alone helps", f"{arm} > {arms[0]}"
        case DesignKind.one_at_a_time:
            steps = [(factor, level) for factor in factors for level in factor.levels[1:]]
            for (factor, level), arm in zip(steps, arms[1:], strict=True):
                yield factor.at(level), _better(factor, level), f"{arm} > {arms[0]}"
        case DesignKind.path:
            for i, change in enumerate(changes, 1):
                yield f"{i}. {change}", f"step {i}, {change}, helps", f"{arms[i]} > {arms[i - 1]}"
            if len(changes) > 1:
                yield "all steps", "the end of the path is better than its start", f"{arms[-1]} > {arms[0]}"
        case DesignKind.factorial:
            places = [i for i, factor in enumerate(factors) if factor.key in ("env", "env.id")]
            if not places:
                yield from _factorial_claims(factors, names)
            for place in places[:1]:  # scores of different environments have different units
                for env in factors[place].levels:
                    own = {levels: name for levels, name in names.items() if levels[place] == env}
                    for id, words, inequality in _effects(factors, own):
                        yield f"{id} in {env}", f"in {env}, {words}", inequality


def _better(factor: Factor, level: str) -> str:
    return f"{factor.at(level)} is better than {factor.at(factor.levels[0])}"


def _factorial_claims(factors: Sequence[Factor], names: dict[Levels, str]) -> Iterator[tuple[str, str, str]]:
    """The effect of each value against its baseline, and of each pair of two factors' values beyond the sum of the two.

    Both are averages over all values of the other factors."""

    def arms(fixed: dict[int, str]) -> list[str]:
        return [name for levels, name in names.items() if all(levels[i] == level for i, level in fixed.items())]

    yield from _effects(factors, names)
    for (i, first), (j, second) in itertools.combinations(enumerate(factors), 2):
        for a, b in itertools.product(first.levels[1:], second.levels[1:]):
            a0, b0 = first.levels[0], second.levels[0]
            sides_of = [_difference(arms({i: a, j: other}), arms({i: a0, j: other})) for other in (b, b0)]
            yield (
                f"{first.at(a)} × {second.at(b)}",
                f"{first.at(a)} and {second.at(b)} together are better than the sum of their effects",
                " > ".join(sides_of),
            )


def _effects(factors: Sequence[Factor], names: dict[Levels, str]) -> Iterator[tuple[str, str, str]]:
    """The effect of each value against its baseline, averaged over the other factors."""
    for i, factor in enumerate(factors):
        for level in factor.levels[1:]:
            sides = [[name for levels, name in names.items() if levels[i] == own] for own in (level, factor.levels[0])]
            if all(sides):
                inequality = " > ".join(_mean(side) for side in sides)
                yield factor.at(level), f"{_better(factor, level)}, on average over the other factors", inequality


def _mean(arms: Sequence[str]) -> str:
    return arms[0] if len(arms) == 1 else f"({' + '.join(arms)}) / {len(arms)}"


def _difference(first: Sequence[str], second: Sequence[str]) -> str:
    """The mean of the first arms minus that of the second ones."""
    if len(first) == 1:
        return f"({first[0]} - {second[0]})"
    return f"(({' + '.join(first)}) - ({' + '.join(second)})) / {len(first)}"
