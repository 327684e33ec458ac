"""Statistics over seeds: point values, intervals, comparisons of two arms. Pure functions of numpy arrays.

Scores are a 1-D array with one value per seed. Functions that use rliable's stratified bootstrap also accept a list of
such arrays, one per environment; seeds are then resampled within each environment. Intervals are NaN with fewer than
MIN_SEEDS seeds, because no method has its nominal coverage then. Scores of -inf or inf are runs that diverged: worse
than all others. Statistics of ranks (median, IQM, probability of improvement, Cliff's δ) allow them, means do not.

These intervals describe; they are not corrected for their number. What decides is in `decisions`.

Random draws come from generators with fixed seeds: the same scores always have the same interval.

Sources: Agarwal et al. 2021 (rliable), Henderson et al. 2018, Patterson et al. 2024.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import comb, isfinite
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

from ablate.analysis.decisions import sample_variance

MIN_SEEDS = 5  # with fewer seeds, there are no intervals
CONFIDENCE = 0.95
RESAMPLES = 10_000
SEED = 0

Scores = np.ndarray | Sequence[np.ndarray]
Statistic = Callable[[np.ndarray], float]  # mean, median or iqm


class Interval(NamedTuple):
    """A point value and its confidence interval, which is NaN if there is none."""

    value: float
    low: float
    high: float


def mean(scores: np.ndarray) -> float:
    return _within(float(np.mean(scores)), scores)


def median(scores: np.ndarray) -> float:
    return float(np.median(scores))


def iqm(scores: np.ndarray) -> float:
    """The interquartile mean: the mean of the middle half of the scores (Agarwal et al. 2021)."""
    return _within(float(stats.trim_mean(scores, 0.25)), scores)


def _within(value: float, scores: np.ndarray) -> float:
    """The mean of equal scores is that score: rounding must not put it outside their interval of width 0."""
    return float(np.clip(value, np.min(scores), np.max(scores))) if len(scores) else value


def spread(scores: np.ndarray) -> float:
    """The standard deviation over seeds; NaN for a single seed."""
    return float(np.std(scores, ddof=1)) if len(scores) > 1 else np.nan


def interval(scores: Scores, statistic: Statistic, confidence: float = CONFIDENCE) -> Interval:
    """`mean`, `median` or `iqm` of all scores, with its confidence interval.

    Student's t for the mean of one environment. Its percentile bootstrap covers only 82 % at 5 seeds, 89 % at 10, and
    is no better for skewed scores later (docs/statistics.md). Else the percentile bootstrap, stratified by environment
    as in rliable."""
    strata = _strata(scores)
    value = statistic(np.concatenate(strata)) if sum(map(len, strata)) else np.nan
    if min(map(len, strata)) < MIN_SEEDS:
        return Interval(value, np.nan, np.nan)
    if statistic is mean and len(strata) == 1:
        return _student(value, [_variance_of_mean(strata[0])], [len(strata[0])], confidence)
    return Interval(value, *_percentiles(_resampled(strata, statistic, stream=0), confidence))


def mean_of_means(strata: Sequence[np.ndarray], confidence: float = CONFIDENCE) -> Interval:
    """The mean over environments of their means, with Student's t and the freedom of Welch & Satterthwaite."""
    if min(map(len, strata)) == 0:
        return Interval(np.nan, np.nan, np.nan)
    value = float(np.mean([mean(scores) for scores in strata]))
    if min(map(len, strata)) < MIN_SEEDS:
        return Interval(value, np.nan, np.nan)
    variances = [_variance_of_mean(scores) / len(strata) ** 2 for scores in strata]
    return _student(value, variances, [len(scores) for scores in strata], confidence)


def difference(a: np.ndarray, b: np.ndarray, confidence: float = CONFIDENCE) -> Interval:
    """mean(a) - mean(b), with Welch's t. difference(b, a) is exactly its opposite."""
    value = mean(a) - mean(b) if len(a) and len(b) else np.nan
    if min(len(a), len(b)) < MIN_SEEDS:
        return Interval(value, np.nan, np.nan)
    return _student(value, [_variance_of_mean(a), _variance_of_mean(b)], [len(a), len(b)], confidence)


def ratio(a: np.ndarray, b: np.ndarray, confidence: float = CONFIDENCE) -> Interval:
    """mean(a) / mean(b), with the interval of Fieller's theorem.

    There is no interval if mean(b) may be 0: the ratio is then unbounded."""
    if min(len(a), len(b)) == 0 or mean(b) == 0:
        return Interval(np.nan, np.nan, np.nan)
    value = mean(a) / mean(b)
    if mean(b) ** 2 == 0 or not isfinite(value**2):  # numbers whose squares are outside the range of a float
        return Interval(value, np.nan, np.nan)
    of_b = interval(b, mean, confidence)
    if min(len(a), len(b)) < MIN_SEEDS or of_b.low <= 0 <= of_b.high:
        return Interval(value, np.nan, np.nan)
    # Fieller 1954: all r for which mean(a) - r mean(b) does not differ significantly from 0.
    variance_a, variance_b = _variance_of_mean(a), _variance_of_mean(b)
    t = _t_quantile([variance_a, value**2 * variance_b], [len(a), len(b)], confidence)
    g = t**2 * variance_b / mean(b) ** 2
    if g >= 1:
        return Interval(value, np.nan, np.nan)
    centre = value / (1 - g)
    half_width = t / (abs(mean(b)) * (1 - g)) * np.sqrt((1 - g) * variance_a + value**2 * variance_b)
    return Interval(value, float(centre - half_width), float(centre + half_width))


def probability_of_improvement(a: Scores, b: Scores, confidence: float = CONFIDENCE) -> Interval:
    """P(a > b) + ½ P(a = b) for one seed of each, averaged over environments (Mann-Whitney U / (n m)).

    It is ½ (1 + Cliff's δ), whose intervals it has."""
    return Interval(*((1 + delta) / 2 for delta in cliffs_delta(a, b, confidence)))


def cliffs_delta(a: Scores, b: Scores, confidence: float = CONFIDENCE) -> Interval:
    """P(a > b) - P(a < b) for one seed of each (Cliff 1993), averaged over environments.

    One environment: Newcombe's interval (2006, method 5). With a true P(a > b) of 0.96 it covers 95 % to 98 % from 5 to
    30 seeds. The bootstrap covers only 41 % to 88 %: it gives [1, 1] once `a` wins every pair. With one environment,
    cliffs_delta(b, a) is exactly its opposite. Several environments: rliable's stratified bootstrap."""
    pairs = list(zip(_strata(a), _strata(b), strict=True))
    if min(min(len(x), len(y)) for x, y in pairs) == 0:
        return Interval(np.nan, np.nan, np.nan)
    wins = [(x[:, None] > y).astype(float) - (x[:, None] < y) for x, y in pairs]
    value = float(np.mean([won.sum() / won.size for won in wins]))
    if min(min(won.shape) for won in wins) < MIN_SEEDS:
        return Interval(value, np.nan, np.nan)
    if len(wins) == 1:
        low, high = _newcombe(abs(value), len(wins[0]), wins[0].shape[1], confidence)
        if value == 0:
            return Interval(value, -high, high)  # exactly symmetric
        return Interval(value, low, high) if value > 0 else Interval(value, -high, -low)
    drawn_a = _counts(tuple(won.shape[0] for won in wins), stream=0)
    drawn_b = _counts(tuple(won.shape[1] for won in wins), stream=1)
    resampled = np.zeros(RESAMPLES)
    for won in wins:
        n, m = won.shape
        resampled += ((drawn_a[:, :n] @ won) * drawn_b[:, :m]).sum(1) / (n * m)
        drawn_a, drawn_b = drawn_a[:, n:], drawn_b[:, m:]
    return Interval(value, *_percentiles(resampled / len(wins), confidence))


def mean_ranks(arms: Sequence[Scores], confidence: float = CONFIDENCE) -> list[Interval]:
    """The expected rank of each arm's score among one score of each arm, averaged over environments; 1 is the best.

    It is 1 + Σ [P(another is higher) + ½ P(equal)] over the other arms. Intervals of the stratified bootstrap."""
    strata = [_strata(scores) for scores in arms]
    fewest = min(len(scores) for own in strata for scores in own)
    if fewest == 0:
        return [Interval(np.nan, np.nan, np.nan)] * len(strata)
    count = len(strata[0])
    drawn = [_counts(tuple(map(len, own)), stream) for stream, own in enumerate(strata)] if fewest >= MIN_SEEDS else []
    value, resampled = np.ones(len(strata)), np.ones((len(strata), RESAMPLES))
    for i, j in itertools.combinations(range(len(strata)), 2):
        first_i = first_j = 0
        for x, y in zip(strata[i], strata[j], strict=True):
            lower = (x[:, None] < y) + 0.5 * (x[:, None] == y)  # of x: 1 if y has the better rank
            value[[i, j]] += np.array([lower.mean(), 1 - lower.mean()]) / count
            if drawn:
                of_x, of_y = drawn[i][:, first_i : first_i + len(x)], drawn[j][:, first_j : first_j + len(y)]
                shares = ((of_x @ lower) * of_y).sum(1) / lower.size
                resampled[[i, j]] += np.array([shares, 1 - shares]) / count
                first_i, first_j = first_i + len(x), first_j + len(y)
    if not drawn:
        return [Interval(float(rank), np.nan, np.nan) for rank in value]
    return [Interval(float(rank), *_percentiles(own, confidence)) for rank, own in zip(value, resampled, strict=True)]


def performance_profile(
    scores: Scores, thresholds: np.ndarray, confidence: float = CONFIDENCE
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fraction of runs above each threshold (T,), averaged over environments: values, low and high, each (T,).

    This is rliable's run-score distribution, with its pointwise stratified bootstrap."""
    strata = _strata(scores)
    above = [(x[:, None] > thresholds).astype(float) for x in strata]
    values = np.mean([x.mean(0) for x in above], axis=0)
    if min(map(len, strata)) < MIN_SEEDS:
        return values, np.full_like(values, np.nan), np.full_like(values, np.nan)
    drawn = _counts(tuple(map(len, strata)), stream=0)
    resampled = np.zeros((RESAMPLES, len(thresholds)))
    for x in above:
        resampled += drawn[:, : len(x)] @ x / len(x)
        drawn = drawn[:, len(x) :]
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled / len(strata), [tail, 1 - tail], axis=0)
    return values, low, high


def welch_p(a: np.ndarray, b: np.ndarray) -> float:
    """Two-sided p of Welch's test of equal means; NaN with fewer than MIN_SEEDS, or if both arms are constant."""
    if min(len(a), len(b)) < MIN_SEEDS or np.ptp(a) == np.ptp(b) == 0:
        return np.nan
    # From the moments: scipy warns about an arm with constant scores (for example if no cell reached the score).
    moments = mean(a), spread(a), len(a), mean(b), spread(b), len(b)
    return float(stats.ttest_ind_from_stats(*moments, equal_var=False).pvalue)


def permutation_p(a: np.ndarray, b: np.ndarray) -> float:
    """Two-sided p of the permutation test of equal means: how often a random division into groups differs as much.

    All divisions if there are at most RESAMPLES, else RESAMPLES random ones and the observed one, so that p is never 0
    (Phipson & Smyth 2010). NaN with fewer than MIN_SEEDS."""
    if min(len(a), len(b)) < MIN_SEEDS:
        return np.nan
    pooled = np.concatenate([a, b])
    pooled = pooled - pooled.mean()  # then sum(a) alone determines the difference of the means
    chosen, exact = _divisions(len(a), len(b))
    sums = pooled[chosen].sum(1)
    observed = pooled[: len(a)].sum()
    as_far = np.count_nonzero(np.abs(sums) >= abs(observed) - 1e-9 * np.abs(pooled).sum())
    return as_far / len(sums) if exact else (as_far + 1) / (len(sums) + 1)


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down correction (1979) of p-values (K,); NaN values do not count as tests."""
    adjusted = np.full(len(p), np.nan)
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]  # NaN sorts last
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(factors * p[order]))
    return adjusted


def auc(x: np.ndarray, y: np.ndarray) -> float:
    """The curve's mean height: its area (trapezoids) divided by its span, or the mean of y if the span is 0."""
    span = x[-1] - x[0]
    return float(np.trapezoid(y, x) / span) if span > 0 else float(np.mean(y))


def first_reach(x: np.ndarray, y: np.ndarray, score: float, end: float) -> tuple[float, bool]:
    """The x at which a curve first reaches `score`, up to x = end; (end, True) if it does not: censored there.

    All compared cells are censored at the same end. The mean of these values is then the restricted mean time (the area
    under the Kaplan-Meier curve up to the end), so ordinary means and intervals apply. (The Kaplan-Meier median does
    not exist if fewer than half reach the score.) The restricted mean understates how slow an arm is: if more cells of
    the slower arm are censored, a speed-up is a lower bound. Ranks treat censored cells as ties for the slowest
    (Gehan)."""
    reached = (y >= score) & (x <= end)
    return (float(x[reached.argmax()]), False) if reached.any() else (float(end), True)


def collapsed(scores: np.ndarray, smallest_gain: float = 0.0) -> bool:
    """Whether a curve (T,) ends below half of its gain, start + ½ (best - start).

    Half of the best would be wrong: returns may be negative, and half of -1 is better than -1. A curve that gained
    no more than `smallest_gain` cannot collapse. A curve with a non-finite end has collapsed."""
    finite = scores[np.isfinite(scores)]
    if len(scores) and not isfinite(scores[-1]):
        return True
    if len(finite) == 0:
        return False
    start, best = finite[0], finite.max()
    return bool(best - start > smallest_gain and finite[-1] < start + 0.5 * (best - start))


def _strata(scores: Scores) -> list[np.ndarray]:
    if isinstance(scores, np.ndarray) and scores.ndim == 1:
        return [scores.astype(float)]
    return [np.asarray(x, float) for x in scores]


def _variance_of_mean(scores: np.ndarray) -> float:
    return float(sample_variance(scores) / len(scores))


def _t_quantile(variances: Sequence[float], sizes: Sequence[int], confidence: float) -> float:
    """Student's t at the degrees of freedom of Welch & Satterthwaite, (Σ v)² / Σ [v² / (n - 1)]."""
    total = sum(variances)
    if total == 0:
        return 0.0
    freedom = 1 / sum((v / total) ** 2 / (n - 1) for v, n in zip(variances, sizes, strict=True))
    return float(stats.t.ppf((1 + confidence) / 2, freedom))


def _student(value: float, variances: Sequence[float], sizes: Sequence[int], confidence: float) -> Interval:
    half_width = _t_quantile(variances, sizes, confidence) * float(np.sqrt(sum(variances)))
    return Interval(value, value - half_width, value + half_width)


def _newcombe(delta: float, n: int, m: int, confidence: float) -> tuple[float, float]:
    """Newcombe 2006, method 5, for Cliff's δ from 0 to 1: all values within z standard errors, each with its own.

    Written for θ = P(a > b) = ½ (1 + δ)."""
    z = stats.norm.ppf((1 + confidence) / 2)
    middle, value = (n + m) / 2 - 1, (1 + delta) / 2

    def excess(theta: float) -> float:
        shape = 1 + middle * (1 - theta) / (2 - theta) + middle * theta / (1 + theta)
        return (value - theta) ** 2 - z**2 * theta * (1 - theta) * shape / (n * m)

    inside = min(value, 1 - 1e-9)  # at 1 the standard error is 0, which is another root
    low = optimize.brentq(excess, 0, inside)
    high = 1.0 if value == 1 else optimize.brentq(excess, inside, 1)
    return float(2 * low - 1), float(2 * high - 1)


@lru_cache(maxsize=8)
def _counts(sizes: tuple[int, ...], stream: int) -> np.ndarray:
    """How often each score is drawn in each resample, (RESAMPLES, Σ sizes); each stratum keeps its size."""
    rng = np.random.default_rng([SEED, stream])
    rows = np.arange(RESAMPLES)[:, None]
    return np.hstack(
        [
            np.bincount((rows * n + rng.integers(n, size=(RESAMPLES, n))).ravel(), minlength=RESAMPLES * n)
            .reshape(RESAMPLES, n)
            .astype(float)
            for n in sizes
        ]
    )


@lru_cache(maxsize=8)
def _weights(sizes: tuple[int, ...], order: bytes, first: int, last: int, stream: int) -> np.ndarray:
    """Weights (RESAMPLES, N) of the sorted scores in the mean of each resample's ranks [first, last).

    Mean, median and IQM are all such trimmed means. The weights depend only on the order of the scores, so arms with
    the same number of seeds share them."""
    drawn = _counts(sizes, stream)[:, np.frombuffer(order, np.intp)]
    if first == 0:
        return drawn / last
    up_to = np.clip(np.cumsum(drawn, axis=1), first, last)  # number of counted ranks up to each score's last copy
    return np.diff(up_to, axis=1, prepend=first) / (last - first)


def _resampled(strata: list[np.ndarray], statistic: Statistic, stream: int) -> np.ndarray:
    """The statistic of RESAMPLES bootstrap resamples, (RESAMPLES,)."""
    return _resampled_bytes(tuple(np.sort(x).tobytes() for x in strata), statistic, stream)


@lru_cache(maxsize=256)  # an arm's interval and its comparisons need the same resamples
def _resampled_bytes(strata: tuple[bytes, ...], statistic: Statistic, stream: int) -> np.ndarray:
    pooled = np.frombuffer(b"".join(strata))
    sizes = tuple(len(x) // pooled.itemsize for x in strata)
    order = np.argsort(pooled, kind="stable")
    n = len(pooled)
    trimmed: dict[Statistic, int] = {mean: 0, iqm: n // 4, median: (n - 1) // 2}  # ranks that are left out at each end
    first = trimmed[statistic]
    weights = _weights(sizes, order.tobytes(), first, n - first, stream)
    pooled = pooled[order]
    finite = np.isfinite(pooled)
    means = weights[:, finite] @ pooled[finite] if not finite.all() else weights @ pooled
    if finite.all() and n:
        means = np.clip(means, pooled[0], pooled[-1])  # as `_within`
    for diverged in np.unique(pooled[~finite]):
        means = np.where(weights[:, pooled == diverged].any(1), diverged, means)
    return means


def _percentiles(resampled: np.ndarray, confidence: float) -> tuple[float, float]:
    # inverted_cdf takes a value that occurred. Interpolation between two values would fail if the lower one is -inf.
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail], method="inverted_cdf")
    return float(low), float(high)


@lru_cache(maxsize=4)
def _divisions(n: int, m: int) -> tuple[np.ndarray, bool]:
    """The first group of n of n + m scores in D divisions, (D, n), and whether these are all divisions."""
    if comb(n + m, n) <= RESAMPLES:
        return np.array(list(itertools.combinations(range(n + m), n))), True
    ranks = np.random.default_rng(SEED).random((RESAMPLES, n + m)).argpartition(n, axis=1)
    return ranks[:, :n].copy(), False
