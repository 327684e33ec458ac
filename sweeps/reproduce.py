"""Run and draw both ablations of the Pendulum report (S1):  python sweeps/reproduce.py [--quick] [override ...]

Repeat the command to go on after an interruption, or to draw again. Overrides are passed to src/run.py, for
example hydra/launcher=slurm."""

from __future__ import annotations

import argparse
import os
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
    folders = []
    for study in STUDIES:
        name = f"{study}-quick" if options.quick else study
        shortened = [*QUICK, f"sweep.name={name}"] if options.quick else []
        command = [sys.executable, os.path.relpath(ROOT / "src/run.py"), f"sweep={study}", *shortened, *overrides]
        if code := subprocess.run(command).returncode:
            return code
        folders.append(ROOT / "outputs/sweeps" / name)
    if "sweep.dry_run=true" not in overrides:
        draw(folders)
    return 0


def draw(folders: list[Path]) -> None:
    """Draw the report's six panels, average reward per step over the episodes: one row per study, one panel per arm."""
    from dataclasses import replace

    import pandas as pd

    from ablate.analysis.load import load_sweep
    from ablate.analysis.sweep_figures import draw_arms, encode
    from ablate.records.files import replace_atomically

    sweeps = [load_sweep(folder) for folder in folders]
    tables = ("cells", "episodes", "evaluations")
    arms = {name: arm for sweep in sweeps for name, arm in sweep.study.arms.items()}
    both = replace(
        sweeps[0],
        study=replace(sweeps[0].study, question="The report's two ablations", arms=arms),
        **{name: pd.concat([getattr(sweep, name) for sweep in sweeps], ignore_index=True) for name in tables},
    )
    path = folders[0].with_name("-".join(folder.name for folder in folders))
    for kind, content in encode(draw_arms(both)).items():
        replace_atomically(path.with_name(f"{path.name}.{kind}"), content)
    print(f"the report's six panels: {path}.png")


if __name__ == "__main__":
    sys.exit(main())
