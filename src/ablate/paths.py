"""Where the code, the configuration and the outputs are, in a checkout or with an installed package."""

from __future__ import annotations

import os
import re
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1]  # the folder with the package `ablate`
CHECKOUT = SOURCE.parent if (SOURCE / "run.py").is_file() else None  # None: installed from a wheel


def _current_folder() -> Path:
    try:
        return Path(os.getcwd())
    except FileNotFoundError:  # it was deleted
        return CHECKOUT or Path.home()


STARTED_IN = _current_folder()  # hydra.job.chdir=true changes the folder later, and what a user types does not
ROOT = CHECKOUT or STARTED_IN  # of outputs/
OUTPUTS = ROOT / "outputs"
CONF = CHECKOUT / "conf" if CHECKOUT else SOURCE / "ablate/conf"


def locate(path: str) -> Path:
    """The path that a user gave: in the current folder, in the user's, or in the repository."""
    given = Path(os.path.expanduser(path))  # of an unknown user, it is left as it is
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


def portable(text: str) -> str:
    """The text with the paths inside the repository, or inside the user's folder, as they are typed there: a folder
    that is shared names no other folder of this machine."""
    for base in (STARTED_IN, ROOT):
        if base != Path(base.anchor):
            path = rf"(?<![\w.-]){re.escape(str(base))}"
            text = re.sub(rf"{path}/", "", re.sub(rf"{path}(?![\w/.-])", ".", text))
    return text


def command(program: str) -> str:
    """How one of our programs is called: python src/run.py, or ablate run without a checkout."""
    return f"python src/{program}.py" if CHECKOUT else f"ablate {program}"


def install(extra: str) -> str:
    """The command that installs one of our extras."""
    return f"pip install -e '.[{extra}]'" if CHECKOUT else f"pip install 'ablate[{extra}] @ file:<path of the wheel>'"


def python_path() -> str:
    """PYTHONPATH for a process of its own, on any machine: this code first, then the caller's own path."""
    return os.pathsep.join([str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])])


def nearest_existing(path: Path) -> Path:
    """The path itself, or the nearest of its parents that exists."""
    return next(place for place in (path, *path.absolute().parents) if os.path.exists(place))
