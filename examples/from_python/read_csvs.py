"""Read a sweep's CSV files with pandas alone: the mean return of each arm's last evaluation.

python examples/from_python/read_csvs.py outputs/sweeps/<name>"""

import sys
from pathlib import Path

import pandas as pd

tables = []
for path in sorted(Path(sys.argv[1]).glob("*/seed=*/evaluations.csv")):
    arm, seed = path.parts[-3], int(path.parts[-2].removeprefix("seed="))
    tables.append(pd.read_csv(path).assign(arm=arm, seed=seed))  # a row per evaluation episode
evaluations = pd.concat(tables)

last = evaluations[evaluations["evaluation"] == evaluations.groupby(["arm", "seed"])["evaluation"].transform("max")]
by_seed = last.groupby(["arm", "seed"])["episodic_return"].mean()  # seeds, not episodes, are the sample
print(by_seed.groupby("arm").agg(["count", "mean", "std"]).to_string())
