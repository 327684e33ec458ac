"""Several environments of one kind, stepped together: one after the other, or games in threads of ale-py's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from ablate.config.schema import AtariConfig, EnvConfig
from ablate.envs import classic
from ablate.envs.make import make_env
from ablate.types import Stepped


class SideBySide(Protocol):
    """E environments. `reset` comes before the first step of each, and after each end."""

    def step(self, actions: np.ndarray) -> Iterator[Stepped]:
        """Take a step (E,) in each, in their order."""
        ...

    def reset(self, e: int, seed: int | None) -> np.ndarray:
        """The first observation of an episode of environment e; without a seed a game goes on after a lost life."""
        ...

    def save(self) -> list[dict[str, Any]] | None:
        """All of them in their midst as JSON values; None if they cannot be saved."""
        ...

    def restore(self, saved: list[dict[str, Any]]) -> None:
        """Put them back to where `save` found them."""
        ...


class OneByOne:
    """Environments of gymnasium's interface, one after the other."""

    def __init__(self, config: EnvConfig, count: int) -> None:
        self._are_games = isinstance(config, AtariConfig)
        self._envs = [make_env(config) for _ in range(count)]

    def step(self, actions: np.ndarray) -> Iterator[Stepped]:
        for env, action in zip(self._envs, actions.tolist(), strict=True):
            observation, reward, terminated, truncated, info = env.step(action)
            raw = info["raw_reward"] if self._are_games else float(reward)
            over = info["game_over"] if self._are_games else terminated or truncated
            yield Stepped(observation, float(reward), terminated, truncated, raw, over)

    def reset(self, e: int, seed: int | None) -> np.ndarray:
        return np.asarray(self._envs[e].reset(seed=seed)[0])

    def save(self) -> list[dict[str, Any]] | None:
        if self._are_games:
            return [env.get_wrapper_attr("save")() for env in self._envs]
        saved = [state for env in self._envs if (state := classic.save(env)) is not None]
        return saved if len(saved) == len(self._envs) else None

    def restore(self, saved: list[dict[str, Any]]) -> None:
        for env, state in zip(self._envs, saved, strict=True):
            if self._are_games:
                env.get_wrapper_attr("restore")(state)
            else:
                classic.restore(env, state)


def make_side_by_side(config: EnvConfig, count: int) -> SideBySide:
    """The environments of one actor, as the configuration wants them."""
    if isinstance(config, AtariConfig) and config.threads:
        from ablate.envs.atari_threads import AtariThreads  # imports the emulator, which only games need

        return AtariThreads(config, count)
    return OneByOne(config, count)
