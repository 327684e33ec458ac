"""A saved policy as a plain object, for evaluation and for outside programs.

Only policies for games import torch, OpenCV and the emulator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ablate.config.schema import Config, ConfigError
from ablate.config.serial import from_dict
from ablate.config.validation import plain_errors
from ablate.envs.make import kind_of
from ablate.nn.acting import Action
from ablate.nn.architecture import Architecture, architecture_of
from ablate.paths import locate
from ablate.records.checkpoint import Checkpoint, find_checkpoint, read_checkpoint
from ablate.seeding import Role, generator
from ablate.types import EnvSpec


class Policy:
    """A saved policy: Policy.load("outputs/runs/..."); then act(observation) per step, reset() between episodes.

    `act` takes one raw observation of the environment and returns an action for its `step`. For a game the raw
    observation is the RGB screen (210, 160, 3) uint8 after all frames of a step (the pixelwise maximum of the last
    frames, if the preprocessing pools them). The policy itself does the preprocessing and the normalisation, and keeps
    the LSTM's state. If the run had env.fire_on_reset=true, the caller must press FIRE at a game's start and after a
    lost life, because such a policy has not learned to do it.
    Raises ValueError for an observation of another shape."""

    def __init__(
        self,
        config: Config,
        spec: EnvSpec,
        architecture: Architecture,
        sample: bool = False,
        seed: int = 0,
        games: int = 1,
    ) -> None:
        self._parameters = np.zeros(architecture.layout().size, np.float32)
        self._acting = architecture.acting(self._parameters, spec.action, games, config.algo.evaluation_epsilon)
        self._normalisation: np.ndarray | None = None
        self._sample = sample
        self._raw = kind_of(config.env).raw_interface(config.env, spec)
        self.rng = generator(seed, Role.action)

    @classmethod
    def load(cls, path: str | Path, sample: bool = False, seed: int = 0) -> Policy:
        """The policy of a checkpoint file, or of the last checkpoint in a run's folder.

        sample: draw actions, instead of taking the most likely one.
        Raises ValueError if there is no whole checkpoint."""
        with plain_errors():
            return cls.of(read_checkpoint(find_checkpoint(locate(str(path)))), sample, seed)

    @classmethod
    def of(cls, checkpoint: Checkpoint, sample: bool = False, seed: int = 0, games: int = 1) -> Policy:
        """The policy of a checkpoint in memory, to play `games` games side by side."""
        config = from_dict(checkpoint.state["config"])
        spec = EnvSpec.from_dict(checkpoint.state["env_spec"])
        architecture, tensors = architecture_of(config.model, spec), checkpoint.tensors
        if tensors["parameters"].size != (size := architecture.layout().size):
            raise ConfigError(
                f"the checkpoint has {tensors['parameters'].size} parameters, and its network needs {size}"
            )
        policy = cls(config, spec, architecture, sample, seed, games)
        policy.set_parameters(tensors["parameters"], tensors.get("normalisation"))
        return policy

    def set_parameters(self, parameters: np.ndarray, normalisation: np.ndarray | None = None) -> None:
        """parameters: (P,). normalisation: (2,) mean and std of observations, or None. Both are copied."""
        self._parameters[:] = parameters
        self._normalisation = None if normalisation is None else normalisation.copy()

    def reset(self, game: int = 0) -> None:
        """Begin a new episode in this game: forget the previous one."""
        self._acting.reset(game)
        self._raw.reset()

    def act(self, observation: np.ndarray) -> Action:
        """One raw observation -> an action for the environment; for a game, an index in its own set of actions."""
        if isinstance(observation, tuple) and any(isinstance(part, dict) for part in observation):
            raise ValueError(
                "an observation is needed, not the tuple that reset() or step() returned; pass its first element"
            )
        return self._raw.action(self.act_on([self._raw.preprocess(observation)], [self.rng])[0])

    def act_on(self, observations: Sequence[np.ndarray], streams: Sequence[np.random.Generator]) -> list[Action]:
        """One preprocessed observation per game, as the environments of `make_env` give it -> one action per game.

        streams: one random stream per game, from which actions are drawn if the policy samples."""
        if self._normalisation is not None:
            from ablate.envs.preprocessing import normalise  # imports OpenCV

            observations = [normalise(observation, self._normalisation) for observation in observations]
        return self._acting.actions(observations, streams if self._sample else None)
