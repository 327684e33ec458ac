"""Train one run, or many runs with -m or a study:  python src/run.py algo=a3c env=pendulum workers=4"""

import sys

if __name__ == "__main__":  # spawned processes import this file too
    from door import enter

    sys.exit(enter("ablate.cli.train:program"))
