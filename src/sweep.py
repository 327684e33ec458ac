"""Show the state of a sweep, during or after it:  python src/sweep.py status outputs/sweeps/<name>"""

import sys

if __name__ == "__main__":
    from door import enter

    sys.exit(enter("ablate.cli.status:program"))
