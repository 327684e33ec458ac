"""Train one run, or many with -m:  python src/run.py algo=a3c env=pendulum workers=4"""

import sys


def main() -> int:
    # Spawned workers import this file too: what only the parent needs is imported here.
    import hydra
    from omegaconf import DictConfig

    from ablate import command_line

    @hydra.main(version_base="1.3", config_path="../conf", config_name="config")
    def run(composed: DictConfig) -> None:
        from ablate.config import validate
        print(validate(composed))

    return command_line.main(run)


if __name__ == "__main__":
    sys.exit(main())
