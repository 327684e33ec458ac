"""The interface of a kind of environment (env.name): environments of gymnasium's registry, or Atari games."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Protocol

import gymnasium
import numpy as np

from ablate.config.schema import EnvConfig
from ablate.envs.placeholders import numbered
from ablate.types import EnvSpec, Stepped


class SideBySide(Protocol):
    """E environments that are stepped together. Reset each before its first step, and after each end of an episode."""

    def step(self, actions: np.ndarray) -> Iterator[Stepped]:
        """Take one step in each environment, in their order. actions: (E,)."""
        ...

    def reset(self, env_index: int, seed: int | None) -> np.ndarray:
        """The first observation of an episode. Without a seed, a game continues after a lost life."""
        ...

    def save(self) -> list[dict[str, Any]] | None:
        """The states of all environments in mid-episode as JSON values; None if they cannot be saved."""
        ...

    def restore(self, saved: list[dict[str, Any]]) -> None:
        """Set the environments to states from `save`."""
        ...


class RawInterface(Protocol):
    """Between an outside program's environment and the observations and actions that training uses."""

    def preprocess(self, observation: np.ndarray) -> np.ndarray:
        """The observation as the network takes it. Raises ValueError for another shape."""
        ...

    def action(self, action: Any) -> Any:
        """The action as the outside environment numbers it."""
        ...

    def reset(self) -> None:
        """An episode begins: forget the observations of the previous one."""
        ...


class EnvKind(ABC):
    """One kind of environment. Its methods take the `env` part of a configuration."""

    def fitted(self, env: EnvConfig, image_shape: tuple[int, int, int] | None) -> EnvConfig:
        """The configuration completed for a network that takes images (channels, height, width), or None: vectors.

        Raises ConfigError if it cannot give such observations."""
        return env

    @abstractmethod
    def spec(self, env: EnvConfig) -> EnvSpec:
        """The shapes of observations and actions. Raises ConfigError if there is no such environment, or no network
        for it."""

    @abstractmethod
    def make(self, env: EnvConfig, max_ep_step: int | None, training: bool, **kwargs: Any) -> gymnasium.Env:
        """The environment; see `make_env`."""

    def make_side_by_side(self, env: EnvConfig, count: int) -> SideBySide:
        """The environments of one process."""
        return OneByOne(self, [self.make(numbered(env, number), None, training=True) for number in range(count)])

    def outcome(self, reward: float, terminated: bool, truncated: bool, info: dict[str, Any]) -> tuple[float, bool]:
        """What one step means for the score: (raw reward, whether the episode that is scored has ended)."""
        return reward, terminated or truncated

    @abstractmethod
    def save(self, made: gymnasium.Env) -> dict[str, Any] | None:
        """The state of an environment in mid-episode as JSON values; None if it cannot be saved."""

    @abstractmethod
    def restore(self, made: gymnasium.Env, saved: dict[str, Any]) -> None:
        """Set the environment to a state from `save`."""

    @abstractmethod
    def raw_interface(self, env: EnvConfig, spec: EnvSpec) -> RawInterface:
        """The interface for a saved policy that plays in an outside program's environment."""

    def reference_scores(self, env: EnvConfig) -> tuple[float, float] | None:
        """Scores (random policy, human) in this environment, or None if none are known."""
        return None


class OneByOne:
    """Environments of gymnasium's interface, stepped one after the other."""

    def __init__(self, kind: EnvKind, envs: list[gymnasium.Env]) -> None:
        self._kind, self._envs = kind, envs

    def step(self, actions: np.ndarray) -> Iterator[Stepped]:
        for env, action in zip(self._envs, actions.tolist(), strict=True):
            observation, reward, terminated, truncated, info = env.step(action)
            reward = float(reward)
            raw_reward, scored_end = self._kind.outcome(reward, terminated, truncated, info)
            yield Stepped(observation, reward, terminated, truncated, raw_reward, scored_end)

    def reset(self, env_index: int, seed: int | None) -> np.ndarray:
        return np.asarray(self._envs[env_index].reset(seed=seed)[0])

    def save(self) -> list[dict[str, Any]] | None:
        saved = [state for env in self._envs if (state := self._kind.save(env)) is not None]
        return saved if len(saved) == len(self._envs) else None

    def restore(self, saved: list[dict[str, Any]]) -> None:
        for env, state in zip(self._envs, saved, strict=True):
            self._kind.restore(env, state)
