"""A saved policy as a plain object, for evaluation and for outside programs. No torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ablate.config import from_dict, locate
from ablate.nn.acting import Action, Actor
from ablate.nn.architecture import MlpArchitecture, architecture_of
from ablate.records.checkpoint import Checkpoint, find_checkpoint, read_checkpoint
from ablate.seeding import Role, generator
from ablate.types import EnvSpec


class Policy:
    """policy = Policy.load("outputs/runs/..."); action = policy.act(observation).

    act takes one raw observation of the environment and gives an action that the environment's step takes.
    Raises ValueError for an observation of another size."""

    def __init__(self, architecture: MlpArchitecture, spec: EnvSpec, sample: bool = False, seed: int = 0) -> None:
        self._parameters = np.zeros(architecture.layout().size, np.float32)
        self._actor = Actor(architecture, spec.action, self._parameters)
        self._observation_size = spec.observation_size
        self._sample = sample
        self.rng = generator(seed, Role.action)

    @classmethod
    def load(cls, path: str | Path, sample: bool = False, seed: int = 0) -> Policy:
        """From a checkpoint or a run's folder (its last checkpoint). sample: draw actions instead of the most likely.

        Raises ConfigError if there is no whole checkpoint."""
        return cls.of(read_checkpoint(find_checkpoint(locate(str(path)))), sample, seed)

    @classmethod
    def of(cls, checkpoint: Checkpoint, sample: bool = False, seed: int = 0) -> Policy:
        """From a checkpoint that was read already."""
        spec = EnvSpec.from_dict(checkpoint.state["env_spec"])
        policy = cls(architecture_of(from_dict(checkpoint.state["config"]).model, spec), spec, sample, seed)
        policy.set_parameters(checkpoint.tensors["parameters"])
        return policy

    def set_parameters(self, parameters: np.ndarray) -> None:
        """parameters: (P,), copied."""
        self._parameters[:] = parameters

    def act(self, observation: np.ndarray) -> Action:
        flat = np.asarray(observation, np.float32).reshape(-1)
        if flat.size != self._observation_size:
            shape = np.shape(observation)
            raise ValueError(f"an observation of {self._observation_size} numbers is needed, not of shape {shape}")
        action = self._actor.sample(flat, self.rng) if self._sample else self._actor.mode(flat)
        return self._actor.to_env(action)
