"""A figure for a paper, 7 cm wide, as a PDF: each arm's mean evaluation over its seeds, with a 95 % interval.

python examples/from_python/paper_figure.py outputs/sweeps/<name> figure.pdf
The report has its own figures in <sweep>/figures; `ablate.Study(...).plot(name)` returns them for matplotlib."""

import sys

import matplotlib.pyplot as plt
from scipy import stats

import ablate

study = ablate.Study(sys.argv[1])
labels = study.summary.drop_duplicates("arm").set_index("arm")["label"]
scores = study.evaluations.groupby(["arm", "seed", "global_step"])["episodic_return"].mean().reset_index()

plt.rcParams.update({"font.size": 7, "axes.spines.top": False, "axes.spines.right": False})
figure, axis = plt.subplots(figsize=(7 / 2.54, 5 / 2.54), layout="constrained")
for arm, rows in scores.groupby("arm", sort=False):
    curve = rows.groupby("global_step")["episodic_return"].agg(["mean", "sem", "count"])
    curve = curve[curve["count"] == curve["count"].max()]  # steps at which all seeds were evaluated
    half = stats.t.ppf(0.975, curve["count"] - 1) * curve["sem"]
    axis.plot(curve.index, curve["mean"], label=labels[arm])
    axis.fill_between(curve.index, curve["mean"] - half, curve["mean"] + half, alpha=0.3)
axis.set(xlabel="environment steps", ylabel="return")
axis.legend(frameon=False)
figure.savefig(sys.argv[2])
