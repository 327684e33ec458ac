"""The statistics against statsmodels and AdaStop, whose results are stored by package_values.py."""

import json
from pathlib import Path

import numpy as np
import pytest

from ablate.analysis import statistics, tables
from ablate.analysis.decisions import Effects, Outcome, Relation, decide, welch
from benchmarks import decisions as simulated

VALUES = json.loads(Path(__file__).with_name("package_values.json").read_text())
STATSMODELS, ADASTOP = VALUES["statsmodels"], VALUES["adastop"]
A, B = np.array(STATSMODELS["a"]), np.array(STATSMODELS["b"])


def test_welchs_test_and_holms_correction_are_statsmodels() -> None:
    assert statistics.welch_p(A, B) == pytest.approx(STATSMODELS["welch_p"])
    assert statistics.difference(A, B, 0.99)[1:] == pytest.approx(tuple(STATSMODELS["welch_99"]))
    np.testing.assert_allclose(statistics.holm(np.array(STATSMODELS["p"])), STATSMODELS["holm"])


def test_claims_of_likeness_are_statsmodels_two_one_sided_tests() -> None:
    effects = Effects(*(np.array([[part]]) for part in welch(A, B)))
    found = []
    for margin, p in STATSMODELS["likeness_p"].items():
        supported = decide([effects], np.array([Relation.alike]), np.array([float(margin)])).outcome[0]
        assert (supported == Outcome.supported) == (p < 0.025)
        found.append(p < 0.025)
    assert {True, False} == set(found)


def test_the_log_rank_test_is_statsmodels() -> None:
    times = np.array(STATSMODELS["log_rank"]["times"])
    values, censored = np.minimum(times, 1.5), times >= 1.5
    own = [(values[part::2], censored[part::2]) for part in (0, 1)]
    assert tables._logrank_p(*own[0], *own[1]) == pytest.approx(STATSMODELS["log_rank"]["p"])


def test_adastop_as_written_out_decides_as_the_package() -> None:
    """Both draw their own permutations, so a statistic near its threshold may fall on either side.

    The package has only 252 of them from the second look on, so it often rejects at the next look."""
    study = simulated.Study(np.array(ADASTOP["a"])[:, None], np.array(ADASTOP["b"])[:, None])
    rejected, seeds = simulated.adastop(study)
    their_seeds = np.array(ADASTOP["seeds"])
    assert (rejected != np.array(ADASTOP["rejected"])).sum() <= 2
    assert (seeds != their_seeds).sum() <= 12
    assert seeds.mean() == pytest.approx(their_seeds.mean(), rel=0.1)
    assert set(their_seeds) >= {5, 10, 15, 20, 30}
