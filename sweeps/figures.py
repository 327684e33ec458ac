"""Draw again every figure that README.md and docs/ show from sweeps/results:  python sweeps/figures.py [folder ...]

A sweep's folder that is given is kept first: its tables, verdicts and curves.npz are copied to sweeps/results/<study>.
The name of a picture says what it shows: sweeps/results/<study>/<figure>.png, as in `figures/` of a sweep's folder.
Of a run, the whole folder is kept without its checkpoints: sweeps/results/<run>/figures/learning_curve.png."""

from __future__ import annotations

import argparse
import re
import sys
from functools import cache
from pathlib import Path

from ablate.analysis.figures import draw_learning_curve
from ablate.analysis.kept import CURVES, keep, load_kept
from ablate.analysis.load import load_run
from ablate.analysis.overlay import draw_panels
from ablate.analysis.sweep_figures import drawings, encode, rendered
from ablate.analysis.tables import Summary
from ablate.cli.hydra_app import exit_code
from ablate.config.schema import ConfigError
from ablate.records.files import replace_atomically
from ablate.records.schema import MANIFEST, STUDY

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "sweeps/results"
SEARCH = "search"  # the folder of a search's trials in its study's folder
PANELS = {"report_panels.png": ("max_ep_step", "workers")}
# Of runs and of a study that take hours, whose files were not kept before 2026-11-29.
NOT_REDRAWN = {
    "readme/dqn_breakout_uniform.png", "readme/dqn_breakout_prioritized.png",
    "replay_quick/curves_evaluation_global_step.png",
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description="Draw again every figure that README.md and docs/ show.")
    parser.add_argument("folders", nargs="*", metavar="folder", type=Path, help="sweeps that are kept first")
    parser.add_argument("--episodes", action="store_true", help="keep their training episodes, too (larger files)")
    options = parser.parse_args()
    return exit_code(lambda: run(options.folders, options.episodes))


def run(folders: list[Path], episodes: bool) -> None:
    """Keep these sweeps, then draw. Raises ConfigError or OSError."""
    for folder in folders:
        into = RESULTS / folder.resolve().name
        keep(folder, into, episodes)
        print(f"kept     {into.relative_to(ROOT)}: {(into / CURVES).stat().st_size / 1000:.0f} kB of curves")
        if (folder / SEARCH / STUDY).is_file():
            keep(folder / SEARCH, into / SEARCH, episodes)
    refused = 0
    for path in shown():
        try:
            png = drawn(path)
        except ConfigError as refusal:  # of one picture: the others are drawn
            print(f"refused  {refusal}")
            refused += 1
            continue
        same = path.is_file() and path.read_bytes() == png
        if not same:
            replace_atomically(path, png)
        print(f"{'the same' if same else 'drawn   '} {path.relative_to(ROOT)}")
    if refused:
        raise ConfigError(f"{refused} pictures were not drawn; their lines above say why")


def shown() -> list[Path]:
    """The pictures in sweeps/results that README.md and docs/ show, but for NOT_REDRAWN."""
    paths = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        links = re.findall(r"!\[[^]]*\]\(([^)\s]+\.png)\)", page.read_text())
        paths += [path for link in links if (path := (page.parent / link).resolve()).is_relative_to(RESULTS)]
    return [path for path in dict.fromkeys(paths) if str(path.relative_to(RESULTS)) not in NOT_REDRAWN]


def drawn(path: Path) -> bytes:
    """The picture as the program draws it now. Raises ConfigError if its data are not kept."""
    folder = path.parent
    if studies := PANELS.get(str(path.relative_to(RESULTS))):
        sweeps = [summary(RESULTS / study).sweep for study in studies]
        return encode(draw_panels(sweeps, "The report's two ablations"))["png"]
    if (folder.parent / MANIFEST).is_file():
        return encode(draw_learning_curve(load_run(folder.parent)))["png"]
    by_name = {drawing.name: drawing for drawing in drawings(summary(folder))}
    if path.stem not in by_name:
        there = "" if (folder / CURVES).is_file() else f"it has no {CURVES}; "
        raise ConfigError(f"{path}: {there}the figures of this study are {', '.join(by_name)}")
    return rendered(by_name[path.stem])["png"]


@cache
def summary(folder: Path) -> Summary:
    """The summary of a kept sweep."""
    return load_kept(folder)


if __name__ == "__main__":
    sys.exit(main())
