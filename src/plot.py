"""Redraw figures from CSV files only:  python src/plot.py <folder> [<folder> ...]"""

import sys

from ablate.cli.plot import main

if __name__ == "__main__":
    sys.exit(main())
