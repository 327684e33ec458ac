"""Pack short cells into one job of a cluster: a job needs seconds before its first cell trains.

Within a job, cells run one after another. How many share a job follows from their configurations alone, so the plan
can say it before anything runs."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

from ablate.algos.algorithm import algorithm_of
from ablate.config.derived import evaluation_horizon
from ablate.config.schema import Config
from ablate.sweeps.plan import most_steps

JOB_S = 60.0  # a job's cells surely take less, unless it has only one
CELL_S = 1.0  # what each cell counts, besides its steps


def slow_seconds(config: Config) -> float | None:
    """Seconds that a cell takes at most on any common machine; None if its code is the user's, or it has images.

    Counts CELL_S, and `Algorithm.slow_step_s` for each step of training and of evaluation."""
    step_s = algorithm_of(config).slow_step_s(config)
    if step_s is None or config.plugins or ":" in config.env.id:
        return None
    steps, evaluation = most_steps(config), config.evaluation
    evaluations = 1 + evaluation.at_start + (steps // evaluation.every_steps if evaluation.every_steps else 0)
    return CELL_S + step_s * (steps + evaluations * evaluation.episodes * evaluation_horizon(config))


def pack(cells: Sequence[tuple[Config, Hashable]], cells_per_job: int | None, job_s: float = JOB_S) -> list[list[int]]:
    """The indices of the cells of each job, in the order of the cells.

    cells: configuration and requested resources of each; those of one job request the same. cells_per_job: how many
    share a job; None: as many as take less than `job_s` together according to `slow_seconds`."""
    jobs: list[list[int]] = []
    open_jobs: dict[Hashable, tuple[list[int], float]] = {}  # the last job with these resources, and its seconds
    for index, (config, needs) in enumerate(cells):
        seconds = slow_seconds(config) or math.inf
        if cells_per_job is None and seconds > job_s:
            jobs.append([index])
            continue
        job, taken = open_jobs.get(needs, ([], 0.0))
        full = taken + seconds > job_s if cells_per_job is None else len(job) == cells_per_job
        if not job or full:
            job, taken = [], 0.0
            jobs.append(job)
        job.append(index)
        open_jobs[needs] = job, taken + seconds
    return jobs
