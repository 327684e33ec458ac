"""Statistics over seeds, compared with rliable, scipy, written-out definitions, and simulations with known truth."""

import functools
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import integrate, stats

from ablate.analysis import statistics
from ablate.analysis.statistics import Interval

RLIABLE = json.loads(Path(__file__).with_name("rliable_values.json").read_text())
# Two bootstraps of 10 000 and 20 000 resamples: an end of a 95 % interval has a standard error of 0.02 half-widths.
MONTE_CARLO = 0.1

some_scores = arrays(np.float64, st.integers(5, 12), elements=st.integers(-20, 20).map(lambda i: i / 4))


def strata(arm: str) -> list[np.ndarray]:
    return list(np.array(RLIABLE["scores"][arm]).T)


def assert_like(ours: Interval, theirs: list[float]) -> None:
    value, low, high = theirs
    assert ours.value == pytest.approx(value, abs=1e-12)
    assert ours.low == pytest.approx(low, abs=MONTE_CARLO * (high - low) / 2)
    assert ours.high == pytest.approx(high, abs=MONTE_CARLO * (high - low) / 2)


@pytest.mark.parametrize("arm", ["a", "b", "one"])
@pytest.mark.parametrize("statistic", [statistics.iqm, statistics.mean])
def test_mean_and_iqm_are_rliables(arm: str, statistic: Callable[[np.ndarray], float]) -> None:
    if (statistic, arm) == (statistics.mean, "one"):  # the mean of one environment has Student's interval instead
        theirs = stats.ttest_1samp(strata(arm)[0], 0).confidence_interval(0.95)
        assert statistics.interval(strata(arm), statistic)[1:] == pytest.approx(theirs)
        return
    assert_like(statistics.interval(strata(arm), statistic), RLIABLE[statistic.__name__][arm])


def test_probability_of_improvement_is_rliables() -> None:
    assert_like(statistics.probability_of_improvement(strata("a"), strata("b")), RLIABLE["probability_of_improvement"])
    one_task = statistics.probability_of_improvement(strata("a")[0], strata("b")[0])
    assert one_task.value == pytest.approx(RLIABLE["probability_of_improvement_one_task"], abs=1e-12)


@pytest.mark.parametrize("arm", ["a", "b", "one"])
def test_performance_profiles_are_rliables(arm: str) -> None:
    values, low, high = statistics.performance_profile(strata(arm), np.array(RLIABLE["thresholds"]))
    their_values, their_low, their_high = map(np.array, RLIABLE["profile"][arm])
    np.testing.assert_allclose(values, their_values, atol=1e-12)
    step = 1 / sum(map(len, strata(arm)))  # fractions of runs come in steps, and an end may fall on the next one
    np.testing.assert_allclose(low, their_low, atol=1.01 * step)
    np.testing.assert_allclose(high, their_high, atol=1.01 * step)


def test_the_interval_of_a_mean_of_few_seeds_is_students() -> None:
    scores = np.random.default_rng(0).normal(size=8)
    theirs = stats.ttest_1samp(scores, 0).confidence_interval(0.95)
    assert statistics.interval(scores, statistics.mean) == pytest.approx((scores.mean(), *theirs))


def test_the_interval_of_a_difference_of_few_seeds_is_welchs() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 1, 7), rng.normal(0, 3, 25)
    theirs = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert statistics.difference(a, b) == pytest.approx((a.mean() - b.mean(), *theirs))


@pytest.mark.parametrize(
    ("statistic", "along_axis"),
    [
        (statistics.median, np.median),
        (statistics.iqm, functools.partial(stats.trim_mean, proportiontocut=0.25)),
    ],
)
def test_the_bootstrap_is_scipys(
    statistic: Callable[[np.ndarray], float], along_axis: Callable[..., np.ndarray]
) -> None:
    scores = np.random.default_rng(3).gumbel(size=23)
    theirs = stats.bootstrap([scores], along_axis, n_resamples=20_000, method="percentile", vectorized=True, rng=1)
    low, high = theirs.confidence_interval
    # a bootstrapped median moves in steps from score to score
    slack = np.diff(np.sort(scores)).max() / 2 if statistic is statistics.median else MONTE_CARLO * (high - low) / 2
    ours = statistics.interval(scores, statistic)
    assert ours.value == pytest.approx(along_axis(scores))
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=slack)


def test_resampled_trimmed_means_are_those_of_the_resamples() -> None:
    strata = [np.array([3.0, -1.0, 4.0, 1.0, -5.0]), np.array([9.0, 2.0, 6.0, -5.0, 3.0, 5.0])]
    counts = statistics._counts((5, 6), 0)
    assert counts.shape == (statistics.RESAMPLES, 11)
    assert (counts[:, :5].sum(1) == 5).all()
    assert (counts[:, 5:].sum(1) == 6).all()
    ordered = np.concatenate([np.sort(x) for x in strata])
    resamples = [np.repeat(ordered, row.astype(int)) for row in counts[:200]]
    for statistic in (statistics.mean, statistics.median, statistics.iqm):
        ours = statistics._resampled(strata, statistic, 0)[:200]
        np.testing.assert_allclose(ours, [statistic(x) for x in resamples], atol=1e-12)


def coverage(
    estimate: Callable[..., Interval], truth: float, *arms: tuple[float, float], n: int, times: int = 1000
) -> float:
    """How often the intervals of simulated arms contain the truth; n seeds of each normal (mean, spread)."""
    rng = np.random.default_rng(n)
    intervals = [estimate(*(rng.normal(*arm, n) for arm in arms)) for _ in range(times)]
    return float(np.mean([i.low <= truth <= i.high for i in intervals]))


def interval_of(statistic: Callable[[np.ndarray], float]) -> Callable[[np.ndarray], Interval]:
    return functools.partial(statistics.interval, statistic=statistic)


# A thousand simulations estimate a coverage of 0.95 with an error of ± 0.02 (three standard errors).
@pytest.mark.parametrize("n", [5, 10, 30])
def test_intervals_have_their_nominal_coverage(n: int) -> None:
    assert coverage(interval_of(statistics.mean), 0, (0, 1), n=n) == pytest.approx(0.95, abs=0.02)
    assert coverage(statistics.difference, -3, (3, 1), (6, 2), n=n) == pytest.approx(0.95, abs=0.02)
    assert coverage(statistics.ratio, 0.5, (3, 1), (6, 2), n=n) == pytest.approx(0.95, abs=0.025)
    for apart in (0.5, 2.5):
        truth = stats.norm.cdf(apart / np.sqrt(2))  # P(a > b) of two normals
        assert coverage(statistics.probability_of_improvement, truth, (apart, 1), (0, 1), n=n) >= 0.93


def test_bootstrapped_intervals_of_thirty_seeds_have_nearly_that_coverage() -> None:
    nearly = pytest.approx(0.94, abs=0.035)
    for statistic in (statistics.median, statistics.iqm):
        assert coverage(interval_of(statistic), 0, (0, 1), n=30, times=500) == nearly


@pytest.mark.parametrize("n", [0, 1, 4])
def test_under_five_seeds_there_is_no_interval(n: int) -> None:
    few, many = np.arange(1.0, n + 1), np.arange(2.0, 9.0)
    for interval in (
        statistics.interval(few, statistics.mean), statistics.interval(few, statistics.iqm),
        statistics.difference(few, many), statistics.ratio(many, few),
        statistics.probability_of_improvement(few, many), statistics.cliffs_delta(many, few),
    ):  # fmt: skip
        assert np.isnan([interval.low, interval.high]).all()
        assert np.isnan(interval.value) == (n == 0)
    assert np.isnan(statistics.welch_p(few, many))
    assert np.isnan(statistics.permutation_p(few, many))


@given(some_scores, some_scores)
def test_probability_of_improvement_and_cliffs_delta_are_counts_of_pairs(a: np.ndarray, b: np.ndarray) -> None:
    pairs = list(itertools.product(a, b))
    better, worse = sum(x > y for x, y in pairs), sum(x < y for x, y in pairs)
    ours = statistics.probability_of_improvement(a, b)
    assert ours.value == pytest.approx((better + 0.5 * (len(pairs) - better - worse)) / len(pairs))
    assert ours.value == pytest.approx(stats.mannwhitneyu(a, b).statistic / len(pairs))
    assert statistics.cliffs_delta(a, b).value == pytest.approx((better - worse) / len(pairs))
    assert 0 <= ours.low <= ours.value <= ours.high <= 1
    turned = statistics.probability_of_improvement(b, a)
    assert turned == pytest.approx((1 - ours.value, 1 - ours.high, 1 - ours.low), abs=1e-6)
    delta, opposite = statistics.cliffs_delta(a, b), statistics.cliffs_delta(b, a)
    assert delta == (-opposite.value, -opposite.high, -opposite.low)
    difference, turned = statistics.difference(a, b), statistics.difference(b, a)
    assert difference == (-turned.value, -turned.high, -turned.low)


def test_an_arm_that_wins_every_pair_of_five_is_not_certain_to_win() -> None:
    interval = statistics.probability_of_improvement(np.arange(5.0) + 10, np.arange(5.0))
    assert (interval.value, interval.high) == (1, 1)
    assert 0.5 < interval.low < 0.8


@given(some_scores, st.floats(0.1, 10), st.floats(-5, 5))
def test_intervals_move_with_the_scores(scores: np.ndarray, scale: float, shift: float) -> None:
    for statistic in (statistics.mean, statistics.iqm):
        before = statistics.interval(scores, statistic)
        after = statistics.interval(scale * scores + shift, statistic)
        assert after == pytest.approx([scale * x + shift for x in before], abs=1e-9)


def test_diverged_seeds_are_the_worst_in_statistics_of_ranks() -> None:
    scores = np.array([-np.inf, -np.inf, *np.arange(28.0)])
    replaced = np.where(np.isinf(scores), -1e9, scores)
    for statistic in (statistics.median, statistics.iqm):
        ours, finite = statistics.interval(scores, statistic), statistics.interval(replaced, statistic)
        assert ours == pytest.approx(finite)
    mostly = statistics.interval(np.array([*[-np.inf] * 4, 1, 2, 3, 4, 5, 6]), statistics.iqm)
    assert mostly.value == mostly.low == -np.inf
    assert mostly.high > 0
    others = np.arange(5.0, 12.0)
    assert statistics.cliffs_delta(scores, others) == statistics.cliffs_delta(replaced, others)


def test_a_ratio_to_what_may_be_zero_has_no_interval() -> None:
    rng = np.random.default_rng(0)
    for n in (10, 40):
        a, b = rng.normal(5, 1, n), rng.normal(0.1, 1, n)
        interval = statistics.ratio(a, b)
        assert interval.value == a.mean() / b.mean()
        assert np.isnan([interval.low, interval.high]).all()
    assert np.isnan(statistics.ratio(np.ones(6), np.zeros(6)).value)


def test_fiellers_interval_inverts_the_test_of_a_scaled_difference() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(-3, 1, 9), rng.normal(-5, 0.5, 9)
    interval = statistics.ratio(a, b)
    assert interval.low < a.mean() / b.mean() < interval.high
    for end in (interval.low, interval.high):
        assert stats.ttest_ind(a, end * b, equal_var=False).pvalue == pytest.approx(0.05, abs=0.005)


def test_welch_is_scipys_and_undefined_if_nothing_varies() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 1, 12), rng.normal(1, 3, 9)
    assert statistics.welch_p(a, b) == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)
    assert np.isnan(statistics.welch_p(np.full(6, 2.0), np.full(6, 2.0)))


def test_the_permutation_test_of_few_seeds_is_an_enumeration() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(0, 1, 5), rng.normal(1, 1, 6)
    pooled, observed = np.concatenate([a, b]), abs(a.mean() - b.mean())
    divisions = list(itertools.combinations(range(11), 5))
    as_far = 0
    for chosen in divisions:
        rest = [i for i in range(11) if i not in chosen]
        as_far += abs(pooled[list(chosen)].mean() - pooled[rest].mean()) >= observed - 1e-12
    assert statistics.permutation_p(a, b) == as_far / len(divisions)
    assert statistics.permutation_p(a, a) == 1


def test_the_permutation_test_of_many_seeds_is_scipys_within_its_error() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.gumbel(0, 1, 20), rng.gumbel(0.4, 1, 25)
    theirs = stats.permutation_test(
        (a, b), lambda x, y, axis: x.mean(axis) - y.mean(axis), n_resamples=20_000, vectorized=True, rng=1
    ).pvalue
    assert 0.01 < theirs < 0.3
    assert statistics.permutation_p(a, b) == pytest.approx(theirs, abs=0.01)
    assert statistics.permutation_p(a, b + 100) == 1 / (statistics.RESAMPLES + 1)


def test_holm_equals_a_calculation_by_hand() -> None:
    # sorted: 0.005·4, 0.01·3, 0.03·2, 0.04·1 -> 0.02, 0.03, 0.06, and 0.04 raised to 0.06
    p = np.array([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(statistics.holm(p), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(statistics.holm(np.array([0.01, np.nan, 0.6, 0.7])), [0.03, np.nan, 1, 1])
    assert statistics.holm(np.array([])).shape == (0,)


@given(arrays(np.float64, st.integers(1, 8), elements=st.floats(0, 1)))
def test_holm_is_between_no_correction_and_bonferronis(p: np.ndarray) -> None:
    adjusted = statistics.holm(p)
    assert (adjusted >= p).all()
    assert (adjusted <= np.minimum(1, len(p) * p) + 1e-12).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()


def test_auc_is_the_mean_height() -> None:
    x = np.array([1.0, 2.0, 4.0, 8.0])
    assert statistics.auc(x, 3 * x - 1) == pytest.approx(integrate.quad(lambda t: 3 * t - 1, 1, 8)[0] / 7)
    assert statistics.auc(np.array([5.0, 5.0]), np.array([1.0, 3.0])) == 2


def test_first_reach_is_the_first_row_at_the_score_or_the_end() -> None:
    x, y = np.array([10.0, 20.0, 30.0, 40.0]), np.array([0.0, 2.0, 1.0, 5.0])
    assert statistics.first_reach(x, y, 2.0, 40.0) == (20.0, False)
    assert statistics.first_reach(x, y, 3.0, 40.0) == (40.0, False)
    assert statistics.first_reach(x, y, 3.0, 35.0) == (35.0, True)
    assert statistics.first_reach(x, np.full(4, np.nan), 3.0, 35.0) == (35.0, True)


def test_the_mean_of_censored_steps_is_the_area_under_kaplan_meier() -> None:
    end = 50.0
    steps = np.minimum(np.random.default_rng(0).exponential(40, 25).round(), end)
    censored = steps == end
    assert 3 < censored.sum() < 20
    survival = stats.ecdf(stats.CensoredData.right_censored(steps, censored)).sf
    area = integrate.quad(survival.evaluate, 0, end, points=np.unique(steps)[:-1], limit=500)[0]
    assert statistics.interval(steps, statistics.mean).value == pytest.approx(area, rel=1e-6)


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([0.0, 10.0, 4.0], True),
        ([0.0, 10.0, 6.0], False),
        ([-6.0, -1.0, -4.0], True),  # half of the gain is at -3.5
        ([-6.0, -1.0, -3.0], False),
        ([-1.0, -2.0, -3.0], False),  # never gained anything
        ([0.0, 10.0, np.nan], True),
        ([np.nan, np.nan], True),
        ([5.0], False),
        ([], False),
    ],
)
def test_a_curve_collapses_when_it_ends_below_half_of_its_gain(curve: list[float], expected: bool) -> None:
    assert statistics.collapsed(np.array(curve)) is expected
    assert statistics.collapsed(7 * np.array(curve) - 30) is expected  # independent of the unit and its zero


def test_a_curve_whose_gain_is_too_small_does_not_collapse() -> None:
    curve = np.array([-0.5, -0.4, -0.55])
    assert statistics.collapsed(curve)
    assert not statistics.collapsed(curve, smallest_gain=0.2)


def test_the_same_scores_have_the_same_interval() -> None:
    scores = np.random.default_rng(0).normal(size=25)
    first = statistics.interval(scores, statistics.iqm)
    statistics._counts.cache_clear()
    statistics._weights.cache_clear()
    assert statistics.interval(scores, statistics.iqm) == first
    assert statistics.interval(scores[::-1], statistics.iqm) == first
