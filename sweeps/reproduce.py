"""Run and draw both ablations of the Pendulum report (S1):  python sweeps/reproduce.py [--quick] [override ...]

Repeat the command to go on after an interruption, or to draw again. Overrides are passed to src/run.py, for
example hydra/launcher=slurm."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STUDIES = ("max_ep_step", "workers")
QUICK = ("sweep.seeds=0-4", "max_episodes=300")


def main() -> int:
    parser = argparse.ArgumentParser(description="Run and draw both ablations of the Pendulum report.")
    parser.add_argument("--quick", action="store_true", help=f"a shorter version, about two minutes: {' '.join(QUICK)}")
    options, overrides = parser.parse_known_args()
    planned_only = any(text.lower() == "sweep.dry_run=true" for text in overrides)
    folders = []
    for study in STUDIES:
        name = f"{study}-quick" if options.quick else study
        shortened = [*QUICK, f"sweep.name={name}"] if options.quick else []
        command = [sys.executable, os.path.relpath(ROOT / "src/run.py"), f"sweep={study}", *shortened, *overrides]
        folder = ROOT / "outputs/sweeps" / name
        before = written(folder)
        if code := run(command):
            return code
        if not planned_only and written(folder) == before:
            print(f"no panels: with these overrides the sweep has another folder than {folder}", file=sys.stderr)
            return 2
        folders.append(folder)
    if planned_only:
        return 0
    from ablate.cli.hydra_app import exit_code

    return exit_code(lambda: draw(folders))


def run(command: list[str]) -> int:
    """Run a sweep to its end and return its exit code. Ctrl-C reaches it too: it writes its checkpoints and ends."""
    process = subprocess.Popen(command)
    actions = {
        signal.SIGINT: lambda number, frame: None,  # without it, subprocess would kill the sweep
        signal.SIGTERM: lambda number, frame: process.send_signal(number),
    }
    before = {number: signal.signal(number, action) for number, action in actions.items()}
    try:
        return process.wait()
    finally:
        for number, action in before.items():
            signal.signal(number, action)


def written(folder: Path) -> int | None:
    """When a sweep in this folder was last started, in ns; None if there is none."""
    path = folder / "study.json"
    return path.stat().st_mtime_ns if path.exists() else None


def draw(folders: list[Path]) -> None:
    """Draw the report's six panels, average reward per step over the episodes: one row per study, one panel per arm."""
    from ablate.analysis.load import load_sweep
    from ablate.analysis.overlay import draw_panels
    from ablate.analysis.sweep_figures import encode
    from ablate.records.files import replace_atomically

    panels = draw_panels([load_sweep(folder) for folder in folders], "The report's two ablations")
    path = folders[0].with_name("-".join(folder.name for folder in folders))
    for kind, content in encode(panels).items():
        replace_atomically(path.with_name(f"{path.name}.{kind}"), content)
    print(f"the report's six panels: {path}.png")


if __name__ == "__main__":
    sys.exit(main())
