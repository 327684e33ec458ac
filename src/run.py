"""Train one run, or many with -m or a study:  python src/run.py algo=a3c env=pendulum workers=4"""

import sys


def main() -> int:
    # Spawned workers import this file too: what only the parent needs is imported here.
    from pathlib import Path

    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import DictConfig

    from ablate import cell, command_line, experiment
    from ablate.validation import validate

    failures: list[experiment.RunFailed] = []

    @hydra.main(version_base="1.3", config_path="../conf", config_name="config")
    def run(composed: DictConfig) -> float | None:
        job = HydraConfig.get()
        overrides = list(job.overrides.task)
        plan = experiment.plan(validate(composed), overrides)
        if job.mode == RunMode.MULTIRUN:  # under a launcher, perhaps on another machine
            return cell.run_as_job(plan.config, overrides, Path(job.runtime.output_dir), Path(job.sweep.dir))
        try:
            experiment.run(plan, Path(job.runtime.output_dir), overrides)
        except experiment.RunFailed as failure:
            failures.append(failure)  # told once, not by Hydra too
        return None

    def program() -> None:
        run()
        if failures:
            raise failures[0]

    return command_line.main(program)


if __name__ == "__main__":
    sys.exit(main())
