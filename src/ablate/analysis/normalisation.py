"""Scores of several environments in one unit, for studies with sweep.environments.

With references, 0 is the score of a random policy and 1 the environment's reference: normalised scores may be below 0
and above 1. Without them, a score is the share of all runs in its environment that score less, and half of those that
score the same (the performance percentile of Jordan et al. 2020)."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pandas as pd

from ablate.config.derived import normalisable
from ablate.config.inequality import parse
from ablate.records.study_file import StudyFile


class Scale(NamedTuple):
    """The scores that count as 0 and as 1."""

    low: float
    high: float

    @property
    def width(self) -> float:
        return self.high - self.low

    def raw(self, normalised: float) -> float:
        return self.low + normalised * self.width


def by_ranks(study: StudyFile) -> bool:
    """Whether scores are normalised by their ranks: not all environments of the study have a reference."""
    return not set(study.environments.values()) <= set(study.references)


def scale_of(study: StudyFile, env_id: str) -> Scale | None:
    """What counts as 0 and 1 in this environment; None if scores are normalised by their ranks."""
    reference = None if by_ranks(study) else study.references.get(env_id)
    return None if reference is None or reference.low is None else Scale(reference.low, reference.high)


def words_of(study: StudyFile) -> str:
    """How scores are normalised, in a sentence; empty if the study has no sweep.environments."""
    if not study.crossed:
        return ""
    scales = {env: scale_of(study, env) for env in study.environments.values()}
    if by_ranks(study):
        return (
            "Scores of several environments are put together as ranks: the share of all runs in an environment that "
            "score less (ties count half)"
        )
    listed = [
        f"{env} {scale.low:.4g} to {scale.high:.4g} ({study.references[env].source})"
        for env, scale in scales.items()
        if scale
    ]
    return f"Normalised scores are 0 and 1 at these scores: {', '.join(listed)}"


def in_own_unit(study: StudyFile, env_id: str) -> StudyFile:
    """A study that has only this environment left, in the unit of its scores.

    smallest_effect, floor and the scores to be reached are normalised in a study with several environments. Its claims
    are those about this environment."""
    if not study.crossed:
        return study
    scale = scale_of(study, env_id)
    names = [name for name, arm in study.arms.items() if arm.config["env"]["id"] == env_id]
    baseline = study.arms[study.baseline].arm if study.baseline in study.arms else ""
    arms = {
        name: replace(study.arms[name], label=study.arms[name].label or study.arms[name].arm, arm="", environment="")
        for name in names
    }
    changed: dict[str, object] = {"smallest_effect": None, "floor": None}
    if scale:
        effect, floor = study.smallest_effect, study.floor
        changed = {
            "smallest_effect": None if effect is None else effect * scale.width,
            "floor": None if floor is None else scale.raw(floor),
            "metrics": {
                name: metric if metric.score is None else replace(metric, score=scale.raw(metric.score))
                for name, metric in study.metrics.items()
            },
        }
    return replace(
        study,
        arms=arms,
        baseline=next((name for name in names if study.arms[name].arm == baseline), names[0]),
        claims=[claim for claim in study.claims if set(parse(claim.inequality).arms) <= set(names)],
        references={},
        **changed,  # type: ignore[arg-type]
    )


def normalised(
    study: StudyFile, values: dict[tuple[str, str], pd.DataFrame], metric: str
) -> dict[tuple[str, str], pd.DataFrame]:
    """The metric's values of all arms as normalised scores; failed seeds stay infinite. Empty if it has none.

    values: by metric and arm, see `scores.Values`."""
    if not study.crossed or metric not in study.metrics or not normalisable(study.metrics[metric]):
        return {}
    by_env: dict[str, list[str]] = {}
    for name, arm in study.arms.items():
        if arm.environment and (metric, name) in values:
            by_env.setdefault(arm.config["env"]["id"], []).append(name)
    result: dict[tuple[str, str], pd.DataFrame] = {}
    for env, names in by_env.items():
        own = [values[metric, name] for name in names]
        scale = scale_of(study, env)
        if scale:
            scored = [(rows["value"] - scale.low) / scale.width for rows in own]
        else:
            pooled = pd.concat([rows["value"] for rows in own], keys=range(len(own)))
            shares = (pooled.rank(method="average") - 0.5) / pooled.count()
            shares = shares.where(~pooled.isin([float("inf"), float("-inf")]), pooled)
            scored = [shares.loc[place] for place in range(len(own))]
        result |= {
            (metric, name): rows.assign(value=score) for name, rows, score in zip(names, own, scored, strict=True)
        }
    return result


def over_environments(study: StudyFile, weights: dict[str, float]) -> dict[str, float]:
    """The weights of a claim about all environments, by the arms' names in each: the mean of its contrasts there."""
    count = len(study.environments)
    return {
        name: weight / count
        for environment in study.environments
        for arm, weight in weights.items()
        for name in [study.crossed[arm][environment]]
    }


def is_over_environments(study: StudyFile, arms: list[str]) -> bool:
    """Whether a claim about these arms is about all environments."""
    return bool(study.crossed) and set(arms) <= set(study.crossed)
