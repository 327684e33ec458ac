"""The summary as Markdown that is also readable in a terminal."""

from __future__ import annotations

import re
from collections.abc import Callable

import pandas as pd

from ablate.analysis.metrics import environments, unit
from ablate.analysis.normalisation import words_of
from ablate.analysis.sensitivity import Sensitivity
from ablate.analysis.tables import Summary
from ablate.analysis.verdicts import Verdict, number
from ablate.config.choices import Statistic
from ablate.config.inequality import parse
from ablate.records.study_file import SearchRecord, StudyFile

METHODS = """\
Verdicts: each claim is one test of a difference of means, Welch's t, or Student's t over pairs of seeds if the arms
share their random numbers. A contrast of more than two arms is tested in the same way, with Satterthwaite's degrees of
freedom. Its interval decides, by where it is among 0 and ± smallest_effect. All claims of the study share an error
rate of 5 % by Holm's method, so the intervals of verdicts have 95 % confidence or more, as they say. Supported and
contradicted: there is a difference in the claimed or in the other direction (a ~ b: it is within, or outside,
± smallest_effect). No relevant difference: it is within ± smallest_effect. Failed and diverged seeds count: the
interval covers both their worst score and leaving them out, so no verdict depends on that choice.
Tables: 95 % confidence intervals that describe and are not corrected for their number; with fewer than 5 seeds there
is none. Mean and difference: Student's t and Welch's t. Median and IQM (interquartile mean): the percentile
bootstrap; failed seeds are worse than all others. Ratio of means: Fieller's method. P(better) compares a seed of the
arm with a seed of the baseline; it and Cliff's δ use Newcombe's method 5. p: Welch's test and the permutation test,
both with Holm's correction over the arms of a table. Times to reach a score are restricted means: a cell that did not
reach it counts with the end of the budget, which is the same for all arms; next to a speed-up stands the log-rank
test. Collapsed: the mean of the last tenth of the curve is below half of the gain, start + ½ (best - start), with the
mean of the first and of the best tenth, and evaluation noise does not explain it."""
OVER_ENVIRONMENTS = """\
Several environments: a claim about all of them is one test of the mean over environments of the differences of
normalised scores, with Satterthwaite's degrees of freedom; it counts as one claim. IQM and P(better) over environments:
stratified bootstrap. Mean over environments: Student's t. Mean rank: the place of a run among one run of each arm in
the same environment, 1 is the best, averaged over the environments; stratified bootstrap."""
UNCORRECTED = (
    "These 95 % intervals describe and are not corrected for their number; the intervals of verdicts are. Differences "
    "here are of independent samples; a verdict compares pairs of seeds if the arms share their random numbers."
)


def escaped(text: str) -> str:
    """Text from a configuration or a file, so that Markdown shows it as it is written, in one line."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*|]|(?<!\w)_|_(?!\w)|(?<=\])\()", r"\\\1", text)  # max_ep_step stays readable


def report(summary: Summary) -> str:
    """verdict.md: question, verdicts, tables, failures, notes, provenance."""
    study = summary.sweep.study
    metrics = sorted(summary.arms["metric"].unique(), key=lambda name: name != study.metric)
    claims = [_claim(verdict) for verdict in summary.verdicts]
    parts = [
        f"# {escaped(study.name)}", escaped(study.question), escaped(search_words(study)),
        "## Verdicts", *(f"**Note:** {escaped(caveat)}" for caveat in summary.caveats),
        *(claims or ["The study makes no claim, so there is no verdict; `sweep.claims` states one (docs/sweeps.md)."]),
        *(part for name in metrics for part in _metric(summary, name)),
        *_speed_ups(summary),
        *sensitivity_parts(summary),
        "## Stability", _stability(summary),
        "## Failures", _failures(summary),
        "## Notes", "\n".join(f"- {escaped(note)}" for note in summary.notes),
        "## Methods", "\n".join(filter(None, (METHODS, OVER_ENVIRONMENTS * bool(study.crossed)))),
        "## Provenance", _provenance(study),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def search_words(study: StudyFile) -> str:
    """How a setting was chosen, and which seeds were for that and which for the comparison; empty without a search."""
    if (search := study.search) is None:
        return ""
    tuning = f"the tuning seeds {_span(search.seeds)}"
    sampler = f"sampler {search.sampler}, seed {search.seed}, {search.batch} at a time"
    if not search.best:
        return f"The trials of a search ({sampler}) over {_space(search)}, each with {tuning}."
    objective = "-" if search.objective is None else number(search.objective)
    return (
        f"Chosen by a search over {_space(search)}: {search.trials} trials ({sampler}), each with {tuning}. The best, "
        f"{search.best}, had a mean {study.metric} of {objective} there, which is too good by chance, as the best of "
        f"many. So it was trained again, next to the default, with the test seeds {_span(study.seeds)}. No trial had "
        "them."
    )


def _span(seeds: list[int]) -> str:
    whole = seeds == list(range(seeds[0], seeds[-1] + 1))
    return f"{seeds[0]} to {seeds[-1]}" if whole and len(seeds) > 2 else ", ".join(map(str, seeds))


def _space(search: SearchRecord) -> str:
    return "; ".join(f"{key}: {text}" for key, text in search.space.items())


def _named(arm: str, label: str) -> str:
    """The arm's label, and its name if that is another one: inequalities have the name."""
    return escaped(label) if label == arm else f"{escaped(label)} (`{arm}`)"


def with_interval(value: float, low: float, high: float) -> str:
    return number(value) if pd.isna(low) else f"{number(value)} [{number(low)}, {number(high)}]"


def title(verdict: Verdict) -> str:
    return verdict.verdict + ", preliminary" * verdict.preliminary


def _claim(verdict: Verdict) -> str:
    level = "" if pd.isna(verdict.low) else f" ({100 * verdict.confidence:.4g} % interval)"
    lines = [
        f"### {escaped(verdict.id)}: {title(verdict)}",
        f"> {escaped(verdict.words)}",
        "",
        f"- `{verdict.inequality}` in `{verdict.metric}`: effect"
        f" {with_interval(verdict.effect, verdict.low, verdict.high)}{level}, n = {verdict.n}",
        f"- {escaped(verdict.reason)}",
    ]
    if verdict.seeds_needed is not None:
        lines.append(f"- {needed(verdict)}")
    return "\n".join(lines)


def needed(verdict: Verdict) -> str:
    """How many more seeds an undecided claim needs, in words; empty if that is not known."""
    if verdict.seeds_needed is None:
        return ""
    at_margin = "a higher one if they differ by smallest_effect"
    if parse(verdict.inequality)[0] == "~":  # at smallest_effect it is neither true nor false by a margin
        at_margin = "a smaller one the nearer their difference is to smallest_effect"
    return (
        f"{verdict.seeds_needed} seeds per arm would probably be enough: with them, the claim is settled with a "
        f"probability of 80 % if the arms do not differ, and with {at_margin}"
    )


def _metric(summary: Summary, name: str) -> list[str]:
    sweep, study = summary.sweep, summary.sweep.study
    metric = study.metrics[name]
    first, last = (f"{100 * fraction:g} %" for fraction in metric.window)
    window = f"after {first} of" if first == last else f"from {first} to {last} of"
    unit_name = sweep.score_name if unit(metric) == "score" else unit(metric)
    better = "smaller" if metric.smaller_is_better else "larger"
    target = f" {metric.score:g}" if metric.statistic is Statistic.first_reach else ""
    parts = [
        f"## {escaped(metric.label)} (`{name}`{', the primary metric' * (name == study.metric)})",
        f"{metric.statistic}{target} of {metric.source} {window} the {metric.budget} budget on {metric.x}; "
        f"in {unit_name}; {better} is better. {UNCORRECTED}",
    ]
    parts += _over_environments(summary, name)
    for env, part in environments(sweep).items():
        if part is not sweep:
            parts.append(f"### {env}")
        shown = _only(summary.arms, name, part.arms)
        parts.append(_table(shown, {
            "arm": lambda row: _named(row["arm"], row["label"]),
            "n": lambda row: f"{row['n']} of {row['n_planned']}",
            "failed": lambda row: row["failed"] or "0",
            "restricted mean" if target else "mean": _interval("mean"),
            "median": _interval("median"), "IQM": _interval("iqm"),
            "spread": lambda row: number(row["spread"]),
            **_if_failed(shown, "mean, failed at the worst score", "mean_worst"),
            **({"not reached": lambda row: str(row["n_censored"])} if target else {}),
        }))  # fmt: skip
        if len(compared := _only(summary.comparisons, name, part.arms)):
            parts.append(_table(compared, {
                f"against {compared['baseline'].iloc[0]}": lambda row: row["arm"],
                "n": lambda row: ", ".join(_scored(row[n], row[f"{n}_failed"]) for n in ("n", "n_baseline")),
                "difference": _interval("difference"),
                **_if_failed(compared, "difference, failed at the worst score", "difference_worst"),
                "ratio": _interval("ratio"),
                "P(better)": _interval("probability_of_improvement"), "Cliff's δ": _interval("cliffs_delta"),
                "p Welch (Holm)": lambda row: f"{number(row['welch_p'])} ({number(row['welch_p_holm'])})",
                "p permutation (Holm)":
                    lambda row: f"{number(row['permutation_p'])} ({number(row['permutation_p_holm'])})",
            }))  # fmt: skip
    return parts


def _over_environments(summary: Summary, metric: str) -> list[str]:
    """The tables of normalised scores; nothing if there are none."""
    rows = summary.over_environments
    if rows.empty or (rows := rows[rows["metric"] == metric]).empty:
        return []
    of_baseline = (
        summary.improvements[summary.improvements["metric"] == metric] if len(summary.improvements) else rows[:0]
    )
    better = {row["arm"]: _interval("probability_of_improvement")(row) for _, row in of_baseline.iterrows()}
    each = summary.in_environments[summary.in_environments["metric"] == metric]
    columns: dict[str, Callable[[pd.Series], str]] = {"normalised mean": lambda row: escaped(row["environment"])}
    for _, row in rows.iterrows():
        names = summary.sweep.study.crossed[row["arm"]].values()
        columns[escaped(row["label"])] = _of_environment(each[each["arm"].isin(names)].set_index("environment"))
    return [
        "### Over all environments", f"{escaped(words_of(summary.sweep.study))}.",
        _table(rows, {
            "arm": lambda row: escaped(row["label"]), "n": lambda row: str(row["n"]),
            "IQM": _interval("iqm"), "mean": _interval("mean"), "mean rank": _interval("rank"),
            "P(better than the baseline)": lambda row: better.get(row["arm"], "the baseline"),
        }),
        _table(each.drop_duplicates("environment"), columns),
    ]  # fmt: skip


def _of_environment(means: pd.DataFrame) -> Callable[[pd.Series], str]:
    """The mean of a row's environment. means: by environment."""
    return lambda row: _interval("mean")(means.loc[row["environment"]])


def _if_failed(rows: pd.DataFrame, heading: str, name: str) -> dict[str, Callable[[pd.Series], str]]:
    """A column that there is only if a seed of the table failed."""
    return {} if rows[name].isna().all() else {heading: _interval(name)}


def _scored(n: int, failed: int) -> str:
    return f"{n} ({failed} failed)" if failed else str(n)


def _speed_ups(summary: Summary) -> list[str]:
    if summary.speed_ups.empty:
        return []
    return ["## Speed-up to a score", _table(summary.speed_ups, {
        "metric": lambda row: row["metric"],
        "arm": lambda row: row["arm"],
        "workers": lambda row: str(row["workers"]),
        "against": lambda row: row["baseline"],
        "speed-up": _interval("speed_up", "low", "high"),
        "p log-rank": lambda row: number(row["logrank_p"]),
        "not reached": lambda row: f"{row['n_censored']} of {row['n']}",
        "not reached by the baseline": lambda row: f"{row['n_baseline_censored']} of {row['n_baseline']}",
    })]  # fmt: skip


def sensitivity_parts(summary: Summary) -> list[str]:
    """The sensitivity and the effective dimension, in words and in a table; nothing for other studies."""
    if (own := summary.sensitivity) is None:
        return []
    return ["## Sensitivity", *sensitivity_words(summary), _table(sensitivity_table(own, summary.sweep.study), {
        "tuned in each environment": lambda row: escaped(row["keys"]),
        "normalised score": lambda row: number(row["performance"]),
        "of the best": lambda row: f"{100 * row['share']:.1f} %",
    })]  # fmt: skip


def sensitivity_table(own: Sensitivity, study: StudyFile) -> pd.DataFrame:
    """keys, performance, share of the best: of each choice of keys to tune, else of the best setting of each kind."""
    rows = [
        {"keys": ", ".join(study.factors[key] for key in subset.keys) or "nothing", "performance": subset.performance}
        for subset in own.subsets
    ]
    if not rows:
        reference = float(own.table.mean(0)[own.reference])
        rows = [{"keys": "nothing", "performance": reference}, {"keys": "all keys", "performance": own.best}]
    return pd.DataFrame(rows).assign(share=lambda table: table["performance"] / own.best)


def sensitivity_words(summary: Summary) -> list[str]:
    """The sensitivity in sentences; none if there is none."""
    if (own := summary.sensitivity) is None:
        return []
    count = len(own.environments)
    reference = f"the best setting for all {count} environments" if count > 1 else "the baseline"
    words = (
        f"The sensitivity of {summary.sweep.study.metric} is {with_interval(*own.sensitivity)} (bootstrap over seeds): "
        f"what the best setting of each environment reaches, minus what {reference} reaches "
        f"({own.labels[own.reference]}). "
        "A score of 0 is the 5th and 1 the 95th percentile of all runs in an environment (Adkins et al. 2024). The "
        "best of many means is too high by chance, and so is the sensitivity, the more the fewer seeds there are."
    )
    if own.dimension is None:
        return [words]
    return [
        words,
        f"The effective dimension is {own.dimension} of {len(own.subsets[-1].keys)}: so many keys must be tuned in "
        f"each environment, with the others as in {reference}, to reach 95 % of the best.",
    ]


def _stability(summary: Summary) -> str:
    return _table(summary.stability, {
        "arm": lambda row: row["arm"],
        "collapsed": lambda row: f"{row['collapsed']} of {row['n']}",
        "spread of the primary metric": lambda row: number(row["spread"]),
    })  # fmt: skip


def _failures(summary: Summary) -> str:
    bad = summary.sweep.failures
    if bad.empty:
        return "None."
    return _table(bad, {
        "cell": lambda row: f"{row['arm']}/seed={row['seed']}",
        "state": lambda row: row["state"],
        "attempts": lambda row: str(row["attempts"]),
        "reason": lambda row: escaped(str(row["reason"])),
    })  # fmt: skip


def _provenance(study: StudyFile) -> str:
    provenance = study.provenance
    git = provenance.git
    lines = {
        "command": "`" + " ".join(provenance.command).replace("`", "'") + "`",
        "started": provenance.started,
        "commit": f"{git['commit']}{' with uncommitted changes' * git['dirty']}" if git else "not in a git repository",
        "machine": ", ".join(f"{key} {value}" for key, value in provenance.machine.items() if value),
        "versions": ", ".join(f"{name} {version}" for name, version in provenance.versions.items()),
        **{f"arm {name}": escaped(" ".join(arm.overrides)) or "no overrides" for name, arm in study.arms.items()},
    }
    return "\n".join(f"- {key}: {value}" for key, value in lines.items() if value)


def _only(table: pd.DataFrame, metric: str, arms: dict[str, str]) -> pd.DataFrame:
    return table if table.empty else table[(table["metric"] == metric) & table["arm"].isin(list(arms))]


def _interval(name: str, low: str = "", high: str = "") -> Callable[[pd.Series], str]:
    return lambda row: with_interval(row[name], row[low or f"{name}_low"], row[high or f"{name}_high"])


def _table(rows: pd.DataFrame, columns: dict[str, Callable[[pd.Series], str]]) -> str:
    """A Markdown table with aligned columns."""
    lines = [list(columns), *([text(row) for text in columns.values()] for _, row in rows.iterrows())]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |" for line in lines
    )
