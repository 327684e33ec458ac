"""What the loops in kernels share: the arguments that come from a job. It imports Numba."""

from __future__ import annotations

import numpy as np

from ablate.algos.job import WorkerJob
from ablate.compiled.loop import SharedArrays


def shared_arrays(job: WorkerJob) -> SharedArrays:
    """The shared vectors, named by the statistics that the optimizer keeps."""
    vectors = dict(zip(job.config.optimizer.statistics, job.shared.statistics_views(), strict=True))
    empty = np.zeros(0, np.float32)
    shared = SharedArrays(
        theta=job.shared.parameters_view(),
        first=vectors.get("exp_avg", empty),
        second=vectors.get("exp_avg_sq", vectors.get("square_avg", empty)),
        largest_second=vectors.get("max_exp_avg_sq", empty),
        counters=job.shared.counters_view(),
        lock=job.shared.spin_lock_view(),
    )
    moments = (shared.first, shared.second, shared.largest_second)
    assert all(job.shared.holds(vector.ctypes.data) for vector in (shared.theta, *moments) if len(vector))
    return shared
