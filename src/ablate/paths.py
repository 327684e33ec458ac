"""Where things are: the checkout, its outputs, its configuration."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUTPUTS, CONF = ROOT / "outputs", ROOT / "conf"


def locate(path: str) -> Path:
    """The path that a user gave: relative to the current folder or, if nothing is there, to the repository's root."""
    given = Path(path).expanduser()
    return ROOT / given if not given.exists() and (ROOT / given).exists() else given.absolute()


def shown(path: Path) -> str:
    """A path as the user would type it: relative to the current folder if that is shorter."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
