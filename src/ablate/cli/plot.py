"""Redraw figures from CSV files only:  python src/plot.py <folder> [<folder> ...]

For a run this is its learning curve; for a sweep all figures, the tables, verdict.md and report.html."""

import argparse
import signal
from pathlib import Path

from ablate.analysis.figures import learning_curve
from ablate.analysis.load import load_run, load_sweep
from ablate.analysis.report import write_report
from ablate.analysis.summary import summarise
from ablate.cli.messages import tell
from ablate.config.schema import ConfigError
from ablate.paths import locate
from ablate.records.schema import LEARNING_CURVE, STUDY
from ablate.records.terminal import print_if_read


def main() -> int:
    """Redraw all folders and print the path of each file. Returns the exit code, the first that is not 0."""
    parser = argparse.ArgumentParser(description="Redraw the figures of runs and sweeps from their CSV files.")
    parser.add_argument("folders", nargs="+", metavar="folder", help="folder of a run or a sweep (or run=<folder>)")
    try:
        codes = [_redrawn(argument) for argument in parser.parse_args().folders]
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return next(filter(None, codes), 0)


def _redrawn(argument: str) -> int:
    """Redraw one folder; print an error in one line, so that it costs no other folder. Returns the exit code."""
    try:
        paths = redraw(locate(argument.removeprefix("run=")))
    except (ConfigError, OSError) as error:
        return tell(error)
    for path in paths:
        print_if_read(str(path))  # `| head` must not cost the next folders
    return 0


def redraw(folder: Path) -> list[Path]:
    """Draw the figures of a run or a sweep. Returns their paths."""
    if (folder / STUDY).is_file():
        return write_report(summarise(load_sweep(folder)))
    learning_curve(load_run(folder), folder / LEARNING_CURVE)
    return [folder / LEARNING_CURVE]
