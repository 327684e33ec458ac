"""How a sweep stands, while it runs or after:  python src/sweep.py status outputs/sweeps/<name>"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ablate.analysis.load import read_cell
from ablate.cli.hydra_app import exit_code
from ablate.config.schema import Config
from ablate.config.serial import from_dict
from ablate.paths import OUTPUTS, locate
from ablate.records.schema import STUDY, cell_folder
from ablate.records.study_file import read_study
from ablate.sweeps.plan import share_done

PARTS = " ▁▂▃▄▅▆▇█"  # how far a running cell is
SIGNS = {  # told apart without colours, too
    "completed": ("█", "green"),
    "running": ("▄", "cyan"),
    "interrupted": ("‖", "yellow"),
    "failed": ("✗", "bold red"),
    "missing": ("·", "dim"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="How a sweep stands.")
    parser.add_argument("command", choices=["status"])
    parser.add_argument("folder", help="the sweep's folder, or its name")
    folder = parser.parse_args().folder
    named = OUTPUTS / "sweeps" / folder  # a sweep's name will do
    status(named if (named / STUDY).exists() else locate(folder), Console())


def status(folder: Path, console: Console) -> None:
    """Print a heat-map of arms × seeds, counts, and why cells failed.

    Raises ConfigError if the folder is no sweep's."""
    study = read_study(folder)
    seeds = study.seeds
    counts: Counter[str] = Counter()
    failures = []
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), caption_justify="left")
    table.add_column("arm")
    table.add_column(f"seed {seeds[0]} to {seeds[-1]}", no_wrap=False, overflow="fold")
    table.add_column("completed", justify="right")
    for name, arm in study.arms.items():
        config, row, done = from_dict(arm.config), Text(), 0
        for seed in seeds:
            cell = cell_folder(folder, name, seed)
            found = read_cell(cell)
            state = found["state"]
            counts[state] += 1
            done += state == "completed"
            sign, colour = SIGNS[state]
            row.append(_progress(cell, config) if state == "running" else sign, colour)
            if state == "failed":
                failures.append(f"{name} seed={seed}: {found['reason']}")
        table.add_row(arm.label or name, row, f"{done}/{len(seeds)}")
    console.print(table)
    console.print(", ".join(f"{SIGNS[state][0]} {counts[state]} {state}" for state in SIGNS if counts[state]))
    for failure in failures:
        console.print(failure, style="red", markup=False, highlight=False)


def _progress(cell: Path, config: Config) -> str:
    """A bar as high as the running cell has come; the whole one is a completed cell's."""
    return PARTS[max(1, min(7, int(8 * share_done(cell, config))))]


def program() -> int:
    """The exit code of `main`."""
    return exit_code(main)
