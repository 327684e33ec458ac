"""Train one run, or many with -m:  python src/run.py algo=a3c env=pendulum workers=4"""

import sys


def main() -> int:
    # Spawned workers import this file too: what only the parent needs is imported here.
    from pathlib import Path

    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import DictConfig

    from ablate import command_line, experiment
    from ablate.config import validate

    failures: list[experiment.RunFailed] = []

    @hydra.main(version_base="1.3", config_path="../conf", config_name="config")
    def run(composed: DictConfig) -> None:
        job = HydraConfig.get()
        overrides = list(job.overrides.task)
        plan = experiment.plan(validate(composed), overrides)
        try:
            experiment.run(plan, Path(job.runtime.output_dir), overrides)
        except experiment.RunFailed as failure:
            if job.mode == RunMode.MULTIRUN:
                raise  # Hydra goes on with the other jobs, and tells of the first failure at the end
            failures.append(failure)  # told once, not by Hydra too

    def program() -> None:
        run()
        if failures:
            raise failures[0]

    return command_line.main(program)


if __name__ == "__main__":
    sys.exit(main())
