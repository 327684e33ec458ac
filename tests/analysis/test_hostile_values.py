"""A report survives whatever values and texts a sweep has: what cannot be shown becomes a sentence in it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic import write_sweep

from ablate.analysis import sweep_figures
from ablate.analysis import verdicts as verdicts_module
from ablate.analysis.load import load_sweep
from ablate.analysis.markdown import escaped
from ablate.analysis.report import render, write_report
from ablate.analysis.statistics import interval, iqm, mean, median
from ablate.analysis.summary import summarise
from ablate.records.schema import EPISODES, EVALUATIONS, REPORT

CLAIMS = (
    {"id": "A", "words": "One is lower", "metric": "final_score", "inequality": "one < two"},
    {"id": "B", "words": "They are equal", "metric": "final_score", "inequality": "one ~ two"},
    {"id": "C", "words": "One is slower", "metric": "speed", "inequality": "one > two"},
)
ARMS = {"one": {"overrides": ["workers=1"]}, "two": {"overrides": ["workers=2"]}}


def sweep_with(folder: Path, seeds: int, value: Callable[[int], float], **study: object) -> Path:
    """A sweep whose arm `one` has this score in all rows of a seed."""
    write_sweep(folder, ARMS, seeds=range(seeds), episodes=20, claims=CLAIMS, **study)
    for seed in range(seeds):
        for name in (EPISODES, EVALUATIONS):
            path = folder / "one" / f"seed={seed}" / name
            table = pd.read_csv(path)
            table["episodic_return"] = value(seed) * table["episodic_length"]
            if name == EPISODES:
                table["mean_step_reward"] = table["moving_average"] = value(seed)
            table.to_csv(path, index=False)
    return folder


@pytest.mark.parametrize(
    ("seeds", "value"),
    [
        pytest.param(20, lambda seed: -54.3, id="20 equal scores", marks=pytest.mark.slow),
        pytest.param(6, lambda seed: {3: np.inf, 4: -np.inf}.get(seed, -1.0), id="inf and -inf"),
        pytest.param(6, lambda seed: np.nan, id="all NaN", marks=pytest.mark.slow),
        pytest.param(10, lambda seed: np.nan if seed % 2 else 1.0, id="half NaN"),
        pytest.param(6, lambda seed: 1.7e308 * (-1) ** seed, id="nearly the largest numbers", marks=pytest.mark.slow),
        pytest.param(6, lambda seed: 5e-324 * seed, id="denormal", marks=pytest.mark.slow),
        pytest.param(1, lambda seed: -1.0, id="one seed", marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_any_scores_have_a_report(seeds: int, value: Callable[[int], float], tmp_path: Path) -> None:
    folder = sweep_with(tmp_path / "sweep", seeds, value)
    assert write_report(summarise(load_sweep(folder)))[0] == folder / REPORT
    page, verdict = (folder / REPORT).read_text(), (folder / "verdict.md").read_text()
    for claim in CLAIMS:
        assert claim["words"] in page
        assert claim["words"] in verdict


@pytest.mark.parametrize("statistic", [mean, median, iqm])
@pytest.mark.parametrize("score", [-54.3, -99.9, 0.1, 1e150, -1e-310])
@pytest.mark.parametrize("seeds", [5, 19, 20, 30])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_equal_scores_have_an_interval_of_width_0(statistic: Callable, score: float, seeds: int) -> None:
    assert interval(np.full(seeds, score), statistic) == (score, score, score)


def test_a_figure_that_fails_leaves_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_sweep(tmp_path / "sweep", ARMS, episodes=20, claims=CLAIMS)

    def broken(*_: object) -> None:
        raise ZeroDivisionError("of\nall things")

    monkeypatch.setattr(sweep_figures, "draw_staleness", broken)
    paths = write_report(summarise(load_sweep(folder)))
    assert len(paths) > 5
    assert "matplotlib cannot draw these values (ZeroDivisionError: of all things)" in (folder / REPORT).read_text()


def test_a_claim_that_fails_does_not_cost_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_sweep(tmp_path / "sweep", ARMS, episodes=20, claims=CLAIMS)
    case = verdicts_module.case_of

    def broken(sweep: object, values: object, claim: object) -> object:
        if claim.id == "B":  # type: ignore[attr-defined]
            raise OverflowError("too large")
        return case(sweep, values, claim)  # type: ignore[arg-type]

    monkeypatch.setattr(verdicts_module, "case_of", broken)
    verdicts = summarise(load_sweep(folder)).verdicts
    assert [v.verdict == "not testable here" for v in verdicts] == [False, True, False]
    assert verdicts[1].reason == "it cannot be computed from these values (OverflowError: too large)"


def test_a_study_that_does_not_say_its_commit_has_a_report(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep", ARMS, episodes=20, git={"dirty": True})
    assert "<code>unknown</code> with uncommitted changes" in render(summarise(load_sweep(folder)), [])


TEXTS = [
    r"$\frac{$",
    "$5 to $10",
    "[relu]",
    "[/red]",
    "<script>alert(1)</script>",
    "a|b",
    "![x](http://y)",
    "`",
    "\n# b",
]


@pytest.mark.parametrize("text", TEXTS)
def test_labels_are_shown_as_they_are_written(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "$" not in text:  # markup for pages, not for matplotlib: one figure will do
        every = sweep_figures.drawings
        monkeypatch.setattr(sweep_figures, "drawings", lambda summary: every(summary)[:1])
    arms = {name: {**shape, "label": f"{text} {name}"} for name, shape in ARMS.items()}
    claims = ({**CLAIMS[0], "words": text},)
    folder = write_sweep(tmp_path / "sweep", arms, episodes=20, claims=claims, question=text)
    paths = write_report(summarise(load_sweep(folder)))
    assert "cannot draw" not in (folder / REPORT).read_text()
    assert len(paths) > (5 if "$" in text else 1)
    verdict = (folder / "verdict.md").read_text()
    assert f"> {escaped(text)}\n" in verdict
    assert "<script>" not in verdict
    assert "![x](" not in verdict
