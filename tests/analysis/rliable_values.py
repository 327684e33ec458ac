"""Writes rliable_values.json: the results of rliable 1.2.0 for fixed scores. analysis.statistics must equal them.

rliable does not import with pandas 3, so it runs in its own environment, and the values are stored:

    python3.11 -m venv /tmp/rliable-venv
    /tmp/rliable-venv/bin/pip install rliable==1.2.0 'pandas<3' 'numpy<2'
    /tmp/rliable-venv/bin/python tests/analysis/rliable_values.py

Each run of this file gives intervals with other last digits, because rliable ignores its random_state.
"""

import json
from pathlib import Path

import numpy as np
from rliable import library, metrics

REPS = 20_000
THRESHOLDS = np.linspace(-3.0, 3.0, 25)


def main() -> None:
    rng = np.random.default_rng(2021)
    # (runs, tasks): tasks of different level and width, one with long tails, and rounded so that some scores are equal
    shape = (25, 4)
    a = np.round(rng.normal([0.5, -1.0, 0.0, 1.0], [0.5, 1.0, 0.3, 0.8], shape) + rng.standard_t(3, shape) * 0.2, 1)
    b = np.round(rng.normal([0.2, -0.8, -0.2, 0.6], [0.6, 0.8, 0.3, 1.0], shape), 1)
    one = rng.gamma(2.0, 1.5, (30, 1)) - 4.0
    scores = {"a": a, "b": b, "one": one}

    values: dict = {"scores": {name: table.tolist() for name, table in scores.items()}, "reps": REPS}
    for name, function in (("iqm", metrics.aggregate_iqm), ("mean", metrics.aggregate_mean)):
        points, intervals = library.get_interval_estimates(scores, lambda x, f=function: np.array([f(x)]), reps=REPS)
        values[name] = {arm: [float(points[arm][0]), *intervals[arm][:, 0].tolist()] for arm in scores}
    points, intervals = library.get_interval_estimates(
        {"a,b": (a, b)}, lambda x, y: np.array([metrics.probability_of_improvement(x, y)]), reps=REPS
    )
    values["probability_of_improvement"] = [float(points["a,b"][0]), *intervals["a,b"][:, 0].tolist()]
    values["probability_of_improvement_one_task"] = float(metrics.probability_of_improvement(a[:, :1], b[:, :1]))
    profiles, bands = library.create_performance_profile(scores, THRESHOLDS, reps=REPS)
    values["thresholds"] = THRESHOLDS.tolist()
    values["profile"] = {arm: [profiles[arm].tolist(), *bands[arm].tolist()] for arm in scores}
    path = Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(values, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
