"""The notebooks of sweeps run from top to bottom on a folder and show its figures; they are kept without outputs.

`start.ipynb`, which trains, is tested in tests/test_api.py."""

import base64
import os
import re
from pathlib import Path

import nbformat
import pytest
from helpers import ROOT
from nbclient import NotebookClient
from synthetic import write_sweep

from ablate.analysis.load import load_sweep
from ablate.analysis.summary import summarise
from ablate.analysis.sweep_figures import drawings

NOTEBOOKS = [path for path in sorted((ROOT / "notebooks").glob("*.ipynb")) if path.stem != "start"]
ARMS = {"four": {"overrides": ["workers=4"]}, "two": {"overrides": ["workers=2"], "level": -2.0}}
CLAIM = {"id": "B1", "words": "Two workers end lower", "metric": "final_score", "inequality": "two < four"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweep(tmp_path_factory.mktemp("sweeps") / "crews", ARMS, episodes=20, claims=(CLAIM,))


def test_each_ablation_and_any_sweep_have_a_notebook() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["explore", "max_ep_step", "workers"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_no_outputs_and_reads_its_sweeps_folder(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    (default,) = re.findall(r'os\.environ\.get\("ABLATE_SWEEP", "(.+?)"\)', "\n".join(cell.source for cell in code))
    assert default == f"outputs/sweeps/{path.stem if path.stem != 'explore' else 'max_ep_step'}"


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_the_figures(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABLATE_SWEEP", str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    ).execute()
    outputs = [(cell.source, output) for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert [o for _, o in outputs if o.output_type == "error" or o.get("name") == "stderr"] == []
    images = [(source, o.data["image/png"]) for source, o in outputs if "image/png" in o.get("data", {})]
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    drawn = sum(source.startswith("study.plot(") for source in sources)
    expected = drawn or len(drawings(summarise(load_sweep(folder))))
    assert len(images) == expected > 2
    for _, image in images:
        content = base64.b64decode(image)
        width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))  # of a PNG
        assert width > 400
        assert height > 150
    assert any("supported" in str(o.get("data", {}).get("text/plain")) for _, o in outputs)
