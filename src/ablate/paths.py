"""Where things are: the checkout, its outputs, its configuration."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUTPUTS, CONF = ROOT / "outputs", ROOT / "conf"


def _current_folder() -> Path:
    try:
        return Path(os.getcwd())
    except FileNotFoundError:  # it was deleted
        return ROOT


STARTED_IN = _current_folder()  # hydra.job.chdir=true changes the folder later, and what a user types does not


def locate(path: str) -> Path:
    """The path that a user gave: in the current folder, in the user's, or in the repository."""
    given = Path(path).expanduser()
    return next(
        (base / given for base in (STARTED_IN, ROOT) if not given.exists() and (base / given).exists()),
        given.absolute(),
    )


def shown(path: Path) -> str:
    """A path as the user would type it: relative to the user's folder if that is shorter."""
    try:
        return str(path.relative_to(STARTED_IN))
    except ValueError:
        return str(path)


def nearest_existing(path: Path) -> Path:
    """The path itself, or the nearest of its parents that exists."""
    return next(place for place in (path, *path.absolute().parents) if os.path.exists(place))
