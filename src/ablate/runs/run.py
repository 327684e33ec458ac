"""Train one planned run in its folder, and raise an exception if it does not complete."""

from __future__ import annotations

import sys
from pathlib import Path

from ablate.config.derived import limit_reached
from ablate.config.schema import ConfigError
from ablate.parallel.signals import Interrupted, Signals
from ablate.parallel.supervisor import ChildFailed
from ablate.records.manifest import lock_run, note_resume, read_status, write_manifest
from ablate.records.schema import CHECKPOINTS, EPISODES, EVALUATIONS, MANIFEST, STATUS, UPDATES
from ablate.runs.checkpoints import owes_evaluation
from ablate.runs.console import resume_command
from ablate.runs.plan import Resolved
from ablate.runs.training import Training
from ablate.types import Counters


class RunFailed(Exception):
    """A run, a cell or a sweep failed. The message is the reason."""


def refuse_used(folder: Path) -> None:
    """Raise ConfigError if the folder holds a run, or files in the places of ours: a new run would overwrite them."""
    if (folder / MANIFEST).exists():
        raise ConfigError(f"{folder}: it holds a run already; resume={folder} continues it")
    for name in (STATUS, EPISODES, UPDATES, EVALUATIONS, CHECKPOINTS):
        if (folder / name).exists():
            raise ConfigError(f"{folder}: it has a {name}, but no {MANIFEST}; a new run needs a folder of its own")


def run(resolved: Resolved, folder: Path, overrides: list[str]) -> None:
    """Train to the end and write the run's files in `folder`.

    Raises RunFailed if a process fails or the records cannot be written, Interrupted after a signal."""
    if resolved.new:
        refuse_used(folder)
    try:
        with Signals() as signals:
            if resolved.new:
                folder.mkdir(parents=True, exist_ok=True)
            with lock_run(folder) as still_there:
                if resolved.new:
                    refuse_used(folder)  # again: another run may have started here since
                    write_manifest(folder, resolved.config, sys.argv, overrides)
                training = Training(resolved, folder) if resolved.new else _resume(resolved, folder)
                if training is None:
                    return
                try:
                    training.run(signals)
                finally:
                    if not still_there():
                        raise RunFailed(f"{folder}: the folder is gone: it was moved or deleted during the training")
                training.report()
    except ChildFailed as failure:
        raise RunFailed(f"{failure}\ncontinue with: {resume_command(folder)}") from failure
    except BrokenPipeError:  # `| head`: the reader of the output is gone
        raise
    except OSError as error:
        raise RunFailed(f"the records could not be written: {error}") from error
    if training.interrupted_by is not None:
        raise Interrupted(training.interrupted_by)


def _resume(resolved: Resolved, folder: Path) -> Training | None:
    """The training to continue; None if the run has already reached its limit and owes no evaluation."""
    counters = Counters(**resolved.resumed.state["counters"]) if resolved.resumed else Counters()
    reached = limit_reached(resolved.config, counters)
    if not reached or owes_evaluation(resolved.resumed):
        note_resume(folder, resolved.config, sys.argv, counters)
        return Training(resolved, folder)
    if read_status(folder).get("state") == "completed":
        print(f"nothing to do: {reached}; a larger limit with resume= trains longer")
    else:  # killed between its last checkpoint and its last status
        training = Training(resolved, folder)
        training.end("completed", reached)
        training.report()
    return None
