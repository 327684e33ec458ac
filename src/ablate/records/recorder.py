"""The parent's writer of a run's CSV files and logs: the workers' records, in the order in which they arrive."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from statistics import fmean
from typing import Any

from ablate.records.csv_writer import CsvWriter, trim
from ablate.records.logs import Logs
from ablate.records.schema import EPISODES, EVALUATIONS, MOVING_AVERAGE_DECAY, UPDATES, EndState
from ablate.types import EpisodeRecord, EvaluationSummary

COMMON_FIELDS = 3  # of an update's record: update, global_step, wall_time_s
SHOWN = 20  # how many of the last episodes, and of the last rows of updates.csv, the display uses


class Recorder:
    """Writes episodes.csv and updates.csv. `episodes` counts the rows of the first.

    beyond: the records of episodes that ended after the `max_episodes`-th, which are not written. A resume with a
    larger limit needs them."""

    def __init__(
        self,
        folder: Path,
        update_record: type[Any],
        max_episodes: int | None,
        logs: Logs | None = None,
    ) -> None:
        self._episodes_csv = CsvWriter(folder / EPISODES)
        self._updates_csv = CsvWriter(folder / UPDATES, update_record._fields)
        self._folder, self._logs = folder, logs or Logs()
        self._max_episodes = max_episodes
        self.episodes = 0
        self.beyond: list[EpisodeRecord] = []
        self.moving_average: float | None = None
        # Only for the display.
        self.mean_evaluation: float | None = None
        self._returns: deque[float] = deque(maxlen=SHOWN)
        self.last_updates: deque[Any] = deque(maxlen=SHOWN)

    @property
    def episodic_return(self) -> float | None:
        """Mean over the last episodes."""
        return fmean(self._returns) if self._returns else None

    def episode(self, record: EpisodeRecord) -> None:
        if self._max_episodes is not None and self.episodes >= self._max_episodes:
            self.beyond.append(record)
            return
        self.episodes += 1
        self._returns.append(record.episodic_return)
        mean = record.episodic_return / record.episodic_length
        old = self.moving_average
        decay = MOVING_AVERAGE_DECAY
        self.moving_average = mean if old is None else decay * old + (1 - decay) * mean
        worker, step, wall_time_s, episodic_return, length, *ended = record
        at = (self.episodes, worker, step, f"{wall_time_s:.3f}")
        self._episodes_csv.write((*at, episodic_return, length, mean, self.moving_average, *ended))
        scalars = {"episodic_return": episodic_return, "episodic_length": length, "mean_step_reward": mean}
        scalars["SPS"] = step / max(wall_time_s, 1e-9)
        self._logs.write(step, {f"charts/{name}": value for name, value in scalars.items()})

    def update(self, record: Any) -> None:
        """Write a row of updates.csv. record: the algorithm's update record, a NamedTuple."""
        self.last_updates.append(record)
        update, step, wall_time_s, *values = record
        self._updates_csv.write((update, step, f"{wall_time_s:.3f}", *values))
        names = type(record)._fields[COMMON_FIELDS:]
        known = {name: value for name, value in zip(names, values, strict=True) if value is not None}
        self._logs.write(step, {f"{_group(name)}/{name}": value for name, value in known.items()})

    def evaluation(self, summary: EvaluationSummary) -> None:
        """Keep the mean for the display, and write it to the logs. The evaluator has already written the rows."""
        self.mean_evaluation = summary.mean_return
        self._logs.write(summary.global_step, {"charts/evaluation_return": summary.mean_return})

    def flush(self) -> None:
        """Write all rows to the disk. Call it before a checkpoint that counts them."""
        self._episodes_csv.flush()
        self._updates_csv.flush()
        self._logs.flush()

    def close(self) -> None:
        self._episodes_csv.close()
        self._updates_csv.close()

    def end(self, state: EndState) -> None:
        """End the logs: how the run ended, and its final score."""
        self._logs.close(state, self._folder)


def trim_to_checkpoint(folder: Path, episodes: int, updates: int, evaluations: int) -> int:
    """Drop the rows that came after a checkpoint with these counts, and torn rows. Returns how many were dropped."""
    return (
        trim(folder / EPISODES, lambda row: int(row[0]) <= episodes)
        + trim(folder / UPDATES, lambda row: int(row[0]) <= updates)
        + trim(folder / EVALUATIONS, lambda row: int(row[0]) <= evaluations)
    )


def _group(name: str) -> str:
    """The TensorBoard group (losses or charts) of a field of an update record, as in CleanRL."""
    losses = name.endswith("_loss") or name in ("loss", "entropy", "grad_norm", "q_mean")
    return "losses" if losses else "charts"
