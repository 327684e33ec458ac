"""The protocol between a process that trains and its parent, written once for all algorithms."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from ablate.algos.job import WorkerJob
from ablate.config.derived import limit_reached
from ablate.parallel.heartbeat import beat
from ablate.parallel.shared import Command, SharedState
from ablate.play.evaluator import Evaluator
from ablate.schedules import due
from ablate.types import Counters, ProcessState

PAUSE_POLL_S = 0.001

Send = Callable[[Any], None]  # hands a record, an evaluation or a state to the parent


def rounds(job: WorkerJob, send: Send, state: Callable[[], ProcessState]) -> Iterator[Counters]:
    """Yield the counters before each round, until a limit is reached or the parent says stop.

    The body of the loop acts, learns, counts in `job.shared` and sends its records. `rounds` itself sends
    `state()` at each pause and at the end, evaluates when that is due (schedule=interleaved), and stops at a limit."""
    config, shared = job.config, job.shared
    evaluator = (
        Evaluator(config, job.spec, job.architecture, job.folder, job.evaluations_done) if job.evaluates else None
    )
    if evaluator:
        evaluator.begin(shared, send)
    paused_for = 0
    while shared.command == Command.run:
        beat()
        if shared.pauses_asked > paused_for:
            paused_for = shared.pauses_asked
            send(state())
            _wait_for_release(shared, paused_for)
            continue
        shared.begin()
        before = shared.counters()
        yield before
        counters = shared.counters()
        at_limit = bool(limit_reached(config, counters))
        if evaluator and (at_limit or due(config.evaluation.every_steps, before.steps, counters.steps)):
            send(evaluator.evaluate(shared, counters))
        if at_limit:
            shared.command = Command.stop
    send(state())


def _wait_for_release(shared: SharedState, pause: int) -> None:
    """Wait until the parent has collected all states for the checkpoint."""
    while shared.pauses_released < pause and shared.command == Command.run:
        beat()
        time.sleep(PAUSE_POLL_S)
