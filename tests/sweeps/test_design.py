"""Designs: the arms and claims that they make of factors, and a planted interaction that they find."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import yaml
from helpers import ROOT
from scipy import stats

from ablate.analysis.cases import RELATIONS
from ablate.analysis.decisions import Effects, Outcome, Part, contrast, decide
from ablate.config.choices import DesignKind, Source, Statistic
from ablate.config.inequality import parse
from ablate.config.schema import ClaimConfig, ConfigError, FactorConfig, MetricConfig, SweepConfig
from ablate.sweeps.design import expanded, sizes
from ablate.sweeps.study import Study, expand

METRICS = {
    "auc": MetricConfig(label="area", source=Source.evaluations, statistic=Statistic.auc),
    "speed": MetricConfig(label="steps", source=Source.evaluations, statistic=Statistic.first_reach, score=1.0),
}
SWITCHES = {
    "algo.double": FactorConfig(baseline=False, alternatives=[True]),
    "algo.n_step": FactorConfig(baseline=1, alternatives=[3]),
    "replay": FactorConfig(baseline="uniform", alternatives=["prioritized"], label="draws"),
}
GRID = {
    "algo.t_max": FactorConfig(baseline=5, alternatives=[20, 50]),
    "optimizer.lr": FactorConfig(baseline=1e-3, alternatives=[1e-4]),
}


def study_of(design: str, factors: dict[str, Any], **settings: Any) -> Study:
    given = {"metric": "auc", "metrics": METRICS, **settings}
    return expand([], SweepConfig(design=DesignKind(design), factors=factors, **given), 1)


def arms_of(study: Study) -> dict[str, str]:
    """Label by name."""
    return {arm.name: arm.label for arm in study.arms}


def claims_of(study: Study) -> dict[str, str]:
    return {claim.id: claim.inequality for claim in study.settings.claims}


def test_leave_one_out_takes_each_factor_from_all() -> None:
    study = study_of("leave_one_out", SWITCHES)
    assert arms_of(study) == {
        "all": "all: double, n_step=3, draws=prioritized",
        "without-double": "without double",
        "without-n_step-3": "without n_step=3",
        "without-draws-prioritized": "without draws=prioritized",
    }
    overrides = {arm.name: set(arm.overrides) for arm in study.arms}
    assert {"algo.double=true", "algo.n_step=3", "replay=prioritized"} <= overrides["all"]
    assert {"algo.double=true", "algo.n_step=1", "replay=prioritized"} <= overrides["without-n_step-3"]
    assert claims_of(study) == {
        "double": "all > without-double",
        "n_step=3": "all > without-n_step-3",
        "draws=prioritized": "all > without-draws-prioritized",
    }
    assert study.levels["without-double"] == {"algo.double": "false", "algo.n_step": "3", "replay": "prioritized"}
    assert study.factors == {"algo.double": "double", "algo.n_step": "n_step", "replay": "draws"}


def test_add_one_in_gives_each_factor_to_none() -> None:
    study = study_of("add_one_in", SWITCHES)
    assert arms_of(study) == {
        "none": "none: double=false, n_step=1, draws=uniform",
        "with-double": "with double",
        "with-n_step-3": "with n_step=3",
        "with-draws-prioritized": "with draws=prioritized",
    }
    assert {"algo.double=false", "algo.n_step=3", "replay=uniform"} <= set(study.arms[2].overrides)
    assert list(claims_of(study).values()) == [
        "with-double > none", "with-n_step-3 > none", "with-draws-prioritized > none",
    ]  # fmt: skip


def test_one_at_a_time_changes_one_value_of_the_baseline() -> None:
    study = study_of("one_at_a_time", GRID, metric="speed")
    assert list(arms_of(study)) == ["baseline", "t_max-20", "t_max-50", "lr-0.0001"]
    assert {"algo.t_max=50", "optimizer.lr=0.001"} <= set(study.arms[2].overrides)
    # Fewer steps to the score are better.
    assert claims_of(study) == {
        "t_max=20": "t_max-20 < baseline", "t_max=50": "t_max-50 < baseline", "lr=0.0001": "lr-0.0001 < baseline",
    }  # fmt: skip


def test_a_factorial_has_all_combinations_their_effects_and_interactions() -> None:
    study = study_of("factorial", GRID)
    assert list(arms_of(study)) == [
        "t_max-5_lr-0.001", "t_max-5_lr-0.0001", "t_max-20_lr-0.001", "t_max-20_lr-0.0001",
        "t_max-50_lr-0.001", "t_max-50_lr-0.0001",
    ]  # fmt: skip
    claims = claims_of(study)
    assert list(claims) == [
        "t_max=20", "t_max=50", "lr=0.0001", "t_max=20 × lr=0.0001", "t_max=50 × lr=0.0001",
    ]  # fmt: skip
    a5, b5, a20, b20, a50, b50 = arms_of(study)
    assert parse(claims["t_max=50"]).weights == {a50: 0.5, b50: 0.5, a5: -0.5, b5: -0.5}
    third = pytest.approx(1 / 3)
    assert {arm: abs(w) for arm, w in parse(claims["lr=0.0001"]).weights.items()} == dict.fromkeys(
        arms_of(study), third
    )
    assert claims["t_max=20 × lr=0.0001"] == f"({b20} - {b5}) > ({a20} - {a5})"


def test_interactions_of_many_factors_are_averages_over_the_others() -> None:
    study = study_of("factorial", SWITCHES)
    assert len(study.arms) == 8
    weights = parse(claims_of(study)["double=true × draws=prioritized"]).weights
    for name, levels in study.levels.items():
        signs = [1 if level in ("true", "prioritized") else -1 for key, level in levels.items() if key != "algo.n_step"]
        assert weights[name] == signs[0] * signs[1] / 2


def test_a_path_changes_one_more_factor_at_each_step() -> None:
    study = study_of("path", SWITCHES)
    assert arms_of(study) == {
        "start": "start: double=false, n_step=1, draws=uniform",
        "1-double": "+ double",
        "2-n_step-3": "+ n_step=3",
        "3-draws-prioritized": "+ draws=prioritized",
    }
    assert list(study.levels["2-n_step-3"].values()) == ["true", "3", "uniform"]
    assert claims_of(study) == {
        "1. double": "1-double > start",
        "2. n_step=3": "2-n_step-3 > 1-double",
        "3. draws=prioritized": "3-draws-prioritized > 2-n_step-3",
        "all steps": "3-draws-prioritized > start",
    }


def test_claims_by_hand_come_after_those_of_the_design() -> None:
    own = ClaimConfig(id="X", words="w", metric="auc", inequality="(all - without-double) > (all - without-n_step-3)")
    study = study_of("leave_one_out", SWITCHES, claims=[own])
    assert [claim.id for claim in study.settings.claims] == ["double", "n_step=3", "draws=prioritized", "X"]


def test_the_study_that_the_page_shows_can_be_planned() -> None:
    """Also its claim by hand: the arms that it names are those of the design."""
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/designs.md").read_text(), re.DOTALL)
    given = yaml.safe_load(text)["sweep"]
    factors = {key: FactorConfig(**factor) for key, factor in given["factors"].items()}
    claims = [ClaimConfig(**claim) for claim in given["claims"]]
    study = study_of(given["design"], factors, metric=given["metric"], claims=claims, base=given["base"])
    assert len(study.arms) == 6
    assert len(study.settings.claims) == 6


def test_a_sweep_without_a_file_remembers_its_factors() -> None:
    study = expand(["algo.t_max=5,20", "workers=1,2"], SweepConfig(metric="auc", metrics=METRICS), 1)
    assert study.factors == {"algo.t_max": "t_max", "workers": "workers"}
    assert study.levels["t_max-20_workers-1"] == {"algo.t_max": "20", "workers": "1"}


def test_the_sizes_of_all_designs() -> None:
    assert sizes(SweepConfig(factors=SWITCHES)) == {
        "leave_one_out": 4, "add_one_in": 4, "one_at_a_time": 4, "factorial": 8, "path": 4,
    }  # fmt: skip
    assert sizes(SweepConfig(factors=GRID)) == {"one_at_a_time": 4, "factorial": 6}


def switches(count: int) -> dict[str, FactorConfig]:
    return {f"algo.k{i}": FactorConfig(baseline=False, alternatives=[True]) for i in range(count)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"design": None, "factors": SWITCHES}, r"sweep.design=null: the factors algo.double, .* need a design"),
        ({"design": "path"}, "sweep.design=path: a design needs factors; give sweep.factors"),
        ({"design": "path", "factors": GRID}, r"sweep.factors.algo.t_max.alternatives=\[20, 50\]: sweep.design=path"),
        ({"design": "factorial", "factors": switches(1)}, "sweep.design=factorial: it needs at least two factors"),
        ({"design": "factorial", "factors": switches(8)}, "2 x 2 x .* = 256 arms, more than 128; drop values or"),
        ({"design": "leave_one_out", "factors": switches(200)}, "leave_one_out: 201 arms, more than 128"),
        (
            {"design": "factorial", "factors": {**switches(1), "model.k0": FactorConfig(0, [1])}},
            "sweep.factors.model.k0: another factor is called k0; give it a label",
        ),
        (
            {"design": "factorial", "factors": {**switches(1), "x": FactorConfig("[a]", ["a"])}},
            "would share the folder",
        ),
        ({"design": "path", "factors": {"a": FactorConfig(1, [1])}}, "sweep.factors.a: the value 1 is given twice"),
        ({"design": "path", "factors": {"a": FactorConfig(1, [{"b": 1}])}}, r"sweep.factors.a: \{'b': 1\}: a factor's"),
        ({"design": "path", "factors": {"a b": FactorConfig(1, [2])}}, "sweep.factors.a b: not the name of a key"),
    ],
)
def test_factors_that_make_no_design_are_refused(settings: dict[str, Any], message: str) -> None:
    design = DesignKind(settings.pop("design")) if settings.get("design") else settings.pop("design")
    with pytest.raises(ConfigError, match=message):
        expanded(SweepConfig(metric="auc", metrics=METRICS, design=design, **settings))


# A planted interaction. Scores are a known function of two factors, plus noise.


def truth(x: float, y: float) -> float:
    """The effect of y is 1 at x = 0 and 2.5 at x = 1: the interaction is 1.5."""
    return x + y + 1.5 * x * y


@pytest.mark.parametrize("shared", [0.0, 0.8], ids=["independent", "shared random numbers"])
def test_a_planted_interaction_is_found_with_its_sign_and_size(shared: float) -> None:
    """400 studies of a 2 x 2 factorial with 10 seeds and a standard deviation of 1, unequal between the arms.

    shared: the correlation between arms of the same seed, which are then combined seed by seed."""
    factors = {name: FactorConfig(baseline=0, alternatives=[1]) for name in ("x", "y")}
    study = study_of("factorial", factors)
    rng, studies, seeds = np.random.default_rng(0), 400, 10
    common = rng.standard_normal((studies, seeds))
    scores = {
        arm: truth(*map(float, levels.values()))
        + (0.7 + 0.6 * int(levels["x"]) * (shared == 0))
        * (np.sqrt(shared) * common + np.sqrt(1 - shared) * rng.standard_normal((studies, seeds)))
        for arm, levels in study.levels.items()
    }
    relations, effects, thetas = [], [], []
    for claim in study.settings.claims:
        relation, weights = parse(claim.inequality)
        own = [(weight, scores[arm]) for arm, weight in weights.items()]
        together = [Part(*map(tuple, zip(*own, strict=True)))]
        parts = together if shared else [Part((weight,), (score,)) for weight, score in own]
        effects.append(contrast(parts))
        relations.append(RELATIONS[relation])
        levels = [study.levels[arm] for arm in weights]
        thetas.append(sum(w * truth(*map(float, x.values())) for w, x in zip(weights.values(), levels, strict=True)))
    assert thetas == pytest.approx([1.75, 1.75, 1.5])  # on average over the other factor; the interaction
    stacked = Effects(*(np.stack(part, -1)[None] for part in zip(*effects, strict=True)))
    decision = decide([stacked], np.array(relations), np.full(3, np.nan))
    for i, (theta, claim) in enumerate(zip(thetas, study.settings.claims, strict=True)):
        inside = (decision.low[:, i] < theta) & (theta < decision.high[:, i])
        supported = (decision.outcome[:, i] == Outcome.supported).mean()
        print(f"{claim.id}: true {theta:g}, inside its interval {inside.mean():.2%}, supported {supported:.2%}")
        # The upper end of the 99.9 % interval of the rate: below 95 % only if the true rate is.
        assert stats.binomtest(int(inside.sum()), studies).proportion_ci(0.998, method="wilson").high >= 0.95
        assert (decision.outcome[:, i] != Outcome.contradicted).all()
    assert supported > (0.95 if shared else 0.5)  # the last one is the interaction


def test_without_an_interaction_none_is_found_beyond_chance() -> None:
    rng, studies = np.random.default_rng(1), 400
    noise = rng.standard_normal((4, studies, 10)) * np.array([0.5, 1, 2, 1])[:, None, None]
    means = np.array([0.0, 1.0, 2.0, 3.0])[:, None, None]  # additive
    parts = [Part((weight,), (x,)) for weight, x in zip((1.0, -1.0, -1.0, 1.0), means + noise, strict=True)]
    effects = Effects(*(part[None, :, None] for part in contrast(parts)))
    decision = decide([effects], np.array([RELATIONS[">"]]), np.array([np.nan]))
    errors = int((decision.outcome != Outcome.undecided).sum())
    assert stats.binomtest(errors, studies).proportion_ci(0.998, method="wilson").low <= 0.05


def test_a_random_design_draws_from_its_ranges_and_more_draws_keep_the_first() -> None:
    factors = {
        "optimizer.lr": FactorConfig(baseline=1e-3, range="tag(log,interval(1e-4,1e-2))"),
        "algo.t_max": FactorConfig(baseline=20, range="choice(5,20)"),
    }
    few, many = (study_of("random", factors, draws=draws) for draws in (4, 12))
    assert arms_of(many)["baseline"] == "baseline: lr=0.001, t_max=20"
    assert list(arms_of(many))[:5] == list(arms_of(few))
    assert {arm: many.levels[arm] for arm in few.levels} == few.levels
    assert all(1e-4 <= float(own["optimizer.lr"]) <= 1e-2 for own in many.levels.values())
    assert {own["algo.t_max"] for own in many.levels.values()} == {"5", "20"}
    assert claims_of(many) == {}
    with pytest.raises(ConfigError, match="only 2 combinations"):
        study_of("random", {"algo.t_max": FactorConfig(baseline=20, range="choice(5,20)")}, draws=4)
    with pytest.raises(ConfigError, match="needs a range"):
        study_of("random", GRID)
    with pytest.raises(ConfigError, match=r"only sweep\.design=random draws"):
        study_of("factorial", factors)


def test_a_factorial_with_the_environment_asks_in_each_environment() -> None:
    """Scores of different environments have different units, so no claim averages over them."""
    study = study_of("factorial", {"env": FactorConfig(baseline="cartpole", alternatives=["acrobot"]), **GRID})
    claims = claims_of(study)
    assert list(claims) == [
        f"{effect} in {env}" for env in ("cartpole", "acrobot") for effect in ("t_max=20", "t_max=50", "lr=0.0001")
    ]
    for id, inequality in claims.items():
        assert {id.rpartition(" in ")[2] in arm for arm in parse(inequality).arms} == {True}
