"""A saved policy as a plain object, for evaluation and for outside programs.

Torch, OpenCV and the emulator are imported for games only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ablate.config.schema import AtariConfig, Config
from ablate.config.serial import from_dict
from ablate.nn.acting import Action, Actor, draw_categorical, make_q_actor
from ablate.nn.architecture import Architecture, ConvArchitecture, MlpArchitecture, QArchitecture, architecture_of
from ablate.paths import locate
from ablate.records.checkpoint import Checkpoint, find_checkpoint, read_checkpoint
from ablate.seeding import Role, generator
from ablate.types import ActionSpec, EnvSpec

if TYPE_CHECKING:
    from ablate.envs.preprocessing import Preprocessor


class Policy:
    """policy = Policy.load("outputs/runs/..."); action = policy.act(observation); policy.reset() between episodes.

    act takes one raw observation of the environment and gives an action that its step takes. Of a game that is the RGB
    screen (210, 160, 3) uint8 after a step's frames (the largest of them, where the preprocessing pools several);
    preprocessing, normalisation and the LSTM's state are the policy's own affair; FIRE at a game's start and after a
    lost life is the caller's, if the run had env.fire_on_reset: such a policy never learned to serve.
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
        self._network: _QNetwork | _ImageNetwork | _VectorNetwork
        if isinstance(architecture, QArchitecture):
            self._network = _QNetwork(architecture, config, spec.action, games)
        elif isinstance(architecture, ConvArchitecture):
            self._network = _ImageNetwork(architecture, config, games)
        else:
            self._network = _VectorNetwork(architecture, spec.action)
        self._sample = sample
        self._actions = _in_the_games_own_set(config.env) if isinstance(config.env, AtariConfig) else None
        self.rng = generator(seed, Role.action)

    @classmethod
    def load(cls, path: str | Path, sample: bool = False, seed: int = 0) -> Policy:
        """From a checkpoint or a run's folder (its last checkpoint). sample: draw actions instead of the most likely.

        Raises ConfigError if there is no whole checkpoint."""
        return cls.of(read_checkpoint(find_checkpoint(locate(str(path)))), sample, seed)

    @classmethod
    def of(cls, checkpoint: Checkpoint, sample: bool = False, seed: int = 0, games: int = 1) -> Policy:
        """From a checkpoint that was read already, to play so many games side by side."""
        config = from_dict(checkpoint.state["config"])
        spec = EnvSpec.from_dict(checkpoint.state["env_spec"])
        policy = cls(config, spec, architecture_of(config.model, spec), sample, seed, games)
        policy.set_parameters(checkpoint.tensors["parameters"], checkpoint.tensors.get("normalisation"))
        return policy

    def set_parameters(self, parameters: np.ndarray, normalisation: np.ndarray | None = None) -> None:
        """parameters: (P,), normalisation: (2,) mean and std of observations, where they are normalised. Copied."""
        self._network.set_parameters(parameters, normalisation)

    def reset(self, game: int = 0) -> None:
        """An episode begins: what was seen in the one before is forgotten."""
        self._network.reset(game)

    def act(self, observation: np.ndarray) -> Action:
        """One raw observation -> an action for the environment; of a game's own set, whatever training left out."""
        if isinstance(observation, tuple) and any(isinstance(part, dict) for part in observation):
            raise ValueError("an observation is needed, not all that reset() or step() gave; it is the first of it")
        action = self.act_on([self._network.preprocess(observation)], [self.rng])[0]
        return action if self._actions is None else self._actions[int(action)]

    def act_on(self, observations: Sequence[np.ndarray], streams: Sequence[np.random.Generator]) -> list[Action]:
        """An observation of `make_env`'s for each game that is played side by side -> an action for each.

        streams: where each game's draws come from, if the policy samples."""
        return self._network.actions(observations, streams if self._sample else None)


class _VectorNetwork:
    """The policy in numpy, one observation at a time. It remembers nothing."""

    def __init__(self, architecture: MlpArchitecture, action: ActionSpec) -> None:
        self._parameters = np.zeros(architecture.layout().size, np.float32)
        self._actor = Actor(architecture, action, self._parameters)
        self._size = architecture.torso_sizes[0]

    def set_parameters(self, parameters: np.ndarray, normalisation: np.ndarray | None) -> None:
        assert normalisation is None
        self._parameters[:] = parameters

    def reset(self, game: int) -> None:
        pass

    def preprocess(self, observation: np.ndarray) -> np.ndarray:
        return _flat(observation, self._size)

    def actions(
        self, observations: Sequence[np.ndarray], streams: Sequence[np.random.Generator] | None
    ) -> list[Action]:
        flat = [np.asarray(observation, np.float32).reshape(-1) for observation in observations]
        if streams is None:
            chosen = [self._actor.mode(observation) for observation in flat]
        else:
            chosen = [self._actor.sample(*pair) for pair in zip(flat, streams, strict=True)]
        return [self._actor.to_env(action) for action in chosen]


def _flat(observation: np.ndarray, size: int) -> np.ndarray:
    flat = np.asarray(observation, np.float32).reshape(-1)
    if flat.size != size:
        raise ValueError(f"an observation of {size} numbers is needed, not of shape {np.shape(observation)}")
    return flat


class _QNetwork:
    """The policy that DQN's action values give: greedy, or ε-greedy where it samples. It remembers screens to stack."""

    def __init__(self, architecture: QArchitecture, config: Config, action: ActionSpec, games: int) -> None:
        self._parameters = np.zeros(architecture.layout().size, np.float32)
        self._actor = make_q_actor(architecture, self._parameters, games)
        self._epsilon, self._actions, self._start = config.algo.exploration, architecture.actions, action.start
        self._size = prod(architecture.input_shape)
        self._screens = _preprocessor(config.env) if isinstance(config.env, AtariConfig) else None

    def set_parameters(self, parameters: np.ndarray, normalisation: np.ndarray | None) -> None:
        assert normalisation is None
        self._parameters[:] = parameters

    def reset(self, game: int) -> None:
        if self._screens:
            self._screens.reset()

    def preprocess(self, observation: np.ndarray) -> np.ndarray:
        return self._screens.from_rgb(np.asarray(observation)) if self._screens else _flat(observation, self._size)

    def actions(
        self, observations: Sequence[np.ndarray], streams: Sequence[np.random.Generator] | None
    ) -> list[Action]:
        actions = self._actor.q_values(np.stack(observations)).argmax(1)
        for game, stream in enumerate(streams or ()):
            if stream.random() < self._epsilon:
                actions[game] = stream.integers(self._actions)
        return [int(action) + self._start for action in actions]


class _ImageNetwork:
    """The policy on torch, one forward pass for all games. It remembers their LSTM state, and screens to stack."""

    def __init__(self, architecture: ConvArchitecture, config: Config, games: int) -> None:
        import torch

        from ablate.envs.preprocessing import normalise
        from ablate.nn.conv_networks import ManualConv

        assert isinstance(config.env, AtariConfig)
        size = architecture.layout().size
        self._parameters = torch.zeros(size)
        self._network = ManualConv(architecture, self._parameters, torch.zeros(size), rows=1, envs=games)
        dtype = np.uint8 if architecture.scale != 1 else np.float32
        self._observations = np.zeros((games, *architecture.input_shape), dtype)
        self._firsts = np.ones(games, np.bool_)
        self._screens = _preprocessor(config.env)
        self._normalise, self._normalisation = normalise, np.array([])
        self._inference_mode, self._from_numpy = torch.inference_mode, torch.from_numpy

    def set_parameters(self, parameters: np.ndarray, normalisation: np.ndarray | None) -> None:
        self._parameters.copy_(self._from_numpy(parameters))
        self._normalisation = np.array([] if normalisation is None else normalisation)

    def reset(self, game: int) -> None:
        self._firsts[game] = True
        self._screens.reset()

    def preprocess(self, observation: np.ndarray) -> np.ndarray:
        return self._screens.from_rgb(np.asarray(observation))

    def actions(
        self, observations: Sequence[np.ndarray], streams: Sequence[np.random.Generator] | None
    ) -> list[Action]:
        for row, observation in zip(self._observations, observations, strict=True):
            row[:] = observation
        if len(self._normalisation):
            self._normalise(self._observations, self._normalisation, out=self._observations)
        with self._inference_mode():
            heads = self._network.forward(0, self._from_numpy(self._observations), self._firsts)
            self._network.state[0] = self._network.state[1]
        self._firsts[:] = False
        logits = heads[:, :-1].numpy()
        if streams is None:
            return [int(action) for action in np.argmax(logits, 1)]
        return [draw_categorical(*pair) for pair in zip(logits, streams, strict=True)]


def _in_the_games_own_set(env: AtariConfig) -> list[int] | None:
    """Which of the game's actions those are that the agent chose among. None: all, as they are numbered there."""
    if env.fire_action:
        return None
    from ablate.envs.games import actions_of, emulator, registered

    ale = emulator(registered(env.id).rom)
    every = actions_of(replace(env, fire_action=True), ale)
    return [every.index(action) for action in actions_of(env, ale)]


def _preprocessor(env: AtariConfig) -> Preprocessor:
    from ablate.envs.games import registered
    from ablate.envs.preprocessing import Preprocessor

    assert env.preprocessing is not None
    return Preprocessor(env.preprocessing, registered(env.id).rom)
