"""Judge runs of other programs:  python src/judge.py <study.yaml> --runs <folder or CSV file>"""

import sys

if __name__ == "__main__":
    from door import enter

    sys.exit(enter("ablate.cli.judge:main"))
