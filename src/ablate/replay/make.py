"""The replay of the configuration."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ablate.config.choices import Storage
from ablate.config.schema import Config, PrioritizedConfig
from ablate.replay.prioritized import PrioritizedReplay
from ablate.replay.store import FrameStore
from ablate.replay.transitions import Replay
from ablate.replay.uniform import UniformReplay
from ablate.types import EnvSpec

FRAMES = "replay.frames"  # the file of replay.storage=memmap, which has no name once it is open


def make_replay(
    config: Config, spec: EnvSpec, n_step: int, gamma: float, rng: np.random.Generator, folder: Path
) -> Replay:
    """An empty one for envs_per_worker environments, with its file, if it has one, in `folder`."""
    assert config.replay is not None
    stack, *frame = spec.observation_shape if len(spec.observation_shape) == 3 else (1, *spec.observation_shape)
    file = folder / FRAMES if config.replay.storage == Storage.memmap else None
    dtype = spec.observation_dtype
    store = FrameStore(config.replay.capacity, config.envs_per_worker, stack, tuple(frame), dtype, file)
    if isinstance(config.replay, PrioritizedConfig):
        return PrioritizedReplay(store, config.replay, n_step, gamma, rng)
    return UniformReplay(store, n_step, gamma, rng)
