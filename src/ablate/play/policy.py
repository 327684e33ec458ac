"""A saved policy as a plain object, for evaluation and for outside programs.

Torch, OpenCV and the emulator are imported for games only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from ablate.config.schema import AtariConfig, Config, EnvConfig
from ablate.config.serial import from_dict
from ablate.nn.acting import Action
from ablate.nn.architecture import Architecture, architecture_of
from ablate.paths import locate
from ablate.records.checkpoint import Checkpoint, find_checkpoint, read_checkpoint
from ablate.seeding import Role, generator
from ablate.types import EnvSpec


class Policy:
    """policy = Policy.load("outputs/runs/..."); action = policy.act(observation); policy.reset() between episodes.

    `act` takes one raw observation of the environment and returns an action for its `step`. For a game the raw
    observation is the RGB screen (210, 160, 3) uint8 after all frames of a step (the pixelwise maximum of the last
    frames, if the preprocessing pools them). The policy does the preprocessing, the normalisation and the LSTM's state
    itself. Only FIRE at a game's start and after a lost life is up to the caller, if the run had env.fire_on_reset:
    such a policy has not learned to serve.
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
        self._raw = raw_interface(config.env, spec)
        self.rng = generator(seed, Role.action)

    @classmethod
    def load(cls, path: str | Path, sample: bool = False, seed: int = 0) -> Policy:
        """From a checkpoint, or from the last checkpoint of a run's folder.

        sample: draw actions, instead of taking the most likely. Raises ConfigError if there is no whole checkpoint."""
        return cls.of(read_checkpoint(find_checkpoint(locate(str(path)))), sample, seed)

    @classmethod
    def of(cls, checkpoint: Checkpoint, sample: bool = False, seed: int = 0, games: int = 1) -> Policy:
        """From a checkpoint in memory, to play `games` games side by side."""
        config = from_dict(checkpoint.state["config"])
        spec = EnvSpec.from_dict(checkpoint.state["env_spec"])
        policy = cls(config, spec, architecture_of(config.model, spec), sample, seed, games)
        policy.set_parameters(checkpoint.tensors["parameters"], checkpoint.tensors.get("normalisation"))
        return policy

    def set_parameters(self, parameters: np.ndarray, normalisation: np.ndarray | None = None) -> None:
        """parameters: (P,). normalisation: (2,) mean and std of observations, or None. Both are copied."""
        self._parameters[:] = parameters
        self._normalisation = None if normalisation is None else normalisation.copy()

    def reset(self, game: int = 0) -> None:
        """Begin a new episode in this game: forget the one before."""
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
        """One preprocessed observation (of `make_env`) per game side by side -> one action per game.

        streams: one random stream per game, from which actions are drawn if the policy samples."""
        if self._normalisation is not None:
            from ablate.envs.preprocessing import normalise  # imports OpenCV

            observations = [normalise(observation, self._normalisation) for observation in observations]
        return self._acting.actions(observations, streams if self._sample else None)


class RawInterface(Protocol):
    """Between an outside program's environment and the observations and actions that training uses."""

    def preprocess(self, observation: np.ndarray) -> np.ndarray:
        """The observation as the network takes it. Raises ValueError for another shape."""
        ...

    def action(self, action: Action) -> Action:
        """The action as the outside environment counts it."""
        ...

    def reset(self) -> None:
        """An episode begins."""
        ...


def raw_interface(env: EnvConfig, spec: EnvSpec) -> RawInterface:
    return _Screens(env) if isinstance(env, AtariConfig) else _Numbers(spec)


class _Numbers:
    """Gymnasium's observations, of any shape with the right number of elements."""

    def __init__(self, spec: EnvSpec) -> None:
        self._shape, self._size = spec.observation_shape, spec.observation_size

    def preprocess(self, observation: np.ndarray) -> np.ndarray:
        numbers = np.asarray(observation, np.float32)
        if numbers.size != self._size:
            raise ValueError(f"an observation of {self._size} numbers is needed, not of shape {np.shape(observation)}")
        return numbers.reshape(self._shape)

    def action(self, action: Action) -> Action:
        return action

    def reset(self) -> None:
        """Nothing is remembered."""


class _Screens:
    """A game's screens, and all of its actions. It remembers the screens that are stacked."""

    def __init__(self, env: AtariConfig) -> None:
        from ablate.envs.games import actions_of, emulator, registered
        from ablate.envs.preprocessing import Preprocessor

        assert env.preprocessing is not None
        rom = registered(env.id).rom
        self._preprocessor = Preprocessor(env.preprocessing, rom)
        self._actions: list[int] | None = None  # index in the game's own set of each action that the agent has
        if not env.fire_action:
            ale = emulator(rom)
            game_actions = actions_of(replace(env, fire_action=True), ale)
            self._actions = [game_actions.index(action) for action in actions_of(env, ale)]

    def preprocess(self, observation: np.ndarray) -> np.ndarray:
        return self._preprocessor.from_rgb(np.asarray(observation))

    def action(self, action: Action) -> Action:
        return action if self._actions is None else self._actions[int(action)]

    def reset(self) -> None:
        self._preprocessor.reset()
