"""Scores of several environments together, against scipy, brute force and simulated studies."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic
from scipy import stats
from synthetic import write_sweep

from ablate.analysis import latex, markdown, statistics, sweep_figures
from ablate.analysis.decisions import Effects, Outcome, Part, Relation, contrast, decide, half_width
from ablate.analysis.load import load_sweep
from ablate.analysis.metrics import environments
from ablate.analysis.normalisation import normalised
from ablate.analysis.report import effect_unit, write_report
from ablate.analysis.scores import values_by_arm
from ablate.analysis.summary import summarise
from ablate.analysis.sweep_figures import drawings, shows_data
from ablate.analysis.tables import Summary
from ablate.records.schema import STUDY

LEVELS = {"a": {"cartpole": -0.5, "acrobot": -1.0}, "b": {"cartpole": -1.2, "acrobot": -1.1}}
IDS = {"cartpole": "CartPole-v1", "acrobot": "Acrobot-v1"}
REFERENCES = {"CartPole-v1": (-1200.0, 0.0), "Acrobot-v1": (-900.0, -100.0)}
CLAIMS = (
    {"id": "all", "words": "w", "metric": "final_score", "inequality": "a > b"},
    {"id": "one", "words": "w", "metric": "final_score", "inequality": "a-acrobot > b-acrobot",
     "environment": "acrobot"},
)  # fmt: skip
# What the invented scores lack: a time to reach a score has no normalised value.
METRICS = {name: synthetic.METRICS[name] for name in ("final_score", "auc")} | {
    "speed": {**synthetic.METRICS["speed"], "score": 0.5}
}


@pytest.fixture(scope="module", autouse=True)
def _composed_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "config_of", functools.cache(synthetic.config_of))
        yield


def crossed(folder: Path, seeds: int = 8, references: bool = True, **more: Any) -> Path:
    """Two arms in two environments. The workers differ, so the arms do not share random numbers."""
    arms = {
        f"{arm}-{environment}": {
            "level": level, "speed": 8.0, "label": arm.upper(), "arm": arm, "environment": environment,
            "overrides": [f"env={environment}", f"workers={1 + (arm == 'b')}"],
        }
        for environment in IDS for arm, level in ((arm, LEVELS[arm][environment]) for arm in LEVELS)
    }  # fmt: skip
    known = {env: {"low": low, "high": high, "source": "here"} for env, (low, high) in REFERENCES.items()}
    metrics = {name: {**synthetic.DEFAULTS, **metric} for name, metric in METRICS.items()}
    study = {"metrics": metrics, "smallest_effect": 0.02, "claims": [*CLAIMS], **more}
    if not references:
        metrics.pop("speed")
    return write_sweep(folder, arms, range(seeds), episodes=40, references=known if references else {}, **study)


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    return summarise(load_sweep(crossed(tmp_path_factory.mktemp("crossed"))))


def scores_of(summary: Summary, metric: str = "final_score") -> dict[tuple[str, str], np.ndarray]:
    """By arm and environment."""
    rows = summary.scores[summary.scores["metric"] == metric]
    return {
        (arm, environment): rows[rows["arm"] == f"{arm}-{environment}"]["value"].to_numpy()
        for arm, environment in itertools.product(LEVELS, IDS)
    }


def test_a_claim_over_environments_is_their_mean_difference_of_normalised_scores(summary: Summary) -> None:
    """Against Satterthwaite's formula, written out."""
    value, variances, freedoms = 0.0, [], []
    for (arm, environment), scores in scores_of(summary).items():
        low, high = REFERENCES[IDS[environment]]
        weight = (1 if arm == "a" else -1) / len(IDS)
        own = (scores - low) / (high - low)
        value += weight * own.mean()
        variances.append(weight**2 * own.var(ddof=1) / len(own))
        freedoms.append(len(own) - 1)
    freedom = sum(variances) ** 2 / sum(v**2 / f for v, f in zip(variances, freedoms, strict=True))
    verdict = summary.verdicts[0]
    half = stats.t.isf((1 - verdict.confidence) / 2, freedom) * np.sqrt(sum(variances))
    assert (verdict.effect, verdict.low, verdict.high) == pytest.approx((value, value - half, value + half))
    assert verdict.verdict == "supported"
    assert verdict.n == "8 in each of 4 arms"
    assert "of normalised scores over 2 environments" in verdict.reason
    # All claims share 5 %: the first interval has at least the level of two claims until the other one is settled.
    assert verdict.confidence >= 0.95


def test_one_environment_keeps_its_own_unit(summary: Summary) -> None:
    scores = scores_of(summary)
    verdict = summary.verdicts[1]
    assert verdict.effect == pytest.approx(scores["a", "acrobot"].mean() - scores["b", "acrobot"].mean())
    parts = environments(summary.sweep)
    assert {env: part.study.smallest_effect for env, part in parts.items()} == pytest.approx(
        {"CartPole-v1": 0.02 * 1200, "Acrobot-v1": 0.02 * 800}
    )
    assert parts["Acrobot-v1"].study.metrics["speed"].score == pytest.approx(-900 + 0.5 * 800)
    assert parts["Acrobot-v1"].study.baseline == "a-acrobot"
    assert [claim.id for claim in parts["Acrobot-v1"].study.claims] == ["one"]
    assert [*environments(parts["Acrobot-v1"])] == ["Acrobot-v1"]  # is not converted again
    assert environments(parts["Acrobot-v1"])["Acrobot-v1"].study.smallest_effect == pytest.approx(16)
    compared = summary.comparisons[summary.comparisons["metric"] == "final_score"]
    assert dict(zip(compared["arm"], compared["baseline"], strict=True)) == {
        "b-cartpole": "a-cartpole", "b-acrobot": "a-acrobot",
    }  # fmt: skip


def test_tables_over_environments_are_those_of_the_normalised_scores(summary: Summary) -> None:
    rows = summary.over_environments.query("metric == 'final_score'").set_index("arm")
    scores = scores_of(summary)
    scaled = {
        arm: [(scores[arm, e] - REFERENCES[IDS[e]][0]) / np.ptp(REFERENCES[IDS[e]]) for e in IDS] for arm in LEVELS
    }
    for arm, own in scaled.items():
        assert rows.loc[arm, "iqm"] == pytest.approx(stats.trim_mean(np.concatenate(own), 0.25))
        assert rows.loc[arm, "mean"] == pytest.approx(np.mean([x.mean() for x in own]))
        assert rows.loc[arm, "n"] == 16
    (better,) = summary.improvements.query("metric == 'final_score'")["probability_of_improvement"]
    won = [stats.mannwhitneyu(b, a).statistic / 64 for a, b in zip(scaled["a"], scaled["b"], strict=True)]
    assert better == pytest.approx(np.mean(won))
    assert "speed" not in set(summary.over_environments["metric"])
    means = summary.in_environments.query("metric == 'final_score'").set_index("arm")["mean"]
    assert means["b-acrobot"] == pytest.approx(scaled["b"][1].mean())


def test_ranks_are_the_share_of_all_runs_that_score_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_figures, "drawings", lambda summary: drawings(summary)[:2])  # all of them take long
    folder = crossed(tmp_path / "ranks", 5, references=False, failed=(("b-acrobot", 2),))
    summary = summarise(load_sweep(folder))
    values = values_by_arm(summary.scores)
    made = normalised(summary.sweep.study, values, "final_score")
    for environment in IDS:
        names = [f"{arm}-{environment}" for arm in LEVELS]
        raw = {name: values["final_score", name].set_index("seed")["value"] for name in names}
        pooled = pd.concat(raw.values())
        for name in names:
            for seed, score in made["final_score", name].set_index("seed")["value"].items():
                if np.isfinite(raw[name][seed]):
                    expected = stats.percentileofscore(pooled, raw[name][seed], kind="mean") / 100
                    assert score == pytest.approx(expected)
                else:
                    assert score == raw[name][seed]
    overall, one = summary.verdicts
    assert -1 <= overall.effect <= 1
    assert "failed seeds counted at the worst of each environment" in overall.reason
    assert "put together as ranks" in (write_report(summary)[0].parent / "verdict.md").read_text()
    assert one.seeds_needed is None  # ranks have no smallest effect in the unit of one environment


def test_an_arm_that_lacks_an_environment_is_in_no_claim_over_all(tmp_path: Path) -> None:
    sweep = load_sweep(crossed(tmp_path / "lacking", 5))
    arms = {name: arm for name, arm in sweep.study.arms.items() if name != "b-acrobot"}
    summary = summarise(replace(sweep.only([*arms]), study=replace(sweep.study, arms=arms)))
    assert (summary.verdicts[0].verdict, summary.verdicts[0].reason) == (
        "not testable here", "b was not planned in acrobot",
    )  # fmt: skip
    assert set(summary.over_environments["arm"]) == {"a"}


def test_mean_ranks_are_those_of_all_combinations_of_runs() -> None:
    rng = np.random.default_rng(3)
    arms = [[np.round(rng.normal(0.3 * k, 1, 5 + k), 1) for _ in range(2)] for k in range(3)]
    arms[0][1][0] = -np.inf  # a failed seed is worse than all others
    expected = [
        np.mean([stats.rankdata([-x for x in runs]) for runs in itertools.product(*task)], axis=0)
        for task in zip(*arms, strict=True)
    ]
    found = statistics.mean_ranks(arms)
    assert [rank.value for rank in found] == pytest.approx(np.mean(expected, axis=0))
    assert sum(rank.value for rank in found) == pytest.approx(6)
    assert all(rank.low < rank.value < rank.high for rank in found)
    assert np.isnan(statistics.mean_ranks([[x[:4] for x in own] for own in arms])[0].low)


def test_the_profile_is_drawn_as_the_share_of_runs_above(summary: Summary) -> None:
    figures = {drawing.name: drawing for drawing in drawings(summary)}
    over = [name for name in figures if name.startswith("environments_")]
    assert over == [f"environments_{name}" for name in ("curves", "scores", "profiles", "improvement")]
    drawn = {name: figures[name].draw() for name in over}
    assert all(map(shows_data, drawn.values()))
    assert [ax.get_title() for ax in drawn["environments_curves"].axes] == [*IDS.values()]
    scores = scores_of(summary)
    for line, arm in zip(drawn["environments_profiles"].axes[0].lines, LEVELS, strict=True):
        for threshold, share in zip(line.get_xdata(), line.get_ydata(), strict=True):
            own = [(scores[arm, e] - REFERENCES[IDS[e]][0]) / np.ptp(REFERENCES[IDS[e]]) for e in IDS]
            assert share == pytest.approx(np.mean([(x > threshold).mean() for x in own]))
    assert {"curves_evaluation_global_step_cartpole_v1", "scores_auc_acrobot_v1"} <= set(figures)


def test_effects_of_a_design_are_in_one_unit(tmp_path: Path) -> None:
    """Over all environments those of claims about all; in an environment those about this one."""
    folder = crossed(tmp_path / "design", 5, design="one_at_a_time")
    figures = {drawing.name: drawing for drawing in drawings(summarise(load_sweep(folder)))}
    for name, claim in (("environments_effects", "all"), ("design_effects_acrobot_v1", "one")):
        ax = figures[name].draw().axes[0]
        assert [label.get_text() for label in ax.get_yticklabels()] == [claim]
        assert ("normalised" in ax.get_xlabel()) == (claim == "all")
    assert "design_effects_cartpole_v1" not in figures


def test_each_environment_has_its_own_unit(tmp_path: Path) -> None:
    """Verdicts, tables and pages once named the returns of one for the rewards per step of the other."""
    folder = crossed(tmp_path / "units", 5, references=False)
    values = json.loads((folder / STUDY).read_text())
    values["score_units"] = {"CartPole-v1": "episodic_return", "Acrobot-v1": "reward_per_step"}
    (folder / STUDY).write_text(json.dumps(values))
    summary = summarise(load_sweep(folder))
    assert "in episodic return in CartPole-v1 and average reward per step in Acrobot-v1;" in markdown.report(summary)
    captions = [line for line in latex.tables(summary).splitlines() if "caption{Final" in line]
    assert {"(episodic return) in CartPole-v1" in line or "(average reward per step) in Acrobot-v1" in line
            for line in captions} == {True}  # fmt: skip
    units = {verdict.id: effect_unit(summary.sweep, verdict) for verdict in summary.verdicts}
    assert units["one"] == "average reward per step"


@pytest.mark.parametrize("n", [5, 8, 20])
@pytest.mark.parametrize("kind", ["normal", "lognormal", "bimodal"])
def test_intervals_over_environments_cover_and_the_error_is_shared(kind: str, n: int) -> None:
    """2000 studies of n seeds in three environments of different spread, without any effect.

    95 % of 2000 studies is 94.0 to 96.0 % in 95 of 100 simulations; skewed scores are covered more often."""
    rng, shape = np.random.default_rng(17), (2000, n)

    def draw(spread: float) -> np.ndarray:
        match kind:
            case "normal":
                return spread * rng.standard_normal(shape)
            case "lognormal":
                return spread * rng.lognormal(size=shape)
        return spread * (rng.standard_normal(shape) - 5 * (rng.random(shape) < 0.2))

    spreads = (0.1, 0.3, 1.0)
    arms = [[draw(spread) for spread in spreads], [draw(spread) for spread in spreads]]
    whole = contrast([Part((sign / 3,), (x,)) for sign, own in ((1, arms[0]), (-1, arms[1])) for x in own])
    inside = np.abs(whole.value) <= half_width(whole.error, whole.freedom, 0.05)
    assert 0.94 <= inside.mean() <= (0.97 if kind == "normal" else 0.99)
    each = [contrast([Part((1.0,), (a,)), Part((-1.0,), (b,))]) for a, b in zip(*arms, strict=True)]
    together = Effects(*(np.stack(parts, -1)[None] for parts in zip(whole, *each, strict=True)))
    decision = decide([together], np.full(4, Relation.greater), np.full(4, np.nan))
    wrong = (decision.outcome != Outcome.undecided).any(-1)
    assert wrong.mean() <= 0.06  # 5 %, and 2 standard errors
    print(f"{kind}, n = {n}: covered {inside.mean():.2%}, any verdict of four claims {wrong.mean():.2%}")
