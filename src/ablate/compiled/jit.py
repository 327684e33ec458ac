"""How kernels are compiled and where the machine code is kept."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
from numba.extending import overload

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
leaf = numba.njit(**OPTIONS, forceinline=True)  # called so often that a call would cost more than its work
# The same for what gives a view of an array, which a function without reference counts cannot return.
inlined = numba.njit(**OPTIONS, inline="always")
kernel = numba.njit(**OPTIONS, cache=CACHE is not None)  # called from Python


def implements(
    function: Callable[..., Any], parameters: type, fastmath: bool = True
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: what a call of `function` is in a kernel whose first argument is of the NamedTuple `parameters`.

    To Numba each NamedTuple is a type of its own (it goes by the names of class and fields), so the choice is made when
    the kernel is compiled. A kernel made by a factory around others would miss the cache on disk at every start."""

    options: Any = OPTIONS if fastmath else {**OPTIONS, "fastmath": False}

    def register(implementation: Callable[..., Any]) -> Callable[..., Any]:
        def choose(first: Any, *others: Any) -> Callable[..., Any] | None:
            return implementation if getattr(first, "instance_class", None) is parameters else None

        overload(function, jit_options=options, strict=False)(choose)
        return implementation

    return register


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """Around a kernel's first call: of many processes that start together one compiles, the others find it on disk."""
    if CACHE is None:
        yield
        return
    with (CACHE / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
