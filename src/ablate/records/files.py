"""Files of ours, read and written at one place.

Writing is atomic: a reader sees the old or the new content, never a part. Reading gives the content as a checked type,
or one line that says which file does not fit and why."""

from __future__ import annotations

import json
import os
import re
import stat
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from ablate.config.schema import ConfigError
from ablate.paths import nearest_existing

T = TypeVar("T")

SUBFOLDERS = ("checkpoints", "figures", "paper")  # of a run's or a sweep's folder
TEMPORARY = re.compile(r"\..+\.(json|csv|safetensors|html|md|npz|png|pdf|yaml|tex)\.(?P<pid>\d+)\.tmp")
LONGEST_VALUE = 60  # letters of a value that does not fit, in its message
WRITTEN_TO_TEST = 65_536  # bytes: a file system that is full may still take a few


def is_file(path: Path) -> bool:
    """Whether the file is there. Raises ConfigError if something else is in its place: to open a pipe would wait."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(mode):
        what = "folder" if stat.S_ISDIR(mode) else "pipe" if stat.S_ISFIFO(mode) else "device or socket"
        raise ConfigError(f"{path}: damaged: a {what} is in the place of the file; move it away")
    return True


def read_file(path: Path) -> bytes | None:
    """The content; None if there is no such file. Raises ConfigError if it is no file or cannot be read."""
    try:
        return path.read_bytes() if is_file(path) else None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error


def read_object(path: Path, kind: type[T]) -> T | None:
    """The JSON object in a file as a value of `kind`, a dataclass; None if there is no such file.

    Raises ConfigError in one line if the content does not fit."""
    if (content := read_file(path)) is None:
        return None
    try:
        return _adapter(kind).validate_json(content, strict=True)  # type: ignore[arg-type]
    except ValidationError as error:
        raise ConfigError(f"{path}: damaged: {misfit(error)}") from error


def misfit(error: ValidationError) -> str:
    """What does not fit, in a few words: the key, its value and what is needed."""
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return f"it has no {key}"
    problem = first["msg"][0].lower() + first["msg"][1:]
    if first["type"] == "json_invalid" or not key:
        return problem
    value = " ".join(str(first["input"]).split())
    return f"{key}={value[:LONGEST_VALUE]}: {problem}"


@cache
def _adapter(kind: type[T]) -> TypeAdapter[T]:
    return TypeAdapter(kind)


def refuse_unwritable(folder: Path, key: str = "") -> None:
    """Raise ConfigError if no file can be written in a folder, or the folder cannot be made. Leaves nothing.

    key: the setting that names the folder, for the message."""
    named = f"{key}={folder}" if key else str(folder)
    existing = nearest_existing(folder)
    if not existing.is_dir():
        raise ConfigError(f"{named}: {existing.name} is no folder; give another one")  # its path is named already
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(bytes(WRITTEN_TO_TEST))
    except OSError as error:
        raise ConfigError(f"{named}: no file can be written in {existing} ({error.strerror})") from error


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
