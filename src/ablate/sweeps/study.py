"""The arms and seeds of a sweep, from a study file or from plain Hydra arguments (-m workers=2,4 seed=range(5))."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ablate.config.choices import Until
from ablate.config.inequality import parse
from ablate.config.schema import LARGEST_SEED, ArmConfig, Config, ConfigError, SweepConfig
from ablate.config.serial import NOT_COMPARED, digest, to_dict, with_new_name
from ablate.config.validation import suggest
from ablate.paths import shown
from ablate.records.study_file import NAME, SearchRecord
from ablate.sweeps.design import expanded
from ablate.sweeps.environments import Task, crossed_claims, names_of, tasks_of
from ablate.sweeps.names import LONGEST_NAME, shortened, slug, value_slug

# Defaults of every cell. Evaluations are at fixed steps, because seconds differ from arm to arm, and start before the
# first step. A cell draws no figure, which could take longer than its training.
CELL_DEFAULTS = ("evaluation.every_seconds=null", "evaluation.at_start=true", "figures=false")
DEFERRED = re.compile(r"^([^=]+)=choice\((.*)\)$", re.DOTALL)  # a value that Hydra has not checked: see `cli.arguments`
SCALED = re.compile(r"x(\d+(?:\.\d+)?)")  # an arm's value that is a multiple of the other arms': x0.5
MOST_SEEDS = 100_000  # a longer range of seeds must be a typing error
# Keys that must not be in a study's overrides, with the right place for them.
ELSEWHERE = {
    "hydra": "Hydra ignores it in a study's overrides; give it on the command line",
    "sweep": "write it next to base and arms, not in overrides",
    "seed": "give the study's seeds as sweep.seeds=0-29",
    "resume": "a sweep starts new runs; resume one run at a time",
}


class Arm(NamedTuple):
    """One setting under comparison. overrides: everything that its cells have in common."""

    name: str
    label: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    name: str
    settings: SweepConfig
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    source: Path | None = None  # its file
    factors: dict[str, str] = field(default_factory=dict)  # what its arms combine: the label of each key
    levels: dict[str, dict[str, str]] = field(default_factory=dict)  # by arm and key of a factor
    search: SearchRecord | None = None
    command: tuple[str, ...] = ()  # the overrides of the command line that count for all arms
    # With sweep.environments, `arms` has each arm in each environment. (arm, environment) by the name there.
    crossed: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def has_trials(self) -> bool:
        """Whether its arms are the trials of a search, which is still going on."""
        return self.search is not None and not self.search.best


def expand(arguments: list[str], settings: SweepConfig, seed: int) -> Study:
    """The arms and seeds of a command.

    arguments: the overrides of the command line, without Hydra's own. seed: used if neither study nor command has one.
    Raises ConfigError for keys that cannot be swept over, unknown names, and arms that are the same."""
    overrides = _parsed(arguments)
    for override in overrides:
        if override.is_sweep_override() and (not override.is_discrete_sweep() or isinstance(override.value(), Glob)):
            raise ConfigError(f"{override.input_line}: only lists can be swept over: 1,2,4 or range(1,5)")
        if override.is_sweep_override() and _group(override) == "sweep" and override.get_key_element() != "sweep.seeds":
            raise ConfigError(f"{override.input_line}: these keys cannot be swept over")
    command = [override for override in overrides if _group(override) not in ("sweep", "seed")]
    settings, levels, factors = expanded(settings)
    seeds = _seeds(overrides, settings, seed)
    swept = [o for o in command if o.is_sweep_override()]
    fixed = [o.input_line or "" for o in command if not o.is_sweep_override()]
    keys = Counter(o.get_key_element() for o in command)
    if twice := [o for o in swept if keys[o.get_key_element()] > 1]:
        raise ConfigError(f"{twice[0].input_line}: {twice[0].get_key_element()} is given twice; give it once")
    _refuse_misplaced("sweep.base", settings.base)
    if settings.arms:
        for name, arm in settings.arms.items():
            if not levels and name != (right := slug(name)[:LONGEST_NAME]):
                raise ConfigError(
                    f"sweep.arms.{name}: it is a folder's name; use letters, digits, dots and dashes: {right}"
                )
            of_design = "sweep.factors" if levels else f"sweep.arms.{name}"
            _refuse_misplaced("sweep.search.space" if settings.search.trials else of_design, arm.overrides)
        if swept:
            raise ConfigError(
                f"{swept[0].input_line}: the study already has the arms {', '.join(settings.arms)}; give one value, "
                f"or run some of them with sweep.arms={next(iter(settings.arms))},..."
            )

        def made(base: list[str]) -> list[Arm]:
            return [_study_arm(name, arm, base, fixed) for name, arm in settings.arms.items()]
    else:
        combinations = list(itertools.product(*map(_values, swept)))

        def made(base: list[str]) -> list[Arm]:
            return [_arm(base, values, fixed) for values in combinations]

        levels = {
            arm.name: {key_of(key): value for key, value in own}
            for arm, own in zip(made(settings.base), combinations, strict=True)
        }
        factors = {key_of(key): _short(key) for key in map(Override.get_key_element, swept)}
    tasks = tasks_of(settings)
    by_task = {task: made([*settings.base, *task.overrides]) for task in tasks}
    plain = next(iter(by_task.values())) if tasks else made(settings.base)
    _refuse_same(plain)
    names = [arm.name for arm in plain]
    refuse_unknown_names(settings, names)
    settings = replace(settings, claims=crossed_claims(settings, names, tasks))
    arms, crossed = plain, dict[str, tuple[str, str]]()
    if tasks:
        arms = [_in_task(arm, task) for task, own in by_task.items() for arm in own]
        crossed = {task.arm(name): (name, task.name) for task in tasks for name in names}
        _refuse_clash(arms, names)
        levels = {name: levels[arm] for name, (arm, _) in crossed.items() if arm in levels}
        only = names_of(settings.only, crossed)
        settings = replace(settings, baseline=tasks[0].arm(settings.baseline or names[0]), only=only)
    name, seeds = settings.name or study_name(arguments), _most_seeds(seeds, settings)
    return Study(
        name, settings, tuple(arms), seeds, factors=factors, levels=levels, command=tuple(fixed), crossed=crossed
    )


def _parsed(arguments: list[str]) -> list[Override]:
    return OverridesParser.create().parse_overrides(undeferred(arguments))


def undeferred(arguments: list[str]) -> list[str]:
    """The overrides as they were typed."""
    return [DEFERRED.sub(r"\1=\2", text) for text in arguments]


def _in_task(arm: Arm, task: Task) -> Arm:
    """The arm in one of sweep.environments. Raises ConfigError if the arm or the command chooses another one."""
    chosen = next(override for override in task.overrides if override.startswith("env="))
    if chosen not in arm.overrides:
        other = next((override for override in arm.overrides if key_of(override) == "env"), "env=")
        raise ConfigError(f"{other}: the study has the environments in sweep.environments; give it there")
    return arm._replace(name=task.arm(arm.name))


def _refuse_clash(arms: list[Arm], names: list[str]) -> None:
    counts = Counter([*(arm.name for arm in arms), *names])
    if twice := [name for name, count in counts.items() if count > 1]:
        raise ConfigError(f"sweep.environments: two arms would be called {twice[0]}; rename an arm")


def _study_arm(name: str, arm: ArmConfig, base: list[str], fixed: list[str]) -> Arm:
    """An arm of a study file. fixed: the overrides of the command line, which count for all arms.

    An arm's value x0.5 is half of the base's or the command line's. Raises ConfigError if the command line gives a key
    that the arm sets: it would undo what the arm's label says."""
    given = {key_of(override): override for override in map(with_new_name, fixed)}
    common = {key_of(override): override for override in map(with_new_name, [*base, *fixed])}
    own = []
    for override in map(with_new_name, arm.overrides):
        key, value = key_of(override), override.partition("=")[2]
        if factor := SCALED.fullmatch(value):
            own.append(f"{override.partition('=')[0]}={_multiple(name, override, factor[1], common.get(key))}")
            given.pop(key, None)
        elif clash := next((text for other, text in given.items() if _undoes(text, other, override, key)), None):
            raise ConfigError(
                f"{clash}: the arm {name} is about {override}, which this would undo; change the study's file, or "
                f"write a multiple there, such as {key}=x0.5"
            )
        else:
            own.append(override)
    return Arm(name, arm.label or name, tuple(merged(base, own, list(given.values()))))


def key_of(override: str) -> str:
    """The key of an override, without + or ~."""
    return override.partition("=")[0].lstrip("+~")


def _short(key: str) -> str:
    """The last part of a key, for labels and names."""
    return key.lstrip("+~").split(".")[-1]


def _undoes(given: str, given_key: str, own: str, own_key: str) -> bool:
    """Whether the override `given` changes what the arm's override `own` sets. A group's value may be a dictionary."""
    value, own_value = given.partition("=")[2], own.partition("=")[2]
    if given_key == own_key:
        return value != own_value
    contains = value.startswith("{") and own_key.startswith(f"{given_key}.")
    return contains or (own_value.startswith("{") and given_key.startswith(f"{own_key}."))


def _multiple(arm: str, override: str, factor: str, of: str | None) -> str:
    """The multiple of the value in the override `of`: a whole number if that is one. Raises ConfigError."""
    value = (of or "").partition("=")[2]
    if not re.fullmatch(r"\d+(\.\d+)?(e[+-]?\d+)?", value):
        raise ConfigError(
            f"sweep.arms.{arm}: {override}: a multiple needs a number in sweep.base or on the command line, not "
            f"{of or 'nothing'}"
        )
    product = float(factor) * float(value)
    return str(max(1, round(product))) if value.isdigit() else repr(product)


def refuse_empty(path: Path) -> None:
    """Raise ConfigError for a study's file without a study, and for a key in it without a value."""
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except (OmegaConfBaseException, YAMLError, OSError):
        return  # Hydra says what is wrong with it
    values = content.get("sweep", ...) if isinstance(content, dict) else ...
    if values in (..., None, {}) and not (isinstance(content, dict) and content.get("defaults")):
        raise ConfigError(f"{shown(path)}: it describes no study; write sweep: with question, arms, seeds and claims")
    if not isinstance(values, dict):
        return
    needed = [own.name for own in fields(SweepConfig) if own.default is not None]
    parts = {f"sweep.{key}": value for key, value in values.items() if key in needed}
    arms = values.get("arms")
    for name, arm in arms.items() if isinstance(arms, dict) else ():
        parts |= {f"sweep.arms.{name}": arm}
        parts |= {f"sweep.arms.{name}.{key}": value for key, value in arm.items()} if isinstance(arm, dict) else {}
    if empty := [key for key, value in parts.items() if value is None]:
        raise ConfigError(f"{shown(path)}: {empty[0]}: it has no value; give one, or leave it out")


def study_name(arguments: list[str]) -> str:
    """The name of the folder of a sweep without a study file: the swept keys, and a hash of the fixed settings.

    The same command with more seeds or values has the same folder."""
    overrides = _parsed(arguments)
    compared = [override for override in overrides if _group(override) not in ("sweep", *NOT_COMPARED)]
    fixed = sorted(o.input_line or "" for o in compared if not o.is_sweep_override())
    keys = sorted(o.get_key_element() for o in compared if o.is_sweep_override())
    return f"{shortened('-'.join(slug(key) for key in keys) or 'seeds')}-{digest([fixed, keys])}"


def merged(*overrides: list[str] | tuple[str, ...]) -> list[str]:
    """All overrides in order; if a key occurs twice, the last one counts."""
    by_key: dict[str, str] = {}
    for override in map(with_new_name, itertools.chain(CELL_DEFAULTS, *overrides)):
        key = key_of(override)
        by_key.pop(key, None)
        by_key[key] = override
    return list(by_key.values())


def identity(config: Config) -> str:
    """Eight hexadecimal digits that identify a cell's resolved configuration without its seed, and without keys that
    change only what is shown or stored."""
    compared = {key: value for key, value in to_dict(config).items() if key not in NOT_COMPARED}
    return digest(compared)


def parse_seeds(text: str, key: str = "sweep.seeds") -> tuple[int, ...]:
    """Parse `0-4,7` as 0, 1, 2, 3, 4, 7. Raises ConfigError, which names the key."""
    seeds: list[int] = []
    for part in text.strip("[]'\"").split(","):  # quotes that a shell left are Hydra's
        numbers = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not numbers:
            raise ConfigError(f"{key}={text}: seeds are written 0-29, or 0-4,7")
        first, last = int(numbers[1]), int(numbers[2] or numbers[1])
        if last < first:
            raise ConfigError(f"{key}={text}: {part} runs backwards; give {last}-{first}")
        if last > LARGEST_SEED:
            raise ConfigError(f"{key}={text}: a seed is a whole number from 0 to {LARGEST_SEED}")
        if last - first >= MOST_SEEDS:
            raise ConfigError(f"{key}={text}: {part} is more than {MOST_SEEDS} seeds")
        seeds += range(first, last + 1)
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"{key}={text}: {Counter(seeds).most_common(1)[0][0]} occurs twice")
    return tuple(sorted(seeds))


def _group(override: Override) -> str:
    """The first part of an override's key."""
    return re.split(r"[.@]", override.get_key_element().lstrip("+~"))[0]


def _seeds(overrides: list[Override], settings: SweepConfig, seed: int) -> tuple[int, ...]:
    """The seeds of the command line (`seed=` or `sweep.seeds=`), else of the study, else the configuration's seed."""
    given = {key: o for o in overrides if (key := o.get_key_element()) in ("seed", "sweep.seeds")}
    if len(given) == 2:
        raise ConfigError(f"{' '.join(str(o.input_line) for o in given.values())}: give only one of them")
    for key, override in given.items():
        swept = override.is_sweep_override()
        values = list(override.sweep_string_iterator()) if swept else [override.get_value_element_as_str()]
        for value in values:
            if key == "seed" and not (value.isdigit() and int(value) <= LARGEST_SEED):
                raise ConfigError(f"seed={value}: a seed is a whole number from 0 to {LARGEST_SEED}")
        return parse_seeds(",".join(values), key)
    if settings.seeds is None:
        return (seed,)
    listed = settings.seeds if isinstance(settings.seeds, list) else [settings.seeds]
    return parse_seeds(",".join(map(str, listed)))


def _most_seeds(seeds: tuple[int, ...], settings: SweepConfig) -> tuple[int, ...]:
    """All seeds that a sweep may run: with until=decided, max_seeds of them, the given ones first."""
    most = settings.max_seeds
    if settings.until is not Until.decided:
        if most is not None:
            raise ConfigError(f"sweep.max_seeds={most}: it needs sweep.until=decided; else give sweep.seeds")
        return seeds
    if not settings.claims:
        raise ConfigError("sweep.until=decided: the study makes no claim that could be decided; give sweep.claims")
    most = len(seeds) if most is None else most
    if most < settings.block:
        raise ConfigError(
            f"sweep.max_seeds={most}: sweep.until=decided needs at least one block (sweep.block={settings.block})"
        )
    more = range(seeds[-1] + 1, seeds[-1] + 1 + most - len(seeds))
    return (*seeds, *more)[:most]


def _values(swept: Override) -> list[tuple[str, str]]:
    """(key with its + or ~, value) for each value of a swept override."""
    return [((swept.input_line or "").partition("=")[0], value) for value in swept.sweep_string_iterator()]


def _arm(base: list[str], values: tuple[tuple[str, str], ...], fixed: list[str]) -> Arm:
    """The arm of a plain sweep, with a name like workers-2_t_max-5."""
    short = [(_short(key), value) for key, value in values]
    name = shortened("_".join(f"{slug(key)}-{value_slug(value)}" for key, value in short) or "all")
    label = ", ".join(f"{key}={value}" for key, value in short) or "all"
    return Arm(name, label, tuple(merged(base, fixed, [f"{key}={value}" for key, value in values])))


def _refuse_misplaced(where: str, overrides: list[str]) -> None:
    """Raise ConfigError for overrides of a study file that Hydra would ignore or interpret differently."""
    for text in overrides:
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException as error:
            raise ConfigError(f"{where}: {text}: overrides have the form key=value") from error
        if override.is_sweep_override():
            raise ConfigError(f"{where}: {text}: an arm has one value; write one more arm per further value")
        if instead := ELSEWHERE.get(re.split("[./@]", override.get_key_element().lstrip("+~"))[0]):
            raise ConfigError(f"{where}: {text}: {instead}")


def _refuse_same(arms: list[Arm]) -> None:
    labels: dict[str, str] = {}
    for arm in arms:
        if (other := labels.setdefault(arm.name, arm.label)) != arm.label:
            raise ConfigError(
                f"sweep: {other} and {arm.label} would share the folder {arm.name}; name them in sweep.arms"
            )
    if len(labels) < len(arms):
        name, times = Counter(arm.name for arm in arms).most_common(1)[0]
        raise ConfigError(f"sweep: {times} arms are named {name}; give each value once")


def refuse_unknown_names(settings: SweepConfig, arms: list[str]) -> None:
    """Raise ConfigError if claims, baseline or metrics name an unknown arm or metric, or contradict themselves."""
    arms_named = [(f"sweep.baseline={settings.baseline}", settings.baseline)] if settings.baseline else []
    arms_named += [(f"sweep.arms={name}", name) for name in settings.only]
    metrics_named = [(f"sweep.metric={settings.metric}", settings.metric)]
    ids = Counter(claim.id for claim in settings.claims)
    for claim in settings.claims:
        if ids[claim.id] > 1:
            raise ConfigError(f"sweep.claims {claim.id}: {ids[claim.id]} claims have this id; give each its own")
        try:
            compared = parse(claim.inequality).arms
        except ConfigError as error:
            raise ConfigError(f"sweep.claims {claim.id}: {error} (the arms are: {', '.join(arms)})") from error
        arms_named += [(f"sweep.claims {claim.id}: inequality={claim.inequality}: {name}", name) for name in compared]
        metrics_named.append((f"sweep.claims {claim.id}: metric={claim.metric}", claim.metric))
    for named, known, what in ((arms_named, arms, "arm"), (metrics_named, list(settings.metrics), "metric")):
        for key, name in named:
            if name not in known:
                raise ConfigError(f"{key}: no such {what}{suggest(name, known)} (there are: {', '.join(known)})")
    for name, metric in settings.metrics.items():
        if not re.fullmatch(NAME, name):
            raise ConfigError(
                f"sweep.metrics.{name}: it is part of a file's name; use letters, digits, dots and dashes"
            )
        if metric.window[0] > metric.window[1]:
            raise ConfigError(f"sweep.metrics.{name}.window={list(metric.window)}: it must start before it ends")
        if (metric.statistic == "first_reach") != (metric.score is not None):
            score = "null" if metric.score is None else metric.score
            raise ConfigError(
                f"sweep.metrics.{name}.score={score}: first_reach needs a score; other statistics have none"
            )
    if settings.smallest_effect is None and any(" ~ " in claim.inequality for claim in settings.claims):
        raise ConfigError(
            "sweep.smallest_effect=null: a claim of equality (~) needs the smallest difference that would matter"
        )
