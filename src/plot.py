"""Redraw figures from CSV files only:  python src/plot.py <folder> [<folder> ...]"""

import sys

if __name__ == "__main__":
    from door import enter

    sys.exit(enter("ablate.cli.plot:main"))
