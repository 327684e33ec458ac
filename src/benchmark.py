"""Measure speed with one command:  python src/benchmark.py [a3c|compiled|arms|atari|dqn|learning]"""

import sys
from pathlib import Path

if __name__ == "__main__":
    from door import enter

    sys.path.insert(1, str(Path(__file__).resolve().parents[1]))
    sys.exit(enter("benchmarks.main:main"))
