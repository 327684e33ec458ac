"""The parent process of a run that trains: it records messages, writes checkpoints and status, and handles signals.

It does not depend on the internals of any algorithm, and does not import torch."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Any

from ablate.algos.algorithm import Process
from ablate.algos.job import WorkerJob
from ablate.config.derived import limit_reached
from ablate.config.schema import ConfigError
from ablate.parallel.shared import Command, SharedState
from ablate.parallel.signals import Interrupted, Signals
from ablate.parallel.supervisor import Child, ChildFailed, Supervisor
from ablate.play.evaluator import Snapshot
from ablate.records.checkpoint import Checkpoint
from ablate.records.csv_writer import CsvWriter
from ablate.records.display import Progress, ProgressDisplay
from ablate.records.files import remove_temporaries
from ablate.records.logs import open_logs
from ablate.records.manifest import write_status
from ablate.records.recorder import Recorder, trim_to_checkpoint
from ablate.records.run_files import Status, read_manifest, refuse_changed_tables
from ablate.records.schema import EVALUATIONS, EndState, State
from ablate.runs.checkpoints import Checkpoints, owes_evaluation, restore_shared, states_of
from ablate.runs.console import announcement, report, title
from ablate.runs.plan import OLD_CHECKPOINT, Resolved
from ablate.runs.record_order import RecordOrder
from ablate.types import Counters, EpisodeRecord, EvaluationSummary, ProcessState

POLL_S = 0.1
LOADED_COUNT = 1e6  # a loaded running normalisation counts as this many observations, so that it changes slowly
HEARTBEAT_S = 2.0


class Training:
    """The parent's side of a run while it trains."""

    def __init__(self, run: Resolved, folder: Path) -> None:
        config, resumed = run.config, run.resumed
        self._run, self._config, self.folder = run, config, folder
        self.interrupted_by: int | None = None
        processes = run.algorithm.processes(config)
        has_test_process = config.schedule == "async" and (
            config.evaluation.every_seconds is not None or config.evaluation.every_steps is not None
        )
        self.shared = SharedState(
            run.parameters.size,
            len(config.optimizer.statistics),
            len(processes) + has_test_process,
            config.workers or 1,
        )
        self._exchange = run.algorithm.connect(config, run.spec)
        self.shared.parameters_view()[:] = run.parameters
        if run.normalisation is not None:
            self.shared.normalisation_view()[:] = (*run.normalisation, LOADED_COUNT)
        self._starts = self._evaluations_done = 0
        if resumed:
            restore_shared(run, resumed, self.shared)
            if self._exchange:
                run.algorithm.restore_connection(self._exchange, resumed.state["workers"], resumed.tensors)
            self._starts = resumed.state["starts"] + 1
            self._evaluations_done = resumed.state["evaluations_done"]
        self._trainers = {process.name for process in processes}
        self._children = [self._trainer(i, process) for i, process in enumerate(processes)]
        if has_test_process:
            start = Snapshot.of(self.shared, self.shared.counters())
            arguments = (config, run.spec, run.architecture, folder, self.shared, self._evaluations_done, start)
            self._children.append(Child("test process", "ablate.play.evaluator", "test_process", arguments))
        names = [process.name for process in processes]
        self._checkpoints = Checkpoints(run, folder, self.shared, names, self._starts)
        self._order = RecordOrder()
        self._evaluation_left = False  # schedule=async: the last evaluation is still to be made
        self._pausing: set[str] | None = None  # processes whose state a checkpoint waits for
        counters = self.shared.counters()
        remove_temporaries(folder)
        self._dropped = trim_to_checkpoint(folder, counters.episodes, counters.updates, self._evaluations_done)
        CsvWriter(folder / EVALUATIONS).close()  # only the header; the process that evaluates writes the rows
        record = run.algorithm.update_record
        first_step = None if run.new else counters.steps + bool(resumed)
        self._recorder = Recorder(folder, record, config.max_episodes, open_logs(folder, config, first_step))
        self._recorder.episodes = counters.episodes
        if resumed:
            self._recorder.moving_average = resumed.state["moving_average"]
            for episode in resumed.state.get("beyond", []):
                self._recorder.episode(EpisodeRecord(*episode))
                self.shared.count(steps=0, episodes=1, updates=0)

    def _trainer(self, index: int, process: Process) -> Child:
        config, resumed = self._config, self._run.resumed
        job = WorkerJob(
            config=config,
            spec=self._run.spec,
            architecture=self._run.architecture,
            folder=self.folder,
            shared=self.shared,
            members=process.members,
            evaluates=config.schedule == "interleaved" and config.evaluation.every_steps is not None,
            resumed=states_of(resumed, process.members) if resumed else {},
            turn=resumed.state["turns"][index] if resumed else 0,
            evaluations_done=self._evaluations_done,
            owes_evaluation=owes_evaluation(resumed),
            starts=self._starts,
            exchange=self._exchange,
        )
        return Child(process.name, process.module, process.function, (job,))

    def run(self, signals: Signals) -> None:
        """Train until a limit, a signal or a failure, and write the reason to status.json. Ends all child processes.

        Raises ConfigError if a table was moved, deleted or replaced meanwhile."""
        self._write_status("running", "")
        try:
            self._train(signals)
        except Interrupted as interrupt:
            self.end("interrupted", f"{interrupt} a second time: stopped at once, {OLD_CHECKPOINT}")
            raise
        except ChildFailed as failure:
            reason = str(failure).splitlines()[0]
            if signals.received is not None:  # Ctrl-C reaches all programs of the terminal, also an environment's
                reason = f"{signal.Signals(signals.received).name}: {OLD_CHECKPOINT}, because {reason}"
                print(f"interrupted by {reason}", file=sys.stderr)
                self.end("interrupted", reason)
                raise Interrupted(signals.received) from failure
            self.end("failed", reason)
            raise
        except OSError as error:
            self.end("failed", f"the records could not be written: {error}")
            raise
        except ConfigError as error:
            self.end("failed", str(error))
            raise
        except BaseException as error:
            self.end("failed", f"{type(error).__name__}: {error}")
            raise
        finally:
            remove_temporaries(self.folder)  # left by a process that was killed while it wrote

    def _train(self, signals: Signals) -> None:
        config = self._config
        display = ProgressDisplay(
            mode=str(config.logger.display),
            print_every_seconds=config.logger.print_every_seconds,
            title=title(self._run),
            max_episodes=config.max_episodes,
            total_steps=config.total_steps,
        )
        with display:
            for line in announcement(self._run, self.folder, self._dropped):
                display.line(line)
            with Supervisor(self._children, self.shared, config.hang_timeout_s) as supervisor:
                self._loop(supervisor, display, signals)
                self._evaluation_left = bool(supervisor.running)  # a signal came before the last evaluation was done
            if self._checkpoints.complete:  # else a signal came before training began
                self._write_checkpoint()
            self._recorder.close()
            reached = limit_reached(config, self._counters())
            if reached and not self._owes_evaluation:
                self.end("completed", reached)
            else:  # only a signal can end a run early
                assert signals.received is not None
                self.interrupted_by = signals.received
                self.end("interrupted", signal.Signals(signals.received).name)

    def _loop(self, supervisor: Supervisor, display: ProgressDisplay, signals: Signals) -> None:
        config, shared = self._config, self.shared
        heartbeat = time.monotonic()
        compilation_shown = False
        checkpointed = -config.checkpoint_every_seconds  # the first checkpoint is due when the workers have started
        while supervisor.running:
            self._handle_all(supervisor)
            now = time.monotonic()
            if signals.received is not None and not shared.began:
                return  # children don't check commands while they import and compile, and there is nothing to save
            if signals.received is not None and shared.command == Command.run:
                display.line("stopping: a checkpoint is being written (a second signal stops at once)")
                shared.command = Command.stop
            if not supervisor.running & self._trainers:
                if signals.received is not None:
                    return  # without waiting for the test process
                if shared.command == Command.stop and supervisor.running:
                    self._evaluation_left = True
                    self._write_checkpoint()  # before the last evaluation, which may fail
                    display.line("trained; the last evaluation is running (Ctrl-C leaves it to resume=)")
                shared.command = Command.finish
            elif self._pausing is not None and not self._pausing:
                self._pausing, checkpointed = None, now
                self._handle(self._order.everything())  # all processes that train are paused
                checkpoint = self._checkpoint()
                shared.release_pause()
                self._recorder.flush()
                self._checkpoints.write(checkpoint)
            elif self._pausing is None and (
                now - checkpointed > config.checkpoint_every_seconds and shared.command == Command.run
            ):
                self._pausing = set(self._trainers)
                shared.ask_pause()
            if shared.compiles and not shared.began and not compilation_shown:
                compilation_shown = True
                display.line("note     compiling the kernels for this kind of environment, once; this takes about 15 s")
            if now - heartbeat > HEARTBEAT_S:
                heartbeat = now
                self._write_status("running", "")
            display.update(self._progress())

    def _handle_all(self, supervisor: Supervisor) -> None:
        """Handle new messages in the order of their steps. If a child failed, first handle all messages sent before."""
        try:
            for name, message in supervisor.messages(POLL_S):
                self._order.add(name, message, self.shared.counters().steps)
        except BaseException:
            self._handle(self._order.everything())
            raise
        self._handle(self._order.due(supervisor.running & self._trainers))

    def _handle(self, messages: list[tuple[str, Any]]) -> None:
        for sender, message in messages:
            match message:
                case EpisodeRecord():
                    self._recorder.episode(message)
                case EvaluationSummary():
                    self._evaluations_done = message.evaluations
                    self._recorder.evaluation(message)
                case ProcessState():
                    self._checkpoints.note(sender, message)
                    if self._pausing is not None:
                        self._pausing.discard(sender)
                case _ if isinstance(message, self._run.algorithm.update_record):
                    self._recorder.update(message)
                case _:
                    raise TypeError(
                        f"{sender} sent a {type(message).__name__}, which is no record of {self._run.algorithm.name}"
                    )

    def _counters(self) -> Counters:
        """The shared totals, but with the number of recorded episodes."""
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
            figure=self._run.algorithm.progress(self._config, steps, recorder.last_updates),
        )

    @property
    def _owes_evaluation(self) -> bool:
        """Whether an evaluation was due and is not made: the last one of all, or one that a signal interrupted."""
        return self._evaluation_left or self._checkpoints.owes_evaluation

    def _checkpoint(self) -> Checkpoint:
        return self._checkpoints.make(self._counters(), self._recorder, self._evaluations_done, self._owes_evaluation)

    def _write_checkpoint(self) -> None:
        self._recorder.flush()
        self._checkpoints.write(self._checkpoint())

    def _write_status(self, state: State, reason: str) -> None:
        counters, tables = self._counters(), None
        if state == "completed":  # no table may have been moved, deleted or replaced while it was written
            ended = Status(state, reason, *counters, self._evaluations_done)
            tables = refuse_changed_tables(self.folder, read_manifest(self.folder), ended)
        write_status(self.folder, state, reason, counters, self._evaluations_done, tables)

    def end(self, state: EndState, reason: str) -> None:
        """Write the last status, and end the logs. If no status can be written (full disk), the old one stays.

        Raises ConfigError if the run has completed and its tables are not whole."""
        try:
            self._write_status(state, reason)
        except OSError as error:
            print(f"status.json could not be written: {error}", file=sys.stderr)
        self._recorder.end(state)

    def report(self) -> None:
        """Draw the figure. Print how long the run trained, and the paths of its files."""
        interrupted = self.interrupted_by is not None
        report(self._config, self.folder, self._counters(), self.shared.wall_time_s(), interrupted)
