"""Train one run, or many with -m or a study:  python src/run.py algo=a3c env=pendulum workers=4"""

import sys

if __name__ == "__main__":  # workers are spawned, and import this file too
    from ablate.cli.train import program

    sys.exit(program())
