"""The program behind src/run.py as `ablate.api` starts it. If its caller ends, it stops with a checkpoint."""

import os
import signal
import sys

from ablate.parallel.machine import die_with_parent
from ablate.records.caller import CALLER

if __name__ == "__main__":  # spawned processes import this file too
    die_with_parent(int(os.environ[CALLER].partition(":")[0]), signal.SIGTERM)
    from ablate.cli.train import program

    sys.argv[0] = "src/run.py"  # for the manifest
    sys.exit(program())
