"""Sensitivity and effective dimension, against brute force in plain Python on invented tables."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from ablate.analysis.sensitivity import sensitivity_of
from ablate.config.choices import DesignKind, Source, Statistic
from ablate.config.schema import ConfigError, MetricConfig

LEVELS = {"a": ["1", "2", "3"], "b": ["x", "y"], "c": ["p", "q"]}
SETTINGS = list(itertools.product(*LEVELS.values()))


class Arm(NamedTuple):
    levels: dict[str, str]
    config: dict[str, Any]


class Study(NamedTuple):
    arms: dict[str, Arm]
    metrics: dict[str, MetricConfig]
    baseline: str
    design: DesignKind | None = DesignKind.factorial
    metric: str = "m"
    factors: dict[str, str] = {key: key for key in (*LEVELS, "env")}  # noqa: RUF012  # as study.json has them
    floor: float | None = None
    crossed: dict[str, Any] = {}  # noqa: RUF012


class Invented(NamedTuple):
    study: Study

    @property
    def arms(self) -> dict[str, str]:
        return dict.fromkeys(self.study.arms, "")


def invented(scores: dict[str, dict[tuple[str, ...], list[float]]], **study: Any) -> tuple[Any, Any]:
    """A sweep and its values. scores: of the seeds, by environment and setting."""
    arms, values = {}, {}
    for env, own in scores.items():
        for setting, seeds in own.items():
            name = "-".join((env, *setting))
            arms[name] = Arm({**dict(zip(LEVELS, setting, strict=True)), "env": env}, {"env": {"id": env}})
            values["m", name] = pd.DataFrame({"seed": range(len(seeds)), "value": seeds, "censored": False})
    metric = MetricConfig(label="m", source=Source.evaluations, statistic=Statistic.mean)
    given = {"metrics": {"m": metric}, "baseline": next(iter(arms)), **study}
    return Invented(Study(arms, **given)), values


def drawn(seed: int, envs: int) -> dict[str, dict[tuple[str, ...], list[float]]]:
    rng = np.random.default_rng(seed)
    scale = rng.uniform(1, 100, envs)
    return {
        f"env{e}": {s: list(scale[e] * (rng.normal() + 0.1 * rng.normal(size=6))) for s in SETTINGS}
        for e in range(envs)
    }


def mean(values: Any) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def brute_force(scores: dict[str, dict[tuple[str, ...], list[float]]]) -> tuple[float, int | None, dict[str, float]]:
    """Φ, d, and the performance of each choice of keys, word for word as in the paper."""
    gamma: dict[tuple[str, tuple[str, ...]], float] = {}
    for env, own in scores.items():
        low, high = (float(np.percentile([x for seeds in own.values() for x in seeds], p)) for p in (5, 95))
        for setting, seeds in own.items():
            gamma[env, setting] = (mean(seeds) - low) / (high - low)
    best = mean(max(gamma[env, h] for h in SETTINGS) for env in scores)
    star = max(SETTINGS, key=lambda h: mean(gamma[env, h] for env in scores))
    reached: dict[str, float] = {}
    for size in range(4):
        for keys in itertools.combinations("abc", size):
            allowed = [h for h in SETTINGS if all(k in keys or x == y for k, x, y in zip("abc", h, star, strict=True))]
            reached["".join(keys)] = mean(max(gamma[env, h] for h in allowed) for env in scores)
    near = [len(keys) for keys, performance in reached.items() if performance >= 0.95 * best]
    return best - mean(gamma[env, star] for env in scores), min(near) if best > 0 else None, reached


@pytest.mark.parametrize("seed", range(8))
def test_a_factorial_is_as_by_brute_force(seed: int) -> None:
    scores = drawn(seed, envs=2 + seed % 3)
    found = sensitivity_of(*invented(scores))
    assert found is not None
    value, dimension, reached = brute_force(scores)
    assert found.sensitivity.value == pytest.approx(value)
    assert found.dimension == dimension
    assert {"".join(own.keys): own.performance for own in found.subsets} == pytest.approx(reached)
    assert found.sensitivity.low <= found.sensitivity.high


def test_one_key_decides_if_only_it_matters() -> None:
    """The best value of `a` differs between two environments, and the other keys do nothing: d = 1, Φ by hand."""
    best = {"one": "1", "two": "3"}
    scores = {env: {s: [float(s[0] == a)] * 5 for s in SETTINGS} for env, a in best.items()}
    found = sensitivity_of(*invented(scores))
    assert found is not None
    assert found.dimension == 1
    assert [own.keys for own in found.best_of_size][:2] == [(), ("a",)]
    assert found.sensitivity == pytest.approx((0.5, 0.5, 0.5))


def test_a_setting_that_is_best_everywhere_leaves_nothing_to_tune() -> None:
    scores = {env: {s: [float(int(s[0]))] * 5 for s in SETTINGS} for env in ("one", "two")}
    found = sensitivity_of(*invented(scores))
    assert found is not None
    assert (found.sensitivity.value, found.dimension) == (0.0, 0)
    smaller = MetricConfig(label="m", source=Source.evaluations, statistic=Statistic.duration)
    worst = sensitivity_of(*invented(scores, metrics={"m": smaller}))
    assert worst is not None
    assert worst.labels[worst.reference].startswith("a=1")


def test_one_environment_is_compared_with_the_baseline() -> None:
    scores = {"one": {s: [float(int(s[0]))] * 5 for s in SETTINGS}}
    found = sensitivity_of(*invented(scores, baseline="one-1-x-p"))
    assert found is not None
    assert found.sensitivity.value == 1.0  # from the lowest value of `a`, the 5th percentile, to the highest, the 95th
    assert found.dimension == 1


def test_without_the_baselines_score_nothing_is_compared_with_it() -> None:
    scores = {"one": {s: [float(int(s[0]))] * 5 for s in SETTINGS}}
    sweep, values = invented(scores, baseline="one-1-x-p")
    values["m", "one-1-x-p"] = values["m", "one-1-x-p"].iloc[:0]
    with pytest.raises(ConfigError, match="needs a score of the baseline"):
        sensitivity_of(sweep, values)


def test_a_random_design_has_no_effective_dimension() -> None:
    own = {s: [float(i)] * 5 for i, s in enumerate(SETTINGS[:7])}
    found = sensitivity_of(*invented({"one": own, "two": own}, design=DesignKind.random))
    assert found is not None
    assert (found.subsets, found.dimension, found.sensitivity.value) == ([], None, 0.0)


def test_diverged_seeds_count_at_the_worst_score_and_other_designs_have_none() -> None:
    scores = drawn(1, envs=2)
    scores["env0"][SETTINGS[0]] = [-np.inf] * 6
    worst = min(x for seeds in scores["env0"].values() for x in seeds if np.isfinite(x))
    found = sensitivity_of(*invented(scores))
    assert found is not None
    filled = {**scores, "env0": {**scores["env0"], SETTINGS[0]: [worst] * 6}}
    assert found.sensitivity.value == pytest.approx(brute_force(filled)[0])
    assert sensitivity_of(*invented(scores, design=DesignKind.path)) is None
    with pytest.raises(ConfigError, match="scores that differ"):
        sensitivity_of(*invented({"one": dict.fromkeys(SETTINGS, [1.0] * 5)}))
