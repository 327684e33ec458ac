"""What a log for a program that shows many runs must do, and what it is given."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple, Protocol

from ablate.config.schema import Config
from ablate.records.files import read_json
from ablate.records.schema import CELL, MANIFEST, EndState

MOST_ROWS = 1000  # of each table between two checkpoints, which is what TensorBoard shows of a curve


class Log(Protocol):
    """One log of a run. A row has a step and scalars, by tags with the names of CleanRL, such as charts/SPS."""

    def write(self, step: int, scalars: dict[str, float]) -> None: ...

    def flush(self) -> None:
        """Called just before a checkpoint that counts all rows so far."""
        ...

    def close(self, state: EndState, final_score: float | None) -> None:
        """The rows after the last checkpoint do not count. final_score: mean return of the last evaluation, if any."""
        ...


class RunName(NamedTuple):
    """Where a run stands among others: a cell belongs to its study and arm, a single run to its algorithm and
    environment."""

    group: str
    arm: str | None
    name: str
    key: str  # the same for all resumes of a run, and no other run's

    @classmethod
    def of(cls, folder: Path, config: Config) -> RunName:
        """The folder has the run's manifest."""
        started = read_json(folder / MANIFEST)["started"]
        if not (folder / CELL).exists():
            group = folder.parent.name
            return cls(group, None, folder.name, f"{group}/{folder.name} {started}")
        study, arm = folder.parent.parent.name, folder.parent.name
        name = f"{arm} seed={config.seed}"
        return cls(study, arm, name, f"{study}/{name} {started}")


class Waiting:
    """Rows that wait for the next checkpoint. A resumed run makes the rows after it again, and none is sent twice."""

    def __init__(self) -> None:
        self._tables: dict[tuple[str, ...], list[tuple[int, dict[str, float]]]] = {}

    def add(self, step: int, scalars: dict[str, float]) -> None:
        self._tables.setdefault(tuple(scalars), []).append((step, scalars))

    def taken(self) -> list[tuple[int, dict[str, float]]]:
        """The rows since the last call in the order of their steps; of a long table every k-th, and its last."""
        rows = []
        for table in self._tables.values():
            every = math.ceil(len(table) / MOST_ROWS)
            rows += table[::-every]  # from the last one backwards
        self._tables.clear()
        return sorted(rows, key=lambda row: row[0])
