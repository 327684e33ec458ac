"""One number per setting, by which a search or a benchmark chooses among settings."""

from __future__ import annotations

import numpy as np

from ablate.analysis.load import Sweep
from ablate.analysis.scores import of_arm, worst_score
from ablate.analysis.summary import values_of


def objectives(sweep: Sweep) -> dict[str, float]:
    """The mean of the primary metric over the seeds of each arm that has a value.

    Failed and diverged seeds count at the worst score (`scores.worst_score`)."""
    metric = sweep.study.metric
    values = values_of(sweep)
    means = {}
    for arm in sweep.arms:
        own, _ = of_arm(values, metric, arm)
        filled = np.where(np.isinf(own), worst_score(sweep, values, metric, arm), own)
        if len(filled) and np.isfinite(filled).all():
            means[arm] = float(filled.mean())
    return means
