"""Atari games: which game a gymnasium id means, with which settings it is registered, and its emulator."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import gymnasium
from ale_py import ALEInterface, LoggerMode, roms  # its import registers the ids

from ablate.config.schema import AtariConfig, ConfigError
from ablate.config.validation import suggest

NOOP, FIRE = 0, 1  # the emulator's numbers for these actions


class Registered(NamedTuple):
    """The settings of an id in gymnasium's registry: `BreakoutNoFrameskip-v4` is Breakout with 1 frame per step."""

    rom: str  # ale-py's name of the game
    frame_skip: tuple[int, int]  # fewest and most frames per step
    sticky_actions: float
    full_action_space: bool


@cache
def games() -> dict[str, Registered]:
    """All ids of ale-py in gymnasium's registry."""
    settings = {}
    for env_id, spec in gymnasium.registry.items():
        if spec.entry_point == "ale_py.env:AtariEnv":
            kwargs = spec.kwargs
            skip = kwargs["frameskip"]
            # A pair is a half-open range, from which the skip is drawn.
            fewest, most = (skip, skip) if isinstance(skip, int) else (skip[0], skip[1] - 1)
            sticky = kwargs["repeat_action_probability"]
            settings[env_id] = Registered(kwargs["game"], (fewest, most), sticky, kwargs["full_action_space"])
    return settings


def registered(env_id: str) -> Registered:
    """The settings of an id. Raises ConfigError for an id that ale-py does not have."""
    if env_id not in games():
        lacks_namespace = f"ALE/{env_id}" in games()  # -v5 ids are in the namespace ALE, -v4 and -v0 are not
        hint = f"; did you mean ALE/{env_id}?" if lacks_namespace else suggest(env_id, sorted(games()))
        raise ConfigError(
            f"env.id={env_id}: no such game{hint or '; ids are ALE/<Game>-v5, <Game>NoFrameskip-v4, ...'}"
        )
    return games()[env_id]


def looks_like_a_game(env_id: str) -> bool:
    """Whether the id names a game, or was probably meant to."""
    name = env_id.partition("-v")[0]  # for Pong and Pong-v9, ale-py has Pong-v4
    return env_id.startswith("ALE/") or "NoFrameskip" in env_id or f"{name}-v4" in games()


def emulator(rom: str, mode: int | None = None, difficulty: int | None = None, display: bool = False) -> ALEInterface:
    """An emulator before the start of a game. It draws no random numbers: sticky actions are drawn by AtariGame.

    mode, difficulty: used from the next reset_game on; None: the first that the game has. display: show the game in a
    window, with sound. Raises ConfigError for a mode or difficulty that the game does not have."""
    ALEInterface.setLoggerMode(LoggerMode.Error)  # otherwise each emulator prints a banner
    ale = ALEInterface()
    ale.setInt("random_seed", 0)
    ale.setFloat("repeat_action_probability", 0.0)
    ale.setBool("display_screen", display)
    ale.setBool("sound", display)
    path = roms.get_rom_path(rom)
    assert path is not None, rom
    ale.loadROM(path)
    if mode is not None:
        _refuse_missing("mode", mode, ale.getAvailableModes(), rom)
        ale.setMode(mode)
    if difficulty is not None:
        _refuse_missing("difficulty", difficulty, ale.getAvailableDifficulties(), rom)
        ale.setDifficulty(difficulty)
    return ale


def _refuse_missing(key: str, value: int, available: list[int], rom: str) -> None:
    if value not in available:
        raise ConfigError(f"env.{key}={value}: {rom} has no such {key} (there are: {', '.join(map(str, available))})")


def actions_of(env: AtariConfig, ale: ALEInterface) -> list[int]:
    """The emulator's numbers for the actions of the agent, in their order."""
    actions = ale.getLegalActionSet() if env.full_action_space else ale.getMinimalActionSet()
    return [action.value for action in actions if env.fire_action or action.value != FIRE]
