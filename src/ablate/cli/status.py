"""Show the state of a sweep, during or after it: a heat map of its cells."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ablate.analysis.load import read_cell
from ablate.records.schema import cell_folder
from ablate.records.study_file import StudyArm, read_study
from ablate.sweeps.plan import share_done

BARS = " ▁▂▃▄▅▆▇█"  # progress of a running cell
RED = "#d70000"
# The signs differ, so that the table is readable without colours. The colours are readable on white and on black.
SIGNS = {
    "completed": ("█", "#008700"),
    "running": ("▄", "#0087af"),
    "interrupted": ("‖", "#af8700"),
    "failed": ("✗", f"bold {RED}"),
    "damaged": ("!", f"bold {RED}"),
    "missing": ("·", "dim"),
}


def status(folder: Path, console: Console) -> None:
    """Print a heat map of arms × seeds, the number of cells in each state, and why cells failed or are damaged.

    Raises ConfigError if the folder is not the folder of a sweep."""
    study = read_study(folder)
    seeds = study.seeds
    counts: Counter[str] = Counter()
    failures = []
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), caption_justify="left")
    table.add_column("arm")
    table.add_column(f"seed {seeds[0]} to {seeds[-1]}", no_wrap=False, overflow="fold")
    table.add_column("completed", justify="right")
    for name, arm in study.arms.items():
        row, completed = Text(), 0
        for seed in seeds:
            path = cell_folder(folder, name, seed)
            cell = read_cell(path, arm.config, seed)
            state = cell["state"]
            counts[state] += 1
            completed += state == "completed"
            sign, colour = SIGNS[state]
            row.append(_progress(path, arm) if state == "running" else sign, colour)
            if state in ("failed", "damaged"):
                failures.append(f"{name} seed={seed}: {cell['reason']}")
            if cell["note"]:
                failures.append(cell["note"])
        table.add_row(study.labels[name], row, f"{completed}/{len(seeds)}")
    console.print(table)
    console.print(
        Text(", ").join(Text.assemble(SIGNS[state], f" {counts[state]} {state}") for state in SIGNS if counts[state])
    )
    for failure in failures:
        console.print(failure, style=RED)


def _progress(cell: Path, arm: StudyArm) -> str:
    """A bar whose height is the progress of a running cell. Only a completed cell has the full height."""
    share = share_done(cell, arm.config["total_steps"], arm.config["max_episodes"])
    return BARS[max(1, min(7, int(8 * share)))]
