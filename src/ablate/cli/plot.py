"""Redraw figures from CSV files only:  python src/plot.py <folder> [<folder> ...]

For a run this is its learning curve; for a sweep all figures, the tables, verdict.md and report.html. Several runs, or
several sweeps, of one environment are also drawn together. With an option for a paper, a sweep's figures are written to
its folder `paper/`, and its report stays as it is."""

import argparse
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ablate.analysis.figures import Paper, learning_curve, printed_on
from ablate.analysis.load import Sweep, load_run, load_sweep
from ablate.analysis.overlay import draw_runs, together
from ablate.analysis.report import write_report
from ablate.analysis.summary import SEEDS, summarise
from ablate.analysis.sweep_figures import PAPER, draw_curves, encode, write_figures
from ablate.cli.messages import tell
from ablate.config.choices import Axis, Source
from ablate.config.schema import ConfigError
from ablate.config.validation import suggest
from ablate.paths import OUTPUTS, locate
from ablate.records.files import replace_atomically
from ablate.records.schema import LEARNING_CURVE, STUDY
from ablate.records.terminal import print_if_read


def main() -> int:
    """Redraw all folders and print the path of each file. Returns the exit code, the first that is not 0."""
    options = _parser().parse_args()
    folders = [locate(argument.removeprefix("run=")) for argument in options.folders]
    try:
        with printed_on(Paper(options.width_mm, options.font_size)):
            codes = [_told(redraw, folder, options) for folder in folders]
            if len(folders) > 1 and not any(codes):
                codes.append(_told(redraw_together, folders))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return next(filter(None, codes), 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Redraw the figures of runs and sweeps from their CSV files.")
    parser.add_argument("folders", nargs="+", metavar="folder", help="folder of a run or a sweep (or run=<folder>)")
    paper = parser.add_argument_group("for a paper", f"a sweep's figures are then written to its folder {PAPER}/")
    paper.add_argument("--width_mm", type=_size, help="width of the figures, for example 86 for one column")
    paper.add_argument("--font_size", type=_size, help="points, for example 8")
    paper.add_argument("--arms", type=lambda text: text.split(","), help="only these arms, in this order: a,b")
    paper.add_argument("--labels", nargs="+", default=[], metavar="ARM=TEXT", help="what figures call an arm")
    return parser


def _size(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 <= value <= 1000:
        raise argparse.ArgumentTypeError(f"{text}: give a number from 1 to 1000")
    return value


def _told(draw: Callable[..., list[Path]], *arguments: Any) -> int:
    """Draw and print the paths; an error is one line, so that it costs no other folder. Returns the exit code."""
    try:
        paths = draw(*arguments)
    except (ConfigError, OSError) as error:
        return tell(error)
    for path in paths:
        print_if_read(str(path))  # `| head` must not cost the next folders
    return 0


def redraw(folder: Path, options: argparse.Namespace) -> list[Path]:
    """Draw the figures of a run or a sweep. Returns their paths."""
    if not (folder / STUDY).is_file():
        if options.arms or options.labels:
            raise ConfigError(f"{folder}: a run has no arms; --arms and --labels are for sweeps")
        learning_curve(load_run(folder), folder / LEARNING_CURVE)
        return [folder / LEARNING_CURVE]
    sweep = load_sweep(folder)
    if (folder / SEEDS).is_file() and set(sweep.cells["state"]) == {"missing"}:  # tables of no cell would overwrite it
        raise ConfigError(f"{folder}: only its tables and curves are kept, not its cells: python sweeps/figures.py")
    if (options.width_mm, options.font_size, options.arms, options.labels) == (None, None, None, []):
        return write_report(summarise(sweep))
    summary = summarise(chosen(sweep, options.arms, options.labels))
    drawn = [drawing.name for drawing, image in write_figures(summary, PAPER) if isinstance(image, bytes)]
    return [folder / PAPER / f"{name}.pdf" for name in drawn]


def chosen(sweep: Sweep, arms: list[str] | None, labels: list[str]) -> Sweep:
    """The sweep with these arms only, and these labels (ARM=TEXT). Raises ConfigError for an arm that it lacks."""
    names, crossed = list(sweep.study.arms), sweep.study.crossed
    arms = arms and [name for arm in arms for name in crossed.get(arm, {arm: arm}).values()]
    if wrong := [label for label in labels if "=" not in label]:
        raise ConfigError(f"--labels {wrong[0]}: write ARM=TEXT")
    pairs = [label.partition("=")[::2] for label in labels]
    texts = {name: text for arm, text in pairs for name in crossed.get(arm, {arm: arm}).values()}
    for option, given in (("--arms", arms or []), ("--labels", texts)):
        for arm in given:
            if arm not in names:
                raise ConfigError(f"{option} {arm}: no such arm{suggest(arm, names)} (there are: {', '.join(names)})")
    kept = sweep.only(list(dict.fromkeys(arms or names)))
    renamed = {arm: replace(kept.study.arms[arm], label=text) for arm, text in texts.items() if arm in kept.study.arms}
    baseline = sweep.study.baseline if sweep.study.baseline in kept.study.arms else next(iter(kept.study.arms))
    arms_shown = {**kept.study.arms, **renamed}
    return replace(kept, study=replace(kept.study, arms=arms_shown, baseline=baseline, claims=[]))


def redraw_together(folders: list[Path]) -> list[Path]:
    """Draw runs, or sweeps, of one environment in one figure per source. Returns the paths.

    Folders that cannot be compared are only redrawn, with a note: `plot.py outputs/runs/*/*` means each of them."""
    try:
        figures = _figures_together(folders)
    except ConfigError as refusal:
        print(f"note     not drawn together: {refusal}", file=sys.stderr)
        return []
    place = OUTPUTS / "figures"
    place.mkdir(parents=True, exist_ok=True)
    written = []
    for stem, figure in figures.items():
        for kind, content in encode(figure).items():
            replace_atomically(place / f"{stem}.{kind}", content)
            written.append(place / f"{stem}.{kind}")
    return written


def _figures_together(folders: list[Path]) -> dict[str, Figure]:
    """Figures by the stem of their file."""
    are_sweeps = [(folder / STUDY).is_file() for folder in folders]
    name = "+".join(folder.name for folder in folders)[:100]
    if any(are_sweeps) != all(are_sweeps):
        raise ConfigError(f"{name}: runs and sweeps cannot be drawn together")
    if not any(are_sweeps):
        return {name: draw_runs([load_run(folder) for folder in folders])}
    sweep = together([load_sweep(folder) for folder in folders])
    figures, refusals = {}, []
    for source in Source:
        try:
            figures[f"{name}_{source}"] = draw_curves(sweep, source, Axis.global_step)
        except ConfigError as refusal:
            refusals.append(str(refusal))
    if not figures:
        raise ConfigError("; ".join(refusals))
    for line in refusals:
        print(f"note     not drawn together: {line}", file=sys.stderr)
    return figures
