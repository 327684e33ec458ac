"""Redraw figures from CSV files only:  python src/plot.py <folder> [<folder> ...]

For a run this is its learning curve; for a sweep all figures, the tables, verdict.md and report.html."""

import argparse
import sys
from pathlib import Path

from ablate.analysis.figures import learning_curve
from ablate.analysis.load import load_run, load_sweep
from ablate.analysis.report import write_report
from ablate.analysis.summary import summarise
from ablate.cli.messages import explain
from ablate.config.schema import ConfigError
from ablate.paths import locate
from ablate.records.schema import LEARNING_CURVE, STUDY


def main() -> int:
    """Redraw all folders and print the path of each file. Returns 2 if a folder could not be redrawn, else 0."""
    parser = argparse.ArgumentParser(description="Redraw the figures of runs and sweeps from their CSV files.")
    parser.add_argument("folders", nargs="+", metavar="folder", help="folder of a run or a sweep (or run=<folder>)")
    failed = False
    for argument in parser.parse_args().folders:
        try:
            for path in redraw(locate(argument.removeprefix("run="))):
                print(path)
        except (ConfigError, OSError) as error:
            print(explain(error), file=sys.stderr)
            failed = True
    return 2 if failed else 0


def redraw(folder: Path) -> list[Path]:
    """Draw the figures of a run or a sweep. Returns their paths."""
    if (folder / STUDY).is_file():
        return write_report(summarise(load_sweep(folder)))
    learning_curve(load_run(folder), folder / LEARNING_CURVE)
    return [folder / LEARNING_CURVE]
