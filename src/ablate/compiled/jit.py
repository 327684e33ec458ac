"""How kernels are compiled and where the machine code is kept."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import numba

# nogil: the thread that watches the parent must run. fastmath without "nnan" and "ninf": the guard against numbers that
# are not finite must see them. No reference counts (_nrt): views of arrays then cost nothing; kernels allocate nothing.
# Any: Numba's own type of its options lacks _nrt.
OPTIONS: Any = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "nsz", "arcp", "contract"},
    "_nrt": False,
}


def cache_folder() -> Path | None:
    """A folder of these sources' own under $NUMBA_CACHE_DIR or the user's cache; None if none can be written to.

    Numba notices a change of a kernel's own file only: what it calls from another file would stay as it was."""
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    given = os.environ.get("NUMBA_CACHE_DIR")
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser(), "ablate")
        folder = (Path(given) if given else home) / f"kernels-{digest}"
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError):  # RuntimeError: a user without a home
        return None
    return folder


CACHE = cache_folder()
if CACHE is not None:
    numba.config.CACHE_DIR = str(CACHE)  # type: ignore[attr-defined]

helper = numba.njit(**OPTIONS)  # called by kernels
kernel = numba.njit(**OPTIONS, cache=CACHE is not None)  # called from Python
