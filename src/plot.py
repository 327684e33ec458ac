"""Redraw the figures of runs from their CSV files:  python src/plot.py <run folder> [<run folder> ...]"""

import argparse
import sys

from ablate.analysis.figures import learning_curve
from ablate.analysis.load import load_run
from ablate.config import ConfigError, locate
from ablate.records.schema import LEARNING_CURVE


def main() -> int:
    """Print each figure's path. Exit code 2 if a folder could not be drawn; the others are."""
    parser = argparse.ArgumentParser(description="Redraw the figures of runs from their CSV files.")
    parser.add_argument("folders", nargs="+", metavar="folder", help="a run's folder (or run=<folder>)")
    failed = False
    for argument in parser.parse_args().folders:
        folder = locate(argument.removeprefix("run="))
        try:
            learning_curve(load_run(folder), folder / LEARNING_CURVE)
            print(folder / LEARNING_CURVE)
        except (ConfigError, OSError) as error:
            print(error, file=sys.stderr)
            failed = True
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
