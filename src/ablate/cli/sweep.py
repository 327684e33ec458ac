"""A sweep that runs or has ended, from any shell:  python src/sweep.py status|watch|collect|stop <folder>"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NoReturn

from ablate.analysis.load import Sweep, load_sweep
from ablate.analysis.summary import judged, summarise
from ablate.analysis.terminal import result_lines
from ablate.cli.detached import called
from ablate.cli.hydra_app import exit_code
from ablate.cli.status import status
from ablate.config.choices import Until
from ablate.config.schema import ConfigError
from ablate.parallel.machine import is_locked
from ablate.paths import OUTPUTS, locate, shown
from ablate.records.files import is_file
from ablate.records.schema import CELL, ENDED, REPORT, STATUS, STUDY, SWEEP_LOG, VERDICTS, cell_folder
from ablate.records.study_file import read_study
from ablate.records.terminal import PlainConsole
from ablate.runs.run import RunFailed
from ablate.sweeps.cell import STOP
from ablate.sweeps.detached import lives, read_detached
from ablate.sweeps.run import judge
from ablate.sweeps.search import TRIALS

POLL_S = 0.3


def main() -> None:
    parser = argparse.ArgumentParser(description="A sweep that runs or has ended.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="status|watch|collect|stop")
    for name, what in (
        ("status", "show a heat map of its arms and seeds"),
        ("watch", "follow a detached sweep to its end; exits with its exit code"),
        ("collect", "the verdicts if all cells have ended, else what is missing; waits for nothing"),
        ("stop", "end it: running cells write checkpoints, and its command continues it"),
    ):
        command = commands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
        command.add_argument("folder", help="the sweep's folder, or its name")
    arguments = parser.parse_args()
    by_name = OUTPUTS / "sweeps" / arguments.folder
    folder = by_name if by_name.is_dir() else locate(arguments.folder)
    trials = folder / TRIALS
    if (trials / STUDY).exists():
        if arguments.command == "status":
            status(trials, PlainConsole())
        if runs(trials) or not (folder / STUDY).exists():  # the search still goes on
            folder = trials
    read_study(folder)  # raises if it is not a sweep's folder
    if arguments.command == "status":
        return None if folder == trials else status(folder, PlainConsole())
    return {"watch": watch, "collect": collect, "stop": stop}[arguments.command](folder)


def watch(folder: Path) -> None:
    """Print the output of a detached sweep until it ends. Ctrl-C leaves it running.

    Raises SystemExit with the sweep's exit code, ConfigError if the sweep was not detached, RunFailed if it was
    killed."""
    if (started := read_detached(folder)) is None or not is_file(folder / SWEEP_LOG):
        how = f"it runs in a terminal; {called('status')} shows its cells" if runs(folder) else "nothing runs in it"
        raise ConfigError(f"{folder}: no detached sweep (sweep.detach=true); {how}")
    with (folder / SWEEP_LOG).open("rb") as log:
        log.seek(started.log_from)
        try:
            while True:
                running = lives(folder)  # before the last lines are read
                sys.stdout.buffer.write(log.read())
                sys.stdout.buffer.flush()
                if not running:
                    break
                time.sleep(POLL_S)
        except KeyboardInterrupt:
            print(f"the sweep runs on; {called('stop')} {shown(folder)} ends it", file=sys.stderr)
            raise
    ended = read_detached(folder)
    if ended is None or ended.exit_code is None:
        raise RunFailed(f"the sweep's process was killed; to continue: {_command(folder)}")
    raise SystemExit(ended.exit_code)


def collect(folder: Path) -> None:
    """Print the verdicts if all cells have ended, or else what is missing. Waits for nothing.

    Without all of its cells a study is not judged: a look at a part of them would be a second verdict.
    Raises SystemExit with 1 if a cell has not completed."""
    sweep = load_sweep(folder)
    states = Counter(sweep.cells["state"])
    others = ", ".join(f"{number} {state}" for state, number in sorted(states.items()) if state != "completed")
    counts = f"{states['completed']} of {len(sweep.cells)} cells completed{', ' * bool(others)}{others}"
    if runs(folder):
        _incomplete(f"it still runs: {counts}; {called('watch')} {shown(folder)} follows it")
    if not states.keys() <= set(ENDED) or not states["completed"]:
        _incomplete(f"{counts}; to run the others: {_command(folder)}")
    if _is_judged(sweep):
        for line in result_lines(summarise(sweep)):
            print(line)
        print(f"report    {shown(folder / REPORT)}")
    else:  # its process was killed before it could judge
        judge(folder)
    if states["failed"]:
        first = "remove their folders, and then " * (sweep.study.until is Until.decided)
        _incomplete(f"{counts}; to run them again: {first}{_command(folder)}")
    if sweep.study.has_trials:
        _incomplete(f"these are a search's trials, and it has made no comparison yet; to go on: {_command(folder)}")
    if more := [verdict.id for verdict in judged(sweep) if verdict.wants_seeds]:
        _incomplete(f"{', '.join(more)} may be settled by more seeds; to run them: {_command(folder)}")


def _incomplete(what: str) -> NoReturn:
    print(what, file=sys.stderr)
    raise SystemExit(1)


def stop(folder: Path) -> None:
    """End the sweep, or what a killed one has left on a cluster: running cells write checkpoints. Waits for the end.

    The request is a file, which every process of the sweep sees on any machine; the next start removes it. No process
    is named by its id, which could be another's by now: whether something runs is known by its locks."""
    (folder / STOP).touch()  # also if nothing runs: jobs of a killed sweep may be queued
    if not runs(folder):
        more = "; its search, if it is between two batches, ends before the next" * read_study(folder).has_trials
        print(f"nothing runs in {shown(folder)}{more}")
        return
    print("stopping: running cells write their checkpoints", flush=True)
    while runs(folder):
        time.sleep(POLL_S)
    print(f"stopped; to continue: {_command(folder)}")


def runs(folder: Path) -> bool:
    """Whether a sweep runs in the folder, or cells of a killed sweep."""
    study = read_study(folder)
    cells = [cell_folder(folder, arm, seed) for arm in study.arms for seed in study.seeds]
    return is_locked(folder) or lives(folder) or any(map(is_locked, cells))


def _command(folder: Path) -> str:
    """The sweep's command, as it can be typed again, for all of its arms and seeds."""
    study = read_study(folder)
    program, *arguments = study.provenance.command
    seeds = f"sweep.seeds={','.join(map(str, study.seeds))}"
    if not study.has_trials:  # whose seeds are those of the tuning
        arguments = [seeds if a.startswith(("seed=", "sweep.seeds=")) else a for a in arguments]
    arguments = [argument for argument in arguments if not argument.startswith("sweep.only=")]
    return shlex.join([*(["python", program] if program.endswith(".py") else program.split()), *arguments])


def _is_judged(sweep: Sweep) -> bool:
    """Whether the report is of these cells: it is written after verdict.md, and both after all cells have ended."""
    folder = sweep.folder
    cells = [cell_folder(folder, arm, seed) for arm, seed in zip(sweep.cells["arm"], sweep.cells["seed"], strict=True)]
    made_of = [folder / STUDY, *(cell / name for cell in cells for name in (CELL, STATUS))]
    times = [max(map(_changed, made_of)), _changed(folder / VERDICTS), _changed(folder / REPORT)]
    return times == sorted(times)


def _changed(path: Path) -> float:
    """When the file was last written; 0 if there is none."""
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0


def program() -> int:
    """Run `main` and return its exit code."""
    return exit_code(main)
