"""The tables of a sweep for a paper in LaTeX, with the package booktabs, and a paragraph on methods to adapt."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

import pandas as pd

from ablate.analysis.cases import groups_of, weights_of
from ablate.analysis.load import Sweep
from ablate.analysis.metrics import environments, unit
from ablate.analysis.normalisation import words_of
from ablate.analysis.statistics import MIN_SEEDS
from ablate.analysis.tables import Summary
from ablate.analysis.verdicts import NOT_TESTABLE, Verdict, looks, number
from ablate.config.choices import Budget, Statistic, Until
from ablate.config.schema import MetricConfig

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"{\char34}", "−": "$-$", "×": r"$\times$", "±": r"$\pm$", "≤": r"$\leq$",
    "≥": r"$\geq$", "≈": r"$\approx$", "→": r"$\rightarrow$", "∞": r"$\infty$", "·": r"$\cdot$", "–": "--", "—": "---",
    "…": r"\ldots{}", "°": r"$^\circ$", "²": "$^2$", "³": "$^3$", "½": r"$\frac{1}{2}$",
}  # fmt: skip
GREEK = re.compile(r"GREEK (SMALL|CAPITAL) LETTER (\w+)")
LATIN_LIKE = {"OMICRON": "o", "ALPHA": "A", "BETA": "B", "EPSILON": "E", "ZETA": "Z", "ETA": "H", "IOTA": "I",
              "KAPPA": "K", "MU": "M", "NU": "N", "RHO": "P", "TAU": "T", "CHI": "X"}  # fmt: skip
HEADER = """\
% Tables of the study {name}, by Ablate. In the preamble: \\usepackage{{booktabs}}
% Brackets in tables of arms: 95 % confidence intervals, not corrected for their number. Intervals of verdicts are.
"""


def escaped(text: str) -> str:
    """Text as LaTeX shows it: special characters and Greek letters as commands, all else as it is."""
    return "".join(_escaped(letter) for letter in " ".join(text.split()))


def _escaped(letter: str) -> str:
    if letter in SPECIAL:
        return SPECIAL[letter]
    if match := GREEK.fullmatch(unicodedata.name(letter, "")):
        size, name = match[1], {"LAMDA": "LAMBDA"}.get(match[2], match[2])
        if name in LATIN_LIKE and (size == "CAPITAL" or name == "OMICRON"):
            return LATIN_LIKE[name]
        return f"$\\{name.lower() if size == 'SMALL' else name.capitalize()}$"
    return letter if letter.isprintable() else ""


def value(x: float) -> str:
    """A number in the format of verdict.md, in maths: its minus sign is one."""
    text = number(x)
    if text == "-":
        return "--"
    if match := re.fullmatch(r"(-?[\d.]+)e([+-]\d+)", text):
        return f"${match[1]} \\times 10^{{{int(match[2])}}}$"
    return {"inf": r"$\infty$", "-inf": r"$-\infty$"}.get(text, f"${text.replace(',', '{,}')}$")


def _interval(row: pd.Series, name: str) -> str:
    return _with_interval(row[name], row[f"{name}_low"], row[f"{name}_high"])


def _with_interval(x: float, low: float, high: float) -> str:
    return value(x) if pd.isna(low) or pd.isna(x) else f"{value(x)} [{value(low)}, {value(high)}]"


def tables(summary: Summary) -> str:
    """tables.tex: the verdicts, then one table of arms per metric and environment, the primary metric first."""
    study = summary.sweep.study
    parts = [HEADER.format(name=study.name)]
    if summary.verdicts:
        parts.append(_verdicts(summary))
    for name in sorted(summary.arms["metric"].unique(), key=lambda name: name != study.metric):
        over = summary.over_environments
        if len(over) and len(over := over[over["metric"] == name]):
            parts.append(_over_environments(summary, name, over))
        for env, part in environments(summary.sweep).items():
            rows = summary.arms[(summary.arms["metric"] == name) & summary.arms["arm"].isin(list(part.arms))]
            if len(rows):
                parts.append(_arms(summary, part, name, rows, env if part is not summary.sweep else ""))
    return "\n".join(parts)


def _verdicts(summary: Summary) -> str:
    rows = []
    for v in summary.verdicts:
        level = "--" if pd.isna(v.confidence) else _percent(v.confidence)
        words = escaped(v.verdict + ", preliminary" * v.preliminary)
        rows.append([escaped(v.id), escaped(v.words), _with_interval(v.effect, v.low, v.high), level, words])
    caption = f"Verdicts of the study {escaped(summary.sweep.study.name)}. All claims share an error rate of 5\\,\\%."
    headings = ["", "Claim", "Effect", "Confidence", "Verdict"]
    return _table(headings, rows, "lp{0.38\\linewidth}lll", caption, f"tab:{_key(summary.sweep.study.name)}-verdicts")


def _arms(summary: Summary, part: Sweep, metric: str, rows: pd.DataFrame, env: str) -> str:
    study, config = summary.sweep.study, summary.sweep.study.metrics[metric]
    compared = summary.comparisons
    if len(compared):
        compared = compared[compared["metric"] == metric].set_index("arm")
    lines = []
    for _, row in rows.iterrows():
        n = str(row["n"]) if row["n"] == row["n_planned"] else f"{row['n']} of {row['n_planned']}"
        own = compared.loc[row["arm"]] if row["arm"] in compared.index else None
        difference = "--" if own is None else _interval(own, "difference")
        lines.append([escaped(row["label"]), n, _interval(row, "mean"), _interval(row, "iqm"), difference])
    what = f"{escaped(config.label)} ({escaped(_unit(part, config))})"
    where = f" in {escaped(env)}" if env else ""
    baselines = list(dict.fromkeys(compared["baseline"])) if len(compared) else [study.baseline]
    baseline = next((arm for arm in baselines if arm in set(rows["arm"])), study.baseline)
    failed = "; ".join(f"{escaped(row['label'])}: {row['failed']}" for _, row in rows.iterrows() if row["failed"])
    caption = (
        f"{what[:1].upper()}{what[1:]}{where}: mean and interquartile mean (IQM) over $n$ seeds, and difference from "
        f"{escaped(summary.sweep.arms[baseline])}, with 95\\,\\% confidence intervals"
        + (f". Seeds that failed, which mean and difference leave out: {failed}" if failed else "")
        + "."
    )
    key = "-".join(filter(None, (_key(study.name), _key(metric), _key(env))))
    return _table(["Arm", "$n$", "Mean", "IQM", "Difference"], lines, "lrlll", caption, f"tab:{key}")


def _over_environments(summary: Summary, metric: str, rows: pd.DataFrame) -> str:
    lines = [
        [escaped(row["label"]), str(row["n"]), *(_interval(row, name) for name in ("mean", "iqm", "rank"))]
        for _, row in rows.iterrows()
    ]
    study = summary.sweep.study
    caption = (
        f"{escaped(study.metrics[metric].label)} over all environments, normalised: mean, interquartile mean (IQM) and "
        f"mean rank of $n$ runs, with 95\\,\\% confidence intervals. {escaped(words_of(study))}."
    )
    label = f"tab:{_key(study.name)}-{_key(metric)}-all"
    return _table(["Arm", "$n$", "Mean", "IQM", "Rank"], lines, "lrlll", caption, label)


def _percent(share: float) -> str:
    return f"{100 * share:.4g}\\,\\%"


def _unit(sweep: Sweep, metric: MetricConfig) -> str:
    """The unit of a metric's values."""
    return sweep.score_name if unit(metric) == "score" else unit(metric).replace("_", " ")


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _table(headings: list[str], rows: list[list[str]], columns: str, caption: str, label: str) -> str:
    # After \\ and \midrule, a [ or * would be read as their argument.
    lines = [("{}" if row[0].startswith(("[", "*")) else "") + " & ".join(row) + r" \\" for row in rows]
    return "\n".join([
        r"\begin{table}", r"  \centering", rf"  \caption{{{caption}}}", rf"  \label{{{label}}}",
        rf"  \begin{{tabular}}{{{columns}}}", r"    \toprule", f"    {' & '.join(headings)} \\\\", r"    \midrule",
        *(f"    {line}" for line in lines), r"    \bottomrule", r"  \end{tabular}", r"\end{table}", "",
    ])  # fmt: skip


def methods(summary: Summary) -> str:
    """methods.tex: what was done, in a paragraph to adapt. It says only what holds for this study."""
    paragraph = " ".join(_sentences(summary))
    return f"% A paragraph to adapt. References: see the comments at its end.\n{paragraph}\n{REFERENCES}"


REFERENCES = """\
% Holm 1979: A simple sequentially rejective multiple test procedure. Scandinavian Journal of Statistics 6, 65-70.
% Welch 1947: The generalization of `Student's' problem. Biometrika 34, 28-35.
% Agarwal et al. 2021: Deep reinforcement learning at the edge of the statistical precipice. NeurIPS (the IQM).
"""


def _sentences(summary: Summary) -> Iterator[str]:
    sweep, study = summary.sweep, summary.sweep.study
    envs = [env for env in environments(sweep) if env]
    planned = sorted(set(sweep.cells.groupby("arm")["seed"].count()))
    count = str(planned[0]) if len(planned) == 1 else f"{planned[0]} to {planned[-1]}"
    where = f" on {escaped(' and '.join(envs))}" if envs else ""
    arms = len(study.crossed or sweep.arms)
    yield f"We compared {arms} setting{'s' * (arms != 1)}{where} with {count} seed{'s' * (count != '1')} each."
    if study.crossed:
        yield f"{escaped(words_of(study))}. Claims about all environments are about the mean of their differences."
    primary = study.metrics[study.metric]
    yield f"The primary metric was {_computed(summary, primary)}."
    if sweep.foreign:
        source = "training episodes, with exploration" if str(primary.source) == "episodes" else "evaluations"
        yield f"Scores are those of {source}; all runs were read at the same steps, by linear interpolation."
    tested = [verdict for verdict in summary.verdicts if verdict.verdict != NOT_TESTABLE]
    if tested:
        yield from _tests(summary, tested)
    failed = int(summary.arms.loc[summary.arms["metric"] == study.metric, "n_failed"].sum())
    if failed:
        yield (
            f"{failed} run{'s' * (failed != 1)} failed or diverged: the intervals of verdicts cover both the worst "
            "score for them and leaving them out, and in the interquartile mean they are worse than all others."
        )
    yield (
        "Tables show 95\\,\\% confidence intervals that are not corrected for their number: Student's $t$ for means, "
        "Welch's $t$ for differences, and the percentile bootstrap for interquartile means"
        + (f"; there is no interval with fewer than {MIN_SEEDS} seeds." if planned[0] < MIN_SEEDS else ".")
    )


def _computed(summary: Summary, metric: MetricConfig) -> str:
    """How a metric is computed from a run's curve."""
    low, high = (f"{100 * part:g}\\,\\%" for part in metric.window)
    axis = str(metric.x).replace("global_step", "environment steps").replace("wall_time_s", "wall time")
    score = escaped(summary.sweep.score_name)
    source = "training episodes" if str(metric.source) == "episodes" else "evaluations"
    budget = "the budget common to all runs" if metric.budget is Budget.equal else "each run"
    window = (
        f"the last {100 * (1 - metric.window[0]):g}\\,\\%"
        if metric.window[1] == 1
        else f"the part from {low} to {high}"
    )
    if metric.window == (0.0, 1.0):
        window = "all"
    if metric.window == (1.0, 1.0):
        window = "the last point"
    of = f"{source} over {window} of {budget}"
    match metric.statistic:
        case Statistic.auc:
            return f"the mean height of the curve of the {score} of {of}, against {axis}"
        case Statistic.first_reach:
            return f"the {axis} until the {score} of {source} first reached {value(metric.score or 0.0)}"
        case Statistic.duration:
            return f"the {axis} that {of} took"
        case statistic:
            name = {"std": "standard deviation", "min": "minimum", "max": "maximum"}.get(statistic, str(statistic))
            return f"the {name} of the {score} of {of}, against {axis}"


def _tests(summary: Summary, tested: list[Verdict]) -> Iterator[str]:
    sweep, study = summary.sweep, summary.sweep.study
    groups = [groups_of(sweep, weights_of(study, verdict.inequality)) for verdict in tested]
    paired = [any(len(group) > 1 for group in own) for own in groups]
    over_pairs = "Student's $t$ over pairs of seeds, because the arms share their random numbers"
    how = over_pairs if all(paired) else "Welch's $t$" + (f", or by {over_pairs} where they do" if any(paired) else "")
    many = len(tested) > 1
    yield f"{f'Each of {len(tested)} claims' if many else 'The claim'} was tested by {how}."
    if many:
        yield (
            "All claims of the study share an error rate of 5\\,\\% by Holm's method, so the intervals of verdicts "
            "have at least 95\\,\\% confidence."
        )
    elif pd.notna(tested[0].confidence):
        yield f"Its interval has {_percent(tested[0].confidence)} confidence."
    if study.until is Until.decided or len(looks(study)) > 1:
        yield (
            f"The claims were looked at {len(looks(study))} times at most as seeds were added, each look at the same "
            "nominal level (Pocock 1977), so that all looks together keep the error rate."
        )
    if study.smallest_effect is not None:
        of = "the normalised primary metric" if study.crossed else "the primary metric"
        yield (
            f"Differences of {of} within $\\pm {value(study.smallest_effect)[1:]} were regarded as too small to matter."
        )
