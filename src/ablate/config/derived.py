"""Values that follow from a configuration alone, without its environment."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ablate.config.choices import ScoreUnit, Statistic
from ablate.config.schema import Config, MetricConfig
from ablate.types import Counters


def limit_reached(config: Config, counters: Counters) -> str:
    """The limit that the counters have reached, in words; empty if none."""
    for limit, count in (("max_episodes", counters.episodes), ("total_steps", counters.steps)):
        value = getattr(config, limit)
        if value is not None and count >= value:
            return f"{limit}={value} reached"
    return ""


def devices(config: Config) -> list[str]:
    """The devices. The workers' networks are distributed over them in turn."""
    return list(config.device) if isinstance(config.device, list | tuple) else [config.device]


def device_of(config: Config, worker: int) -> str:
    """The device of a worker's network."""
    return devices(config)[worker % len(devices(config))]


def cuda_index(device: str) -> int:
    """The number of a CUDA device; `cuda` is the first."""
    return int(device.removeprefix("cuda").removeprefix(":") or 0)


LONGEST_EVALUATION = 10_000  # steps of an evaluation episode if neither configuration nor environment limits it


def evaluation_horizon(config: Config) -> int:
    """Steps after which an evaluation episode is cut."""
    return config.evaluation.horizon or config.env.max_ep_step or LONGEST_EVALUATION


def horizon_notes(config: Config, key: str = "evaluation.horizon") -> Iterator[str]:
    """That evaluation episodes have a limit that nobody chose; nothing if somebody did."""
    if config.evaluation.horizon is None and config.env.max_ep_step is None:
        yield (
            f"{config.env.id} has no time limit: an evaluation episode is cut after {LONGEST_EVALUATION} steps; "
            f"{key}=<steps> sets another limit"
        )


# Environments of gymnasium that only a time limit ends.
ENDLESS = {"Pendulum", "HalfCheetah", "HumanoidStandup", "Pusher", "Reacher", "Swimmer"}


def never_terminates(env_id: str) -> bool:
    """Whether the episodes of an environment are known to end only at a time limit."""
    return env_id.partition(":")[2] == "" and env_id.rpartition("-v")[0] in ENDLESS


def default_score_unit(env_id: str) -> ScoreUnit:
    """The unit of a score if the study gives none: the length of an endless episode is no part of its score."""
    return ScoreUnit.reward_per_step if never_terminates(env_id) else ScoreUnit.episodic_return


def game_of(env_id: str) -> str | None:
    """The game of an id of ale-py (ALE/Breakout-v5, BreakoutNoFrameskip-v4), or what else stands there; None: no id."""
    match = re.fullmatch(r"(?:ALE/)?(\w+?)(?:NoFrameskip|Deterministic)?-v\d+", env_id)
    return match[1] if match else None


def normalisable(metric: MetricConfig) -> bool:
    """Whether the metric's values are scores: a time or a spread has no random policy's value that could count as 0."""
    return metric.statistic not in (Statistic.first_reach, Statistic.duration, Statistic.std)
