"""Ablation sweeps of A3C and DQN. `train` and `study` run them, `judge` judges runs of others.

`Run`, `Study` and `Policy` are what they leave."""

import ablate.algos  # noqa: F401  # registers them: a configuration that names one can be read from anywhere
from ablate.api import Run, Study, judge, study, train
from ablate.play.policy import Policy

__all__ = ["Policy", "Run", "Study", "judge", "study", "train"]
