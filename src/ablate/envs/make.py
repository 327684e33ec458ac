"""Environments from the configuration: the registry of kinds, and the functions that most callers need."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import gymnasium

from ablate.config.schema import EnvConfig
from ablate.envs.atari_kind import AtariKind
from ablate.envs.gymnasium_kind import GymnasiumKind
from ablate.envs.images_kind import ImagesKind
from ablate.envs.kind import EnvKind
from ablate.types import EnvSpec

_SPECS: dict[str, EnvSpec] = {}  # by the configuration of the environment
# by env.name
KINDS: dict[str, EnvKind] = {"gymnasium": GymnasiumKind(), "images": ImagesKind(), "atari": AtariKind()}


def kind_of(env: EnvConfig) -> EnvKind:
    """The kind of a configured environment."""
    return KINDS[env.name]


def make_env(env: EnvConfig, max_ep_step: int | None = None, training: bool = True, **kwargs: Any) -> gymnasium.Env:
    """The environment of the configuration. Observations are (size,), or (channels, height, width) for images.

    max_ep_step: replaces env.max_ep_step (as an evaluation's horizon does). training: a game as learning sees it;
    False: whole games with raw rewards. kwargs: further arguments of gymnasium.make (for a game: render_mode).
    Raises ConfigError if there is no such environment or it cannot be made."""
    return kind_of(env).make(env, max_ep_step, training, **kwargs)


def spec_of(env: EnvConfig) -> EnvSpec:
    """The environment's shapes. Raises ConfigError for spaces that no network takes.

    Looked at once in a process: what the environment has started is ended then, and while cells of a sweep run, those
    cannot be told from it."""
    key = _key(env)
    if key not in _SPECS:
        _SPECS[key] = kind_of(env).spec(env)
    return _SPECS[key]


def known_spec(env: EnvConfig) -> EnvSpec | None:
    """The environment's shapes if this process has looked at it."""
    return _SPECS.get(_key(env))


def remember_spec(env: EnvConfig, spec: EnvSpec) -> None:
    """Note the shapes of an environment, so that this process need not look at it."""
    _SPECS[_key(env)] = spec


def _key(env: EnvConfig) -> str:
    return json.dumps(asdict(env), sort_keys=True, default=str)
