"""Judge runs of other programs:  python src/judge.py <study.yaml> --runs <folder or CSV file>

Reads monitor.csv of stable-baselines3, TensorBoard's event files (CleanRL's, for example) and CSV files with a row per
score, and writes the report, tables and figures of a sweep (docs/judging.md). Trains nothing and imports no torch."""

import argparse
import re
import signal
import sys
from pathlib import Path

from ablate.analysis.foreign import ForeignSweep, load_foreign
from ablate.analysis.report import write_report
from ablate.analysis.summary import summarise
from ablate.analysis.tables import Summary
from ablate.analysis.terminal import result_lines
from ablate.cli.messages import tell
from ablate.config.judged import JudgedConfig, read_judged
from ablate.config.schema import ConfigError, SweepConfig
from ablate.paths import OUTPUTS, locate, shown
from ablate.records.files import refuse_unwritable, replace_atomically
from ablate.records.manifest import provenance
from ablate.records.schema import STUDY, STUDY_SOURCE
from ablate.records.study_file import Provenance
from ablate.records.terminal import print_if_read
from ablate.sweeps.names import slug
from ablate.sweeps.study import parse_seeds, refuse_unknown_names

JUDGED = OUTPUTS / "judged"


def main() -> int:
    """Judge the runs, and print the verdicts and the paths of what was written. Returns the exit code."""
    options = _parser().parse_args()
    try:
        out = Path(options.out).absolute() if options.out else None
        summary = summarise(read(locate(options.study), locate(options.runs), out))
        report, *figures = write_judged(summary, locate(options.study))
    except (ConfigError, OSError) as error:
        return tell(error)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    folder = summary.sweep.folder
    for note in [*summary.caveats, *summary.notes]:
        print(f"note      {note}", file=sys.stderr)
    for line in [*result_lines(summary), f"report    {shown(report)}"]:
        print_if_read(line)
    for path in (path for path in sorted(folder.iterdir()) if path.is_file() and path != report):
        print_if_read(f"          {shown(path)}")
    print_if_read(f"          {len(figures)} figures, PNG and PDF, in {shown(folder / 'figures')}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Judge runs that other programs made, as a sweep is judged.")
    parser.add_argument("study", help="the study's YAML file: question, arms, runs, claims (docs/judging.md)")
    parser.add_argument("--runs", required=True, help="the folder of the runs, or a CSV file with a row per score")
    parser.add_argument("--out", help="the folder of the report; without it outputs/judged/<name>")
    return parser


def read(path: Path, runs: Path, out: Path | None = None) -> ForeignSweep:
    """The runs of a study's file as a sweep; writes nothing. Raises ConfigError in one line."""
    study = read_judged(path)
    try:
        seeds = _checked(study)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    name = study.name or slug(path.stem)
    folder = out or JUDGED / name
    if (folder / STUDY).exists():
        raise ConfigError(f"--out {folder}: it is a sweep's folder, whose report would be replaced; give another one")
    return load_foreign(study, seeds, runs, folder, name, Provenance(**provenance(sys.argv)))


def _checked(study: JudgedConfig) -> list[int] | None:
    """The planned seeds. Raises ConfigError for names that the study does not have, as a sweep does."""
    for arm in study.arms:
        if arm != (right := re.sub(r"[^\w.-]+", "-", arm).strip("-.")) or arm == "figures":
            raise ConfigError(f"sweep.arms.{arm}: use letters, digits, dots and dashes: {right or 'a'}")
    settings = SweepConfig(
        baseline=study.baseline,
        metric=study.metric,
        metrics=study.metrics,
        smallest_effect=study.smallest_effect,
        claims=study.claims,
    )
    refuse_unknown_names(settings, list(study.arms))
    if study.seeds is None:
        return None
    listed = study.seeds if isinstance(study.seeds, list) else [study.seeds]
    return list(parse_seeds(",".join(map(str, listed))))


def write_judged(summary: Summary, study: Path) -> list[Path]:
    """Write report, tables and figures, and a copy of the study. Returns the paths of report and figures."""
    folder = summary.sweep.folder
    refuse_unwritable(folder, "--out")
    folder.mkdir(parents=True, exist_ok=True)
    written = write_report(summary)
    replace_atomically(folder / STUDY_SOURCE, study.read_bytes())
    return written
