"""Studies over many environments: which cells they have, which claims, and what counts as 0 and 1."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ROOT, config_of

from ablate.analysis.normalisation import by_ranks, scale_of
from ablate.config.choices import Normalisation, ScoreUnit, Source, Statistic, Until
from ablate.config.schema import ArmConfig, ClaimConfig, ConfigError, MetricConfig, SweepConfig
from ablate.records.study_file import Reference, read_study
from ablate.sweeps.environments import names_of, references_of, with_random_scores
from ablate.sweeps.plan import SweepPlan
from ablate.sweeps.study import expand
from ablate.sweeps.study_record import record_study

METRICS = {
    "final": MetricConfig(label="final", source=Source.evaluations, statistic=Statistic.mean),
    "speed": MetricConfig(label="steps", source=Source.evaluations, statistic=Statistic.first_reach, score=0.9),
}
ARMS = {
    "a3c": ArmConfig(overrides=["algo=a3c"], label="A3C"),
    "dqn": ArmConfig(overrides=["algo=dqn", "total_steps=x0.5"]),
}
SETTINGS = SweepConfig(
    name="both", arms=ARMS, environments={"cartpole": None, "acrobot": {"overrides": ["total_steps=200"]}},
    base=["total_steps=100"], metric="final", metrics=METRICS, seeds="0-1",
)  # fmt: skip


def claim(inequality: str = "dqn > a3c", metric: str = "final", environment: str | None = None) -> ClaimConfig:
    return ClaimConfig(id="C", words="w", metric=metric, inequality=inequality, environment=environment)


def settings_of(**changes: Any) -> SweepConfig:
    return replace(SETTINGS, **changes)


def test_every_arm_is_in_every_environment() -> None:
    study = expand([], SETTINGS, 1)
    assert [arm.name for arm in study.arms] == ["a3c-cartpole", "dqn-cartpole", "a3c-acrobot", "dqn-acrobot"]
    own = {arm.name: {o.partition("=")[0]: o.partition("=")[2] for o in arm.overrides} for arm in study.arms}
    keys = ("env", "algo", "total_steps")
    assert [tuple(own[name][key] for key in keys) for name in own] == [
        ("cartpole", "a3c", "100"), ("cartpole", "dqn", "50"), ("acrobot", "a3c", "200"), ("acrobot", "dqn", "100"),
    ]  # fmt: skip
    assert study.crossed["dqn-acrobot"] == ("dqn", "acrobot")
    assert study.settings.baseline == "a3c-cartpole"
    assert names_of(["dqn"], study.crossed) == ["dqn-cartpole", "dqn-acrobot"]


def test_a_claim_is_about_one_environment_about_each_or_about_all() -> None:
    claims = [
        replace(claim("(dqn + a3c) / 2 > a3c", environment="acrobot"), id="A"),
        claim(environment="each", metric="speed"),
        replace(claim(), id="B"),
    ]
    made = expand([], settings_of(claims=claims), 1).settings.claims
    assert {own.id: own.inequality for own in made[1:]} == {
        "C-cartpole": "dqn-cartpole > a3c-cartpole", "C-acrobot": "dqn-acrobot > a3c-acrobot", "B": "dqn > a3c",
    }  # fmt: skip
    assert made[0].inequality == "(dqn-acrobot + a3c-acrobot) / 2 > a3c-acrobot"


def test_keys_that_vary_on_the_command_line_and_designs_are_crossed() -> None:
    study = expand(["workers=2,4"], settings_of(arms={}, environments=["cartpole", "pendulum"]), 1)
    assert [arm.name for arm in study.arms] == [
        f"workers-{count}-{env}" for env in ("cartpole", "pendulum") for count in (2, 4)
    ]
    assert study.levels["workers-4-pendulum"] == {"workers": "4"}


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"environments": "cartpole"}, [], "sweep.environments=cartpole: a list of options of env is needed"),
        ({"environments": ["cartpole", "cartpole"]}, [], "sweep.environments: cartpole is given twice"),
        ({"environments": ["each"]}, [], "sweep.environments.each: it is part of a folder's name"),
        ({"environments": {"cartpole": {"overides": []}}}, [],
         "sweep.environments.cartpole.overides: no such key; did you mean overrides?"),
        ({"environments": {"cartpole": {"reference": [5, 5]}}}, [],
         r"sweep.environments.cartpole.reference=\[5.0, 5.0\]: the second must be larger"),
        ({"environments": {"cartpole": {"reference": [5]}}}, [], 
         r"sweep.environments.cartpole.reference=\[5\]: two scores are needed"),
        ({"claims": [claim(environment="acrobat")]}, [],
         "environment=acrobat: not one of sweep.environments; did you mean acrobot?"),
        ({"claims": [claim(metric="speed")]}, [], "metric=speed: first_reach is no score, so it cannot be compared"),
        ({"claims": [claim("dqn > dqn-acrobot")]}, [], "dqn-acrobot: no such arm"),
        ({"environments": [], "claims": [claim(environment="each")]}, [], "the study has no sweep.environments"),
        ({}, ["env=pendulum"], "env=pendulum: the study has the environments in sweep.environments"),
        ({"arms": {"a": ARMS["a3c"], "a-cartpole": ARMS["dqn"]}}, [], "two arms would be called a-cartpole"),
    ],
)  # fmt: skip
def test_a_study_that_cannot_be_crossed_is_refused(changes: dict, arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        expand(arguments, settings_of(**changes), 1)


CROSSED = {"x-pendulum": ("x", "pendulum"), "x-cartpole": ("x", "cartpole")}
CONFIGS = {"x-pendulum": ["env=pendulum"], "x-cartpole": ["env=cartpole"]}


def references(configs: dict[str, list[str]] | None = None, **changes: Any) -> dict[str, Reference]:
    made = {name: config_of(*overrides) for name, overrides in (configs or CONFIGS).items()}
    environments = changes.pop("environments", ["pendulum", "cartpole"])
    return references_of(settings_of(environments=environments, **changes), CROSSED, made)


def test_references_are_known_in_the_unit_of_the_scores() -> None:
    found = references()
    assert {env: (own.low, own.high) for env, own in found.items()} == {
        "Pendulum-v1": (None, -163 / 200), "CartPole-v1": (None, 475),
    }  # fmt: skip
    assert references(score=ScoreUnit.episodic_return)["Pendulum-v1"].high == -163
    given = references(environments={"pendulum": {"reference": [-6, -1]}, "cartpole": None})["Pendulum-v1"]
    assert (given.low, given.high) == (-6, -1)
    units = {"Pendulum-v1": ScoreUnit.reward_per_step, "CartPole-v1": ScoreUnit.episodic_return}
    played = with_random_scores(found, {"Pendulum-v1": [(-1000, 200), (-400, 100)], "CartPole-v1": [(20, 20)]}, units)
    assert [own.low for own in played.values()] == [-4.5, 20]


def test_an_environment_that_is_left_out_later_keeps_its_reference(tmp_path: Path) -> None:
    """Its arms are still in the folder. Ranks in one environment were mixed with normalised scores in another."""
    settings = settings_of(environments=["pendulum", "cartpole"], normalisation=Normalisation.references)
    made = {arm.name: config_of(*arm.overrides) for arm in expand([], settings, 1).arms}
    for environments in (["pendulum", "cartpole"], ["cartpole"]):
        own = expand([], replace(settings, environments=environments), 1)
        record_study(SweepPlan(own, tmp_path, {arm.name: made[arm.name] for arm in own.arms}, []))
    study = read_study(tmp_path)
    assert set(study.references) == set(study.environments.values()) == {"Pendulum-v1", "CartPole-v1"}
    unknown = replace(study, references={env: own for env, own in study.references.items() if env == "CartPole-v1"})
    assert by_ranks(unknown)
    assert scale_of(unknown, "CartPole-v1") is None


def test_one_unknown_reference_means_ranks_for_all() -> None:
    other = {**CONFIGS, "x-pendulum": ["env=pendulum", "+env.kwargs.g=5"]}  # another task
    plain = {"metrics": {"final": METRICS["final"]}}
    assert references(other, **plain) == {}
    assert references(**plain, normalisation=Normalisation.cdf) == {}
    for changes, message in (
        ({"normalisation": Normalisation.references}, "no reference score is known for pendulum; give"),
        ({"floor": 0.0}, "sweep.floor=0.0: with several environments it needs scores between two references"),
        ({"metrics": METRICS}, "sweep.metrics.speed.score=0.9: with several environments"),
        ({"until": Until.decided, "claims": [claim("x > y")]}, "sweep.until=decided: with several environments"),
    ):
        with pytest.raises(ConfigError, match=message):
            references(other, **{**plain, **changes})
    same = {name: ["env=cartpole"] for name in CONFIGS}
    with pytest.raises(ConfigError, match="pendulum and cartpole are both CartPole-v1"):
        references(same)


@pytest.mark.slow
def test_a_sweep_over_environments_runs_resumes_and_is_judged(tmp_path: Path) -> None:
    folder = tmp_path / "crossed"
    command = [
        sys.executable, str(ROOT / "src/run.py"), "-m", "sweep.environments=[cartpole,mountain_car]", "algo=a3c,dqn",
        "schedule=interleaved", "workers=1", "backend=manual", "max_episodes=null", "total_steps=600",
        "evaluation.every_steps=300", "evaluation.episodes=2", "seed=range(2)", f"hydra.sweep.dir='{folder}'",
        "sweep.claims=[{id:C,words:w,metric:auc,inequality:'algo-dqn > algo-a3c'},"
        "{id:E,words:w,metric:auc,inequality:'algo-dqn > algo-a3c',environment:each}]",
    ]  # fmt: skip

    def run(*more: str) -> str:
        made = subprocess.run(
            [*command, *more], capture_output=True, text=True, timeout=300, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        )  # fmt: skip
        assert made.returncode == 0, made.stdout + made.stderr
        return made.stdout

    first = run()
    assert "8 of 8 cells completed" in first
    assert (folder / "algo-dqn-cartpole/seed=1/episodes.csv").is_file()
    study = read_study(folder)
    for env, reference in study.references.items():
        assert reference.low == pytest.approx(np.mean([score for score, _ in study.random_scores[env]]))
    assert {*study.references} == {"CartPole-v1", "MountainCar-v0"}
    text = (folder / "verdict.md").read_text()
    assert "### C: undecided" in text
    assert "### E-cartpole: undecided" in text
    assert "Normalised scores are 0 and 1 at these scores: CartPole-v1" in text
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("*/seed=*/status.json")}
    more = run("seed=range(3)").splitlines()
    assert any("12 of 12 cells completed" in line for line in more)
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    assert json.loads((folder / "study.json").read_text())["arms"]["algo-dqn-cartpole"]["environment"] == "cartpole"
    status = subprocess.run(
        [sys.executable, str(ROOT / "src/sweep.py"), "status", str(folder)], capture_output=True, text=True, check=True
    )
    assert "mountain_car" in status.stdout
    plotted = subprocess.run(
        [sys.executable, str(ROOT / "src/plot.py"), str(folder), "--arms", "algo-dqn", "--labels", "algo-dqn=DQN"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert plotted.returncode == 0, plotted.stderr
    assert "environments_curves.pdf" in plotted.stdout
