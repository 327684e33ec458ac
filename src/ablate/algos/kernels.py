"""What the loops in kernels share: the arguments that come from a job. It imports Numba."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ablate.algos.job import WorkerJob
from ablate.compiled.loop import SharedArrays
from ablate.config.schema import Config
from ablate.nn.architecture import architecture_of
from ablate.parallel.shared import SharedState
from ablate.types import EnvSpec


def idle_job(config: Config, spec: EnvSpec, members: tuple[int, ...]) -> WorkerJob:
    """A job whose process only loads its kernels: it trains nothing and writes nothing."""
    architecture = architecture_of(config.model, spec)
    shared = SharedState(architecture.layout().size, len(config.optimizer.statistics), 1)
    return WorkerJob(
        config=config, spec=spec, architecture=architecture, folder=Path(), shared=shared, members=members,
        evaluates=True, resumed={}, turn=0, evaluations_done=0, owes_evaluation=False, starts=0,
    )  # fmt: skip


def with_times(records: np.ndarray, column: int, began: float, pace: float) -> np.ndarray:
    """A copy of a slice's records, whose times are spread evenly over it.

    column: that of the time, where the kernel, which has no clock, wrote how much it had done before. pace: seconds per
    unit of that."""
    timed = records.copy()
    timed[:, column] = began + pace * timed[:, column]
    return timed


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
