"""A run while it trains, seen from the parent: messages to records, checkpoints, status, signals.

Knows no algorithm's inside and does not import torch."""

from __future__ import annotations

import math
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ablate.algos.job import Role, WorkerJob, make_exchange, roles
from ablate.config.derived import limit_reached
from ablate.config.schema import DQNConfig
from ablate.config.serial import to_dict
from ablate.parallel.shared import Command, SharedState
from ablate.parallel.signals import Interrupted, Signals
from ablate.parallel.supervisor import Child, ChildFailed, Supervisor
from ablate.play.evaluator import frozen_normalisation
from ablate.records.checkpoint import Checkpoint, write_checkpoint
from ablate.records.csv_writer import CsvWriter
from ablate.records.display import Progress, ProgressDisplay
from ablate.records.files import remove_temporaries
from ablate.records.manifest import write_status
from ablate.records.recorder import Recorder, trim_to_checkpoint
from ablate.records.schema import EVALUATIONS, LAST_CHECKPOINT, REPLAY_FILES
from ablate.runs.console import announcement, report, title
from ablate.runs.plan import Plan
from ablate.schedules import epsilon
from ablate.types import (
    Counters,
    EpisodeRecord,
    EvaluationSummary,
    Experience,
    ProcessState,
    QUpdateRecord,
    Records,
    UpdateRecord,
)

POLL_S = 0.1
LOADED_COUNT = 1e6  # observations that a loaded running normalisation counts as: its start is forgotten by then
HEARTBEAT_S = 2.0


class Training:
    """The parent's side of a run while it trains: messages to records, checkpoints, status, signals."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        config, resumed = plan.config, plan.resumed
        self.plan, self.folder, self._config = plan, folder, config
        self.interrupted_by: int | None = None
        trainers = roles(config)
        has_test_process = config.schedule == "async" and (
            config.evaluation.every_seconds is not None or config.evaluation.every_steps is not None
        )
        self.shared = SharedState(
            plan.parameters.size,
            len(config.optimizer.statistics),
            len(trainers) + has_test_process,
            config.workers or 1,
        )
        self._exchange = make_exchange(config, plan.spec) if config.algo.name == "dqn" and len(trainers) > 1 else None
        self.shared.parameters_view()[:] = plan.parameters
        if plan.normalisation is not None:
            self.shared.normalisation_view()[:] = (*plan.normalisation, LOADED_COUNT)
        self._starts = 0
        self._evaluations_done = 0
        if resumed:
            self._restore(resumed)
        self._names = [role.name for role in trainers]
        self._children = [self._trainer(i, role) for i, role in enumerate(trainers)]
        if has_test_process:
            arguments = (config, plan.spec, folder, self.shared, len(trainers), self._evaluations_done)
            self._children.append(Child("test process", "ablate.play.evaluator", "test_process", arguments))
        self._states: dict[str, ProcessState] = {}  # the last that each worker process sent
        self._held: list[tuple[str, Any]] = []  # records of slices, for their turn
        self._heard_until: dict[str, int] = {}  # by worker process: later records of it come after this step
        self._pausing: set[str] | None = None  # worker processes whose state a checkpoint waits for
        counters = self.shared.counters()
        remove_temporaries(folder)
        self._dropped = trim_to_checkpoint(folder, counters.episodes, counters.updates, self._evaluations_done)
        CsvWriter(folder / EVALUATIONS).close()  # its header; the rest is written where evaluations are played
        self._recorder = Recorder(folder, config.algo.name, config.logger.tensorboard, config.max_episodes)
        self._recorder.episodes = counters.episodes
        self._recorder.moving_average = resumed.state["moving_average"] if resumed else None

    def _restore(self, resumed: Checkpoint) -> None:
        state = resumed.state
        self.shared.set_counters(Counters(**state["counters"]))
        self.shared.elapsed_before = state["wall_time_s"]
        for name, view in zip(self._config.optimizer.statistics, self.shared.statistics_views(), strict=True):
            view[:] = resumed.tensors[name]
        if "normalisations" in resumed.tensors:
            self.shared.normalisation_view()[:] = resumed.tensors["normalisations"]
        actor = state["workers"].get("1", {}) if self._exchange else {}
        if self._exchange and actor["begun"] and actor["env"] is not None:
            block = [resumed.tensors[f"worker.1.block.{name}"] for name in Experience._fields]
            self._exchange.restore(Experience(*block))
        self._starts = state["starts"] + 1
        self._evaluations_done = state["evaluations_done"]

    def _trainer(self, process: int, role: Role) -> Child:
        config, resumed = self._config, self.plan.resumed
        states: dict[int, ProcessState] = {}
        turn = 0
        if resumed:
            turn = resumed.state["turns"][process]
            for k in role.members:
                prefix = f"worker.{k}."
                own = {n.removeprefix(prefix): array for n, array in resumed.tensors.items() if n.startswith(prefix)}
                states[k] = ProcessState(resumed.state["workers"][str(k)], own)
        evaluates = config.schedule == "interleaved" and config.evaluation.every_steps is not None
        job = WorkerJob(
            config=config,
            spec=self.plan.spec,
            folder=self.folder,
            shared=self.shared,
            process=process,
            workers=role.members,
            evaluates=evaluates,
            resumed=states,
            turn=turn,
            evaluations_done=self._evaluations_done,
            starts=self._starts,
            exchange=self._exchange,
        )
        module = "ablate.algos." + (
            "dqn.learner"
            if config.algo.name == "dqn"
            else "a3c.compiled"
            if config.backend == "compiled"
            else "a3c.worker"
        )
        return Child(role.name, module, role.function, (job,))

    def run(self, signals: Signals) -> None:
        """Train until a limit, a signal or a failure, and say so in status.json. No process of the run is left then."""
        write_status(self.folder, "running", "", self._counters())
        try:
            self._train(signals)
        except Interrupted as interrupt:
            self.end("interrupted", f"{interrupt} a second time: stopped at once, the last checkpoint stays")
            raise
        except ChildFailed as failure:
            self.end("failed", str(failure).splitlines()[0])
            raise
        except OSError as error:
            self.end("failed", f"the records could not be written: {error}")
            raise
        except BaseException as error:
            self.end("failed", f"{type(error).__name__}: {error}")
            raise
        finally:
            remove_temporaries(self.folder)  # of a process that was killed as it wrote

    def _train(self, signals: Signals) -> None:
        config = self._config
        display = ProgressDisplay(
            mode=str(config.logger.display),
            print_every_seconds=config.logger.print_every_seconds,
            title=title(config),
            max_episodes=config.max_episodes,
            total_steps=config.total_steps,
        )
        with display:
            plan = self.plan
            for line in announcement(config, self.folder, plan.resumed, plan.backend, plan.replay, self._dropped):
                display.line(line)
            with Supervisor(self._children, self.shared, config.hang_timeout_s) as supervisor:
                self._loop(supervisor, display, signals)
            if len(self._states) == len(self._names):  # else a signal came before training began
                self._write_checkpoint()
            self._recorder.close()
            if reached := limit_reached(config, self._counters()):
                self.end("completed", reached)
            else:  # nothing but a signal stops a run before its limit
                assert signals.received is not None
                self.interrupted_by = signals.received
                self.end("interrupted", signal.Signals(signals.received).name)

    def _loop(self, supervisor: Supervisor, display: ProgressDisplay, signals: Signals) -> None:
        config, shared = self._config, self.shared
        heartbeat = time.monotonic()
        compilation_shown = False
        checkpointed = -config.checkpoint_every_seconds  # the first one as soon as the workers are up
        while supervisor.running:
            self._handle_all(supervisor)
            now = time.monotonic()
            if signals.received is not None and not shared.began:
                return  # imports and compilation look at no command, and there is nothing to save
            if signals.received is not None and shared.command == Command.run:
                display.line("stopping: a checkpoint is being written (a second signal stops at once)")
                shared.command = Command.stop
            if not supervisor.running & set(self._names):
                if signals.received is not None:
                    return  # without waiting for the test process
                if shared.command == Command.stop and supervisor.running:
                    self._write_checkpoint()  # what happens to the last evaluation does not touch it
                    display.line("trained; the last evaluation is under way (Ctrl-C skips it)")
                shared.command = Command.finish
            elif self._pausing is not None and not self._pausing:
                self._pausing, checkpointed = None, now
                for name, record in sorted(self._released(math.inf), key=_step_of):  # all workers stand still
                    self._handle(name, record)
                checkpoint = self._checkpoint()
                shared.release_pause()
                self._recorder.flush()
                self._keep(checkpoint)
            elif self._pausing is None and (
                now - checkpointed > config.checkpoint_every_seconds and shared.command == Command.run
            ):
                self._pausing = set(self._names)
                shared.ask_pause()
            if shared.compiles and not shared.began and not compilation_shown:
                compilation_shown = True
                display.line("note     compiling the kernels for this kind of environment, once: some 15 s")
            if now - heartbeat > HEARTBEAT_S:
                heartbeat = now
                write_status(self.folder, "running", "", self._counters())
            display.update(self._progress())

    def _handle_all(self, supervisor: Supervisor) -> None:
        """What the workers sent since the last look, in the order in which it happened; also before a failure."""
        batch: list[tuple[str, Any]] = []
        until = math.inf  # before a failure: all that there is
        try:
            for name, message in supervisor.messages(POLL_S):
                if isinstance(message, Records):
                    self._held += [(name, part) for part in message.unpacked()]
                    self._heard_until[name] = message.global_step
                else:
                    batch.append((name, message))
                    self._heard_until[name] = self.shared.counters().steps
            still_to_come = [self._heard_until.get(name, 0) for name in supervisor.running & set(self._names)]
            until = min(still_to_come, default=math.inf)
        finally:
            batch += self._released(until)
            for name, message in sorted(batch, key=_step_of):
                self._handle(name, message)

    def _released(self, until: float) -> list[tuple[str, Any]]:
        """The records up to this step: another process's slice may hold earlier ones than those behind it."""
        released = [named for named in self._held if _step_of(named) <= until]
        self._held = [named for named in self._held if _step_of(named) > until]
        return released

    def _handle(self, name: str, message: Any) -> None:
        match message:
            case EpisodeRecord():
                self._recorder.episode(message)
            case UpdateRecord() | QUpdateRecord():
                self._recorder.update(message)
            case EvaluationSummary():
                self._evaluations_done = message.evaluations
                self._recorder.evaluation(message)
            case ProcessState():
                self._states[name] = message
                if self._pausing is not None:
                    self._pausing.discard(name)

    def _counters(self) -> Counters:
        """The totals, with the episodes that were recorded."""
        return self.shared.counters()._replace(episodes=self._recorder.episodes)

    def _progress(self) -> Progress:
        updates, steps, episodes = self._counters()
        recorder = self._recorder
        return Progress(
            episodes=episodes,
            steps=steps,
            updates=updates,
            elapsed_s=self.shared.wall_time_s(),
            moving_average=recorder.moving_average,
            episodic_return=recorder.episodic_return,
            evaluation=recorder.mean_evaluation,
            staleness=recorder.staleness,
            epsilon=epsilon(self._config.algo, steps) if isinstance(self._config.algo, DQNConfig) else None,
        )

    def _checkpoint(self) -> Checkpoint:
        """Everything as it stands, copied: all worker processes wait or have ended."""
        statistics = zip(self._config.optimizer.statistics, self.shared.statistics_views(), strict=True)
        tensors = {"parameters": self.shared.parameters_view().copy()}
        tensors |= {name: view.copy() for name, view in statistics}
        if (normalisation := frozen_normalisation(self.shared)) is not None:
            tensors |= {"normalisations": self.shared.normalisation_view().copy(), "normalisation": normalisation}
        workers: dict[str, Any] = {}
        for state in self._states.values():
            tensors |= state.tensors
            workers |= state.state["workers"]
        return Checkpoint(
            tensors,
            {
                "config": to_dict(self._config),
                "env_spec": asdict(self.plan.spec),
                "counters": self._counters()._asdict(),
                "wall_time_s": self.shared.wall_time_s(),
                "moving_average": self._recorder.moving_average,
                "evaluations_done": self._evaluations_done,
                "starts": self._starts,
                "turns": [self._states[name].state["turn"] for name in self._names],
                "workers": workers,
            },
        )

    def _write_checkpoint(self) -> None:
        self._recorder.flush()
        self._keep(self._checkpoint())

    def _keep(self, checkpoint: Checkpoint) -> None:
        """Write the checkpoint; replays that were saved beside earlier ones are gone then.

        Not a later one: the learner may be at its end already, with its last replay written."""
        write_checkpoint(self.folder / LAST_CHECKPOINT, checkpoint)
        for path in (self.folder / LAST_CHECKPOINT).parent.glob(REPLAY_FILES):
            if int(path.stem.rpartition("-")[2]) < checkpoint.state["counters"]["steps"]:
                path.unlink()

    def end(self, state: str, reason: str) -> None:
        """Leave the last status; on a full disk the old one stays."""
        try:
            write_status(self.folder, state, reason, self._counters())
        except OSError as error:
            print(f"status.json could not be written: {error}", file=sys.stderr)

    def report(self) -> None:
        """Draw the figure, and say what was done and where it is."""
        interrupted = self.interrupted_by is not None
        report(self._config, self.folder, self._counters(), self.shared.wall_time_s(), interrupted)


def _step_of(named: tuple[str, Any]) -> float:
    """A message's place in time; what has none comes last, as its sender sent it after the others."""
    return getattr(named[1], "global_step", math.inf)
