"""Run a saved run again from its manifest and compare the rows:  python src/run.py reproduce=<run or cell folder>"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import zip_longest
from pathlib import Path

from ablate.cli.arguments import import_named
from ablate.config.choices import Schedule
from ablate.config.schema import ConfigError
from ablate.config.serial import config_hash, read_config
from ablate.paths import OUTPUTS, locate, shown
from ablate.records.csv_writer import read_rows
from ablate.records.manifest import differences, provenance
from ablate.records.run_files import read_manifest, read_status
from ablate.records.schema import EPISODES, EVALUATIONS, MANIFEST, UPDATES, WALL_CLOCK_COLUMNS
from ablate.runs.plan import plan
from ablate.runs.run import RunFailed, new_folder, run

KEY = "reproduce="


def reproduce(arguments: Sequence[str]) -> None:
    """Train the run of the folder again, in a new folder, and compare its rows with those of the folder.

    Raises ConfigError if there is no completed run, RunFailed if a row differs."""
    given, *more = (argument for argument in arguments if argument.startswith(KEY))
    if others := more or [a for a in arguments if a != given and not a.startswith("plugins=")]:
        raise ConfigError(f"{others[0]}: {KEY} runs a manifest as it is; only plugins= may be given with it")
    path = given.removeprefix(KEY).strip("'\"")
    if not path:
        raise ConfigError(f"{given}: it is empty; give the folder of a run or a cell")
    folder = locate(path)
    import_named(arguments)  # a module that only the manifest names is refused below
    manifest = read_manifest(folder)
    status = read_status(folder)
    if status is None or status.state != "completed":
        raise ConfigError(
            f"{given}: its status is {status.state if status else 'missing'}; only a completed run can be compared"
        )
    config = read_config(folder / MANIFEST, manifest.config)
    for line in differences(asdict(manifest), provenance([])):
        print(f"note     {line}")
    for resume in manifest.resumes:
        for key, (before, after) in resume.changed.items():
            print(f"note     {key} was {before} up to step {resume.since.steps}; now it is {after} from the start")
    if config.schedule == Schedule["async"]:
        print("note     schedule=async: rows of processes that race differ from run to run")
    name = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{config_hash(config)}"
    planned = plan(replace(config, resume=None), [])
    with new_folder(OUTPUTS / "reproduced" / name, numbered=True) as (new, still_there):
        run(planned, new, manifest.overrides, still_there)
    different = [line for table in (EPISODES, UPDATES, EVALUATIONS) if (line := compare(folder, new, table))]
    if different:
        raise RunFailed(f"{shown(new)} differs from {shown(folder)}: {'; '.join(different)}")


def compare(folder: Path, new: Path, table: str) -> str:
    """The first difference between two runs' rows, apart from the clock; empty if there is none, which is printed.

    Raises ConfigError if a table cannot be read."""
    try:
        theirs, ours = read_rows(folder / table), read_rows(new / table)
    except (OSError, ValueError) as error:
        raise ConfigError(str(error)) from error
    if theirs.header != ours.header:
        return f"{table}: its columns are {theirs.header or 'missing'} there, {ours.header or 'missing'} here"
    columns = theirs.header.split(",")
    for number, (there, here) in enumerate(zip_longest(theirs.rows, ours.rows), start=1):
        if there is None or here is None:
            return f"{table}: {len(theirs.rows)} rows there, {len(ours.rows)} here"
        for column, *pair in zip(columns, there, here, strict=True):
            if column not in WALL_CLOCK_COLUMNS and pair[0] != pair[1]:
                return f"{table}: row {number} has {column}={pair[0]} there, {pair[1]} here"
    print(f"equal    {len(ours.rows)} rows of {table}, apart from the clock")
    return ""
