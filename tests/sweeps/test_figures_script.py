"""sweeps/figures.py: pictures in documents are drawn again from what is kept of a sweep."""

import io
import re
import runpy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ROOT
from matplotlib.image import imread
from synthetic import write_sweep

from ablate.analysis.kept import CURVES, keep, load_kept
from ablate.analysis.load import load_sweep
from ablate.analysis.report import write_report
from ablate.analysis.summary import summarise
from ablate.analysis.sweep_figures import drawings, rendered
from ablate.cli import plot
from ablate.config.schema import ConfigError

TWO_ARMS: dict[str, dict[str, Any]] = {"slow": {"speed": 30.0}, "fast": {"speed": 8.0}}
TWO_TASKS: dict[str, dict[str, Any]] = {
    f"{arm}-{env}": {"overrides": [f"env={env}"], "arm": arm, "environment": env, "level": level}
    for arm, level in (("low", -1.0), ("high", -0.5))
    for env in ("pendulum", "acrobot")
}


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "sweeps/figures.py"))


@pytest.mark.slow
@pytest.mark.parametrize("arms", [TWO_ARMS, TWO_TASKS], ids=["one task", "two tasks"])
def test_kept_data_give_the_figures_of_the_whole_sweep(arms: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "study", arms, failed=((next(iter(arms)), 2),), missing=((list(arms)[1], 3),))
    write_report(summarise(load_sweep(folder)))
    keep(folder, tmp_path / "kept/study", episodes=True)
    assert (tmp_path / "kept/study" / CURVES).stat().st_size < 50_000
    shutil.rmtree(folder / next(iter(arms)))  # the kept folder needs no cell
    kept = {drawing.name: rendered(drawing)["png"] for drawing in drawings(load_kept(tmp_path / "kept/study"))}
    assert any("curves_evaluation_global_step" in name for name in kept)
    assert any("scores_auc" in name for name in kept)
    for name, png in kept.items():
        if "training" not in name:  # their scores are rounded to float32
            assert png == (folder / "figures" / f"{name}.png").read_bytes(), name


def test_a_file_that_is_not_kept_is_named(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "study", TWO_ARMS, seeds=range(2))
    with pytest.raises(ConfigError, match=r"it has no seeds\.csv; python src/plot\.py .*study writes it"):
        keep(folder, tmp_path / "kept")


@pytest.mark.parametrize("study", ["workers", "sensitivity"])  # with and without curves.npz
def test_kept_tables_are_not_overwritten(
    study: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "sweeps/results" / study, tmp_path / study)
    before = {path: path.read_bytes() for path in (tmp_path / study).iterdir()}
    monkeypatch.setattr("sys.argv", ["plot.py", str(tmp_path / study)])
    assert plot.main() == 2
    assert "only its tables and curves are kept" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / study).iterdir()} == before


def test_each_picture_of_the_documents_has_its_data(script: dict[str, Any]) -> None:
    """All pictures in sweeps/results are redrawn, or named as those that cannot be."""
    shown = [path.relative_to(script["RESULTS"]).as_posix() for path in script["shown"]()]
    results = {path.relative_to(script["RESULTS"]).as_posix() for path in script["RESULTS"].rglob("*.png")}
    assert results == {*shown, *script["NOT_REDRAWN"]}
    text = (ROOT / "docs/results.md").read_text()
    assert script["NOT_REDRAWN"] <= set(re.findall(r"sweeps/results/([\w/.-]+\.png)", text))


def test_a_committed_picture_is_what_its_data_give(script: dict[str, Any]) -> None:
    """The pixels, for other versions of libraries may compress them otherwise. `make docs` draws all of them."""
    path = script["RESULTS"] / "bootstrap_truncated/curves_evaluation_global_step.png"
    assert np.abs(imread(io.BytesIO(script["drawn"](path))) - imread(path)).mean() < 0.002
