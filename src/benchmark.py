"""Measure speed with one command:  python src/benchmark.py [a3c|compiled|arms|atari|dqn|learning]"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from benchmarks.main import main

    sys.exit(main())
