"""What arms must share so that their scores can be compared: the task, and when and how they are evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from ablate.config.derived import evaluation_horizon
from ablate.config.inequality import parse
from ablate.config.schema import Config, ConfigError
from ablate.sweeps.environments import compared_arms, references_of
from ablate.sweeps.study import Arm, Study, identity, key_of

# Keys that change the game itself, also in evaluations. Keys that change only training (lost lives, clipping) may
# differ between arms.
GAME_SWITCHES = (
    "frame_skip", "sticky_actions", "noop_max", "fire_on_reset", "fill_steps", "fire_action", "full_action_space",
    "mode", "difficulty",
)  # fmt: skip
ONLY_IN_TRAINING = "for a difference in training only, see docs/sweeps.md, Settings that only training has"
# Keys that must be the same for all arms of an environment, and the value of a sweep whose arms have other defaults.
# Who is evaluated more often, or with fewer episodes, reaches a score sooner by chance.
EVALUATIONS: dict[str, Callable[..., int]] = {"every_steps": min, "episodes": max}


def with_equal_evaluations(study: Study, configs: dict[str, Config]) -> tuple[Study, dict[str, Config]]:
    """The study and its resolved arms with the same evaluations for all arms of an environment.

    A value that overrides give counts for all; else every cell is evaluated as often as the arm whose default is most
    often, with the most episodes. Raises ConfigError if the arms' overrides give different values."""
    more: dict[str, list[str]] = {arm.name: [] for arm in study.arms}
    for name, choose in EVALUATIONS.items():
        key = f"evaluation.{name}"
        by_env: dict[str, list[Arm]] = {}
        for arm in study.arms:
            if getattr(configs[arm.name].evaluation, name) is not None:
                by_env.setdefault(configs[arm.name].env.id, []).append(arm)
        for same_env in by_env.values():
            values = {arm.name: getattr(configs[arm.name].evaluation, name) for arm in same_env}
            given = {arm.name: values[arm.name] for arm in same_env if any(key_of(o) == key for o in arm.overrides)}
            if len(set(given.values())) > 1:
                listed = ", ".join(f"{arm}: {value}" for arm, value in given.items())
                raise ConfigError(
                    f"{key}: the arms have different values ({listed}), so their scores cannot be compared; give one "
                    "value for all arms"
                )
            common = next(iter(given.values()), None) or choose(values.values())
            for arm in same_env:
                if values[arm.name] != common:
                    more[arm.name].append(f"{key}={common}")
                    changed: dict[str, Any] = {name: common}
                    evaluation = replace(configs[arm.name].evaluation, **changed)
                    configs = {**configs, arm.name: replace(configs[arm.name], evaluation=evaluation)}
    arms = tuple(arm._replace(overrides=(*arm.overrides, *more[arm.name])) for arm in study.arms)
    return replace(study, arms=arms), configs


def refuse_incomparable(configs: dict[str, Config], may_be_same: bool = False) -> None:
    """Raise ConfigError for resolved arms that are the same, or whose evaluations cannot be compared."""
    seen: dict[str, str] = {}
    for arm, config in configs.items():
        if (same := seen.setdefault(identity(config), arm)) != arm and not may_be_same:
            raise ConfigError(f"sweep: the arms {same} and {arm} are the same configuration; arms must differ")
        if config.evaluation.every_steps is None and config.evaluation.every_seconds is None:
            raise ConfigError(
                f"evaluation.every_steps=null: cells of {arm} would not be evaluated; give a number of steps"
            )
        if config.evaluation.every_seconds is not None:
            raise ConfigError(
                f"evaluation.every_seconds={config.evaluation.every_seconds:g}: cells of a sweep are evaluated at the "
                "same steps, so that they can be compared; give evaluation.every_steps"
            )
    compared: dict[str, Callable[[Config], Any]] = {
        **{f"env.{switch}": partial(_switch, switch) for switch in GAME_SWITCHES},
        "evaluation.horizon": evaluation_horizon,
        "evaluation.action": lambda c: str(c.evaluation.action),
        **{f"evaluation.{name}": partial(_evaluation, name) for name in EVALUATIONS},
        "evaluation.at_start": lambda c: c.evaluation.at_start,
        "env.kwargs": lambda c: c.env.kwargs,  # they change the task, but not its name
    }
    for key, value in compared.items():
        by_env: dict[str, tuple[str, Any]] = {}
        for arm, config in configs.items():
            other, expected = by_env.setdefault(config.env.id, (arm, value(config)))
            if value(config) != expected:
                hint = ONLY_IN_TRAINING if key == "env.kwargs" else f"give all arms the same, {key}={expected}"
                raise ConfigError(
                    f"{key}: {other} would be evaluated with {expected}, {arm} with {value(config)}, "
                    f"which cannot be compared; {hint}"
                )


def untestable(study: Study, configs: dict[str, Config]) -> Iterator[str]:
    """The claims that no result can answer, a sentence each. configs: the resolved configuration of each arm."""
    by_ranks = study.crossed and not references_of(study.settings, study.crossed, configs)
    for claim in study.settings.claims:
        arms = compared_arms(claim, study.crossed)
        envs = list(dict.fromkeys(configs[arm].env.id for arm in arms))
        if len(envs) > 1 and not study.crossed:
            yield f"the claim {claim.id} cannot be tested: scores of {envs[0]} and {envs[1]} have different units"
        if by_ranks and len(envs) == 1 and parse(claim.inequality)[0] == "~":
            why = "scores are normalised by ranks, which have no sweep.smallest_effect in one environment"
            yield f"the claim {claim.id} cannot be tested: {why}"
        turns = [arm for arm in arms if configs[arm].schedule == "interleaved" and (configs[arm].workers or 1) > 1]
        if claim.real_time and turns:
            why = f"it is about real time, and the workers of {turns[0]} take turns"
            yield f"the claim {claim.id} cannot be tested: {why}"


def _evaluation(name: str, config: Config) -> Any:
    return getattr(config.evaluation, name)


def _switch(name: str, config: Config) -> Any:
    """The value of a game's key; None for other environments."""
    value = getattr(config.env, name, None)
    return list(value) if isinstance(value, tuple) else value
