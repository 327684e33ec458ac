"""The decision rule: the verdicts on all claims of a study, of which any is false in at most 5 % of studies.

A claim is about θ, the mean of its first arm minus the mean of its second arm, or another contrast of arms' means. Its
interval decides, by where it is among 0 and ± the smallest effect that matters (the margin). All claims share α = 5 %
by Holm's method, with one refinement for verdicts about the margin. An open claim has the weight of the errors that it
can still make: 1 while θ = 0 is possible (both ends of the interval can be wrong), ½ while only θ = -margin or
θ = margin is (one end can be wrong), else 0. A claim of equality is true at θ = 0, so it begins with ½. Every interval
has the level α / Σ weights, but at least 95 % confidence. A claim that can no longer err gives its share to the others,
and the intervals are computed again. Without a margin this is Holm's method.

With several looks at a growing study, each look has the nominal level at which all looks together keep the claim's
level: boundaries of Wang & Tsiatis 1987 (Δ = ½ is Pocock 1977), as significance levels of t-tests (Jennison & Turnbull
2000, chapters 2 and 4). A settled claim stays settled; shares pass on as in Maurer & Bretz 2013.

All arrays may have any number of leading axes: `benchmarks/decisions.py` judges thousands of simulated studies at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import optimize, special, stats

ALPHA = 0.05
SHAPE = 0.5  # Δ of the boundaries over looks
FUTILE = 0.05  # a claim that has a smaller chance to be settled by the last look is given up
NODES = 128  # of the numerical integration over looks
POWER = 0.8
SURE = 0.8  # confidence of the upper limit for the variance, from which the seeds for POWER are computed
MOST_SEEDS = 100_000  # a larger answer to "how many seeds?" helps nobody


class Relation(IntEnum):
    """What a claim says about θ."""

    less = -1
    alike = 0
    greater = 1


class Outcome(IntEnum):
    """The answer to one claim."""

    undecided = 0
    supported = 1
    contradicted = 2
    no_difference = 3  # none that matters: the interval is within ± margin


class Effects(NamedTuple):
    """Estimates of θ, with their standard errors and the degrees of freedom of Student's t. Arrays of one shape."""

    value: np.ndarray
    error: np.ndarray
    freedom: np.ndarray


class Decision(NamedTuple):
    """Arrays (..., claims)."""

    outcome: np.ndarray  # of `Outcome`
    low: np.ndarray  # the interval that gave the outcome
    high: np.ndarray
    level: np.ndarray  # 1 - its confidence
    look: np.ndarray  # index of the look that gave it; -1: none had an interval
    futile: np.ndarray  # whether it was given up before the last look


class Part(NamedTuple):
    """Arms of a contrast whose scores are combined seed by seed, because they share their random numbers."""

    weights: tuple[float, ...]
    scores: tuple[np.ndarray, ...]  # of each arm (..., n)

    @property
    def seeds(self) -> int:
        return self.scores[0].shape[-1]

    @property
    def combined(self) -> np.ndarray:
        """Σ weight · score (..., n)."""
        return sum(weight * scores for weight, scores in zip(self.weights, self.scores, strict=True))  # type: ignore[return-value]


def contrast(parts: Sequence[Part]) -> Effects:
    """θ = Σ weight · mean over all arms of parts that are independent of each other.

    Its variance is Σ v, with v the variance of the mean of a part's combined scores. Degrees of freedom of Welch &
    Satterthwaite, (Σ v)² / Σ [v² / (n - 1)] (Satterthwaite 1946, for a linear combination of means)."""
    value = sum(w * _mean(x) for part in parts for w, x in zip(part.weights, part.scores, strict=True))
    variances = [sample_variance(part.combined) / part.seeds for part in parts]
    total = sum(variances)
    scale = np.where(total > 0, total, 1.0)
    shares = [np.where(total > 0, v / scale, 1 / len(parts)) for v in variances]  # squares of tiny numbers are 0
    freedom = 1 / sum(share**2 / (part.seeds - 1) for share, part in zip(shares, parts, strict=True))
    return Effects(np.asarray(value), np.sqrt(total), np.asarray(freedom))


def welch(a: np.ndarray, b: np.ndarray) -> Effects:
    """mean(a) - mean(b) over the last axis, a (..., n) and b (..., m), with Welch's standard error."""
    return contrast([Part((1.0,), (a,)), Part((-1.0,), (b,))])


def paired(a: np.ndarray, b: np.ndarray) -> Effects:
    """mean(a) - mean(b) over the last axis, a and b (..., n), with the standard error of the differences of pairs."""
    return contrast([Part((1.0, -1.0), (a, b))])


def half_width(error: np.ndarray, freedom: np.ndarray, level: np.ndarray | float) -> np.ndarray:
    """Half of the width of an interval with confidence 1 - level."""
    return special.stdtrit(freedom, 1 - np.asarray(level) / 2) * error


def _mean(scores: np.ndarray) -> np.ndarray:
    """The mean of equal scores is that score: rounding must not make a difference out of none."""
    return np.clip(scores.mean(-1), scores.min(-1), scores.max(-1))


def sample_variance(scores: np.ndarray) -> np.ndarray:
    """Of a sample, over the last axis. Exactly 0 for equal scores, of which rounding would make a difference."""
    return np.where(np.ptp(scores, axis=-1) > 0, np.var(scores, axis=-1, ddof=1), 0.0)


def decide(
    looks: Sequence[Effects],
    relation: np.ndarray,
    margin: np.ndarray,
    fractions: tuple[float, ...] = (1.0,),
    futile: float = 0.0,
) -> Decision:
    """The outcomes of all claims after the last of the looks so far.

    looks: one per look so far, arrays (countings, ..., claims). A counting is one way to count failed seeds. The
    interval of a claim covers the intervals of all countings, so a verdict does not depend on how they are counted.
    relation, margin (claims,): of `Relation`; NaN if no effect is too small to matter. fractions: seeds of each planned
    look / seeds of the last. futile: see FUTILE; 0 gives no claim up."""
    shape = looks[0].value.shape[1:]
    margin, relation = np.broadcast_to(margin, shape), np.broadcast_to(relation, shape)
    borders = np.stack([-margin, np.zeros(shape), margin])
    # Whether θ = border can no longer be a false verdict's truth.
    excluded = np.stack([np.isnan(margin), relation == Relation.alike, np.isnan(margin)])
    outcome, look = np.zeros(shape, int), np.full(shape, -1)
    low, high, level = (np.full(shape, np.nan) for _ in range(3))
    given_up = np.zeros(shape, bool)
    for k, effects in enumerate(looks):
        open_ = (outcome == Outcome.undecided) & ~given_up
        while True:
            weights = np.where(~excluded[1], 1.0, np.where(~excluded[0] | ~excluded[2], 0.5, 0.0)).sum(-1)
            levels = _levels(weights, fractions)[..., None, :]  # (..., 1, looks)
            half = half_width(effects.error, effects.freedom, levels[..., k])
            lower, upper = (effects.value - half).min(0), (effects.value + half).max(0)
            now = excluded | (((borders < lower) | (borders > upper)) & open_)
            if (now == excluded).all():
                break
            excluded = now
        has = open_ & ~np.isnan(lower)
        low, high, look = np.where(has, lower, low), np.where(has, upper, high), np.where(has, k, look)
        level = np.where(has, np.broadcast_to(levels[..., k], shape), level)
        outcome = np.where(has, _outcome(lower, upper, relation, margin), outcome)
        if futile and k < len(fractions) - 1:
            chance = _chance(effects, upper - lower, levels, k, fractions, relation, margin)
            given_up |= has & (outcome == Outcome.undecided) & (chance < futile)
    return Decision(outcome, low, high, level, look, given_up)


def _outcome(low: np.ndarray, high: np.ndarray, relation: np.ndarray, margin: np.ndarray) -> np.ndarray:
    alike = relation == Relation.alike
    small = (low > -margin) & (high < margin)
    outside = (high < -margin) | (low > margin)
    says = np.where(high < 0, Relation.less, np.where(low > 0, Relation.greater, 0))
    directed = np.select(
        [small, says == 0, says == relation],
        [Outcome.no_difference, Outcome.undecided, Outcome.supported],
        Outcome.contradicted,
    )
    equal = np.select([small, outside], [Outcome.supported, Outcome.contradicted], Outcome.undecided)
    return np.where(alike, equal, directed)


def _chance(
    effects: Effects,
    width: np.ndarray,
    levels: np.ndarray,
    k: int,
    fractions: tuple[float, ...],
    relation: np.ndarray,
    margin: np.ndarray,
) -> np.ndarray:
    """The predictive probability that the last look settles a claim, if nothing was known of θ before (flat prior).

    The last estimate is then normal around this one, with variance (1 - fraction) error²."""
    t = fractions[k]
    centre, spread = effects.value.mean(0), np.maximum(effects.error.max(0) * np.sqrt(1 - t), 1e-300)
    half = width / 2 * np.sqrt(t) * special.ndtri(levels[..., -1] / 2) / special.ndtri(levels[..., k] / 2)
    inner = np.nan_to_num(margin, nan=-np.inf) - half  # within ± margin, the whole interval
    outer = np.where(relation == Relation.alike, margin, 0.0) + half

    def below(x: np.ndarray) -> np.ndarray:
        return special.ndtr((x - centre) / spread)

    within = np.where(inner > 0, below(inner) - below(-inner), 0.0)
    beyond = below(-outer) + 1 - below(outer)
    return np.where(inner > outer, 1.0, within + beyond)


def _levels(weights: np.ndarray, fractions: tuple[float, ...]) -> np.ndarray:
    """The level of the intervals at each look (..., looks), for sums of weights (...)."""
    kinds, which = np.unique(weights, return_inverse=True)
    table = np.array([nominal_levels(min(ALPHA, ALPHA / kind) if kind else ALPHA, fractions) for kind in kinds])
    return table[which.reshape(weights.shape)]


@lru_cache(maxsize=1024)
def nominal_levels(alpha: float, fractions: tuple[float, ...], shape: float = SHAPE) -> tuple[float, ...]:
    """The two-sided level of the test at each look, so that all looks together have the level alpha.

    A look is a point of a Brownian motion S at time t, its statistic S / √t. It is beyond its boundary if
    |S| / √t > C t^(shape - ½) (Wang & Tsiatis 1987). shape ½: Pocock's equal levels; 0: O'Brien & Fleming 1979."""
    times = np.array(fractions) / fractions[-1]
    if len(times) == 1:
        return (alpha,)
    power = times ** (shape - 0.5)
    nodes, node_weights = np.polynomial.legendre.leggauss(NODES)

    def crossed(c: float) -> float:
        """The probability to be beyond a boundary at any look, minus alpha."""
        ends = c * power * np.sqrt(times)
        points = ends[0] * nodes
        mass = stats.norm.pdf(points, scale=np.sqrt(times[0])) * node_weights * ends[0]
        for k in range(1, len(times)):
            after = ends[k] * nodes
            step = np.sqrt(times[k] - times[k - 1])
            mass = (stats.norm.pdf(after[:, None], points, step) @ mass) * node_weights * ends[k]
            points = after
        return float(1 - mass.sum() - alpha)

    c = optimize.brentq(crossed, stats.norm.isf(alpha / 2) / power.max(), stats.norm.isf(alpha / (2 * len(times))) + 1)
    return tuple(2 * stats.norm.sf(c * power))


def seeds_for_power(variance: float, freedom: float, margin: float, level: float) -> int | None:
    """Seeds per arm with which a claim is settled with probability POWER, if θ = 0. None: more than MOST_SEEDS.

    If |θ| = margin the probability is larger for a claim with < or >; in between it is smaller, and no number is enough
    for all θ. For a claim with ~ it is smaller the nearer |θ| is to the margin. variance: of the difference of one seed
    of each arm, estimated with this freedom. The estimate may be too small by chance, and then so would be the answer:
    its upper SURE limit is used (Browne 1995), with n - 1 degrees of freedom."""
    upper = variance * freedom / stats.chi2.ppf(1 - SURE, freedom)

    def power(n: int) -> float:
        """That an interval is within ± margin."""
        return float(2 * stats.t.cdf(margin / np.sqrt(upper / n) - stats.t.isf(level / 2, n - 1), n - 1) - 1)

    low, high = 1, 2
    while upper > 0 and power(high) < POWER:
        if high > MOST_SEEDS:
            return None
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return high
