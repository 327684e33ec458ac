"""Writes package_values.json: the results of adastop 0.1.3 and statsmodels 0.15.0 for fixed scores.

The tests compare ours with these values, so neither package is a dependency. They run in an environment of their own:

    python3.11 -m venv /tmp/values-venv
    /tmp/values-venv/bin/pip install adastop==0.1.3 statsmodels==0.15.0
    /tmp/values-venv/bin/python tests/analysis/package_values.py
"""

import json
from pathlib import Path

import numpy as np
from adastop import MultipleAgentsComparator
from statsmodels.duration.survfunc import survdiff
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW, ttest_ind, ttost_ind

BLOCK, LOOKS = 5, 6
STUDIES = 60


def adastop_values() -> dict:
    """Studies of two arms with several differences: whether AdaStop rejects, and the seeds per arm that it took.

    alpha is half of 5 %: adastop 0.1.3 takes its threshold from signed differences, and compares it with the absolute
    difference. So its two-sided error is twice alpha."""
    rng = np.random.default_rng(2023)
    theta = np.repeat([0.0, 0.5, 1.0, 1.5], STUDIES // 4)
    a = np.round(rng.normal(theta[:, None], 1, (STUDIES, BLOCK * LOOKS)), 3)
    b = np.round(rng.normal(0, 1, a.shape), 3)
    rejected, seeds = [], []
    for x, y in zip(a, b, strict=True):
        comparator = MultipleAgentsComparator(n=BLOCK, K=LOOKS, B=10_000, alpha=0.025, seed=1)
        for k in range(LOOKS):
            size = (k + 1) * BLOCK
            comparator.partial_compare({"a": x[:size], "b": y[:size]}, verbose=False)
            if comparator.is_finished:
                break
        (decision,) = comparator.decisions.values()
        rejected.append(decision != "equal")
        seeds.append(size)
    return {"a": a.tolist(), "b": b.tolist(), "rejected": rejected, "seeds": seeds}


def statsmodels_values() -> dict:
    rng = np.random.default_rng(2010)
    a, b = np.round(rng.normal(0.4, 1, 12), 3), np.round(rng.normal(0, 2, 19), 3)
    p = np.round(rng.uniform(0, 0.06, 9), 4)
    unequal = {"usevar": "unequal"}
    times = np.round(rng.exponential(1.0, 40), 2)
    return {
        "a": a.tolist(),
        "b": b.tolist(),
        "welch_p": float(ttest_ind(a, b, **unequal)[1]),
        "welch_99": [float(x) for x in CompareMeans(DescrStatsW(a), DescrStatsW(b)).tconfint_diff(0.01, **unequal)],
        "likeness_p": {str(m): float(ttost_ind(a, b, -m, m, **unequal)[0]) for m in (0.5, 1.5, 2.5)},
        "p": p.tolist(),
        "holm": multipletests(p, method="holm")[1].tolist(),
        "log_rank": {
            "times": times.tolist(),
            "p": float(survdiff(np.minimum(times, 1.5), times < 1.5, np.arange(40) % 2)[1]),
        },
    }


if __name__ == "__main__":
    path = Path(__file__).with_suffix(".json")
    path.write_text(json.dumps({"adastop": adastop_values(), "statsmodels": statsmodels_values()}) + "\n")
    print(path)
