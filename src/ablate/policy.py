"""A saved policy as a plain object, for evaluation and for outside programs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ablate.config import from_dict
from ablate.nn.architecture import MlpArchitecture, architecture_of
from ablate.nn.distributions import make_distribution
from ablate.nn.networks import ManualMlp
from ablate.records.checkpoint import find_checkpoint, read_checkpoint
from ablate.seeding import Role, generator
from ablate.types import EnvSpec


class Policy:
    """policy = Policy.load("outputs/runs/..."); action = policy.act(observation).

    act takes one raw observation of the environment and gives an action that the environment's step takes."""

    def __init__(self, architecture: MlpArchitecture, spec: EnvSpec, sample: bool = False, seed: int = 0) -> None:
        size = architecture.layout().size
        self._parameters = torch.zeros(size)
        self._network = ManualMlp(architecture, self._parameters, torch.zeros(size))
        self._distribution = make_distribution(spec.action)
        self._observation = np.zeros((1, spec.observation_size), np.float32)
        self._sample = sample
        self.rng = generator(seed, Role.action)

    @classmethod
    def load(cls, path: str | Path, sample: bool = False, seed: int = 0) -> Policy:
        """From a checkpoint or a run's folder (its last checkpoint). sample: draw actions instead of the most likely.

        Raises ConfigError if there is no whole checkpoint."""
        checkpoint = read_checkpoint(find_checkpoint(Path(path)))
        spec = EnvSpec.from_dict(checkpoint.state["env_spec"])
        architecture = architecture_of(from_dict(checkpoint.state["config"]).model, spec)
        policy = cls(architecture, spec, sample, seed)
        policy.set_parameters(checkpoint.tensors["parameters"])
        return policy

    def set_parameters(self, parameters: np.ndarray) -> None:
        """parameters: (P,), copied."""
        self._parameters.copy_(torch.from_numpy(parameters))

    @torch.inference_mode()
    def act(self, observation: np.ndarray) -> np.ndarray | int:
        self._observation[0] = np.asarray(observation).reshape(-1)
        outputs = tuple(output[0].numpy() for output in self._network.policy(torch.from_numpy(self._observation)))
        choose = self._distribution.sample(outputs, self.rng) if self._sample else self._distribution.mode(outputs)
        return self._distribution.to_env(choose)
