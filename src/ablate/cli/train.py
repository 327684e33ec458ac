"""The program behind src/run.py: one run, or as a job of a sweep one cell."""

from __future__ import annotations

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from ablate.cli.compose import plan_job
from ablate.cli.hydra_app import ValidateFirst, main
from ablate.paths import CONF
from ablate.runs.run import RunFailed, run
from ablate.sweeps import cell


def program() -> int:
    """Train what the command line asks for. Returns the exit code."""
    failures: list[RunFailed] = []

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    def job(composed: DictConfig) -> float | None:
        context = HydraConfig.get()
        overrides, folder = list(context.overrides.task), Path(context.runtime.output_dir)
        if context.mode == RunMode.MULTIRUN:  # under a launcher, perhaps on another machine
            return cell.run_as_job(plan_job(composed, overrides).config, overrides, folder, Path(context.sweep.dir))
        assert ValidateFirst.planned is not None  # before Hydra made the folder
        try:
            run(ValidateFirst.planned, folder, overrides)
        except RunFailed as failure:
            failures.append(failure)  # printed once, and not by Hydra too
        return None

    def program() -> None:
        job()
        if failures:
            raise failures[0]

    return main(program)
