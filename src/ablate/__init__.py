"""Ablation sweeps of A3C and DQN. `ablate.Policy` is a saved policy as a plain object."""

import ablate.algos  # noqa: F401  # registers them: a configuration that names one can be read from anywhere
from ablate.play.policy import Policy

__all__ = ["Policy"]
