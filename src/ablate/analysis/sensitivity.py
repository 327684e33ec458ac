"""How much an algorithm depends on its settings: the sensitivity and the effective dimension of Adkins et al. 2024.

Γ(e, h) is the mean over seeds of the normalised score of setting h in environment e: 0 is the 5th and 1 the 95th
percentile of the scores of all runs in e. With E environments and a table of all settings H:

    sensitivity Φ = (1/E) Σ_e max_h Γ(e, h) - max_h (1/E) Σ_e Γ(e, h)

the mean of what each environment's best setting reaches, minus what the best setting for all of them reaches. With h*
the latter, and H_K the settings that differ from h* in the keys K only:

    effective dimension d = min |K| such that (1/E) Σ_e max_{h in H_K} Γ(e, h) ≥ 0.95 (1/E) Σ_e max_h Γ(e, h)

how many keys must be tuned in each environment to reach 95 % of the best. In a single environment h* is the study's
baseline, as the best setting would be its own reference."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from ablate.analysis.load import Sweep
from ablate.analysis.scores import Values, of_arm, worst_score
from ablate.analysis.statistics import CONFIDENCE, MIN_SEEDS, Interval
from ablate.config.choices import DesignKind
from ablate.config.schema import ConfigError

LOW, HIGH = 5, 95  # percentiles that count as 0 and 1
NEAR = 0.95  # of the best performance
RESAMPLES = 2000
CHOOSES_THE_TASK = ("env", "env.id")  # keys of a factor that is no setting


@dataclass(frozen=True)
class Tuned:
    """What is reached if these keys are tuned in each environment, and the others are as in the reference."""

    keys: tuple[str, ...]
    performance: float


@dataclass(frozen=True)
class Sensitivity:
    """Γ of all settings, and what follows from it. Intervals are 95 %: the percentile bootstrap over seeds."""

    environments: list[str]
    labels: list[str]  # of the settings
    table: np.ndarray  # Γ (E, H)
    reference: int  # index of h*
    sensitivity: Interval
    best: float  # (1/E) Σ_e max_h Γ(e, h)
    subsets: list[Tuned]  # of all keys; empty if the settings are not all combinations of their values
    dimension: int | None  # None: without subsets, or if `best` is not above 0

    @property
    def best_of_size(self) -> list[Tuned]:
        """The best subset of each size, from none to all keys."""
        sizes: dict[int, Tuned] = {}
        for subset in self.subsets:
            size = len(subset.keys)
            if size not in sizes or subset.performance > sizes[size].performance:
                sizes[size] = subset
        return [sizes[size] for size in sorted(sizes)]


def sensitivity_of(sweep: Sweep, values: Values) -> Sensitivity | None:
    """The sensitivity of the primary metric in a factorial or a random design; None for other studies.

    Settings that lack a score in an environment are left out. Raises ConfigError if less than two are left, or if in
    the only environment the baseline has none."""
    study = sweep.study
    if study.design not in (DesignKind.factorial, DesignKind.random):
        return None
    keys = [key for key in study.factors if key not in CHOOSES_THE_TASK]
    scores: dict[str, dict[tuple[str, ...], np.ndarray]] = {}  # by environment and setting
    labels: dict[tuple[str, ...], str] = {}
    baseline: tuple[str, ...] = ()
    sign = -1 if study.metrics[study.metric].smaller_is_better else 1
    for name, arm in study.arms.items():
        own, _ = of_arm(values, study.metric, name)
        setting = tuple(arm.levels.get(key, "") for key in keys)
        filled = np.where(np.isinf(own), worst_score(sweep, values, study.metric, name), own)
        if len(filled) and np.isfinite(filled).all():
            scores.setdefault(arm.config["env"]["id"], {})[setting] = sign * filled
        labels[setting] = ", ".join(f"{study.factors[k]}={level}" for k, level in zip(keys, setting, strict=True))
        if name == study.baseline:
            baseline = setting
    whole = [setting for setting in labels if scores and all(setting in own for own in scores.values())]
    if len(whole) < 2:
        raise ConfigError("the sensitivity needs two settings that have a score in each environment")
    if len(scores) == 1 and baseline not in whole:
        raise ConfigError("the sensitivity needs a score of the baseline, with which the best setting is compared")
    rows = [[own[setting] for setting in whole] for own in map(_normalised, scores.values())]
    reference = whole.index(baseline) if len(rows) == 1 else None
    return _sensitivity(rows, list(scores), [labels[s] for s in whole], _levels(whole, keys), keys, reference)


def _normalised(own: dict[tuple[str, ...], np.ndarray]) -> dict[tuple[str, ...], np.ndarray]:
    """The scores in one environment, with 0 and 1 for two of their percentiles."""
    low, high = np.percentile(np.concatenate(list(own.values())), [LOW, HIGH])
    if low == high:
        raise ConfigError("the sensitivity needs scores that differ; in an environment (almost) all runs score alike")
    return {setting: (scores - low) / (high - low) for setting, scores in own.items()}


def _levels(settings: list[tuple[str, ...]], keys: list[str]) -> list[tuple[str, ...]]:
    """The settings if they are all combinations of their values, else none."""
    size = np.prod([len({setting[i] for setting in settings}) for i in range(len(keys))])
    return settings if size == len(settings) else []


def _sensitivity(
    rows: list[list[np.ndarray]],
    environments: list[str],
    labels: list[str],
    grid: list[tuple[str, ...]],
    keys: list[str],
    reference: int | None,
) -> Sensitivity:
    """From the normalised scores of each seed by environment and setting. reference: None: the best across all."""
    table = np.array([[scores.mean() for scores in row] for row in rows])
    star = int(table.mean(0).argmax()) if reference is None else reference
    subsets = []
    for size in range(len(keys) + 1) if grid else ():
        for places in itertools.combinations(range(len(keys)), size):
            fixed = [i for i in range(len(keys)) if i not in places]
            allowed = [h for h, setting in enumerate(grid) if all(setting[i] == grid[star][i] for i in fixed)]
            subsets.append(Tuned(tuple(keys[i] for i in places), float(table[:, allowed].max(1).mean())))
    best = float(table.max(1).mean())
    reached = [len(subset.keys) for subset in subsets if subset.performance >= NEAR * best]
    return Sensitivity(
        environments, labels, table, star, _interval(rows, table, reference), best, subsets,
        min(reached) if reached and best > 0 else None,
    )  # fmt: skip


def gap(table: np.ndarray, reference: int | None) -> np.ndarray:
    """Φ of tables (..., E, H). reference: a setting to compare with, or None for the best one across environments."""
    across = table.mean(-2)
    return table.max(-1).mean(-1) - (across.max(-1) if reference is None else across[..., reference])


def _interval(rows: list[list[np.ndarray]], table: np.ndarray, reference: int | None) -> Interval:
    value = float(gap(table, reference))
    if min(len(scores) for row in rows for scores in row) < MIN_SEEDS:
        return Interval(value, np.nan, np.nan)
    rng = np.random.default_rng(0)
    drawn = [[rng.choice(scores, (RESAMPLES, len(scores))).mean(1) for scores in row] for row in rows]
    gaps = gap(np.moveaxis(np.array(drawn), -1, 0), reference)
    low, high = np.quantile(gaps, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(value, float(low), float(high))
