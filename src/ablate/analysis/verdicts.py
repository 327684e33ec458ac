"""The verdicts on a study's claims. A claim is an inequality between the means of two arms' values of a metric.

`decisions.decide` is the rule. This module says what it is applied to: which seeds a claim compares at each look, in
pairs or not, and with which score a failed seed counts. All of that follows from study.json, not from the scores."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ablate.analysis import decisions
from ablate.analysis.decisions import Decision, Effects, Outcome, Relation
from ablate.analysis.load import Sweep
from ablate.analysis.metrics import unit
from ablate.analysis.statistics import MIN_SEEDS
from ablate.config.choices import Statistic, Until
from ablate.config.schema import ClaimConfig
from ablate.records.schema import ENDED
from ablate.records.study_file import StudyFile

WORDS = {
    Outcome.supported: "supported",
    Outcome.contradicted: "contradicted",
    Outcome.no_difference: "no relevant difference",
    Outcome.undecided: "undecided",
}
NOT_TESTABLE = "not testable here"
RELATIONS = {"<": Relation.less, "~": Relation.alike, ">": Relation.greater}

Values = dict[tuple[str, str], pd.DataFrame]  # by metric and arm: seed, value and censored of each cell that has ended
Refusals = dict[tuple[str, str], str]  # by metric and arm: why its values cannot be compared


@dataclass(frozen=True)
class Verdict:
    """The verdict on one claim."""

    id: str
    words: str
    metric: str
    inequality: str  # <arm> <, > or ~ <arm>, between the metric's values
    verdict: str  # one of WORDS, or NOT_TESTABLE
    effect: float  # mean of the first arm minus the second, with failed seeds at the worst score
    low: float  # the interval that gave the verdict
    high: float
    confidence: float  # of the interval; NaN if there is none
    n: str  # seeds of both arms that have a score, and what became of the others: "30, 27 of 30 (2 diverged, 1 hung)"
    seeds_needed: int | None  # per arm; see `decisions.seeds_for_power`. None: decided, or no smallest_effect
    reason: str  # a sentence
    preliminary: bool = False  # some of these cells have not ended
    wants_seeds: bool = False  # until=decided, and more seeds may settle the claim


@dataclass(frozen=True)
class _Case:
    """What one claim compares."""

    claim: ClaimConfig
    arms: tuple[str, str]
    a: pd.Series  # the first arm's values by seed, of cells that have ended; infinite: failed
    b: pd.Series
    worst: float  # the score of a failed seed
    margin: float  # NaN: no effect is too small to matter
    pairs: bool
    censored: tuple[pd.Series, pd.Series]  # by seed: whether the cell had not reached the score
    no_interval: str  # why there can be no interval; empty if there can

    @property
    def relation(self) -> Relation:
        return RELATIONS[self.claim.inequality.split()[1]]

    def effects(self, seeds: list[int]) -> list[tuple[float, float, float]]:
        """Value, error and freedom of the difference in these seeds, for both ways to count failed seeds.

        No error if no cell has reached the score: equal ends of the budget do not show equal times."""
        effects = [self._effect(*self.scores(seeds, fill)) for fill in (self.worst, np.nan)]
        if all(flags[flags.index.isin(seeds)].all() for flags in self.censored):
            return [(value, np.nan, np.nan) for value, _, _ in effects]
        return effects

    def scores(self, seeds: list[int], fill: float) -> tuple[np.ndarray, np.ndarray]:
        """Both arms' scores with this score for failed seeds; NaN leaves them out."""
        a, b = (x.reindex(seeds).dropna().replace([np.inf, -np.inf], fill).dropna() for x in (self.a, self.b))
        if self.pairs:
            a, b = a.align(b, join="inner")
        return a.to_numpy(float), b.to_numpy(float)

    def counts(self, sweep: Sweep, seeds: list[int]) -> str:
        return ", ".join(_count(sweep, *pair, seeds) for pair in zip(self.arms, (self.a, self.b), strict=True))

    def _effect(self, a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
        if min(len(a), len(b)) == 0:
            return np.nan, np.nan, np.nan
        if min(len(a), len(b)) < MIN_SEEDS or self.no_interval:
            return float(a.mean() - b.mean()), np.nan, np.nan
        effects = (decisions.paired if self.pairs else decisions.welch)(a, b)
        return float(effects.value), float(effects.error), float(effects.freedom)

    def seeds_needed(self, seeds: list[int], level: float) -> int | None:
        a, b = self.scores(seeds, self.worst)
        if np.isnan(self.margin) or np.isnan(level) or self.no_interval:
            return None
        _, _, freedom = self._effect(a, b)
        variance = np.var(a - b, ddof=1) if self.pairs else np.var(a, ddof=1) + np.var(b, ddof=1)
        needed = decisions.seeds_for_power(float(variance), freedom, self.margin, level)
        return needed and max(needed, MIN_SEEDS)


def judge(sweep: Sweep, values: Values, refusals: Refusals) -> list[Verdict]:
    """The verdicts on the study's claims, which share one error rate. What fails in one does not cost the others."""
    cases: dict[int, _Case] = {}
    verdicts: dict[int, Verdict] = {}
    for i, claim in enumerate(sweep.study.claims):
        try:
            obstacle = _obstacle(sweep, refusals, claim)
            if not obstacle:
                cases[i] = _case(sweep, values, claim)
        except Exception as error:
            obstacle = f"it cannot be computed from these values ({type(error).__name__}: {error})"
        if obstacle:
            short = " ".join(obstacle.split())[:300]
            nothing = (np.nan, np.nan, np.nan, np.nan, "-", None)
            verdicts[i] = Verdict(claim.id, claim.words, claim.metric, claim.inequality, NOT_TESTABLE, *nothing, short)
    if cases:
        verdicts |= dict(zip(cases, _decided(sweep, list(cases.values())), strict=True))
    return [verdicts[i] for i in sorted(verdicts)]


def looks(study: StudyFile) -> list[list[int]]:
    """The seeds at each look: one look, unless the study grows until decided, or grew after a verdict was seen."""
    seen = [change.seeds for change in study.changes if change.seeds]
    if study.until is Until.decided:
        seen += [study.seeds[:size] for size in range(study.block, len(study.seeds), study.block)]
    by_size = {len(seeds): sorted(seeds) for seeds in [*seen, study.seeds]}
    return [by_size[size] for size in sorted(by_size)]


def _decided(sweep: Sweep, cases: list[_Case]) -> list[Verdict]:
    planned = looks(sweep.study)
    ended = {str(arm): set(rows["seed"]) for arm, rows in sweep.cells[sweep.cells["state"].isin(ENDED)].groupby("arm")}
    whole = [[all(set(seeds) <= ended.get(arm, set()) for arm in case.arms) for case in cases] for seeds in planned]
    nothing = [(np.nan, np.nan, np.nan)] * 2
    effects = []
    for k, seeds in enumerate(planned):
        # A look counts once all its cells have ended. Before the first, a preliminary verdict is on what is there.
        rows = [case.effects(seeds) if k == 0 or whole[k][i] else nothing for i, case in enumerate(cases)]
        effects.append(Effects(*np.moveaxis(np.array(rows, float), [0, 1, 2], [2, 1, 0])))
    grows = sweep.study.until is Until.decided
    decision = decisions.decide(
        effects,
        np.array([case.relation for case in cases]),
        np.array([case.margin for case in cases]),
        tuple(len(seeds) / len(planned[-1]) for seeds in planned),
        decisions.FUTILE if grows else 0.0,
    )
    return [_verdict(sweep, case, i, decision, effects, planned, [w[i] for w in whole]) for i, case in enumerate(cases)]


def _verdict(
    sweep: Sweep,
    case: _Case,
    i: int,
    decision: Decision,
    effects: list[Effects],
    planned: list[list[int]],
    whole: list[bool],
) -> Verdict:
    outcome, k = Outcome(int(decision.outcome[i])), int(decision.look[i])
    if k < 0:  # no look had an interval
        k = max((j for j, ended in enumerate(whole) if ended), default=0)
    low, high, level = (float(part[i]) for part in (decision.low, decision.high, decision.level))
    settled = outcome is not Outcome.undecided or bool(decision.futile[i])
    preliminary = not whole[k] or not (settled or all(whole))
    grows = sweep.study.until is Until.decided
    reason = _reason(case, planned[k], outcome, low, high, level)
    if grows and whole[k]:
        if decision.futile[i]:
            reason += f"; given up after {len(planned[k])} seeds, as {len(planned[-1])} would hardly have decided it"
        else:
            reason += f"; after {len(planned[k])} of at most {len(planned[-1])} seeds per arm"
    elif len(planned) > 1:
        reason += "; seeds were added after a verdict had been seen, which the interval allows for"
    needed = case.seeds_needed(planned[k], level) if outcome is Outcome.undecided else None
    if needed is not None and needed <= len(planned[k]):
        needed = None
        reason += f"; the difference is so near to 0 or ±{case.margin:g} that no number of seeds is sure to settle it"
    reason += _countings(case, [part[..., i] for part in effects[k]], level)
    return Verdict(
        case.claim.id, case.claim.words, case.claim.metric, case.claim.inequality, WORDS[outcome],
        float(effects[k].value[0, i]), low, high, 1 - level, case.counts(sweep, planned[k]),
        needed, reason, preliminary, grows and not settled and not all(whole),
    )  # fmt: skip


def _reason(case: _Case, seeds: list[int], outcome: Outcome, low: float, high: float, level: float) -> str:
    """Where the interval is: on one side of 0, across 0, or within ± smallest_effect."""
    if case.no_interval:
        return case.no_interval
    if np.isnan(low):
        return f"n too small for an interval: at least {MIN_SEEDS} seeds per arm that have a score are needed"
    censored = [int(flags[flags.index.isin(seeds)].sum()) for flags in case.censored]
    what = "difference of the restricted means" if any(censored) else "difference of the means"
    if any(censored):
        what += f" ({censored[0]} and {censored[1]} cells had not reached the score by the end)"
    pairs = " over pairs of seeds" if case.pairs else ""
    interval = f"the {100 * (1 - level):.4g} % interval of the {what}{pairs}, {number(low)} to {number(high)},"
    limit = f"±{case.margin:g}"
    side = "below 0" if high < 0 else "above 0" if low > 0 else ""
    if case.relation is Relation.alike:
        places = {Outcome.supported: f"is within {limit}", Outcome.contradicted: f"is outside {limit}"}
        return f"{interval} {places.get(outcome, f'crosses a limit of {limit}')}"
    if outcome is Outcome.no_difference:
        slight = f": there is a difference, {side}, that is too small to matter" if side else ""
        return f"{interval} is within {limit}{slight}"
    return f"{interval} {f'is {side}' if side else 'contains 0'}"


def _countings(case: _Case, effects: list[np.ndarray], level: float) -> str:
    """How the result depends on what a failed seed counts as; empty without failed seeds."""
    if not (np.isinf(case.a).any() or np.isinf(case.b).any()):
        return ""
    shown = []
    for how, value, error, freedom in zip(("at", "left out"), *effects, strict=True):
        half = decisions.half_width(error, freedom, level)
        name = f"at {number(case.worst)}" if how == "at" else how
        shown.append(f"{name} {number(value)} [{number(value - half)}, {number(value + half)}]")
    return f"; failed seeds counted {', '.join(shown)}: the interval covers both"


def _case(sweep: Sweep, values: Values, claim: ClaimConfig) -> _Case:
    left, relation, right = claim.inequality.split()
    a, b = (_by_seed(values, claim.metric, arm) for arm in (left, right))
    a, b = _on_one_horizon(a, b)
    margin = _smallest_effect(sweep, claim.metric)
    reached = not (len(a) and len(b) and a["censored"].all() and b["censored"].all())
    no_interval = "" if reached else "no cell of either arm reached the score"
    if relation == "~" and margin is None:
        no_interval = "a claim of equality needs sweep.smallest_effect in this metric's unit"
    return _Case(
        claim=claim,
        arms=(left, right),
        a=a["value"],
        b=b["value"],
        worst=worst_score(sweep, values, claim.metric, left),
        margin=np.nan if margin is None else margin,
        pairs=share_draws(sweep, left, right),
        censored=(a["censored"], b["censored"]),
        no_interval=no_interval,
    )


def worst_score(sweep: Sweep, values: Values, metric: str, arm: str) -> float:
    """The score with which a failed seed of an arm counts in a mean. NaN if there is none.

    It is the study's floor, else the worst that was observed in the arms of the environment."""
    study, config = sweep.study, sweep.study.metrics[metric]
    of_scores = unit(config) == unit(study.metrics[study.metric]) == "score" and config.statistic is not Statistic.std
    if study.floor is not None and of_scores:
        return study.floor
    env = study.arms[arm].config["env"]["id"]
    arms = [name for name, other in study.arms.items() if other.config["env"]["id"] == env]
    scores = np.concatenate([_by_seed(values, metric, name)["value"].to_numpy(float) for name in arms])
    scores = scores[np.isfinite(scores)]
    if len(scores) == 0:
        return np.nan
    return float(scores.max() if config.smaller_is_better else scores.min())


def share_draws(sweep: Sweep, left: str, right: str) -> bool:
    """Whether the arms' cells with the same seed start from the same parameters and draw the same random numbers.

    Then their scores correlate (0.68 to 0.92 was measured), and the test is of pairs. It is decided by the arms'
    configurations alone. Workers of `async` race, so they share less."""

    def draws(arm: str) -> tuple[object, ...]:
        config = sweep.study.arms[arm].config
        keys = ("algo", "name"), ("env", "id"), ("model",), ("schedule",), ("envs_per_worker",)
        return (workers(sweep, arm), *(_nested(config, path) for path in keys))

    return draws(left) == draws(right) and sweep.study.arms[left].config.get("schedule") == "interleaved"


def _nested(config: object, path: tuple[str, ...]) -> object:
    for key in path:
        config = config.get(key) if isinstance(config, dict) else None
    return config


def _count(sweep: Sweep, arm: str, scores: pd.Series, seeds: list[int]) -> str:
    """How many of these seeds have a score, and what became of the others."""
    scored = int(np.isfinite(scores.reindex(seeds)).sum())
    if scored == len(seeds):
        return str(scored)
    kinds = _failures(sweep, arm, scores, seeds)
    left = len(seeds) - scored - kinds.total()
    words = [f"{count} {kind}" for kind, count in kinds.items()] + [f"{left} without a score"] * (left > 0)
    return f"{scored} of {len(seeds)} ({', '.join(words)})"


def failures_of(sweep: Sweep, values: Values, metric: str, arm: str) -> Counter[str]:
    """How many of an arm's seeds failed, or diverged in this metric, by kind."""
    return _failures(sweep, arm, _by_seed(values, metric, arm)["value"], sweep.study.seeds)


def _failures(sweep: Sweep, arm: str, scores: pd.Series, seeds: list[int]) -> Counter[str]:
    cells = sweep.cells[(sweep.cells["arm"] == arm) & sweep.cells["seed"].isin(seeds)]
    diverged = set(scores.index[np.isinf(scores)])
    kinds: Counter[str] = Counter()
    for seed, state, reason in zip(cells["seed"], cells["state"], cells["reason"], strict=True):
        if state == "failed":
            kinds[_kind(str(reason))] += 1
        elif seed in diverged:
            kinds["diverged"] += 1
    return kinds


def _kind(reason: str) -> str:
    """Why a cell failed, in a word, from the reason in its cell.json."""
    known = {"diverged": "diverged", "hangs": "hung", "stopped after": "timed out", "lost": "lost"}
    return next((kind for text, kind in known.items() if text in reason), "crashed")


def with_failures(sweep: Sweep, scores: pd.DataFrame) -> pd.DataFrame:
    """The metrics of all cells (metric, arm, seed, value, censored) with rows of failed cells: infinitely bad."""
    failed = sweep.cells[sweep.cells["state"] == "failed"]
    rows = [
        {"metric": metric, "arm": cell.arm, "seed": cell.seed, "censored": False,
         "value": np.inf if sweep.study.metrics[metric].smaller_is_better else -np.inf}
        for metric in scores["metric"].unique() for cell in failed.itertuples()
    ]  # fmt: skip
    return pd.concat([scores, pd.DataFrame(rows).astype(scores.dtypes)], ignore_index=True) if rows else scores


def _obstacle(sweep: Sweep, refusals: Refusals, claim: ClaimConfig) -> str:
    """Why this sweep cannot test the claim; empty if it can."""
    left, _, right = claim.inequality.split()
    for arm in (left, right):
        if arm not in sweep.arms:
            return f"the study has no arm {arm}"
        if (claim.metric, arm) in refusals:
            return refusals[claim.metric, arm]
    if claim.metric not in sweep.study.metrics:
        return f"the study has no metric {claim.metric}"
    ids = [sweep.study.arms[arm].config["env"]["id"] for arm in (left, right)]
    if ids[0] != ids[1]:
        return f"scores of {ids[0]} and {ids[1]} have different units"
    if claim.real_time and (why := untimed(sweep, left) or untimed(sweep, right)):
        return f"it is about real time, and {why}"
    return ""


def _smallest_effect(sweep: Sweep, metric: str) -> float | None:
    """The study's smallest_effect, if this metric has the unit of the primary metric."""
    study = sweep.study
    if metric not in study.metrics or study.metric not in study.metrics:
        return None
    same_unit = unit(study.metrics[metric]) == unit(study.metrics[study.metric])
    return study.smallest_effect if same_unit else None


def number(value: float) -> str:
    """Four significant digits, or all digits of a large whole number; a dash for NaN."""
    if np.isnan(value):
        return "-"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e12 else f"{value:.4g}"


def workers(sweep: Sweep, arm: str) -> int:
    """The arm's number of workers: the number of CPUs if the configuration gives none."""
    return sweep.study.arms[arm].config["workers"] or sweep.study.provenance.cpus


def take_turns(sweep: Sweep, arm: str) -> bool:
    """Whether the arm's workers took turns in one process."""
    return sweep.study.arms[arm].config["schedule"] == "interleaved" and workers(sweep, arm) > 1


def untimed(sweep: Sweep, arm: str) -> str:
    """Why the arm's seconds are not those of processes that ran in parallel; empty if they are.

    An interleaved run with a single worker loses no time by taking turns, so its seconds are valid."""
    cpus, count = sweep.study.provenance.cpus, workers(sweep, arm)
    if take_turns(sweep, arm):
        return f"the workers of {arm} took turns (schedule=interleaved)"
    if sweep.study.arms[arm].config["schedule"] == "interleaved":
        return ""
    if count > cpus:
        return f"{arm} had {count} workers on {cpus} CPUs"
    return f"the processes of {arm} shared one CPU" if cpus < 2 else ""


def _by_seed(values: Values, metric: str, arm: str) -> pd.DataFrame:
    """value and censored by seed; cells without a value are left out."""
    if (metric, arm) not in values:
        return pd.DataFrame({"value": np.empty(0), "censored": np.empty(0, bool)}, index=np.empty(0, int))
    rows = values[metric, arm]
    return rows[rows["value"].notna()].set_index("seed")[["value", "censored"]]


def of_arm(values: Values, metric: str, arm: str) -> tuple[np.ndarray, np.ndarray]:
    """An arm's values (n,), and which of them are censored; cells without a value are left out."""
    rows = _by_seed(values, metric, arm)
    return rows["value"].to_numpy(), rows["censored"].to_numpy(bool)


def comparable(
    values: Values, metric: str, left: str, right: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two arms' values, and which are censored. If they are censored at different x, both are at the smaller x."""
    a, b = _on_one_horizon(_by_seed(values, metric, left), _by_seed(values, metric, right))
    return a["value"].to_numpy(), b["value"].to_numpy(), a["censored"].to_numpy(bool), b["censored"].to_numpy(bool)


def _on_one_horizon(a: pd.DataFrame, b: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """If values are censored at different x, all are at the smallest x. Failed cells stay infinite."""
    ends = [*a["value"][a["censored"]], *b["value"][b["censored"]]]
    if not ends:
        return a, b
    end = min(ends)

    def cut(rows: pd.DataFrame) -> pd.DataFrame:
        late = (rows["value"] > end) & np.isfinite(rows["value"])
        return rows.assign(value=rows["value"].mask(late, end), censored=rows["censored"] | late)

    return cut(a), cut(b)
