"""Build the replay that a configuration describes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ablate.config.choices import Storage
from ablate.config.schema import PrioritizedConfig, ReplayConfig
from ablate.replay.prioritized import PrioritizedReplay
from ablate.replay.store import FrameStore
from ablate.replay.transitions import Replay
from ablate.replay.uniform import UniformReplay
from ablate.types import EnvSpec

FRAMES = "replay.frames"  # the file of replay.storage=memmap; its name is removed as soon as it is open


def make_replay(
    config: ReplayConfig,
    spec: EnvSpec,
    environments: int,
    n_step: int,
    gamma: float,
    rng: np.random.Generator,
    folder: Path,
) -> Replay:
    """An empty replay for this number of environments. With replay.storage=memmap its file is in `folder`."""
    stack, *frame = spec.observation_shape if len(spec.observation_shape) == 3 else (1, *spec.observation_shape)
    file = folder / FRAMES if config.storage == Storage.memmap else None
    store = FrameStore(config.capacity, environments, stack, tuple(frame), spec.observation_dtype, file)
    if isinstance(config, PrioritizedConfig):
        return PrioritizedReplay(store, config, n_step, gamma, rng)
    return UniformReplay(store, n_step, gamma, rng)
