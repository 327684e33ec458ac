"""The verdicts on a study's claims. A claim is an inequality between means of arms' values of a metric.

`decisions.decide` is the rule. `cases` says what a claim compares: in pairs or not, and with which score a failed seed
counts. This module says which seeds are compared at each look, and puts the outcome into words. All of that follows
from study.json, not from the scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ablate.analysis import decisions
from ablate.analysis.cases import Case, case_of, obstacle
from ablate.analysis.decisions import Decision, Effects, Outcome, Relation
from ablate.analysis.load import Sweep
from ablate.analysis.scores import Refusals, Values
from ablate.analysis.statistics import MIN_SEEDS
from ablate.config.choices import Until
from ablate.records.schema import ENDED
from ablate.records.study_file import StudyFile

WORDS = {
    Outcome.supported: "supported",
    Outcome.contradicted: "contradicted",
    Outcome.no_difference: "no relevant difference",
    Outcome.undecided: "undecided",
}
NOT_TESTABLE = "not testable here"


@dataclass(frozen=True)
class Verdict:
    """The verdict on one claim."""

    id: str
    words: str
    metric: str
    inequality: str  # of the metric's means: see `config.inequality`
    verdict: str  # one of WORDS, or NOT_TESTABLE
    effect: float  # first side of the inequality minus the second, with failed seeds at the worst score
    low: float  # the interval that gave the verdict
    high: float
    confidence: float  # of the interval; NaN if there is none
    n: str  # seeds of each arm that have a score, and what became of the others: "30, 27 of 30 (2 diverged, 1 hung)"
    seeds_needed: int | None  # per arm; see `decisions.seeds_for_power`. None: decided, or no smallest_effect
    reason: str  # a sentence
    preliminary: bool = False  # some of these cells have not ended
    wants_seeds: bool = False  # until=decided, and more seeds may settle the claim


def judge(sweep: Sweep, values: Values, refusals: Refusals) -> list[Verdict]:
    """The verdicts on the study's claims, which share one error rate. What fails in one does not cost the others."""
    cases: dict[int, Case] = {}
    verdicts: dict[int, Verdict] = {}
    for i, claim in enumerate(sweep.study.claims):
        try:
            why_not = obstacle(sweep, refusals, claim)
            if not why_not:
                cases[i] = case_of(sweep, values, claim)
        except Exception as error:
            why_not = f"it cannot be computed from these values ({type(error).__name__}: {error})"
        if why_not:
            short = " ".join(why_not.split())[:300]
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


def _decided(sweep: Sweep, cases: list[Case]) -> list[Verdict]:
    planned = looks(sweep.study)
    ended = {str(arm): set(rows["seed"]) for arm, rows in sweep.cells[sweep.cells["state"].isin(ENDED)].groupby("arm")}
    whole = [
        [all(set(sweep.study.seeds_of(arm, seeds)) <= ended.get(arm, set()) for arm in case.weights) for case in cases]
        for seeds in planned
    ]
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
    case: Case,
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
    elif not grows and len(planned) > 1:
        reason += "; seeds were added after a verdict had been seen, which the interval allows for"
    needed = case.seeds_needed(planned[k], level) if outcome is Outcome.undecided else None
    seeds = max(len(sweep.study.seeds_of(arm, planned[k])) for arm in case.weights)
    if needed is not None and needed <= seeds:
        needed = None
        reason += f"; the difference is so near to 0 or ±{case.margin:g} that no number of seeds is sure to settle it"
    reason += _countings(case, [part[..., i] for part in effects[k]], level)
    return Verdict(
        case.claim.id, case.claim.words, case.claim.metric, case.claim.inequality, WORDS[outcome],
        float(effects[k].value[0, i]), low, high, 1 - level, case.counts(sweep, planned[k]),
        needed, reason, preliminary, grows and not settled and not all(whole) and not case.unanswerable,
    )  # fmt: skip


def _reason(case: Case, seeds: list[int], outcome: Outcome, low: float, high: float, level: float) -> str:
    """Where the interval is: on one side of 0, across 0, or within ± smallest_effect."""
    if case.no_interval:
        return case.no_interval
    if np.isnan(low):
        return f"n too small for an interval: at least {MIN_SEEDS} seeds per arm that have a score are needed"
    censored = [int(flags[flags.index.isin(seeds)].sum()) for flags in case.censored.values()]
    two = len(case.weights) == 2 * case.environments
    what = f"{'difference' if two else 'contrast'} of the {'restricted ' * any(censored)}means"
    if case.environments > 1:
        what += f" of normalised scores over {case.environments} environments"
    if any(censored):
        cells = " and ".join(map(str, censored)) if two else sum(censored)
        what += f" ({cells} cells had not reached the score by the end)"
    pairs = (" over pairs of seeds" if len(case.weights) == 2 else ", seed by seed") if case.paired else ""
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


def _countings(case: Case, effects: list[np.ndarray], level: float) -> str:
    """How the result depends on what a failed seed counts as; empty without failed seeds."""
    if not case.has_failures:
        return ""
    shown = []
    for how, value, error, freedom in zip(("at", "left out"), *effects, strict=True):
        half = decisions.half_width(error, freedom, level)
        worst = {number(score) for score in case.worst.values()}
        name = f"at {worst.pop() if len(worst) == 1 else 'the worst of each environment'}" if how == "at" else how
        shown.append(f"{name} {number(value)} [{number(value - half)}, {number(value + half)}]")
    return f"; failed seeds counted {', '.join(shown)}: the interval covers both"


def number(value: float) -> str:
    """Four significant digits, or all digits of a large whole number; a dash for NaN."""
    if np.isnan(value):
        return "-"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e12 else f"{value:.4g}"
