"""Open and write the logs of a run, in addition to its CSV files: TensorBoard, MLflow, Weights & Biases."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ablate.config.schema import Config, ConfigError, LoggerConfig
from ablate.config.serial import flat, to_dict
from ablate.paths import install
from ablate.records.csv_writer import read_rows
from ablate.records.log import Log, RunName
from ablate.records.schema import COLUMNS, EVALUATIONS, EndState


def refuse_missing_packages(config: LoggerConfig) -> None:
    """Raise ConfigError if a log needs a package that is not installed. Its extra has the same name."""
    for name in ("mlflow", "wandb"):
        if getattr(config, name) is not None and importlib.util.find_spec(name) is None:
            raise ConfigError(f"logger.{name}={getattr(config, name)}: {name} is not installed; run {install(name)}")


def open_logs(folder: Path, config: Config, first_step: int | None) -> Logs:
    """The logs that the configuration asks for. Each imports its package, so it is made only then.

    folder: of the run, with its manifest. first_step: of a resumed run; what was written from this step on counts no
    longer."""

    def tensorboard() -> Log:
        from ablate.records.tensorboard import TensorBoard

        return TensorBoard(folder, first_step, flat(to_dict(config)))

    def mlflow() -> Log:
        from ablate.records.mlflow_log import MlflowLog

        return MlflowLog(str(config.logger.mlflow), RunName.of(folder, config), flat(to_dict(config)))

    def wandb() -> Log:
        from ablate.records.wandb_log import WandbLog

        return WandbLog(str(config.logger.wandb), folder, RunName.of(folder, config), to_dict(config))

    return Logs(*(make for make in (tensorboard, mlflow, wandb) if getattr(config.logger, make.__name__)))


class Logs:
    """All logs of a run. One that fails is left out from then on: the CSV files have everything."""

    def __init__(self, *makers: Callable[[], Log]) -> None:
        self._logs: dict[str, Log] = {}
        for make in makers:
            with self._left_out_if_it_fails(make.__name__):
                self._logs[make.__name__] = make()

    def write(self, step: int, scalars: dict[str, float]) -> None:
        for name, log in [*self._logs.items()]:
            with self._left_out_if_it_fails(name):
                log.write(step, scalars)

    def flush(self) -> None:
        for name, log in [*self._logs.items()]:
            with self._left_out_if_it_fails(name):
                log.flush()

    def close(self, state: EndState, folder: Path) -> None:
        for name, log in [*self._logs.items()]:
            with self._left_out_if_it_fails(name):
                log.close(state, final_score(folder))
        self._logs.clear()

    @contextmanager
    def _left_out_if_it_fails(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of a library, a server or a disk
            self._logs.pop(name, None)
            reason = " ".join(str(error).split()) or type(error).__name__
            print(f"note     {name}: {reason}; the run goes on without this log", file=sys.stderr, flush=True)


def final_score(folder: Path) -> float | None:
    """The mean return of a run's last evaluation; None if there was none, or if the table cannot be read."""
    try:
        rows = read_rows(folder / EVALUATIONS).rows
    except (ValueError, ConfigError):
        return None
    number, value = (COLUMNS[EVALUATIONS].index(name) for name in ("evaluation", "episodic_return"))
    last = [float(row[value]) for row in rows if row[number] == rows[-1][number]]
    return sum(last) / len(last) if last else None
