"""One number per setting, by which a search or a benchmark chooses among settings."""

from __future__ import annotations

import numpy as np

from ablate.analysis.load import Sweep
from ablate.analysis.normalisation import normalised
from ablate.analysis.scores import of_arm, worst_of, worst_score
from ablate.analysis.summary import values_of


def objectives(sweep: Sweep) -> dict[str, float]:
    """The mean of the primary metric over the seeds of each arm that has a value.

    In several environments: the mean of the normalised scores over them (Patterson et al. 2024, section 3, where they
    are ranks among all runs in the environment), of the arms that have a value in each. Failed and diverged seeds count
    at the worst score (`scores.worst_of`)."""
    study = sweep.study
    metric, values = study.metric, values_of(sweep)
    if study.crossed:
        values = normalised(study, values, metric)
    means = {}
    for arm in sweep.arms:
        own, _ = of_arm(values, metric, arm)
        worst = worst_of(study, values, metric, arm) if study.crossed else worst_score(sweep, values, metric, arm)
        filled = np.where(np.isinf(own), worst, own)
        if len(filled) and np.isfinite(filled).all():
            means[arm] = float(filled.mean())
    if not study.crossed:
        return means
    return {
        arm: float(np.mean([means[name] for name in names.values()]))
        for arm, names in study.crossed.items()
        if means.keys() >= set(names.values())
    }
