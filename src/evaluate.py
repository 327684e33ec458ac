"""Play a saved run:  python src/evaluate.py run=<folder or checkpoint> episodes=100 video=true"""

import sys

if __name__ == "__main__":  # spawned processes import this file too
    from door import enter

    sys.exit(enter("ablate.cli.evaluate:program"))
