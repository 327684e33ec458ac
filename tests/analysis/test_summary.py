"""A sweep's tables and verdicts, on invented sweeps with known differences."""

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic
from scipy import stats
from synthetic import METRICS, write_sweep

from ablate.analysis import statistics
from ablate.analysis.load import load_sweep
from ablate.analysis.markdown import needed, title
from ablate.analysis.summary import summarise, write_tables
from ablate.analysis.tables import Summary
from ablate.analysis.verdicts import Verdict
from ablate.config.schema import ConfigError
from ablate.records.schema import CELL, EVALUATIONS, MANIFEST, STUDY

# Final scores of good and bad differ by 0.8, those of good and same do not differ; the seeds' deviation is 0.3.
ARMS: dict[str, dict[str, Any]] = {
    "bad": {"level": -1.3, "speed": 8.0, "overrides": ["workers=1"]},
    "good": {"level": -0.5, "speed": 8.0, "overrides": ["workers=4"]},
    "same": {"level": -0.5, "speed": 8.0, "overrides": ["workers=2"], "label": "the same | again"},
}
CLAIMS = tuple(
    {"id": f"C{i}", "words": f"the words of claim {i}", "metric": metric, "inequality": inequality}
    for i, (metric, inequality) in enumerate([
        ("final_score", "bad < good"), ("final_score", "bad > good"), ("final_score", "good ~ bad"),
        ("final_score", "good ~ same"), ("final_score", "good < same"), ("speed", "good < bad"),
        ("speed", "good ~ bad"),
    ])
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _composed_once() -> Iterator[None]:
    """Composing a configuration takes longer than all else here, and few different configurations are needed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "config_of", functools.cache(synthetic.config_of))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 planned seeds of three arms; one cell of the bad arm has failed and two are missing."""
    return write_sweep(
        tmp_path_factory.mktemp("sweep"), ARMS, range(24), episodes=40, claims=CLAIMS,
        failed=(("bad", 3),), missing=(("bad", 4), ("bad", 5)), smallest_effect=0.35, baseline="good",
    )  # fmt: skip


@pytest.fixture(scope="module")
def summary(folder: Path) -> Summary:
    return summarise(load_sweep(folder))


def row_of(table: pd.DataFrame, **key: str) -> pd.Series:
    rows = table[np.logical_and.reduce([table[name] == value for name, value in key.items()])]
    assert len(rows) == 1
    return rows.iloc[0]


def small(folder: Path, seeds: int = 6, arms: dict | None = None, **study: Any) -> Path:
    return write_sweep(
        folder,
        arms or {"good": ARMS["good"], "bad": ARMS["bad"]},
        range(seeds),
        episodes=40,
        **{"baseline": "good", **study},
    )


def claims(*inequalities: str, metric: str = "final_score", **more: Any) -> tuple[dict[str, Any], ...]:
    return tuple({"id": "C", "words": "w", "metric": metric, "inequality": words, **more} for words in inequalities)


def change_study(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the study, and the configurations of its cells with it."""
    study = json.loads((folder / STUDY).read_text())
    change(study)
    (folder / STUDY).write_text(json.dumps(study))
    for name, arm in study["arms"].items():
        for path in (folder / name).glob(f"seed=*/{MANIFEST}"):
            manifest = json.loads(path.read_text())
            path.write_text(json.dumps({**manifest, "config": {**arm["config"], "seed": manifest["config"]["seed"]}}))


def finals(folder: Path, arm: str) -> np.ndarray:
    """The arm's final scores, read directly from the files."""
    scores = []
    for path in sorted((folder / arm).glob("seed=*")):
        if json.loads((path / "status.json").read_text())["state"] == "completed":
            table = pd.read_csv(path / EVALUATIONS)
            last = table[table["evaluation"] == table["evaluation"].max()]
            scores.append((last["episodic_return"] / last["episodic_length"]).mean())
    return np.array(scores)


def test_arms_are_counted_and_summarised(folder: Path, summary: Summary) -> None:
    assert set(summary.arms["metric"]) == set(METRICS)
    for arm in ARMS:
        row, scores = row_of(summary.arms, metric="final_score", arm=arm), finals(folder, arm)
        assert (row["n"], row["n_planned"], row["n_failed"], row["n_missing"], row["failed"]) == (
            (21, 24, 1, 2, "1 crashed") if arm == "bad" else (24, 24, 0, 0, "")
        )
        assert row["mean"] == pytest.approx(scores.mean())
        ranked = [*[-1e9] * (arm == "bad"), *scores]
        assert row["median"] == pytest.approx(np.median(ranked))
        assert row["iqm"] == pytest.approx(stats.trim_mean(ranked, 0.25))
        assert row["spread"] == pytest.approx(scores.std(ddof=1))
        for name in ("mean", "median", "iqm"):
            assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
            assert row[f"{name}_high"] - row[f"{name}_low"] < 2 * scores.std()
    assert row_of(summary.arms, metric="auc", arm="same")["label"] == "the same | again"


def test_arms_are_compared_with_the_baseline(folder: Path, summary: Summary) -> None:
    assert list(zip(summary.comparisons["arm"], summary.comparisons["baseline"], strict=True)) == [
        ("bad", "good"),
        ("same", "good"),
    ] * len(METRICS)
    row, a, b = (
        row_of(summary.comparisons, metric="final_score", arm="bad"),
        finals(folder, "bad"),
        finals(folder, "good"),
    )
    assert (row["n"], row["n_baseline"]) == (21, 24)
    assert row["difference"] == pytest.approx(a.mean() - b.mean())
    assert np.isnan(row["ratio"])  # of negative scores
    wins = (a[:, None] > b).mean()
    assert row["probability_of_improvement"] == pytest.approx(wins)
    assert row["cliffs_delta"] == pytest.approx(2 * wins - 1)
    assert row["welch_p"] == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)
    ps = summary.comparisons.query("metric == 'final_score'")
    assert ps["welch_p_holm"].tolist() == statistics.holm(ps["welch_p"].to_numpy()).tolist()
    assert ps["permutation_p_holm"].tolist() == statistics.holm(ps["permutation_p"].to_numpy()).tolist()


def test_improvement_follows_the_metric_and_cliffs_delta_the_numbers(summary: Summary) -> None:
    row = row_of(summary.comparisons, metric="speed", arm="bad")  # takes more steps
    assert row["difference"] > 0
    assert row["cliffs_delta"] > 0.5
    assert row["probability_of_improvement"] < 0.25


def test_each_kind_of_claim_gets_its_verdict(summary: Summary) -> None:
    by_claim = {v.inequality + " " + v.metric: v.verdict for v in summary.verdicts}
    assert by_claim == {
        "bad < good final_score": "supported",
        "bad > good final_score": "contradicted",
        "good ~ bad final_score": "contradicted",
        "good ~ same final_score": "supported",
        "good < same final_score": "no relevant difference",
        "good < bad speed": "supported",
        "good ~ bad speed": "undecided",  # smallest_effect is a score, not a number of steps
    }
    first = summary.verdicts[0]
    row = row_of(summary.comparisons, metric="final_score", arm="bad")
    assert first.effect == pytest.approx(row["difference_worst"])
    assert first.low <= row["difference_worst_low"]  # the interval also covers leaving out the failed seed
    assert first.n == "21 of 24 (1 crashed, 2 without a score), 24"
    assert first.preliminary
    assert not summary.verdicts[3].preliminary  # of arms without a missing cell
    assert {verdict.seeds_needed for verdict in summary.verdicts} == {None}
    assert "smallest_effect" in summary.verdicts[6].reason


def only_verdict(folder: Path) -> Verdict:
    (verdict,) = summarise(load_sweep(folder)).verdicts
    return verdict


def test_an_interval_across_a_limit_of_equality_is_undecided(tmp_path: Path) -> None:
    folder = small(tmp_path, claims=claims("bad ~ good"))
    effect = only_verdict(folder).effect
    change_study(folder, lambda study: study.update(smallest_effect=-effect))
    verdict = only_verdict(folder)
    assert (verdict.verdict, verdict.seeds_needed) == ("undecided", None)
    assert "no number of seeds is sure to settle it" in verdict.reason


def test_an_undecided_claim_says_how_many_seeds_would_settle_it(tmp_path: Path) -> None:
    folder = small(tmp_path, 6, ARMS, claims=claims("good ~ same"), smallest_effect=0.2)
    verdict = only_verdict(folder)
    assert verdict.verdict == "undecided"
    assert verdict.seeds_needed is not None
    assert 20 < verdict.seeds_needed < 200  # a deviation of 0.3: 47 if it was known
    write_tables(summarise(load_sweep(folder)))
    text = (folder / "verdict.md").read_text()
    assert f"{verdict.seeds_needed} seeds per arm would probably be enough" in text
    assert "a smaller one the nearer their difference is to smallest_effect" in text  # the border of this claim
    one_sided = replace(verdict, inequality="good < same")
    assert needed(one_sided).endswith("and with a higher one if they differ by smallest_effect")


def test_the_reason_says_if_a_difference_is_too_small_to_matter(tmp_path: Path) -> None:
    folder = small(tmp_path, claims=claims("bad < good"), smallest_effect=5.0)
    verdict = only_verdict(folder)
    assert verdict.verdict == "no relevant difference"
    assert verdict.reason.endswith("is within ±5: there is a difference, below 0, that is too small to matter")


def test_under_five_seeds_there_is_no_verdict(tmp_path: Path) -> None:
    folder = small(tmp_path, seeds=4, claims=claims("bad < good"))
    verdict = only_verdict(folder)
    assert (verdict.verdict, verdict.n) == ("undecided", "4, 4")
    assert "n too small" in verdict.reason
    assert np.isnan(verdict.low)
    assert verdict.effect < 0
    row = row_of(summarise(load_sweep(folder)).arms, metric="auc", arm="bad")
    assert np.isfinite(row["mean"])
    assert row[["mean_low", "median_low", "iqm_high"]].isna().all()


def test_claims_about_real_time_need_parallel_processes(tmp_path: Path) -> None:
    folder = small(tmp_path, claims=claims("bad < good", real_time=True))  # interleaved
    verdict = only_verdict(folder)
    assert verdict.verdict == "not testable here"
    assert "took turns" in verdict.reason

    def race(study: dict[str, Any]) -> None:
        for arm in study["arms"].values():
            arm["config"]["schedule"] = "async"

    change_study(folder, race)
    verdict = only_verdict(folder)
    assert verdict.verdict == "not testable here"
    assert "good had 4 workers on 2 CPUs" in verdict.reason
    change_study(folder, lambda study: study["machine"].update(cpus=4))
    assert only_verdict(folder).verdict == "supported"


def test_claims_about_missing_arms_or_metrics_are_not_testable(tmp_path: Path) -> None:
    folder = small(tmp_path, claims=(*claims("bad < best"), *claims("bad < good", metric="speeed")))
    first, second = summarise(load_sweep(folder)).verdicts
    assert (first.verdict, first.reason) == ("not testable here", "the study has no arm best")
    assert (second.verdict, second.reason) == ("not testable here", "the study has no metric speeed")


def edit_evaluations(folder: Path, change: Callable[[pd.DataFrame], None]) -> None:
    table = pd.read_csv(folder / EVALUATIONS)
    change(table)
    table.to_csv(folder / EVALUATIONS, index=False)


def diverge(table: pd.DataFrame) -> None:
    table.loc[table["evaluation"] == table["evaluation"].max(), "episodic_return"] = np.nan


def test_diverged_cells_are_worse_than_all_others_in_the_tables(tmp_path: Path) -> None:
    folder = small(tmp_path, 8, claims=claims("bad < good", "bad ~ good"))
    better = finals(folder, "good")
    for seed in (0, 1):
        edit_evaluations(folder / "bad" / f"seed={seed}", diverge)
    summary = summarise(load_sweep(folder))
    row = row_of(summary.arms, metric="final_score", arm="bad")
    survivors = finals(folder, "bad")[2:]
    assert (row["n"], row["n_planned"], row["failed"]) == (6, 8, "2 diverged")
    assert row["mean"] == pytest.approx(survivors.mean())
    assert row["mean_worst"] == pytest.approx(np.mean([*[survivors.min()] * 2, *survivors]))
    assert row["median"] == pytest.approx(np.median([-np.inf, -np.inf, *survivors]))
    pairs = np.r_[[-np.inf] * 2, survivors][:, None] > better
    compared = row_of(summary.comparisons, metric="final_score", arm="bad")
    assert compared["cliffs_delta"] == pytest.approx(2 * pairs.mean() - 1)
    assert (compared["n"], compared["n_failed"], compared["n_baseline"]) == (6, 2, 8)
    assert any("2 cells of bad failed or diverged" in note for note in summary.notes)
    stable = row_of(summary.stability, arm="bad")
    assert (stable["collapsed"], stable["n"]) == (2, 8)
    write_tables(summary)
    text = (folder / "verdict.md").read_text()
    assert "| 6 of 8 | 2 diverged |" in text
    assert "6 (2 failed), 8" in text


def fail(folder: Path, arm: str, reasons: dict[int, str]) -> None:
    """Let cells fail as `sweeps.cell` records it. They keep the rows that they had."""
    for seed, reason in reasons.items():
        cell = folder / arm / f"seed={seed}"
        status = json.loads((cell / "status.json").read_text())
        (cell / "status.json").write_text(json.dumps({**status, "state": "failed", "reason": reason}))
        (attempt,) = json.loads((cell / CELL).read_text())["attempts"]
        (cell / CELL).write_text(json.dumps({"attempts": [{**attempt, "outcome": "failed", "reason": reason}]}))


PLANTED = [
    *["diverged: loss nan, gradient norm nan at update 17 (worker 0)"] * 10,
    "worker-0-1 exited with code 3",
    "hangs: it no longer updates its status.json",
]


@pytest.mark.parametrize(("level", "expected"), [(-0.5, "undecided"), (-1.5, "supported")])
def test_failed_seeds_never_turn_a_verdict(level: float, expected: str, tmp_path: Path) -> None:
    """A third of an arm's 30 seeds diverge, one crashes and one hangs: the twelve that would be the worst.

    The arms are alike, or this one is worse. Counted alone, the seeds that are left of like arms would say that this
    arm is better: the opposite of what the failures say."""
    arms = {"good": ARMS["good"], "fails": {**ARMS["bad"], "level": level}}
    folder = small(tmp_path, 30, arms, claims=claims("fails < good"), smallest_effect=0.2)
    worst_first = np.argsort(finals(folder, "fails"))
    seeds = [int(path.name[5:]) for path in sorted((folder / "fails").glob("seed=*"))]
    fail(folder, "fails", {seeds[place]: reason for place, reason in zip(worst_first, PLANTED, strict=False)})
    verdict = only_verdict(folder)
    assert verdict.verdict == expected
    if expected == "undecided":
        left_out = statistics.difference(finals(folder, "fails"), finals(folder, "good"))
        assert left_out.low > 0
    assert verdict.n == "18 of 30 (10 diverged, 1 crashed, 1 hung), 30"
    assert not verdict.preliminary
    assert "left out" in verdict.reason
    survivors, others = finals(folder, "fails"), finals(folder, "good")
    worst = min(survivors.min(), others.min())
    counted = np.r_[[worst] * 12, survivors]
    assert verdict.effect == pytest.approx(counted.mean() - others.mean())
    for a in (counted, survivors):  # one interval covers both
        own = stats.ttest_ind(a, others, equal_var=False).confidence_interval(0.95)
        assert verdict.low <= own.low + 1e-9
        assert verdict.high >= own.high - 1e-9


def test_a_floor_is_the_score_of_failed_seeds(tmp_path: Path) -> None:
    folder = small(tmp_path, 8, claims=claims("bad < good"), floor=-20.0)
    fail(folder, "bad", {2: "worker-0-1 exited with code 3"})
    verdict = only_verdict(folder)
    assert verdict.effect == pytest.approx(np.mean([*finals(folder, "bad"), -20]) - finals(folder, "good").mean())
    assert "failed seeds counted at -20 " in verdict.reason


def test_claims_without_effect_share_one_error_rate(tmp_path: Path) -> None:
    """The level of an interval is 5 % divided by the number of claims that are open."""
    two = claims("bad < good", "good > same")
    verdicts = summarise(load_sweep(small(tmp_path, 8, ARMS, claims=two, smallest_effect=None))).verdicts
    assert [verdict.verdict for verdict in verdicts] == ["supported", "undecided"]
    assert [verdict.confidence for verdict in verdicts] == [0.95, 0.95]
    change_study(tmp_path, lambda study: study.update(claims=[*study["claims"], {**study["claims"][1], "id": "D"}]))
    assert summarise(load_sweep(tmp_path)).verdicts[1].confidence == 0.975


def test_arms_that_share_their_draws_are_compared_in_pairs(tmp_path: Path) -> None:
    arms = {name: {**ARMS[name], "overrides": [f"algo.gamma=0.{k}"]} for k, name in ((8, "good"), (9, "bad"))}
    folder = small(tmp_path, 8, arms, claims=claims("bad < good"))
    verdict = only_verdict(folder)
    theirs = stats.ttest_rel(finals(folder, "bad"), finals(folder, "good")).confidence_interval(0.95)
    assert (verdict.low, verdict.high) == pytest.approx((theirs.low, theirs.high))
    assert "over pairs of seeds" in verdict.reason

    def race(study: dict[str, Any]) -> None:
        for arm in study["arms"].values():
            arm["config"]["schedule"] = "async"

    change_study(folder, race)
    theirs = stats.ttest_ind(finals(folder, "bad"), finals(folder, "good"), equal_var=False).confidence_interval(0.95)
    assert (only_verdict(folder).low, only_verdict(folder).high) == pytest.approx((theirs.low, theirs.high))


def grown(folder: Path, seeds: int, arms: dict[str, dict[str, Any]], most: int = 30, **study: Any) -> Path:
    """A study until=decided of which so many seeds have run."""
    small(folder, seeds, arms, until="decided", block=5, **study)
    change_study(folder, lambda study: study.update(seeds=list(range(most))))
    return folder


def test_a_growing_study_stops_for_claims_that_are_settled(tmp_path: Path) -> None:
    two = claims("bad < good", "good < same")
    (settled, open_) = summarise(load_sweep(grown(tmp_path, 10, ARMS, claims=two))).verdicts
    assert (settled.verdict, settled.n, settled.preliminary, settled.wants_seeds) == ("supported", "5, 5", False, False)
    assert "after 5 of at most 30 seeds" in settled.reason
    assert (open_.verdict, open_.n, open_.preliminary, open_.wants_seeds) == ("undecided", "10, 10", True, True)
    first = finals(tmp_path, "bad")[:5] - 0, finals(tmp_path, "good")[:5]
    assert settled.effect == pytest.approx(first[0].mean() - first[1].mean())
    assert settled.confidence > 0.975  # six looks and two claims
    sweep = load_sweep(tmp_path)
    assert set(sweep.cells["seed"]) == set(range(10))  # the other blocks were not asked for


def test_a_growing_study_ends_with_its_last_block(tmp_path: Path) -> None:
    folder = grown(tmp_path, 10, ARMS, 10, claims=claims("good < same"), smallest_effect=None)
    verdict = only_verdict(folder)
    assert (verdict.verdict, verdict.preliminary, verdict.wants_seeds) == ("undecided", False, False)


def never_reaches(table: pd.DataFrame) -> None:
    table["episodic_return"] = -1400.0


def test_a_look_at_which_no_cell_has_reached_the_score_settles_nothing(tmp_path: Path) -> None:
    folder = grown(tmp_path, 10, ARMS, claims=claims("good ~ same", metric="speed"), metric="speed")
    change_study(folder, lambda study: study.update(smallest_effect=1e6))  # in steps
    assert only_verdict(folder).n == "5, 5"
    for arm in ("good", "same"):
        for seed in range(5):
            edit_evaluations(folder / arm / f"seed={seed}", never_reaches)
    verdict = only_verdict(folder)
    assert (verdict.n, verdict.verdict) == ("10, 10", "supported")
    assert "(5 and 5 cells had not reached the score by the end)" in verdict.reason


def test_a_failed_cell_is_none_that_reached_the_score(tmp_path: Path) -> None:
    """It once made two arms that never reach it `supported` as alike."""
    alike = claims("good ~ bad", "good < bad", metric="speed")
    folder = small(tmp_path, 6, claims=alike, metric="speed", smallest_effect=1e6, failed=(("good", 2),))
    for arm in ("good", "bad"):
        for seed in range(6):
            if (arm, seed) != ("good", 2):
                edit_evaluations(folder / arm / f"seed={seed}", never_reaches)
    verdicts = summarise(load_sweep(folder)).verdicts
    assert [verdict.verdict for verdict in verdicts] == ["undecided", "undecided"]
    assert all("no cell of either arm reached the score" in verdict.reason for verdict in verdicts)


def test_equality_without_a_smallest_effect_asks_for_no_seeds(tmp_path: Path) -> None:
    verdict = only_verdict(grown(tmp_path, 10, ARMS, claims=claims("good ~ same"), smallest_effect=None))
    assert (verdict.verdict, verdict.wants_seeds) == ("undecided", False)
    assert "needs sweep.smallest_effect" in verdict.reason
    assert "seeds were added" not in verdict.reason


def test_cells_of_later_looks_are_not_counted(tmp_path: Path) -> None:
    folder = grown(tmp_path, 10, ARMS, claims=claims("good < bad", metric="speed"))
    edit_evaluations(folder / "bad" / "seed=7", never_reaches)
    verdict = only_verdict(folder)
    assert verdict.n == "5, 5"
    assert "(0 and 5 cells had not reached the score by the end)" in verdict.reason


def test_an_unfinished_block_is_not_looked_at(tmp_path: Path) -> None:
    folder = grown(tmp_path, 10, ARMS, claims=claims("good < same"), missing=(("same", 9),))
    verdict = only_verdict(folder)
    assert (verdict.n, verdict.wants_seeds, verdict.preliminary) == ("5, 5", True, True)


def test_seeds_added_after_a_verdict_was_seen_are_a_second_look(tmp_path: Path) -> None:
    folder = small(tmp_path, 20, claims=claims("bad < good"), smallest_effect=None)
    once = only_verdict(folder)
    change = {"when": "2026-11-28", "completed": 20, "what": ["seeds added: 10"], "seeds": list(range(10))}
    change_study(folder, lambda study: study.update(changes=[change]))
    twice = only_verdict(folder)
    assert once.n == "20, 20"
    assert (twice.n, twice.verdict) == ("10, 10", "supported")  # settled at the first look, which stays
    assert twice.confidence == pytest.approx(1 - 0.0294, abs=0.0002)  # Pocock's, of two looks
    assert "seeds were added after a verdict had been seen" in twice.reason


def test_each_seed_has_a_row_in_a_file(tmp_path: Path) -> None:
    folder = small(tmp_path, failed=(("bad", 3),))
    write_tables(summarise(load_sweep(folder)))
    table = pd.read_csv(folder / "seeds.csv")
    own = table[(table["metric"] == "final_score") & (table["arm"] == "good")]
    np.testing.assert_allclose(own.sort_values("seed")["value"], finals(folder, "good"))
    assert (
        table.loc[(table["arm"] == "bad") & (table["seed"] == 3) & (table["metric"] == "auc"), "value"].item()
        == -np.inf
    )


def test_a_cell_that_falls_back_to_its_start_has_collapsed(tmp_path: Path) -> None:
    folder = small(tmp_path, 5)

    def fall(table: pd.DataFrame) -> None:
        table.loc[table["evaluation"] == table["evaluation"].max(), "episodic_return"] = -7.0 * 200

    edit_evaluations(folder / "good/seed=2", fall)
    summary = summarise(load_sweep(folder))
    assert row_of(summary.stability, arm="good")[["collapsed", "n"]].tolist() == [1, 5]
    assert row_of(summary.stability, arm="bad")["collapsed"] == 0

    def is_a_loss(study: dict[str, Any]) -> None:
        study["metrics"]["final_score"]["smaller_is_better"] = True

    change_study(folder, is_a_loss)
    summary = summarise(load_sweep(folder))
    assert summary.stability["collapsed"].tolist() == [0, 0]  # what falls improves


def test_speed_ups_are_ratios_of_restricted_means(summary: Summary) -> None:
    row = row_of(summary.speed_ups, metric="speed", arm="bad")
    steps = {arm: summary.scores.query("metric == 'speed' and arm == @arm") for arm in ARMS}
    slowest = max(own["value"][np.isfinite(own["value"])].max() for own in steps.values())
    failed = steps["bad"]["value"].replace(np.inf, slowest)  # it did not reach the score
    assert row["speed_up"] == pytest.approx(steps["good"]["value"].mean() / failed.mean())
    assert row["low"] < row["speed_up"] < row["high"] < 1
    assert 1 < row["n_censored"] == steps["bad"]["censored"].sum() + 1 < row["n"]
    assert (row["workers"], row["baseline"]) == (1, "good")
    assert row_of(summary.speed_ups, arm="same")["low"] < 1 < row_of(summary.speed_ups, arm="same")["high"]


def test_arms_of_different_length_have_one_horizon_in_table_and_comparison(tmp_path: Path) -> None:
    metric = {**METRICS["speed"], "x": "global_step", "window": [0.0, 1.0], "score": -1.0, "budget": "own"}
    arms: dict[str, Any] = {
        "long": {"level": -1.1, "speed": 10.0},
        "short": {"level": -1.1, "speed": 10.0, "length": 100},
    }
    folder = small(
        tmp_path,
        8,
        arms,
        baseline="long",
        metric="speed",
        metrics={"speed": metric},
        claims=claims("short < long", metric="speed"),
    )
    summary = summarise(load_sweep(folder))
    long = summary.scores.query("arm == 'long'")["value"]
    assert row_of(summary.arms, arm="long")["mean"] == pytest.approx(long.mean())
    assert long.max() == 4000  # some cells reach the score later, after the end of the short ones
    short = summary.scores.query("arm == 'short'")["value"]
    assert short.max() == 4000
    (verdict,) = summary.verdicts
    assert verdict.effect == pytest.approx(short.mean() - long.mean())
    assert "restricted means" in verdict.reason


def test_without_a_cell_that_reaches_the_score_there_is_no_verdict(tmp_path: Path) -> None:
    metric = {**METRICS["speed"], "x": "global_step", "window": [0.0, 1.0], "score": 5.0, "budget": "equal"}
    folder = small(
        tmp_path,
        metric="speed",
        metrics={"speed": metric},
        claims=claims("good ~ bad", metric="speed"),
        smallest_effect=100,
    )
    summary = summarise(load_sweep(folder))
    (verdict,) = summary.verdicts
    assert (verdict.verdict, verdict.reason) == ("undecided", "no cell of either arm reached the score")
    assert summary.speed_ups["speed_up"].isna().all()


def test_an_unfinished_sweep_is_summarised(tmp_path: Path) -> None:
    missing = tuple(("bad", seed) for seed in range(6))
    folder = small(tmp_path, claims=claims("bad < good"), missing=missing)
    with (folder / "good/seed=1/evaluations.csv").open("a") as file:
        file.write("99,1")
    summary = summarise(load_sweep(folder))
    assert row_of(summary.arms, metric="auc", arm="good")["n"] == 6
    bad = row_of(summary.arms, metric="auc", arm="bad")
    assert (bad["n"], bad["n_missing"]) == (0, 6)
    assert np.isnan(bad["mean"])
    assert summary.verdicts[0].verdict == "undecided"
    assert any("6 of 12 cells missing: bad/seed=0" in note for note in summary.notes)
    assert any("incomplete last lines of tables that were left out: 1" in note for note in summary.notes)
    write_tables(summary)


def test_a_sweep_without_a_completed_cell_is_summarised(tmp_path: Path) -> None:
    cells = tuple((arm, seed) for arm in ("good", "bad") for seed in range(6))
    summary = summarise(load_sweep(small(tmp_path, claims=claims("bad < good"), failed=cells)))
    assert summary.scores.empty
    assert (summary.arms["n_failed"] == 6).all()
    assert summary.verdicts[0].verdict == "undecided"
    write_tables(summary)
    assert "SIGKILL" in (tmp_path / "verdict.md").read_text()


def test_metrics_that_would_mix_horizons_are_left_out_with_the_reason(tmp_path: Path) -> None:
    arms = {"good": ARMS["good"], "bad": {**ARMS["bad"], "overrides": ["evaluation.horizon=500"]}}
    summary = summarise(load_sweep(small(tmp_path, arms=arms, claims=claims("bad < good"))))
    assert set(summary.arms["metric"]) == set(summary.comparisons["metric"]) == {"fluctuation"}  # of training
    (verdict,) = summary.verdicts
    assert verdict.verdict == "not testable here"
    assert "horizon differs: good: 200; bad: 500" in verdict.reason
    assert sum("horizon differs" in note for note in summary.notes) == 3
    write_tables(summary)


def test_a_sweep_with_nothing_to_compare_is_refused(tmp_path: Path) -> None:
    folder = small(tmp_path)

    def stick(study: dict[str, Any]) -> None:
        study["arms"]["bad"]["config"]["env"]["kwargs"] = {"repeat_action_probability": 0.25}

    change_study(folder, stick)
    with pytest.raises(ConfigError, match=r"env\.kwargs differs"):
        summarise(load_sweep(folder))


def test_environments_have_baselines_and_tables_of_their_own(tmp_path: Path) -> None:
    arms = {**ARMS, **{f"cart_{name}": {**arm, "overrides": ["env=cartpole"]} for name, arm in ARMS.items()}}
    folder = small(tmp_path, 8, arms, claims=claims("bad < good", "cart_bad < cart_good", "bad < cart_good"))
    summary = summarise(load_sweep(folder))
    compared = set(zip(summary.comparisons["arm"], summary.comparisons["baseline"], strict=True))
    assert compared == {("same", "good"), ("bad", "good"), ("cart_good", "cart_bad"), ("cart_same", "cart_bad")}
    assert [verdict.verdict for verdict in summary.verdicts] == ["supported", "supported", "not testable here"]
    assert summary.verdicts[2].reason == "scores of Pendulum-v1 and CartPole-v1 have different units"
    write_tables(summary)
    text = (folder / "verdict.md").read_text()
    assert text.count("### CartPole-v1\n") == len(METRICS)


def test_resumed_and_repeated_cells_are_noted(tmp_path: Path) -> None:
    folder = small(tmp_path)
    manifest = folder / "good/seed=2/manifest.json"
    manifest.write_text(
        json.dumps(
            {**json.loads(manifest.read_text()), "resumes": [{"from": {"updates": 0, "steps": 0, "episodes": 0}}]}
        )
    )
    cell = folder / "bad/seed=4/cell.json"
    (attempt,) = json.loads(cell.read_text())["attempts"]
    cell.write_text(json.dumps({"attempts": [{**attempt, "outcome": "failed"}, attempt]}))
    notes = summarise(load_sweep(folder)).notes
    assert "1 cell resumed from a checkpoint: good/seed=2" in notes
    assert "1 cell completed at a later attempt: bad/seed=4" in notes


def test_the_files_hold_the_tables(folder: Path, summary: Summary) -> None:
    write_tables(summary)
    tidy = pd.read_csv(folder / "summary.csv").fillna({"baseline": ""})
    assert not tidy.duplicated(["metric", "arm", "baseline", "statistic"]).any()
    tidy = tidy.set_index(["metric", "arm", "statistic"])
    for table, names in (
        (summary.arms, ("n", "n_failed", "mean", "iqm", "spread")),
        (summary.comparisons, ("difference", "cliffs_delta", "welch_p_holm")),
        (summary.speed_ups, ("speed_up",)),
    ):
        for row in table.to_dict("records"):
            for name in names:
                assert tidy.loc[(row["metric"], row["arm"], name), "value"] == pytest.approx(row[name], nan_ok=True)
    assert tidy.loc[("auc", "bad", "mean"), "low"] == row_of(summary.arms, metric="auc", arm="bad")["mean_low"]
    assert tidy.loc[("final_score", "bad", "collapsed"), "value"] == 0

    text = (folder / "verdict.md").read_text()
    for verdict in summary.verdicts:
        assert f"### {verdict.id}: {title(verdict)}\n> {verdict.words}\n" in text
        assert verdict.reason in text
    assert "| bad/seed=3 | failed | 1        | worker-0 was killed by SIGKILL |" in text
    assert "the same \\| again" in text
    for table in [block for block in text.split("\n\n") if block.startswith("|")]:
        assert len({len(line) for line in table.splitlines()}) == 1  # aligned
    assert not [path for path in folder.iterdir() if path.name.endswith(".tmp")]


def test_the_export_is_in_rliables_layout(folder: Path, summary: Summary) -> None:
    write_tables(summary)
    with np.load(folder / "export.npz") as export:
        for arm in ARMS:
            scores, curves = export[f"scores.{arm}"], export[f"curves.{arm}"]
            n = 22 if arm == "bad" else 24
            assert scores.shape == (n, 1)
            sound = np.isfinite(scores[:, 0])
            assert sound.sum() == (21 if arm == "bad" else 24)
            assert np.isnan(curves[~sound]).all()
            assert curves.shape == (n, 1, len(export[f"frames.{arm}"]))
            np.testing.assert_allclose(np.sort(scores[sound, 0]), np.sort(finals(folder, arm)))
            np.testing.assert_allclose(curves[:, 0, -1], scores[:, 0])  # all cells end at the same step
            assert len(export[f"seeds.{arm}"]) == n
            assert (np.diff(export[f"frames.{arm}"]) > 0).all()


def test_one_arm_alone_is_summarised_without_comparisons(tmp_path: Path) -> None:
    folder = small(tmp_path, 5, {"good": ARMS["good"]}, smallest_effect=None)
    summary = summarise(load_sweep(folder))
    assert len(summary.arms) == len(METRICS)
    assert summary.comparisons.empty
    assert summary.speed_ups.empty
    write_tables(summary)
    assert (
        "The study makes no claim, so there is no verdict; `sweep.claims` states one"
        in (folder / "verdict.md").read_text()
    )
    assert set(pd.read_csv(folder / "summary.csv")["arm"]) == {"good"}


def test_a_study_from_before_units_were_fixed_says_so_if_its_data_gave_the_other(tmp_path: Path) -> None:
    folder = small(tmp_path, 5)
    assert not any("chose the unit" in note for note in summarise(load_sweep(folder)).notes)
    (path, *_) = folder.glob("*/seed=*/episodes.csv")
    path.write_text(path.read_text().replace("False,True", "True,False", 1))  # a single flag
    summary = summarise(load_sweep(folder))
    assert any("chose the unit" in note for note in summary.notes)
    assert row_of(summary.arms, metric="final_score", arm="good")["mean"] > -2  # still the reward per step
    change_study(folder, lambda study: study.update(score_units={"Pendulum-v1": "reward_per_step"}))
    assert not any("chose the unit" in note for note in summarise(load_sweep(folder)).notes)


def test_verdicts_say_if_no_arm_is_above_a_random_policy(tmp_path: Path) -> None:
    folder = small(tmp_path, 6)
    rng = np.random.default_rng(0)

    def caveats(level: float) -> list[str]:
        played = [[200 * (level + 0.3 * x), 200] for x in rng.standard_normal(20)]
        change_study(folder, lambda study: study.update(random_scores={"Pendulum-v1": played}))
        return summarise(load_sweep(folder)).caveats

    (caveat,) = caveats(-0.4)  # the better arm ends near -0.5
    assert caveat.startswith("no arm has learned in Pendulum-v1: the best final evaluation, -0.")
    assert "total_steps" in caveat
    assert caveats(-6.0) == []
    write_tables(summarise(load_sweep(folder)))


def test_cells_of_several_commits_or_versions_are_named_next_to_the_verdicts(tmp_path: Path) -> None:
    folder = small(tmp_path, 5)
    assert summarise(load_sweep(folder)).caveats == []
    for cell, change in (
        ("good/seed=2", {"git": {"commit": "f" * 40, "dirty": False}}),
        ("bad/seed=1", {"numpy": "0.1"}),
    ):
        path = folder / cell / "manifest.json"
        manifest = json.loads(path.read_text())
        if "numpy" in change:
            manifest["versions"].update(change)
        else:
            manifest.update(change)
        path.write_text(json.dumps(manifest))
    summary = summarise(load_sweep(folder))
    commits, versions = summary.caveats
    assert commits.startswith("the cells come from several commits: ")
    assert "ffffffffff (1 cell)" in commits
    assert f"numpy {np.__version__} (9 cells); numpy 0.1 (1 cell)" in versions
    assert "torch" not in versions  # the same everywhere
    write_tables(summary)
    text = (folder / "verdict.md").read_text()
    assert text.index("## Verdicts") < text.index("ffffffffff") < text.index("## final evaluation")


def test_negative_scores_have_no_ratio(tmp_path: Path) -> None:
    summary = summarise(load_sweep(small(tmp_path, 6)))
    rows = summary.comparisons.set_index("metric")["ratio"]
    assert np.isnan(rows["final_score"])
    assert rows["speed"] > 0


def test_the_log_rank_test_is_scipys(summary: Summary) -> None:
    row = row_of(summary.speed_ups, metric="speed", arm="bad")
    scores = summary.scores[summary.scores["metric"] == "speed"]
    slowest = scores["value"][np.isfinite(scores["value"])].max()
    times = []
    for name in ("bad", "good"):
        own = scores[scores["arm"] == name]
        censored = own["censored"].astype(bool) | np.isinf(own["value"])  # a failed cell did not reach the score
        own = own.replace({"value": np.inf}, slowest)
        times.append(stats.CensoredData(own["value"][~censored], right=own["value"][censored]))
    assert row["logrank_p"] == stats.logrank(*times).pvalue < 0.05


def test_the_report_says_how_much_of_the_spread_is_evaluation_noise(summary: Summary) -> None:
    (note,) = (note for note in summary.notes if note.startswith("evaluation noise makes"))
    assert "of the variance of final_score between the seeds of an arm" in note
    assert "raise" not in note  # in these curves, seeds differ by 0.3 and an evaluation's mean by 0.06


def test_training_returns_that_would_mix_lengths_are_left_out(tmp_path: Path) -> None:
    arms = {name: {**ARMS["good"], "overrides": [f"env.max_ep_step={n}"]} for name, n in (("a", 200), ("b", 500))}
    folder = small(tmp_path, 5, arms, baseline="a", score_units={"Pendulum-v1": "episodic_return"})
    summary = summarise(load_sweep(folder))
    assert "fluctuation" not in set(summary.arms["metric"])
    assert any(
        note.startswith("fluctuation is left out: env.max_ep_step differs: a: 200; b: 500") for note in summary.notes
    )
