"""CSV files that survive: appended row by row, trimmed to a checkpoint on resume, a torn last line tolerated."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ablate.records.files import replace_atomically
from ablate.records.schema import COLUMNS, columns_under

FLUSH_EVERY_S = 1.0


class CsvWriter:
    """Appends rows to one of a run's CSV files. Floats are written with all their digits (repr)."""

    def __init__(self, path: Path, columns: Sequence[str] = ()) -> None:
        """columns: others than schema.COLUMNS says."""
        self._columns = columns or COLUMNS[path.name]
        new = not path.exists()
        self._file = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._flushed = time.monotonic()
        if new:
            self._writer.writerow(self._columns)
            self.flush()

    def write(self, row: Sequence[object]) -> None:
        assert len(row) == len(self._columns), (row, self._columns)
        self._writer.writerow(row)
        if time.monotonic() - self._flushed > FLUSH_EVERY_S:
            self._file.flush()
            self._flushed = time.monotonic()

    def flush(self) -> None:
        """Bring all rows to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self.flush()
        self._file.close()


def read_rows(path: Path) -> tuple[list[list[str]], int]:
    """The whole rows of a run's CSV file and how many torn ones (0 or 1, the last) were left out.

    Raises ValueError if the header is not the one that schema.py gives."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    lines = text.split("\n")
    torn = int(lines.pop() != "")  # after the last newline nothing follows, unless a write was cut short
    columns = columns_under(lines[0] if lines else "", path.name)
    if lines and lines[0] != ",".join(columns):
        raise ValueError(f"{path}: its header is {lines[0]!r}; {','.join(columns)!r} is needed")
    rows = list(csv.reader(lines[1:]))
    whole = [row for row in rows if len(row) == len(columns)]
    return whole, torn + len(rows) - len(whole)


def trim(path: Path, keep: Callable[[list[str]], bool]) -> int:
    """Rewrite the file, atomically, with the rows to keep. Returns how many were dropped, a torn one included."""
    if not path.exists():
        return 0
    rows, torn = read_rows(path)
    kept = [row for row in rows if keep(row)]
    with path.open(encoding="utf-8") as file:
        header = file.readline().rstrip("\n")
    lines = [",".join(columns_under(header, path.name)), *(",".join(row) for row in kept)]
    replace_atomically(path, ("\n".join(lines) + "\n").encode())
    return torn + len(rows) - len(kept)
