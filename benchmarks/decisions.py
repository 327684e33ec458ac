"""How often the decision rule errs and finds: simulated studies with known truth (docs/statistics.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from rich.console import Console
from scipy import special, stats

from ablate.analysis.decisions import (
    FUTILE,
    Decision,
    Effects,
    Outcome,
    Relation,
    decide,
    paired,
    seeds_for_power,
    welch,
)
from ablate.analysis.statistics import holm
from ablate.paths import ROOT
from benchmarks.common import Options, table_of

SEED = 2026
SIZES = (5, 10, 20, 30)  # seeds per arm
CLAIMS = (1, 3, 10)
CORRELATION = 0.8  # of arms that share random numbers: 0.68 to 0.92 was measured
BLOCK, MOST = 5, 30  # of studies that grow until they are decided
DRAWS = 499  # permutations, or bootstrap resamples, of the other rules
RHO = 0.5  # of the confidence sequence: narrowest near 2 log(1 / α) / RHO² = 24 seeds


class Population(NamedTuple):
    """A distribution of scores over seeds. quantile: of probabilities, with mean 0 and standard deviation 1."""

    name: str
    quantile: Callable[[np.ndarray], np.ndarray]


def _normal(u: np.ndarray) -> np.ndarray:
    return special.ndtri(u)


def _lognormal(u: np.ndarray) -> np.ndarray:
    """exp(z): skewness 6."""
    return (np.exp(special.ndtri(u)) - np.exp(0.5)) / np.sqrt((np.e - 1) * np.e)


def _bimodal(u: np.ndarray) -> np.ndarray:
    """One seed in five has collapsed: five deviations below the others."""
    low = u < 0.2
    within = special.ndtri(np.where(low, u / 0.2, (u - 0.2) / 0.8))
    return (np.where(low, -5.0, 0.0) + within + 1.0) / np.sqrt(5.0)


def _t3(u: np.ndarray) -> np.ndarray:
    return special.stdtrit(3, u) / np.sqrt(3)


POPULATIONS = [
    Population("normal", _normal), Population("lognormal", _lognormal), Population("bimodal", _bimodal),
    Population("t3", _t3),
]  # fmt: skip


def own_populations() -> Iterator[Population]:
    """The scores of arms with at least 30 seeds in sweeps/results, as populations from which seeds are drawn.

    Studies may have an arm in common: it is one population."""
    seen = set()
    for path in sorted((ROOT / "sweeps/results").glob("*/seeds.csv")):
        table = pd.read_csv(path)
        for arm, rows in table[table["metric"] == "final_score"].groupby("arm", sort=False):
            scores = np.sort(rows["value"].to_numpy())
            if len(scores) < 30 or not np.isfinite(scores).all() or np.ptp(scores) == 0 or scores.tobytes() in seen:
                continue
            seen.add(scores.tobytes())
            scores = (scores - scores.mean()) / scores.std()

            def quantile(u: np.ndarray, scores: np.ndarray = scores) -> np.ndarray:
                return scores[np.minimum((u * len(scores)).astype(int), len(scores) - 1)]

            yield Population(f"{arm}, {path.parent.name}", quantile)


class Study(NamedTuple):
    """Scores of simulated studies. Claim i compares arm i with the baseline."""

    arms: np.ndarray  # (studies, claims, seeds)
    baseline: np.ndarray  # (studies, 1, seeds)

    def effects(self, estimate: Callable[[np.ndarray, np.ndarray], Effects], seeds: int | None = None) -> Effects:
        """Of the first seeds, with one counting: arrays (1, studies, claims)."""
        return Effects(*(part[None] for part in estimate(self.arms[..., :seeds], self.baseline[..., :seeds])))


def simulate(
    rng: np.random.Generator,
    population: Population,
    studies: int,
    theta: np.ndarray,
    seeds: int,
    correlation: float = 0.0,
    baseline: Population | None = None,
) -> Study:
    """theta (claims,): by how many standard deviations each arm's mean is above the baseline's.

    baseline: its population, if it is another. Arms with a correlation share a part of a normal latent variable."""
    shared = rng.standard_normal((studies, 1, seeds))
    own = rng.standard_normal((studies, len(theta) + 1, seeds))
    latent = special.ndtr(np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own)
    first = (baseline or population).quantile(latent[:, :1])
    return Study(population.quantile(latent[:, 1:]) + theta[:, None], first)


def wrong(outcome: np.ndarray, relation: np.ndarray, theta: np.ndarray, margin: np.ndarray) -> np.ndarray:
    """Whether each outcome (..., claims) says something false."""
    small = np.abs(theta) < margin  # NaN: False
    true_sign = np.sign(theta)
    alike = relation == Relation.alike
    supported = np.where(alike, ~small, true_sign != relation)
    contradicted = np.where(alike, small, true_sign != -relation)
    return np.select(
        [outcome == Outcome.supported, outcome == Outcome.contradicted, outcome == Outcome.no_difference],
        [np.broadcast_to(x, outcome.shape) for x in (supported, contradicted, ~small)],
        False,
    )


def fixed(study: Study, estimate: Callable[..., Effects], relation: np.ndarray, margin: np.ndarray) -> Decision:
    return decide([study.effects(estimate)], relation, margin)


def growing(
    study: Study, estimate: Callable[..., Effects], relation: np.ndarray, margin: np.ndarray, futile: float = FUTILE
) -> tuple[Decision, np.ndarray]:
    """The decision of a study that grows by BLOCK seeds, and the seeds that each claim's arm took (studies, claims)."""
    sizes = range(BLOCK, study.arms.shape[-1] + 1, BLOCK)
    fractions = tuple(size / sizes[-1] for size in sizes)
    decision = decide([study.effects(estimate, n) for n in sizes], relation, margin, fractions, futile)
    return decision, (decision.look + 1) * BLOCK


# Other rules, for comparison. Each gives p-values (studies, claims).


def old_rule(study: Study) -> np.ndarray:
    """What this program did until November 2026: Welch below 20 seeds, else the percentile bootstrap; no correction."""
    if study.arms.shape[-1] < 20:
        return holm_welch(study, corrected=False)
    n = study.arms.shape[-1]
    rng = np.random.default_rng(0)
    drawn, drawn_too = (rng.multinomial(n, np.full(n, 1 / n), 2000) / n for _ in range(2))
    low_high = []
    for arms, baseline in zip(study.arms, study.baseline, strict=True):
        resampled = arms @ drawn.T - baseline @ drawn_too.T
        low_high.append(np.quantile(resampled, [0.025, 0.975], axis=-1))
    low, high = np.moveaxis(np.array(low_high), 1, 0)
    return np.where((low > 0) | (high < 0), 0.01, 1.0)  # only whether it is below 0.05 is used


def holm_welch(study: Study, corrected: bool = True) -> np.ndarray:
    p = stats.ttest_ind(study.arms, study.baseline, axis=-1, equal_var=False).pvalue
    return np.apply_along_axis(holm, -1, p) if corrected else p


def studentised(study: Study, bootstrap: bool) -> tuple[np.ndarray, np.ndarray]:
    """p and the critical value of |t| (studies, claims), from permutations or from the bootstrap of centred scores."""
    rng = np.random.default_rng(1)
    n = study.arms.shape[-1]
    observed = study.effects(welch)
    t = np.abs(observed.value[0] / observed.error[0])
    a, b = np.broadcast_arrays(study.arms, study.baseline)
    if bootstrap:
        a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    pooled = np.concatenate([a, b], axis=-1)
    drawn = []
    for _ in range(DRAWS):
        if bootstrap:
            rows = np.concatenate([rng.integers(0, n, n), n + rng.integers(0, n, n)])
        else:
            rows = rng.permutation(2 * n)
        effects = welch(pooled[..., rows[:n]], pooled[..., rows[n:]])
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn.append(np.nan_to_num(np.abs(effects.value / effects.error), posinf=1e9))
    drawn_t = np.array(drawn)
    p = ((drawn_t >= t - 1e-12).sum(0) + 1) / (DRAWS + 1)
    return p, np.quantile(drawn_t, 0.95, axis=0)


def adastop(study: Study, alpha: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Mathieu et al. 2023 for one claim: permutations within the blocks; every look spends the same part of alpha.

    Returns whether it rejects (studies,), and the seeds per arm that it took."""
    rng = np.random.default_rng(2)
    looks = study.arms.shape[-1] // BLOCK
    scores = np.concatenate([x[:, 0].reshape(-1, looks, BLOCK) for x in study], -1)
    signs = np.ones((2000, looks, 2 * BLOCK))
    signs[..., BLOCK:] = -1
    signs[1:] = rng.permuted(signs[1:], axis=-1)  # the first row is what was observed
    statistic = np.abs(np.cumsum(np.einsum("ski,bki->sbk", scores, signs), axis=-1))
    alive = np.ones(statistic.shape[:2], bool)
    rejected, seeds = np.zeros(len(scores), bool), np.full(len(scores), looks * BLOCK)
    for k in range(looks):
        allowed = int(alpha * (k + 1) / looks * len(signs))  # divisions that may have been rejected so far
        now = np.where(alive, statistic[..., k], -1.0)
        threshold = -np.sort(-now, axis=1)[np.arange(len(now)), np.maximum(allowed - (~alive).sum(1), 0)]
        out = alive & (now > threshold[:, None])
        seeds[out[:, 0]] = (k + 1) * BLOCK
        rejected |= out[:, 0]
        alive &= ~out
    return rejected, seeds


def confidence_sequence(study: Study, alpha: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """The asymptotic confidence sequence of Waudby-Smith et al. 2021 for one claim, looked at after every block."""
    rejected, seeds = np.zeros(len(study.arms), bool), np.full(len(study.arms), study.arms.shape[-1])
    for n in range(BLOCK, study.arms.shape[-1] + 1, BLOCK):
        effects = study.effects(welch, n)
        half = effects.error[0, :, 0] * np.sqrt(
            2 * (n * RHO**2 + 1) / (n * RHO**2) * np.log(np.sqrt(n * RHO**2 + 1) / alpha)
        )
        out = ~rejected & (np.abs(effects.value[0, :, 0]) > half)
        seeds[out], rejected = n, rejected | out
    return rejected, seeds


# Tables.


def benchmark_decisions(console: Console, options: Options) -> None:
    """--repeats: simulated studies per number."""
    print(f"studies   {options.repeats} per number; in brackets the 95% interval of a rate (Wilson)", flush=True)
    populations = [*POPULATIONS, *own_populations()]
    tables = (errors, margins, candidates, shapes, powers, sequential, growth_errors, needed_seeds)
    for make in tables:
        for table in make(populations, options.repeats):
            console.print(table)


def rate(hits: Any) -> str:
    """A rate in % with its interval of Wilson."""
    n, count = np.size(hits), int(np.sum(hits))
    low, high = stats.binomtest(count, n).proportion_ci(method="wilson")
    return f"{100 * count / n:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def percent(hits: Any) -> str:
    return f"{100 * float(np.mean(hits)):.1f}"


def nothing(claims: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, relation and margin of claims `<` without any effect."""
    return np.zeros(claims), np.full(claims, Relation.less), np.full(claims, np.nan)


def errors(populations: list[Population], studies: int) -> Iterator[object]:
    for correlation, estimate, how in ((0.0, welch, "independent arms"), (CORRELATION, paired, "paired arms")):
        table = table_of(
            f"No effect anywhere, {how}: studies with any verdict, %",
            "old: the rule until November 2026",
            ("scores", "n"),
            (*(f"{m} claim{'s' * (m > 1)}" for m in CLAIMS), "old, 10 claims"),
        )
        for population in populations:
            for n in SIZES:
                rng = np.random.default_rng([SEED, n])
                row = []
                for claims in CLAIMS:
                    theta, relation, margin = nothing(claims)
                    study = simulate(rng, population, studies, theta, n, correlation)
                    outcome = fixed(study, estimate, relation, margin).outcome
                    row.append(rate(wrong(outcome, relation, theta, margin).any(-1)))
                old = old_rule(Study(study.arms[:500], study.baseline[:500]))
                table.add_row(population.name, str(n), *row, percent((old < 0.05).any(-1)))
        yield table


def margins(populations: list[Population], studies: int) -> Iterator[object]:
    """The hardest truths for verdicts about the margin: effects of exactly 0 and ± the margin, all relations."""
    table = table_of(
        "Six claims (<, > and ~) with effects of 0 and of exactly ± the smallest effect: any false verdict, %",
        "smallest effect: in standard deviations",
        ("scores", "n"),
        ("smallest effect 0.5", "1", "2"),
    )
    signs = np.array([0.0, 0.0, 1.0, -1.0, 1.0, -1.0])
    relation = np.array([Relation.less, Relation.greater, Relation.alike, Relation.alike, Relation.less, Relation.less])
    for population in populations:
        for n in SIZES:
            rng = np.random.default_rng([SEED, n])
            row = []
            for size in (0.5, 1.0, 2.0):
                theta, margin = size * signs, np.full(len(signs), size)
                study = simulate(rng, population, studies, theta, n)
                outcome = fixed(study, welch, relation, margin).outcome
                row.append(rate(wrong(outcome, relation, theta, margin).any(-1)))
            table.add_row(population.name, str(n), *row)
    yield table


def candidates(populations: list[Population], studies: int) -> Iterator[object]:
    table = table_of(
        "One claim, same distribution in both arms: error, coverage and power of tests, %",
        "coverage of the 95% interval; power at an effect of 1 standard deviation; perm., boot.: Welch's t, whose\n"
        "distribution comes from permutations, or from the bootstrap of centred scores",
        ("scores", "n"),
        tuple(f"{test} {what}" for test in ("Welch", "perm.", "boot.") for what in ("error", "coverage", "power")),
    )
    studies = min(studies, 2000)
    for population in populations:
        for n in SIZES:
            row = []
            for test in ("welch", "permutation", "bootstrap"):
                found = []
                for theta in (0.0, 1.0):
                    rng = np.random.default_rng([SEED, n])
                    study = simulate(rng, population, studies, np.array([theta]), n)
                    effects = study.effects(welch)
                    error, distance = effects.error[0], np.abs(effects.value[0] - theta)
                    if test == "welch":
                        critical = special.stdtrit(effects.freedom[0], 0.975)
                        found.append((np.abs(effects.value[0]) > critical * error, distance <= critical * error))
                    else:
                        p, critical = studentised(study, test == "bootstrap")
                        found.append((p <= 0.05, distance <= critical * error))
                row += [percent(found[0][0]), percent(found[0][1]), percent(found[1][0])]
            table.add_row(population.name, str(n), *row)
    yield table


def shapes(populations: list[Population], studies: int) -> Iterator[object]:
    """No test of means holds its level if one arm is far more skewed than the other (Bahadur & Savage 1956)."""
    table = table_of(
        "Coverage of a 95% interval if only one arm has these scores, and the other normal ones, %",
        "equal means and standard deviations",
        ("scores",),
        tuple(f"n = {n}" for n in SIZES),
    )
    normal = populations[0]
    for population in populations[1:]:
        row = []
        for n in SIZES:
            theta, relation, margin = nothing(1)
            study = simulate(np.random.default_rng([SEED, n]), population, studies, theta, n, baseline=normal)
            row.append(percent(fixed(study, welch, relation, margin).outcome == Outcome.undecided))
        table.add_row(population.name, *row)
    yield table


def powers(populations: list[Population], studies: int) -> Iterator[object]:
    table = table_of(
        "Power, % of true effects of 1 standard deviation that are supported; half of the claims have one",
        f"margin: with a smallest effect of 0.5; paired: arms that share random numbers, correlation {CORRELATION:g}",
        ("scores", "n", "claims"),
        ("Holm-Welch", "ours", "ours, margin", "ours, paired"),
    )
    for population in populations:
        for n in SIZES:
            for claims in (2, 10):
                theta = np.where(np.arange(claims) % 2, 0.0, 1.0)
                relation, free = np.full(claims, Relation.greater), np.full(claims, np.nan)
                effect = theta > 0
                study = simulate(np.random.default_rng([SEED, n]), population, studies, theta, n)
                shared = simulate(np.random.default_rng([SEED, n]), population, studies, theta, n, CORRELATION)
                ours = [
                    fixed(study, welch, relation, free), fixed(study, welch, relation, np.full(claims, 0.5)),
                    fixed(shared, paired, relation, free),
                ]  # fmt: skip
                theirs = percent((holm_welch(study) < 0.05)[:, effect])
                row = [percent(decision.outcome[:, effect] == Outcome.supported) for decision in ours]
                table.add_row(population.name, str(n), str(claims), theirs, *row)
    yield table


def growth_errors(populations: list[Population], studies: int) -> Iterator[object]:
    table = table_of(
        f"Until decided, by blocks of {BLOCK} up to {MOST} seeds: any false verdict over all looks and claims, %",
        "mixed: ten claims as in the table of margins, with a smallest effect of 1 standard deviation",
        ("scores",),
        ("1 claim", "3 claims", "10 claims", "10 claims, paired", "mixed"),
    )
    signs = np.array([0.0, 0.0, 1.0, -1.0, 1.0, -1.0, 0.0, 1.0, 0.0, -1.0])
    mixed = np.array([-1, 1, 0, 0, -1, -1, 1, -1, -1, 0])
    for population in populations:
        rng = np.random.default_rng([SEED, MOST])
        row = []
        for claims, correlation in ((1, 0.0), (3, 0.0), (10, 0.0), (10, CORRELATION)):
            theta, relation, margin = nothing(claims)
            study = simulate(rng, population, studies, theta, MOST, correlation)
            decision, _ = growing(study, paired if correlation else welch, relation, margin, futile=0.0)
            row.append(rate(wrong(decision.outcome, relation, theta, margin).any(-1)))
        study = simulate(rng, population, studies, signs, MOST)
        decision, _ = growing(study, welch, mixed, np.ones(len(signs)), futile=0.0)
        row.append(rate(wrong(decision.outcome, mixed, signs, np.ones(len(signs))).any(-1)))
        table.add_row(population.name, *row)
    yield table


def sequential(populations: list[Population], studies: int) -> Iterator[object]:
    """Rules that stop early, for one claim; the fixed design has the smallest n with at least the same power."""
    table = table_of(
        f"One claim until decided, blocks of {BLOCK} to {MOST} seeds: verdicts, %, and seeds per arm",
        "share: of the seeds of a fixed Welch test with the same power, %; sequence: of confidence intervals",
        ("scores", "effect"),
        ("ours", "seeds", "share", "AdaStop", "seeds", "share", "sequence", "seeds", "share"),
    )
    relation, margin = np.array([Relation.greater]), np.array([np.nan])
    for population in populations:
        for theta in (0.0, 0.5, 1.0, 1.5, 2.0) if population in POPULATIONS else (1.5,):
            study = simulate(np.random.default_rng([SEED, MOST]), population, studies, np.array([theta]), MOST)
            decision, seeds = growing(study, welch, relation, margin)
            row = []
            small = Study(study.arms[:1000], study.baseline[:1000])
            results = [
                (decision.outcome[:, 0] != Outcome.undecided, seeds[:, 0]), adastop(small), confidence_sequence(study),
            ]  # fmt: skip
            for rejected, took in results:
                n = fixed_seeds(population, theta, float(rejected.mean()), studies) if theta else 0
                row += [percent(rejected), f"{took.mean():.1f}", f"{100 * took.mean() / n:.0f}" if n else ""]
            table.add_row(population.name, f"{theta:g}", *row)
    yield table


def fixed_seeds(population: Population, theta: float, power: float, studies: int) -> int:
    """The smallest n of a fixed Welch test with at least this power."""
    study = simulate(np.random.default_rng([SEED, 1]), population, min(studies, 5000), np.array([theta]), 4 * MOST)
    for n in range(2, 4 * MOST + 1):
        effects = study.effects(welch, n)
        critical = special.stdtrit(effects.freedom, 0.975) * effects.error
        if (np.abs(effects.value) > critical).mean() >= min(power, 0.9995):
            return n
    return 4 * MOST


def needed_seeds(populations: list[Population], studies: int) -> Iterator[object]:
    table = table_of(
        "A second study with the seeds that an undecided claim > asks for: settled, % (asked for: 80)",
        "the smallest effect is 1 standard deviation, the truth is 0 or exactly that; first study: n seeds per arm",
        ("scores", "n"),
        ("seeds asked for (median)", "settled if 0", "settled if 1"),
    )
    relation, margin = np.array([Relation.greater]), np.array([1.0])
    for population in populations:
        for n in SIZES:
            rng = np.random.default_rng([SEED, n])
            effects = simulate(rng, population, min(studies, 300), np.zeros(1), n).effects(welch)
            asked = [
                seeds_for_power(float(error) ** 2 * n, float(freedom), 1.0, 0.05) or MOST
                for error, freedom in zip(effects.error.ravel(), effects.freedom.ravel(), strict=True)
            ]
            row = [f"{np.median(asked):.0f}"]
            for truth in (0.0, 1.0):
                second = (simulate(rng, population, 20, np.array([truth]), seeds) for seeds in asked)
                outcomes = np.array([fixed(study, welch, relation, margin).outcome for study in second])
                row.append(percent(outcomes != Outcome.undecided))
            table.add_row(population.name, str(n), *row)
    yield table
