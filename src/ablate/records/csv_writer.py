"""CSV files that survive a crash: rows are appended, a resume trims them, and a torn last line is ignored."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ablate.records.files import read_file, replace_atomically
from ablate.records.schema import COLUMNS, columns_of

FLUSH_EVERY_S = 1.0


class CsvWriter:
    """Appends rows to one of a run's CSV files. Floats are written with all their digits (repr)."""

    def __init__(self, path: Path, columns: Sequence[str] = ()) -> None:
        """columns: all columns of the table, if the schema does not fix them."""
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
        """Write all rows to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self.flush()
        self._file.close()


class CsvContent(NamedTuple):
    """What is in a run's CSV file."""

    header: str  # empty if its line is missing or torn
    rows: list[list[str]]  # the complete ones
    torn: int  # rows that were cut short (0 or 1: only the last row can be)


def read_rows(path: Path) -> CsvContent:
    """Read a run's CSV file; a missing file has no header and no rows.

    Raises ValueError if the header does not fit the schema, ConfigError if it is no file."""
    text = (read_file(path) or b"").decode(errors="replace")
    lines = text.split("\n")
    torn = int(lines.pop() != "")  # nothing follows the last newline, unless a write was cut short
    if not lines:
        return CsvContent("", [], torn)
    header = lines[0]
    columns = columns_of(path.name, header)
    if header != ",".join(columns):
        raise ValueError(f"{path}: its header is {header!r}; {','.join(columns)!r} is needed")
    try:
        rows = list(csv.reader(lines[1:]))
    except csv.Error as error:  # a NUL, or a field of more than 131 072 characters
        raise ValueError(f"{path}: {error}") from error
    whole = [row for row in rows if len(row) == len(columns)]
    return CsvContent(header, whole, torn + len(rows) - len(whole))


def trim(path: Path, keep: Callable[[list[str]], bool]) -> int:
    """Rewrite the file atomically with the rows to keep. Returns the number of dropped rows, torn ones included.

    A file without a complete header is removed: `CsvWriter` creates it again."""
    if not path.exists():
        return 0
    header, rows, torn = read_rows(path)
    if not header:
        path.unlink()
        return torn
    kept = [row for row in rows if keep(row)]
    lines = [header, *(",".join(row) for row in kept)]
    replace_atomically(path, ("\n".join(lines) + "\n").encode())
    return torn + len(rows) - len(kept)
