"""Train one planned run in its folder, and raise an exception if it does not complete."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ablate.config.derived import limit_reached
from ablate.config.schema import ConfigError
from ablate.parallel.signals import Interrupted, Signals
from ablate.parallel.supervisor import ChildFailed
from ablate.records.files import refuse_unwritable
from ablate.records.manifest import StillThere, lock_run, note_resume, write_manifest
from ablate.records.run_files import read_status
from ablate.records.schema import CHECKPOINTS, EPISODES, EVALUATIONS, MANIFEST, STATUS, UPDATES
from ablate.runs.checkpoints import owes_evaluation
from ablate.runs.console import resume_command
from ablate.runs.plan import Resolved
from ablate.runs.training import Training
from ablate.types import Counters


class RunFailed(Exception):
    """A run, a cell or a sweep failed. The message is the reason."""


@contextmanager
def new_folder(folder: Path, numbered: bool = False) -> Iterator[tuple[Path, StillThere]]:
    """Make the folder of a new run and lock it, before anything is written in it.

    numbered: take the next free name, <folder>_2, ..., if the folder exists. Raises ConfigError if the folder holds a
    run or files in the places of ours, or if nothing can be written in it; then nothing has changed."""
    if not os.path.exists(folder):  # else only when it is known to be ours
        refuse_unwritable(folder, "hydra.run.dir")
    candidate, number, made = folder, 2, False
    missing = [parent for parent in folder.parents if not os.path.exists(parent)]
    while not made:
        try:
            candidate.mkdir(parents=True)  # fails if the folder exists, even if another process has just made it
            made = True
        except FileExistsError as error:
            if not numbered and candidate.is_dir():
                break
            if not numbered:
                raise ConfigError(f"hydra.run.dir={folder}: it is no folder; give another one") from error
            candidate, number = folder.with_name(f"{folder.name}_{number}"), number + 1
        except OSError as error:
            for parent in missing:
                with suppress(OSError):  # another run has started in it
                    parent.rmdir()
            part = Path(error.filename).name  # of the folder's path, which is named already
            raise ConfigError(f"hydra.run.dir={folder}: it cannot be made ({part}: {error.strerror})") from error
    with lock_run(candidate) as still_there:
        if not made:
            refuse_used(candidate)
            refuse_unwritable(candidate, "hydra.run.dir")
        yield candidate, still_there


def refuse_used(folder: Path) -> None:
    """Raise ConfigError if the folder holds a run, or files in the places of ours: a new run would overwrite them."""
    if (folder / MANIFEST).exists():
        raise ConfigError(f"{folder}: it holds a run already; resume={folder} continues it")
    for name in (STATUS, EPISODES, UPDATES, EVALUATIONS, CHECKPOINTS):
        if (folder / name).exists():
            raise ConfigError(f"{folder}: it has a {name}, but no {MANIFEST}; a new run needs a folder of its own")


def run(resolved: Resolved, folder: Path, overrides: list[str], still_there: StillThere) -> None:
    """Train to the end and write the run's files in `folder`, which the caller has locked.

    still_there: of the lock. Raises RunFailed if a process fails or the records cannot be written, Interrupted after a
    signal."""
    try:
        with Signals() as signals:
            if resolved.new:
                write_manifest(folder, resolved.config, sys.argv, overrides)
            training = Training(resolved, folder) if resolved.new else _resume(resolved, folder)
            if training is None:
                return
            try:
                training.run(signals)
            except ConfigError as error:
                raise RunFailed(f"{error}; it was changed during the training") from error
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
    status = read_status(folder)
    if status is not None and status.state == "completed":
        print(f"nothing to do: {reached}; a larger limit with resume= trains longer")
    else:  # killed between its last checkpoint and its last status
        training = Training(resolved, folder)
        training.end("completed", reached)
        training.report()
    return None
