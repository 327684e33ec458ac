"""What several tests need: configurations from conf/, random rollouts, both backends over the same parameters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir

from ablate import command_line
from ablate.config import Config, validate
from ablate.nn.architecture import MlpArchitecture
from ablate.nn.distributions import make_distribution
from ablate.nn.gradients import BACKENDS, GradientComputer, LossSettings
from ablate.types import ActionSpec, Trajectory

ROOT = Path(__file__).resolve().parents[1]


def config_of(*overrides: str) -> Config:
    """The configuration that `python src/run.py <overrides>` would compose."""
    command_line.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return validate(compose("config", command_line.complete_arguments(list(overrides))))


def random_rollout(
    rng: np.random.Generator, size: int, action: ActionSpec, steps: int, terminated: bool, dtype: type = np.float64
) -> Trajectory:
    actions = (
        rng.integers(action.n, size=steps)
        if action.n is not None
        else rng.standard_normal((steps, len(action.low))).astype(dtype)
    )
    discounts = np.full(steps, 0.9, dtype)
    if terminated:
        discounts[-1] = 0.0
    observations = rng.standard_normal((steps + 1, size)).astype(dtype)
    return Trajectory(observations, actions, rng.standard_normal(steps).astype(dtype), discounts)


def computers(
    architecture: MlpArchitecture, action: ActionSpec, settings: LossSettings, dtype: torch.dtype, seed: int = 0
) -> dict[str, GradientComputer]:
    """Both backends with the same random parameters."""
    layout = architecture.layout()
    flat = np.zeros(layout.size)
    layout.initialise(flat, np.random.default_rng(seed), 0.1)
    made = {}
    for name, backend in BACKENDS.items():
        made[name] = backend(architecture, make_distribution(action), settings, "cpu", dtype)
        made[name].parameters.copy_(torch.from_numpy(flat))
    return made
