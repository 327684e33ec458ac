"""A sweep that runs or has ended, from any shell:  python src/sweep.py status|watch|collect|stop <folder>"""

import sys

if __name__ == "__main__":
    from door import enter

    sys.exit(enter("ablate.cli.sweep:program"))
