"""How a sweep stands, while it runs or after:  python src/sweep.py status outputs/sweeps/<name>"""

import sys

from ablate.cli.status import program

if __name__ == "__main__":
    sys.exit(program())
