"""Train one run, or many with -m:  python src/run.py algo=a3c env=pendulum workers=4"""

import sys


def main() -> int:
    # Spawned workers import this file too: what only the parent needs is imported here.
    from pathlib import Path

    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import DictConfig

    from ablate import command_line, experiment
    from ablate.config import validate

    @hydra.main(version_base="1.3", config_path="../conf", config_name="config")
    def run(composed: DictConfig) -> None:
        job = HydraConfig.get()
        overrides = list(job.overrides.task)
        plan = experiment.plan(validate(composed), overrides)
        experiment.run(plan, Path(job.runtime.output_dir), overrides, command_line.ROOT)

    return command_line.main(run)


if __name__ == "__main__":
    sys.exit(main())
