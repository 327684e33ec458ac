"""What somebody else's environment returns: checked once before a run is made, and guarded at every step.

Games and gymnasium's own environments keep gymnasium's promises, so they are not wrapped."""

from __future__ import annotations

import contextlib
import copy
import math
import re
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils.passive_env_checker import check_action_space, check_obs, check_observation_space

from ablate import seeding
from ablate.config.plugins import text_of
from ablate.config.schema import ConfigError

RESET = "gymnasium's reset(seed=..., options=...) returns (observation, info)"
STEP = "gymnasium's step(action) returns (observation, reward, terminated, truncated, info)"
TRIED_STEPS = 8  # of each of the two episodes that are played twice
LONGEST_TEXT = 120  # characters that an error shows of somebody else's message


class Checked(gymnasium.Wrapper):
    """Gives finite observations of the promised shape, the reward as a finite float, the two end flags as bool.

    An array with one element is taken by value. Anything else raises ValueError, which fails the run by name.
    A seed goes to all generators that an environment may use: also those of `random`, of numpy and of the spaces."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self._shape = env.observation_space.shape
        self._dtype = env.observation_space.dtype

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            seeding.seed_libraries(seed)
            self.unwrapped.action_space.seed(seed)
            self.unwrapped.observation_space.seed(seed)
        observation, info = self.env.reset(seed=seed, options=options)
        return self._observation(observation), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        if not isinstance(reward, float):
            reward = _number(reward, "reward")
        if not math.isfinite(reward):
            raise ValueError(f"the environment returned reward {reward}; a finite number is needed")
        if type(terminated) is not bool:
            terminated = bool(_number(terminated, "terminated"))
        if type(truncated) is not bool:
            truncated = bool(_number(truncated, "truncated"))
        return self._observation(observation), reward, terminated, truncated, info

    def _observation(self, observation: Any) -> np.ndarray:
        if type(observation) is not np.ndarray:
            observation = np.asarray(observation, self._dtype)
        if observation.shape != self._shape:
            raise ValueError(
                f"the environment returned an observation of shape {observation.shape}; its space has {self._shape}"
            )
        # One product, not a test of each number. It may overflow, so it only says where to look closely.
        if observation.dtype.kind == "f" and not math.isfinite(np.vdot(observation, observation)):
            _refuse_infinite(observation)
        return observation


def _refuse_infinite(observation: np.ndarray) -> None:
    wrong = observation[~np.isfinite(observation)]
    if len(wrong):
        raise ValueError(f"the environment returned an observation with {wrong[0]}; finite numbers are needed")


def _number(value: Any, name: str) -> float:
    """A number, or an array with one element, by value."""
    try:
        return float(np.asarray(value).item())
    except (TypeError, ValueError):
        raise ValueError(f"the environment returned {name} {_shown(value)}; one number is needed") from None


def is_gymnasiums_own(made: gymnasium.Env) -> bool:
    """Whether the environment and all its wrappers are gymnasium's own, which need no check."""
    layers = [made]
    while isinstance(layers[-1], gymnasium.Wrapper):
        layers.append(layers[-1].env)
    return all(type(layer).__module__.startswith("gymnasium.") for layer in layers)


def check_interface(env_id: str, made: gymnasium.Env) -> Iterator[str]:
    """Reset the environment and take one step. Yields what gymnasium's own checker warns of, in one line each.

    Raises ConfigError, in one line, for another interface. The environment is used without its wrappers, which would
    fail in their own words."""
    inner = made.unwrapped
    space, action = inner.observation_space, inner.action_space
    for check, checked in ((check_observation_space, space), (check_action_space, action)):
        _called(env_id, "space", partial(check, checked))
    result = _called(env_id, "first reset(seed=0)", lambda: inner.reset(seed=0))
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
        raise ConfigError(f"env.id={env_id}: its reset returns {_shown(result)}; {RESET}")
    _check_observation(env_id, "reset", result[0], space)
    action.seed(0)
    sample = action.sample()
    sample = int(sample) if isinstance(action, spaces.Discrete) else sample  # as in training
    step = _called(env_id, "first step", lambda: inner.step(sample))
    if not (isinstance(step, tuple) and len(step) == 5):
        raise ConfigError(f"env.id={env_id}: its step returns {_shown(step)}; {STEP}")
    observation, *scalars, _ = step
    _check_observation(env_id, "step", observation, space)
    for name, value in zip(("reward", "terminated", "truncated"), scalars, strict=True):
        try:
            number = _number(value, name)
        except ValueError as error:
            raise ConfigError(f"env.id={env_id}: {error}") from error
        if not math.isfinite(number):
            raise ConfigError(f"env.id={env_id}: its step returns {name} {number}; a finite number is needed")
    for method, seen in (("reset", result[0]), ("step", observation)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            check_obs(seen, space, method)
        yield from (f"env.id={env_id}: {_plain(str(warning.message))}" for warning in caught)


def two_episodes(made: gymnasium.Env) -> list[Any]:
    """What two short episodes give, from one seed and with always the same actions; less if the environment raises."""
    actions = copy.deepcopy(made.action_space)
    actions.seed(0)
    seen: list[Any] = []
    with contextlib.suppress(Exception, SystemExit):  # the run will show it
        for seed in (0, None):
            seen.append(np.array(made.reset(seed=seed)[0]))
            for _ in range(TRIED_STEPS):
                action = actions.sample()
                observation, *ends, _ = made.step(int(action) if isinstance(actions, spaces.Discrete) else action)
                seen += [np.array(observation), *ends]
                if ends[1] or ends[2]:
                    break
    return seen


def _called(env_id: str, what: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (Exception, SystemExit) as error:
        reason = " ".join(f"{type(error).__name__}: {text_of(error)}".split())[:LONGEST_TEXT]
        raise ConfigError(f"env.id={env_id}: its {what} fails ({reason})") from error


def _check_observation(env_id: str, method: str, observation: Any, space: gymnasium.Space) -> None:
    if not isinstance(space, spaces.Box):  # the user's wrappers make a vector of it, which `Checked` sees
        if not space.contains(observation):
            raise ConfigError(
                f"env.id={env_id}: its {method} returns {_shown(observation)} as observation, which is not in its space"
            )
        return
    try:
        numbers = np.asarray(observation, np.float64)
    except (TypeError, ValueError) as error:
        shown = _shown(observation)
        raise ConfigError(
            f"env.id={env_id}: its {method} returns {shown} as observation; numbers are needed"
        ) from error
    if numbers.shape != space.shape:
        raise ConfigError(
            f"env.id={env_id}: its {method} returns an observation of shape {numbers.shape}; "
            f"its space has {space.shape}"
        )
    if not np.isfinite(numbers).all():
        raise ConfigError(f"env.id={env_id}: its {method} returns an observation that is not finite")


def _shown(value: Any) -> str:
    """What came, in a few words."""
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    return f"{type(value).__name__} {str(value)[:20]!r}"


def _plain(warning: str) -> str:
    """A warning of gymnasium without its colours and its first word."""
    return " ".join(re.sub(r"\x1b\[[\d;]*m", "", warning).split()).removeprefix("WARN: ")[:LONGEST_TEXT]
