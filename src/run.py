"""Train one run, or many with -m or a study:  python src/run.py algo=a3c env=pendulum workers=4"""

import sys


def main() -> int:
    # Spawned workers import this file too: what only the parent needs is imported here.
    from pathlib import Path

    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import DictConfig

    from ablate.cli import hydra_app as command_line
    from ablate.config.validation import validate
    from ablate.runs import plan as experiment
    from ablate.runs.run import RunFailed
    from ablate.runs.run import run as train
    from ablate.sweeps import cell

    failures: list[RunFailed] = []

    @hydra.main(version_base="1.3", config_path="../conf", config_name="config")
    def run(composed: DictConfig) -> float | None:
        job = HydraConfig.get()
        overrides = list(job.overrides.task)
        plan = experiment.plan(validate(composed), overrides)
        if job.mode == RunMode.MULTIRUN:  # under a launcher, perhaps on another machine
            return cell.run_as_job(plan.config, overrides, Path(job.runtime.output_dir), Path(job.sweep.dir))
        try:
            train(plan, Path(job.runtime.output_dir), overrides)
        except RunFailed as failure:
            failures.append(failure)  # told once, not by Hydra too
        return None

    def program() -> None:
        run()
        if failures:
            raise failures[0]

    return command_line.main(program)


if __name__ == "__main__":
    sys.exit(main())
