"""tables.tex and methods.tex of a sweep."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from helpers import ROOT
from latex_check import check_latex
from synthetic import write_sweep

from ablate.analysis import latex
from ablate.analysis.kept import load_kept
from ablate.analysis.load import load_sweep
from ablate.analysis.summary import summarise, write_tables


def test_names_are_escaped_for_latex() -> None:
    assert latex.escaped("50 % of A_1 & {B} #2 $x ^~\\ <é>") == (
        r"50 \% of A\_1 \& \{B\} \#2 \$x \textasciicircum{}\textasciitilde{}\textbackslash{} \textless{}é\textgreater{}"
    )
    assert latex.escaped("β = 0.1, λ, Δ, Ω, ±") == r"$\beta$ = 0.1, $\lambda$, $\Delta$, $\Omega$, $\pm$"
    assert [latex.value(x) for x in (-2.5, 12345.6, 1e-7, np.nan)] == [
        "$-2.5$", "$12{,}346$", r"$1 \times 10^{-7}$", "--",
    ]  # fmt: skip


def test_the_tables_of_a_sweep(tmp_path: Path) -> None:
    claims = tuple(
        {"id": f"C_{i}", "words": "100 % better & <faster>", "metric": "final_score", "inequality": inequality}
        for i, inequality in enumerate(("good > bad", "good ~ other"))
    )
    arms = {
        "good": {"label": "λ = 0.5", "level": -0.5},
        "bad": {"label": "50 % of $x_1$", "level": -3.0},
        "other": {"label": "[64, 64]", "level": -0.5, "overrides": ["workers=3"]},
    }
    folder = write_sweep(tmp_path / "made_up", arms, seeds=range(6), claims=claims, failed=(("bad", 2),))
    write_tables(summary := summarise(load_sweep(folder)))
    text = (folder / "tables.tex").read_text()
    check_latex(text)
    assert text.count(r"\begin{table}") == 1 + len(summary.arms["metric"].unique())
    own = summary.arms.query("metric == 'final_score' and arm == 'bad'").iloc[0]
    mean, low, high = (f"${own[name]:.4g}$" for name in ("mean", "mean_low", "mean_high"))
    assert rf"50 \% of \$x\_1\$ & 5 of 6 & {mean} [{low}, {high}] &" in text
    assert r"$\lambda$ = 0.5 & 6 &" in text
    assert "    {}[64, 64] & 6 &" in text  # after \\ it would be an argument
    assert r"leave out: 50 \% of \$x\_1\$: 1 crashed" in text
    methods = (folder / "methods.tex").read_text()
    assert "We compared 3 settings on Pendulum-v1 with 6 seeds each." in methods
    # good and bad share their random numbers; other has another number of workers
    assert "Each of 2 claims was tested by Welch's $t$, or by Student's $t$ over pairs of seeds" in methods
    assert "1 run failed or diverged" in methods
    assert r"within $\pm 0.2$" in methods
    assert "%" not in "".join(line.replace(r"\%", "") for line in methods.splitlines() if line[0] != "%")


def test_the_paragraph_on_methods_has_the_confidence_of_the_verdict() -> None:
    """Several looks at one claim need a wider interval."""
    summary = load_kept(ROOT / "sweeps/results/workers_decided")
    (own,) = (verdict for verdict in summary.verdicts if verdict.id == "B1a")
    assert own.confidence > 0.95
    text = latex.methods(replace(summary, verdicts=[own]))
    assert rf"Its interval has {100 * own.confidence:.4g}\,\% confidence." in text
