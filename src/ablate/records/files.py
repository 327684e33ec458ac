"""Files that are whole or not there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def replace_atomically(path: Path, content: bytes) -> None:
    """Write a temporary file beside `path`, bring it to the disk, rename it: readers see the old or the new, whole.

    Raises OSError (a full disk, say), and then the old file is still there and the temporary one is not."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the rename itself
        finally:
            os.close(folder)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_temporaries(folder: Path) -> None:
    """What a process that was killed in `replace_atomically` left in a folder that nobody else writes to."""
    for path in folder.rglob(".*.tmp"):
        path.unlink()


def write_json(path: Path, value: Any) -> None:
    replace_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
