"""Studies over many environments: each arm in each of them, and claims about one or about all of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields, replace
from functools import cache
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from pydantic import TypeAdapter, ValidationError

from ablate.config.choices import Normalisation, ScoreUnit, Until
from ablate.config.derived import default_score_unit, normalisable
from ablate.config.inequality import parse
from ablate.config.schema import ClaimConfig, Config, ConfigError, SweepConfig, TaskConfig
from ablate.config.validation import suggest
from ablate.envs.make import kind_of
from ablate.paths import CONF
from ablate.records.files import misfit
from ablate.records.study_file import NAME, Reference

EACH = "each"  # of a claim: once for each environment
REFERENCES = CONF / "reference_scores.yaml"


class Task(NamedTuple):
    """One of sweep.environments. overrides: of all arms in it, with the one that chooses it."""

    name: str
    overrides: tuple[str, ...]
    reference: tuple[float, float] | None

    def arm(self, name: str) -> str:
        """The name of this arm in this environment."""
        return f"{name}-{self.name}"


def tasks_of(settings: SweepConfig) -> list[Task]:
    """The environments of the study; none if its arms have their own. Raises ConfigError."""
    given = settings.environments or []
    if isinstance(given, list) and all(isinstance(name, str) for name in given):
        if twice := [name for place, name in enumerate(given) if name in given[:place]]:
            raise ConfigError(f"sweep.environments: {twice[0]} is given twice")
        given = dict.fromkeys(given)
    if not isinstance(given, dict):
        raise ConfigError(f"sweep.environments={given}: a list of options of env is needed, as in [cartpole, acrobot]")
    return [_task(str(name), value) for name, value in given.items()]


def _task(name: str, value: Any) -> Task:
    where = f"sweep.environments.{name}"
    if not re.fullmatch(NAME, name) or name == EACH:
        raise ConfigError(f"{where}: it is part of a folder's name; use letters, digits, dots and dashes, not `{EACH}`")
    known = [own.name for own in fields(TaskConfig)]
    if unknown := [key for key in (value if isinstance(value, dict) else ()) if key not in known]:
        raise ConfigError(f"{where}.{unknown[0]}: no such key{suggest(unknown[0], known)}")
    given = value.get("reference") if isinstance(value, dict) else None
    if isinstance(given, list) and len(given) != 2:
        raise ConfigError(f"{where}.reference={given}: two scores are needed, the one that counts as 0 and that as 1")
    try:
        task = TypeAdapter(TaskConfig).validate_python({} if value is None else value)
    except ValidationError as error:
        raise ConfigError(f"{where}: {misfit(error)}") from error
    if task.reference and task.reference[0] >= task.reference[1]:
        raise ConfigError(f"{where}.reference={list(task.reference)}: the second must be larger, it counts as 1")
    chosen = any(override.startswith("env=") for override in task.overrides)
    return Task(name, (*([] if chosen else [f"env={name}"]), *task.overrides), task.reference)


def crossed_claims(settings: SweepConfig, arms: list[str], tasks: list[Task]) -> list[ClaimConfig]:
    """The claims with the names that their arms have in their environment; claims about all environments as they are.

    Raises ConfigError for an unknown environment, and for a metric that has no normalised score."""
    claims = []
    known = [task.name for task in tasks]
    for claim in settings.claims:
        chosen = claim.environment
        if chosen is None:
            if tasks and not normalisable(metric := settings.metrics[claim.metric]):
                raise ConfigError(
                    f"sweep.claims {claim.id}: metric={claim.metric}: {metric.statistic} is no score, so it cannot be "
                    f"compared over all environments; give environment={EACH}"
                )
            claims.append(claim)
            continue
        if not tasks:
            raise ConfigError(f"sweep.claims {claim.id}: environment={chosen}: the study has no sweep.environments")
        if chosen not in (EACH, *known):
            raise ConfigError(
                f"sweep.claims {claim.id}: environment={chosen}: not one of sweep.environments"
                f"{suggest(chosen, known)} (there are: {', '.join(known)})"
            )
        for task in tasks:
            if chosen in (EACH, task.name):
                inequality = _renamed(claim.inequality, {arm: task.arm(arm) for arm in arms})
                id = f"{claim.id}-{task.name}" if chosen == EACH else claim.id
                claims.append(replace(claim, id=id, inequality=inequality, environment=task.name))
    return claims


def _renamed(inequality: str, names: dict[str, str]) -> str:
    """The inequality with other names of its arms; the number after a / is no name."""
    return re.sub(r"/\s*\d+|[\w.-]+", lambda match: names.get(match[0], match[0]), inequality)


def compared_arms(claim: ClaimConfig, crossed: dict[str, tuple[str, str]]) -> list[str]:
    """The arms whose cells the claim needs. crossed: (arm, environment) by name."""
    return names_of(parse(claim.inequality).arms, crossed)


def names_of(arms: Iterable[str], crossed: dict[str, tuple[str, str]]) -> list[str]:
    """The arms by the names that they have in all environments; names of arms in one environment are unchanged."""
    listed = []
    for arm in arms:
        listed += [arm] if arm in crossed or not crossed else [name for name, own in crossed.items() if own[0] == arm]
    return listed


def references_of(
    settings: SweepConfig, crossed: dict[str, tuple[str, str]], configs: dict[str, Config]
) -> dict[str, Reference]:
    """What counts as 0 and 1 in each environment, by env.id. Empty: the scores are normalised by their ranks.

    Raises ConfigError if an environment is given twice, or the study needs references that are not known."""
    by_env: dict[str, str] = {}
    for name, (_, environment) in crossed.items():
        if (other := by_env.setdefault(configs[name].env.id, environment)) != environment:
            raise ConfigError(
                f"sweep.environments: {other} and {environment} are both {configs[name].env.id}; a study has each "
                "environment once"
            )
    given = {task.name: task.reference for task in tasks_of(settings)}
    found = {}
    for name, (_, environment) in crossed.items():
        config = configs[name]
        unit = settings.score or default_score_unit(config.env.id)
        found[config.env.id] = _reference(config, given.get(environment), unit)
    unknown = [by_env[env] for env, reference in found.items() if reference is None]
    wanted = settings.normalisation
    if wanted is Normalisation.references and unknown:
        raise ConfigError(
            f"sweep.normalisation=references: no reference score is known for {unknown[0]}; give "
            f"sweep.environments.{unknown[0]}.reference=[<score that counts as 0>, <as 1>], or cdf"
        )
    if crossed and (unknown or wanted is Normalisation.cdf):
        _refuse_units(settings, unknown)
        return {}
    return {env: reference for env, reference in found.items() if reference}


def _refuse_units(settings: SweepConfig, unknown: list[str]) -> None:
    """Raise ConfigError for values in units of normalised scores, which ranks do not have."""
    why = f"no reference score is known for {unknown[0]}" if unknown else "sweep.normalisation=cdf"
    overall = any(claim.environment is None for claim in settings.claims)
    needed = {
        "floor": settings.floor,
        "until": settings.until if overall and settings.until is Until.decided else None,
        **{f"metrics.{name}.score": metric.score for name, metric in settings.metrics.items()},
    }
    for key, value in needed.items():
        if value is not None:
            raise ConfigError(
                f"sweep.{key}={value}: with several environments it needs scores between two references, but {why}"
            )


@cache
def _known() -> dict[str, Any]:
    listed: Any = OmegaConf.to_container(OmegaConf.load(REFERENCES)) if REFERENCES.is_file() else {}
    return dict(listed)


def _reference(config: Config, given: tuple[float, float] | None, unit: ScoreUnit) -> Reference | None:
    """The reference of an environment, in this unit; None if none is known."""
    if given:
        return Reference(*given, source="sweep.environments")
    if human := kind_of(config.env).reference_scores(config.env):
        return Reference(*human, source="random policy and human tester, Wang et al. 2016")
    known = _known().get(config.env.id)
    per_step = unit is ScoreUnit.reward_per_step
    if known is None or config.env.kwargs or (per_step and "steps" not in known):
        return None
    high = known["score"] / (known["steps"] if per_step else 1)
    return Reference(None, high, f"random policy and {known['source']}")


def with_random_scores(
    references: dict[str, Reference], scores: dict[str, list[tuple[float, int]]], units: dict[str, ScoreUnit]
) -> dict[str, Reference]:
    """The references with the mean score of the random policy, where it has been played."""

    def low(env: str) -> float | None:
        per_step = units[env] is ScoreUnit.reward_per_step
        played = [score / (length if per_step else 1) for score, length in scores.get(env, [])]
        return sum(played) / len(played) if played else None

    return {
        env: replace(reference, low=low(env)) if reference.low is None else reference
        for env, reference in references.items()
    }
