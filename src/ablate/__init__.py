"""Ablation sweeps of A3C and DQN. `ablate.Policy` is a saved policy as a plain object."""

from ablate.play.policy import Policy

__all__ = ["Policy"]
