"""Placeholders in env.kwargs, which tell the environments of a run apart: for example a port for each simulator.

`{worker}` becomes the number of the environment, `{worker+5000}` that number plus 5000. Alone in a value it is an
integer, in a text it is text. The environments that train have the numbers from 0 on, those of evaluations follow."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from ablate.config.schema import Config, EnvConfig

PLACEHOLDER = re.compile(r"\{worker(?:\+(\d+))?\}")


def numbered(env: EnvConfig, number: int) -> EnvConfig:
    """The configuration of one environment of a run."""
    kwargs = {key: _filled(value, number) for key, value in env.kwargs.items()}
    return env if kwargs == env.kwargs else replace(env, kwargs=kwargs)


def keys_with_placeholders(env: EnvConfig) -> list[str]:
    """The keys of env.kwargs whose values differ between the environments of a run."""
    return [key for key, value in env.kwargs.items() if _filled(value, 0) != value]


def first_of_evaluations(config: Config) -> int:
    """The number of the first environment that evaluates."""
    return (config.workers or 1) * config.envs_per_worker


def _filled(value: Any, number: int) -> Any:
    if isinstance(value, dict):
        return {key: _filled(inner, number) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, number) for inner in value]
    if not isinstance(value, str):
        return value
    if alone := PLACEHOLDER.fullmatch(value):
        return number + int(alone[1] or 0)
    return PLACEHOLDER.sub(lambda found: str(number + int(found[1] or 0)), value)
