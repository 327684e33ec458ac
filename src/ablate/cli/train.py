"""The program behind src/run.py: train one run, or one cell as a job of a sweep."""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from ablate.cli.compose import plan_job
from ablate.cli.hydra_app import ValidateFirst, exit_code, main
from ablate.cli.hydra_private import typed_overrides
from ablate.cli.reproduce import KEY, reproduce
from ablate.paths import CONF
from ablate.records.caller import tell_caller
from ablate.runs.run import RunFailed, run
from ablate.sweeps.cell import run_as_job


def program() -> int:
    """Train the run or the sweep that the command line describes. Returns the exit code."""
    if any(argument.startswith(KEY) for argument in sys.argv[1:]):
        return exit_code(lambda: reproduce(sys.argv[1:]))
    failures: list[RunFailed] = []

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    def job(composed: DictConfig) -> float | None:
        context = HydraConfig.get()
        overrides, folder = typed_overrides(context), Path(context.runtime.output_dir)
        if context.mode == RunMode.MULTIRUN:  # started by a launcher, possibly on another machine
            sweep = Path(context.sweep.dir)
            return run_as_job(plan_job(composed, overrides, folder=sweep).config, overrides, folder, sweep)
        assert ValidateFirst.ready is not None  # set by on_run_start
        planned, still_there = ValidateFirst.ready
        tell_caller(folder)
        try:
            run(planned, folder, overrides, still_there)
        except RunFailed as failure:
            failures.append(failure)  # raised below, because Hydra would print it too
        return None

    def train() -> None:
        job()
        if failures:
            raise failures[0]

    return main(train)
