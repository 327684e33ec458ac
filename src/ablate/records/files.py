"""Files that are written atomically: a reader sees the old or the new content, never a part."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

SUBFOLDERS = ("checkpoints", "figures")  # of a run's or a sweep's folder
TEMPORARY = re.compile(r"\..+\.(json|csv|safetensors|html|md|npz|png|pdf|yaml)\.(?P<pid>\d+)\.tmp")


def replace_atomically(path: Path, content: bytes) -> None:
    """Write a temporary file in the same folder, sync it to the disk, and rename it to `path`.

    Raises OSError, for example if the disk is full. The old file is then unchanged, the temporary one removed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # makes the rename durable
        finally:
            os.close(folder)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_temporaries(folder: Path) -> None:
    """Remove what a killed `replace_atomically` left behind in a folder of ours and its own subfolders.

    Files of other programs stay, and those of a process that lives."""
    for place in (folder, *(folder / name for name in SUBFOLDERS)):
        for path in place.glob(".*.tmp"):
            if (name := TEMPORARY.fullmatch(path.name)) and not _lives(int(name["pid"])):
                path.unlink(missing_ok=True)


def _lives(pid: int) -> bool:
    """Whether another process has this id."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


def write_json(path: Path, value: Any) -> None:
    replace_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
