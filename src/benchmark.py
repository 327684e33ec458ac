"""Measure speed with one command:  python src/benchmark.py [a3c|compiled|arms|atari|dqn|dqn_classic|learning]"""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    from door import enter

    # forking.ONE_THREAD: it must be set before numpy and torch are imported, and that module imports numpy
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
    sys.path.insert(1, str(Path(__file__).resolve().parents[1]))
    sys.exit(enter("benchmarks.main:main"))
