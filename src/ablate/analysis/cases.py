"""What each claim compares: the scores of its arms seed by seed, their weights, and which of them go together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ablate.analysis import decisions
from ablate.analysis.decisions import Part, Relation
from ablate.analysis.load import Sweep
from ablate.analysis.metrics import unit
from ablate.analysis.normalisation import (
    in_own_unit,
    is_over_environments,
    normalised,
    over_environments,
)
from ablate.analysis.scores import (
    Refusals,
    Values,
    by_seed,
    count_of,
    on_one_horizon,
    untimed,
    workers,
    worst_of,
    worst_score,
)
from ablate.analysis.statistics import MIN_SEEDS
from ablate.config.derived import normalisable
from ablate.config.inequality import parse
from ablate.config.schema import ClaimConfig
from ablate.records.study_file import StudyFile

RELATIONS = {"<": Relation.less, "~": Relation.alike, ">": Relation.greater}


@dataclass(frozen=True)
class Case:
    """What one claim compares: θ = Σ weight · mean(arm)."""

    claim: ClaimConfig
    relation: Relation
    weights: dict[str, float]  # by arm
    values: dict[str, pd.Series]  # by arm: by seed, of cells that have ended; infinite: failed
    censored: dict[str, pd.Series]  # by arm and seed: whether the cell had not reached the score
    groups: list[list[str]]  # arms that share random numbers, whose scores are combined seed by seed
    worst: dict[str, float]  # the score of a failed seed, by arm
    margin: float  # NaN: no effect is too small to matter
    no_interval: str  # why there can be no interval; empty if there can
    environments: int = 1  # over whose normalised scores θ is a mean

    @property
    def paired(self) -> bool:
        """Whether any arms are combined seed by seed."""
        return any(len(group) > 1 for group in self.groups)

    @property
    def unanswerable(self) -> bool:
        """Whether no number of seeds can settle it: equality needs a smallest effect."""
        return self.relation is Relation.alike and np.isnan(self.margin)

    @property
    def has_failures(self) -> bool:
        return any(np.isinf(values).any() for values in self.values.values())

    def effects(self, seeds: list[int]) -> list[tuple[float, float, float]]:
        """Value, error and freedom of θ in these seeds, for both ways to count failed seeds.

        No error if no cell has reached the score: equal ends of the budget do not show equal times."""
        effects = [self._effect(self.parts(seeds, fill)) for fill in (self.worst, dict.fromkeys(self.weights, np.nan))]
        seen = [
            (self.values[arm][flags.index.isin(seeds)], flags[flags.index.isin(seeds)])
            for arm, flags in self.censored.items()
        ]
        if _none_reached(seen):
            return [(value, np.nan, np.nan) for value, _, _ in effects]
        return effects

    def parts(self, seeds: list[int], fill: dict[str, float]) -> list[Part]:
        """The arms' scores by group, with these scores for failed seeds, by arm; NaN leaves them out.

        A group has the seeds that all of its arms have."""
        parts = []
        for group in self.groups:
            own = [
                self.values[arm].reindex(seeds).dropna().replace([np.inf, -np.inf], fill[arm]).dropna() for arm in group
            ]
            joined = pd.concat(own, axis=1, join="inner").to_numpy(float).T
            parts.append(Part(tuple(self.weights[arm] for arm in group), tuple(joined)))
        return parts

    def _effect(self, parts: list[Part]) -> tuple[float, float, float]:
        fewest = min(part.seeds for part in parts)
        if fewest == 0:
            return np.nan, np.nan, np.nan
        if fewest < MIN_SEEDS or self.no_interval:
            return float(sum(part.combined.mean() for part in parts)), np.nan, np.nan
        effects = decisions.contrast(parts)
        return float(effects.value), float(effects.error), float(effects.freedom)

    def seeds_needed(self, seeds: list[int], level: float) -> int | None:
        if np.isnan(self.margin) or np.isnan(level) or self.no_interval:
            return None
        parts = self.parts(seeds, self.worst)
        _, _, freedom = self._effect(parts)
        variance = sum(float(np.var(part.combined, ddof=1)) for part in parts)
        needed = decisions.seeds_for_power(variance, freedom, self.margin, level)
        return needed and max(needed, MIN_SEEDS)

    def counts(self, sweep: Sweep, seeds: list[int]) -> str:
        """How many seeds of each arm have a score."""
        counts = [count_of(sweep, arm, values, seeds) for arm, values in self.values.items()]
        alike = len(counts) > 2 and len(set(counts)) == 1
        return f"{counts[0]} in each of {len(counts)} arms" if alike else ", ".join(counts)


def case_of(sweep: Sweep, values: Values, claim: ClaimConfig) -> Case:
    """What the claim compares. A claim about all environments is a contrast of their normalised scores."""
    study = sweep.study
    relation, given = parse(claim.inequality)
    overall = is_over_environments(study, list(given))
    margin = smallest_effect(sweep, claim.metric, list(given))
    weights = weights_of(study, claim.inequality)
    if overall:
        values = normalised(study, values, claim.metric)
    own = on_one_horizon([by_seed(values, claim.metric, arm) for arm in weights])
    tables = dict(zip(weights, own, strict=True))
    unreached = all(map(len, own)) and _none_reached([(table["value"], table["censored"]) for table in own])
    no_interval = f"no cell of {'either arm' if len(own) == 2 else 'any arm'} reached the score" if unreached else ""
    if relation == "~" and margin is None:
        no_interval = "a claim of equality needs sweep.smallest_effect in this metric's unit"
    return Case(
        claim=claim,
        relation=RELATIONS[relation],
        weights=weights,
        values={arm: table["value"] for arm, table in tables.items()},
        censored={arm: table["censored"] for arm, table in tables.items()},
        groups=groups_of(sweep, weights),
        worst={
            arm: worst_of(study, values, claim.metric, arm)
            if overall
            else worst_score(sweep, values, claim.metric, arm)
            for arm in weights
        },
        margin=np.nan if margin is None else margin,
        no_interval=no_interval,
        environments=len(study.environments) if overall else 1,
    )


def _none_reached(arms: list[tuple[pd.Series, pd.Series]]) -> bool:
    """Whether no cell reached the score: some had not when their budget ended, and all others failed.

    arms: of each, the values, and whether they are censored."""
    censored = any(flags.any() for _, flags in arms)
    return censored and all((flags | np.isinf(values)).all() for values, flags in arms)


def weights_of(study: StudyFile, inequality: str) -> dict[str, float]:
    """The weight of each arm in a claim; of an arm in each environment if it is about all of them."""
    weights = parse(inequality).weights
    return over_environments(study, weights) if is_over_environments(study, list(weights)) else weights


def groups_of(sweep: Sweep, weights: dict[str, float]) -> list[list[str]]:
    """The arms in groups: in one, cells with the same seed start from the same parameters and draw the same numbers.

    Then their scores correlate (0.68 to 0.92 was measured), and the test is over seeds of the whole group. That is
    decided by the arms' configurations alone. Workers of `async` race, so they share less: two such arms count as
    independent, as a correlation only makes the interval of their difference too wide. It would make that of a sum too
    narrow, so contrasts of more arms in one environment combine arms seed by seed whatever their schedule. Runs of
    other programs count as independent: nothing is known of their random numbers. weights: by arm."""
    by_env: dict[object, list[float]] = {}
    for arm, weight in weights.items():
        by_env.setdefault(_nested(sweep.study.arms[arm].config, ("env", "id")), []).append(weight)
    is_difference = all(len(pair) == 2 and sum(pair) == 0 for pair in by_env.values())
    groups: dict[tuple[object, ...], list[str]] = {}
    for arm in weights:
        config = sweep.study.arms[arm].config
        keys = ("algo", "name"), ("env", "id"), ("model",), ("schedule",), ("envs_per_worker",)
        draws: tuple[object, ...] = (workers(sweep, arm), *(str(_nested(config, path)) for path in keys))
        if sweep.foreign or (is_difference and config.get("schedule") != "interleaved"):
            draws = (arm,)
        groups.setdefault(draws, []).append(arm)
    return list(groups.values())


def _nested(config: object, path: tuple[str, ...]) -> object:
    for key in path:
        config = config.get(key) if isinstance(config, dict) else None
    return config


def obstacle(sweep: Sweep, refusals: Refusals, claim: ClaimConfig) -> str:
    """Why this sweep cannot test the claim; empty if it can. Raises ConfigError if it is not an inequality."""
    study = sweep.study
    arms = parse(claim.inequality).arms
    overall = is_over_environments(study, arms)
    if overall:
        for arm in arms:
            if absent := [name for name in study.environments if name not in study.crossed[arm]]:
                return f"{arm} was not planned in {absent[0]}"
        arms = [name for arm in arms for name in study.crossed[arm].values()]
    for arm in arms:
        if arm not in sweep.arms:
            return f"the study has no arm {arm}"
        if (claim.metric, arm) in refusals:
            return refusals[claim.metric, arm]
    if claim.metric not in study.metrics:
        return f"the study has no metric {claim.metric}"
    ids = list(dict.fromkeys(study.arms[arm].config["env"]["id"] for arm in arms))
    if len(ids) > 1 and not overall:
        return f"scores of {ids[0]} and {ids[1]} have different units"
    if overall and not normalisable(study.metrics[claim.metric]):
        return f"{claim.metric} is no score, so it cannot be normalised"
    if claim.real_time and (why := next(filter(None, (untimed(sweep, arm) for arm in arms)), "")):
        return f"it is about real time, and {why}"
    return ""


def smallest_effect(sweep: Sweep, metric: str, arms: list[str]) -> float | None:
    """The study's smallest_effect in the unit of these arms' scores, if this metric has the unit of the primary one.

    With sweep.environments it is a difference of normalised scores; in one environment it has that one's unit."""
    study = sweep.study
    if arms and not is_over_environments(study, arms) and arms[0] in study.arms:
        study = in_own_unit(study, study.arms[arms[0]].config["env"]["id"])
    if metric not in study.metrics or study.metric not in study.metrics:
        return None
    same_unit = unit(study.metrics[metric]) == unit(study.metrics[study.metric])
    return study.smallest_effect if same_unit else None
