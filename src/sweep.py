"""Show the state of a sweep, during or after it:  python src/sweep.py status outputs/sweeps/<name>"""

import sys

from ablate.cli.status import program

if __name__ == "__main__":
    sys.exit(program())
