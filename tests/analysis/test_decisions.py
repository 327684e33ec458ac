"""The decision rule, against scipy, published tables, hand calculations, and simulated studies with known truth."""

import numpy as np
import pytest
from scipy import stats

from ablate.analysis.decisions import (
    ALPHA,
    Decision,
    Effects,
    Outcome,
    Part,
    Relation,
    contrast,
    decide,
    nominal_levels,
    paired,
    seeds_for_power,
    welch,
)
from ablate.analysis.statistics import holm
from benchmarks import decisions as simulated

NONE = np.nan


def one(a: np.ndarray, b: np.ndarray, relation: Relation, margin: float = NONE, pairs: bool = False) -> Decision:
    """The decision on a single claim."""
    effects = (paired if pairs else welch)(a[None, None], b[None, None])
    return decide([effects], np.array([relation]), np.array([margin]))


def at(value: float, error: float, relation: Relation, margin: float = NONE) -> Outcome:
    """The outcome of a single claim, whose estimate has so many degrees of freedom that it is normal."""
    effects = Effects(*(np.array([[x]]) for x in (value, error, 1e9)))
    return Outcome(int(decide([effects], np.array([relation]), np.array([margin])).outcome[0]))


def test_intervals_are_those_of_scipys_t_tests() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 1, 25), rng.normal(0, 3, 25)
    for pairs, theirs in ((False, stats.ttest_ind(a, b, equal_var=False)), (True, stats.ttest_rel(a, b))):
        ours = one(a, b, Relation.less, pairs=pairs)
        interval = theirs.confidence_interval(0.95)
        assert (ours.low[0], ours.high[0]) == pytest.approx((interval.low, interval.high))
        assert ours.level[0] == ALPHA


def test_a_contrast_over_pairs_is_students_t_of_the_combined_seeds() -> None:
    a, b, c, d = np.random.default_rng(5).normal(0, [[1], [2], [1], [3]], (4, 12))
    value, error, freedom = contrast([Part((1.0, -1.0, -1.0, 1.0), (a, b, c, d))])
    theirs = stats.ttest_1samp(a - b - c + d, 0)
    assert (value / error, freedom) == pytest.approx((theirs.statistic, theirs.df))


def test_a_contrast_of_independent_arms_has_satterthwaites_freedom() -> None:
    """By hand, from the formula of Satterthwaite 1946; and groups that are alike are one larger t-test."""
    scores = [np.random.default_rng(i).normal(i, 1 + i, 6 + 3 * i) for i in range(4)]
    weights = (0.5, 0.5, -1.0, 0.0)
    value, error, freedom = contrast([Part((w,), (x,)) for w, x in zip(weights, scores, strict=True)])
    v = [w**2 * x.var(ddof=1) / len(x) for w, x in zip(weights, scores, strict=True)]
    assert value == pytest.approx(0.5 * scores[0].mean() + 0.5 * scores[1].mean() - scores[2].mean())
    assert error == pytest.approx(np.sqrt(sum(v)))
    assert freedom == pytest.approx(sum(v) ** 2 / sum(own**2 / (len(x) - 1) for own, x in zip(v, scores, strict=True)))
    mixed = contrast([Part((1.0, -1.0), (scores[0], scores[0][::-1])), Part((1.0,), (scores[1],))])
    assert mixed.error**2 == pytest.approx(
        (scores[0] - scores[0][::-1]).var(ddof=1) / 6 + scores[1].var(ddof=1) / len(scores[1])
    )


@pytest.mark.parametrize(
    ("value", "relation", "margin", "outcome"),
    [
        (3, Relation.greater, NONE, Outcome.supported),  # the interval is the value ± 1.96
        (3, Relation.less, NONE, Outcome.contradicted),
        (-3, Relation.less, NONE, Outcome.supported),
        (1, Relation.greater, NONE, Outcome.undecided),
        (1, Relation.greater, 5, Outcome.no_difference),
        (1, Relation.greater, 2.5, Outcome.undecided),
        (3, Relation.greater, 6, Outcome.no_difference),  # there is a difference, too small to matter
        (3, Relation.less, 6, Outcome.no_difference),
        (3, Relation.greater, 4, Outcome.supported),
        (0, Relation.alike, 2, Outcome.supported),
        (3, Relation.alike, 6, Outcome.supported),
        (1, Relation.alike, 2, Outcome.undecided),
        (5, Relation.alike, 2, Outcome.contradicted),
        (-5, Relation.alike, 2, Outcome.contradicted),
        (0, Relation.less, 1e-9, Outcome.undecided),
    ],
)
def test_an_outcome_says_where_the_interval_is(
    value: float, relation: Relation, margin: float, outcome: Outcome
) -> None:
    assert at(value, 1.0, relation, margin) == outcome


def test_the_same_data_never_support_a_difference_and_likeness() -> None:
    for value in np.linspace(-6, 6, 49):
        alike = at(value, 1.0, Relation.alike, 4.0)
        for relation in (Relation.less, Relation.greater):
            assert not (alike is Outcome.supported and at(value, 1.0, relation, 4.0) is Outcome.supported)


def test_a_minus_b_is_exactly_the_opposite_of_b_minus_a() -> None:
    rng = np.random.default_rng(1)
    for pairs in (False, True):
        for _ in range(50):
            a, b = rng.normal(0, 1e3, 7), rng.normal(0, 1e-3, 7)
            ab, ba = one(a, b, Relation.less, 0.1, pairs), one(b, a, Relation.greater, 0.1, pairs)
            assert (ab.low[0], ab.high[0], ab.outcome[0]) == (-ba.high[0], -ba.low[0], ba.outcome[0])


def test_without_a_margin_the_claims_are_decided_as_by_holm_and_welch() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(np.linspace(0, 1.5, 8)[:, None], 1, (200, 8, 10)), rng.normal(0, 1, (200, 8, 10))
    effects = Effects(*(part[None] for part in welch(a, b)))
    ours = decide([effects], np.full(8, Relation.greater), np.full(8, NONE))
    p = stats.ttest_ind(a, b, axis=-1, equal_var=False).pvalue
    theirs = np.apply_along_axis(holm, -1, p) < 0.05
    assert 0.1 < theirs.mean() < 0.9
    np.testing.assert_array_equal(ours.outcome != Outcome.undecided, theirs)


def test_a_claim_of_likeness_is_two_one_sided_tests() -> None:
    """Against the textbook's t of both tests (Schuirmann 1987), each at 2.5 %."""
    rng = np.random.default_rng(3)
    supported = 0
    for _ in range(200):
        a, b = rng.normal(0.1, 1, 12), rng.normal(0, 1.5, 9)
        ours = one(a, b, Relation.alike, 1.8).outcome[0] == Outcome.supported
        above = stats.ttest_ind(a + 1.8, b, equal_var=False, alternative="greater").pvalue
        below = stats.ttest_ind(a - 1.8, b, equal_var=False, alternative="less").pvalue
        assert ours == (max(above, below) < 0.025)
        supported += ours
    assert 20 < supported < 180


def test_each_claim_weighs_as_much_as_it_can_still_err() -> None:
    """Five claims of `<` with margin 1. Estimates far outside, beyond 0 only, at 0 and small, open, and NaN."""
    value = np.array([[50.0, 1.2, 0.0, 0.9, np.nan]])
    error = np.array([[1.0, 0.2, 0.1, 1.0, np.nan]])
    effects = Effects(value, error, np.full((1, 5), 1e9))
    decision = decide([effects], np.full(5, Relation.less), np.full(5, 1.0))
    # 0 + ½ (only θ = 1 can still be missed) + 1 (θ = 0 can) + 1 + 1
    assert decision.level[0] == pytest.approx(0.05 / 3.5)
    assert decision.outcome.tolist() == [
        Outcome.contradicted, Outcome.contradicted, Outcome.no_difference, Outcome.undecided, Outcome.undecided,
    ]  # fmt: skip


def test_two_claims_of_likeness_need_no_correction() -> None:
    effects = Effects(np.zeros((1, 2)), np.ones((1, 2)), np.full((1, 2), 1e9))
    assert decide([effects], np.full(2, Relation.alike), np.full(2, 1.0)).level.tolist() == [0.05, 0.05]


def test_an_interval_covers_all_ways_to_count_failed_seeds() -> None:
    value, error = np.array([[3.0], [-3.0]]), np.ones((2, 1))
    effects = Effects(value, error, np.full((2, 1), 1e9))
    decision = decide([effects], np.array([Relation.less]), np.array([NONE]))
    assert decision.outcome[0] == Outcome.undecided
    assert (decision.low[0], decision.high[0]) == pytest.approx((-3 - 1.96, 3 + 1.96), abs=0.01)


def test_equal_scores_differ_by_exactly_nothing() -> None:
    a, b = np.full(30, -54.3), np.full(7, -54.3)
    decision = one(a, b, Relation.less)
    assert (decision.low[0], decision.high[0], decision.outcome[0]) == (0, 0, Outcome.undecided)
    assert one(a, b, Relation.less, 1e-9).outcome[0] == Outcome.no_difference


# Jennison & Turnbull 2000, tables 2.1 and 2.3 (two-sided, α = 0.05).
POCOCK = {2: 2.178, 3: 2.289, 4: 2.361, 5: 2.413, 10: 2.555}
OBRIEN_FLEMING = {2: 1.977, 3: 2.004, 4: 2.024, 5: 2.040, 10: 2.087}


@pytest.mark.parametrize("looks", POCOCK)
def test_the_levels_of_several_looks_are_the_published_ones(looks: int) -> None:
    fractions = tuple((k + 1) / looks for k in range(looks))
    pocock = stats.norm.isf(np.array(nominal_levels(0.05, fractions, 0.5)) / 2)
    np.testing.assert_allclose(pocock, POCOCK[looks], atol=0.001)
    obrien_fleming = stats.norm.isf(np.array(nominal_levels(0.05, fractions, 0.0)) / 2)
    np.testing.assert_allclose(obrien_fleming, OBRIEN_FLEMING[looks] / np.sqrt(fractions), atol=0.002)


def test_levels_of_unequal_looks_hold_the_error_of_a_random_walk() -> None:
    fractions = (0.1, 0.5, 0.55, 1.0)
    walk = np.random.default_rng(4).normal(0, np.sqrt(np.diff([0, *fractions])), (200_000, 4)).cumsum(1)
    beyond = np.abs(walk) / np.sqrt(fractions) > stats.norm.isf(np.array(nominal_levels(0.05, fractions)) / 2)
    assert beyond.any(1).mean() == pytest.approx(0.05, abs=0.0015)


def test_a_settled_claim_stays_settled_and_gives_its_share_to_the_others() -> None:
    far, near, nothing = (9.0, 1.0), (2.5, 1.0), (0.0, 1.0)
    looks = [
        Effects(np.array([[far[0], near[0]]]), np.array([[far[1], near[1]]]), np.full((1, 2), 1e9)),
        Effects(np.array([[-far[0], nothing[0]]]), np.array([[far[1], nothing[1]]]), np.full((1, 2), 1e9)),
    ]
    decision = decide(looks, np.full(2, Relation.greater), np.full(2, NONE), (0.5, 1.0))
    assert decision.outcome.tolist() == [Outcome.supported, Outcome.supported]
    assert decision.look.tolist() == [0, 0]
    assert decision.level[1] == pytest.approx(2 * stats.norm.sf(2.178), abs=1e-4)  # all of α for the second


def test_a_claim_that_will_hardly_be_settled_is_given_up() -> None:
    hopeless = Effects(np.array([[0.0]]), np.array([[0.1]]), np.array([[1e9]]))
    for margin, futile in ((NONE, True), (0.5, False)):  # with a margin, no difference that matters is found
        decision = decide([hopeless], np.array([Relation.less]), np.array([margin]), (0.8, 1.0), futile=0.05)
        assert decision.futile[0] == futile
    open_ = Effects(np.array([[0.25]]), np.array([[0.1]]), np.array([[1e9]]))
    assert not decide([open_], np.array([Relation.less]), np.array([0.3]), (0.2, 1.0), futile=0.05).futile[0]


def test_the_seeds_asked_for_give_the_power_that_they_promise() -> None:
    """With the variance known: the normal formula of Chow, Shao & Wang 2003, and a simulation."""
    needed = seeds_for_power(2.0, 1e9, 0.5, 0.05)
    assert needed is not None
    normal = 2 * (stats.norm.isf(0.025) + stats.norm.isf(0.1)) ** 2 / 0.5**2
    assert normal < needed < normal + 4  # Student's t asks for a few more
    rng = np.random.default_rng(5)
    a, b = rng.normal(0, 1, (2000, 1, needed)), rng.normal(0, 1, (2000, 1, needed))
    decision = decide([Effects(*(x[None] for x in welch(a, b)))], np.array([Relation.alike]), np.array([0.5]))
    assert (decision.outcome == Outcome.supported).mean() == pytest.approx(0.8, abs=0.04)


def test_an_uncertain_variance_asks_for_more_seeds() -> None:
    certain, uncertain = seeds_for_power(2.0, 1e6, 0.5, 0.05), seeds_for_power(2.0, 8, 0.5, 0.05)
    assert certain is not None
    assert uncertain is not None
    assert uncertain > 1.5 * certain
    assert seeds_for_power(1e12, 8, 0.5, 0.05) is None
    assert seeds_for_power(0.0, 8, 0.5, 0.05) == 2


def highest(errors: np.ndarray) -> float:
    """The lower end of the 99.9 % interval of a rate: above 5 % only if the true rate is."""
    return float(stats.binomtest(int(errors.sum()), errors.size).proportion_ci(0.998, method="wilson").low)


@pytest.mark.slow
@pytest.mark.parametrize("population", simulated.POPULATIONS, ids=lambda population: population.name)
def test_any_false_verdict_is_in_at_most_5_percent_of_studies(population: simulated.Population) -> None:
    studies = 2000
    for claims, correlation in ((1, 0.0), (10, 0.0), (10, 0.8)):
        theta, relation, margin = simulated.nothing(claims)
        estimate = paired if correlation else welch
        for n in (5, 20):
            study = simulated.simulate(np.random.default_rng(n), population, studies, theta, n, correlation)
            outcome = simulated.fixed(study, estimate, relation, margin).outcome
            assert highest(simulated.wrong(outcome, relation, theta, margin).any(-1)) <= ALPHA
        study = simulated.simulate(np.random.default_rng(0), population, studies, theta, 30, correlation)
        decision, _ = simulated.growing(study, estimate, relation, margin, futile=0.0)
        assert highest(simulated.wrong(decision.outcome, relation, theta, margin).any(-1)) <= ALPHA
