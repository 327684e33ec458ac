"""The protocol between a process that trains and its parent, written once for all algorithms."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from ablate.algos.job import WorkerJob
from ablate.config.derived import limit_reached
from ablate.parallel.heartbeat import beat, checking
from ablate.parallel.shared import Command, SharedState
from ablate.play.evaluator import Evaluator
from ablate.schedules import due
from ablate.types import Counters, ProcessState

PAUSE_POLL_S = 0.001

Send = Callable[[Any], None]  # hands a record, an evaluation or a state to the parent


def rounds(job: WorkerJob, send: Send, state: Callable[[], ProcessState]) -> Iterator[Counters]:
    """Yield the counters before each round, until a limit is reached or the parent says stop.

    The body of the loop acts, learns, counts in `job.shared` and sends its records. `rounds` itself sends
    `state()` at each pause and at the end, evaluates when that is due (schedule=interleaved), and stops at a limit.
    If the parent says stop during an evaluation, the state says that the evaluation is owed: a resume makes it."""
    config, shared = job.config, job.shared
    evaluator = (
        Evaluator(config, job.spec, job.architecture, job.folder, job.evaluations_done) if job.evaluates else None
    )
    owed = evaluator is not None and (evaluator.begins or job.owes_evaluation)

    def send_state() -> None:
        now = state()
        now.state["owes_evaluation"] = owed
        send(now)

    paused_for = 0
    while shared.command == Command.run:
        beat()
        if shared.pauses_asked > paused_for:
            paused_for = shared.pauses_asked
            send_state()
            _wait_for_release(shared, paused_for)
        elif evaluator and owed:
            owed = not _evaluated(evaluator, shared, send)
        elif limit_reached(config, shared.counters()):
            shared.command = Command.stop
        else:
            shared.begin()
            before = shared.counters()
            yield before
            after = shared.counters()
            owed = evaluator is not None and (
                bool(limit_reached(config, after)) or due(config.evaluation.every_steps, before.steps, after.steps)
            )
    send_state()


def _wait_for_release(shared: SharedState, pause: int) -> None:
    """Wait until the parent has collected all states for the checkpoint."""
    while shared.pauses_released < pause and shared.command == Command.run:
        beat()
        time.sleep(PAUSE_POLL_S)


def _evaluated(evaluator: Evaluator, shared: SharedState, send: Send) -> bool:
    """Evaluate and send the summary. Returns False, without any row, if the parent says stop meanwhile.

    The clock of training stands meanwhile: with async, evaluations run next to training."""
    shared.hold()

    def leave_if_stopped() -> None:
        if shared.command != Command.run:
            raise _Stopped

    try:
        with checking(leave_if_stopped):
            summary = evaluator.evaluate(shared, shared.counters())
    except _Stopped:
        return False
    send(summary)
    return True


class _Stopped(Exception):
    """The parent said stop during an evaluation."""
