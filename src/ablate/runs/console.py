"""The lines that a run prints before and after its training, in addition to its display."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from ablate.config.choices import Schedule
from ablate.config.derived import horizon_notes
from ablate.config.plugins import named_modules
from ablate.config.schema import Config, ConfigError
from ablate.nn.precision import precision_notes
from ablate.paths import command, shown
from ablate.records.checkpoint import Checkpoint
from ablate.records.csv_writer import read_rows
from ablate.records.schema import BEST_CHECKPOINT, EPISODES, EVALUATIONS, LAST_CHECKPOINT, LEARNING_CURVE, UPDATES
from ablate.records.terminal import print_if_read
from ablate.runs.plan import Resolved
from ablate.types import Counters


def title(run: Resolved) -> str:
    """The run in one line."""
    config = run.config
    crew = run.algorithm.crew(config)
    return f"{config.algo.name} · {config.env.id} · {crew} · {config.schedule} · {config.backend}"


def announcement(run: Resolved, folder: Path, dropped: int) -> Iterator[str]:
    """The lines before the first step. dropped: number of rows that were removed from the CSVs."""
    yield f"run      {shown(folder)}"
    if run.backend_note and run.resumed is None:
        yield f"backend  {run.backend_note}"
    if run.memory_note:
        yield f"replay   {run.memory_note}"
    if run.limit_note:
        yield f"note     {run.limit_note}"
    notes = (
        *horizon_notes(run.config),
        *precision_notes(run.config),
        *run.spec.notes,
        *run.algorithm.notes(run.config),
    )
    for note in notes:
        yield f"note     {note}"
    if run.resumed is not None:
        yield from _resumption(run, run.resumed, folder, dropped)
    elif run.config.load:
        yield f"loaded   {run.config.load}"


def _resumption(run: Resolved, checkpoint: Checkpoint, folder: Path, dropped: int) -> Iterator[str]:
    """The step at which a resumed run continues, and the state that could not be restored."""
    config, counters = run.config, Counters(**checkpoint.state["counters"])
    states = list(checkpoint.state["workers"].values())
    later = f"; {dropped} later rows dropped from the CSVs" if dropped else ""
    yield f"resumed  at step {counters.steps}, episode {counters.episodes}{later}"
    every = config.evaluation.every_steps
    if config.schedule == Schedule["async"] and every and config.evaluation.every_seconds is None:
        rows = read_rows(folder / EVALUATIONS).rows
        if (last := int(rows[-1][1]) if rows else 0) < counters.steps // every * every:
            yield f"note     evaluations that were due after step {last} and not yet played are left out"
    for note in run.algorithm.resume_notes(config, states):
        yield f"note     {note}"
    if any(state.get("env", ...) is None for state in states) and counters.steps:
        how = " with env.threads" if getattr(config.env, "threads", 0) else ""
        yield f"note     the state of {config.env.id}{how} cannot be saved: new episodes begin"


def report(config: Config, folder: Path, counters: Counters, elapsed_s: float, interrupted: bool) -> None:
    """Draw the figure. Print how long the run trained, what it reached, and the paths of its files."""
    print_if_read(
        f"{'interrupted' if interrupted else 'completed'}: {counters.episodes} episodes, {counters.steps} steps, "
        f"{counters.updates} updates in {elapsed_s:.1f} s ({counters.steps / max(elapsed_s, 1e-9):.0f} steps/s)"
    )
    files = [EPISODES, UPDATES, EVALUATIONS, LAST_CHECKPOINT, BEST_CHECKPOINT]
    if config.figures:
        from ablate.analysis.figures import learning_curve
        from ablate.analysis.load import load_run
        from ablate.analysis.terminal import run_lines

        try:
            written = load_run(folder)
            for line in run_lines(written):
                print_if_read(line)
            learning_curve(written, folder / LEARNING_CURVE)
            files.append(LEARNING_CURVE)
        except (ConfigError, OSError) as error:
            print(f"the figure could not be written: {error}", file=sys.stderr)
    for name in files:
        if (folder / name).exists():
            print_if_read(f"  {shown(folder / name)}")
    if interrupted:
        print_if_read(f"continue with: {resume_command(folder)}")


def resume_command(folder: Path) -> str:
    named = f" plugins=[{','.join(modules)}]" if (modules := named_modules()) else ""
    return f"{command('run')} {quote(f'resume={shown(folder)}')}{named}"
