"""Where the machine code of kernels is stored, and when it is used again.

Numba notices a change of the file in which a kernel is written, but not of files with functions that the kernel calls.
So the cache folder's name contains a hash of all sources in HASHED_FOLDERS, and code of the package outside these
folders is refused."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba

from ablate.compiled.numba_internals import (
    CompileResultCacheImpl,
    FunctionCache,
    IndexDataCacheFile,
    UserProvidedCacheLocator,
)
from ablate.parallel.machine import lock

PACKAGE = Path(__file__).parents[1]
HASHED_FOLDERS = ("compiled", "replay")

F = TypeVar("F", bound=Callable[..., Any])


def cache_folder() -> Path | None:
    """The folder for these sources under $NUMBA_CACHE_DIR or the user's cache; None if it cannot be written."""
    sources = sorted(path for folder in HASHED_FOLDERS for path in (PACKAGE / folder).rglob("*.py"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser(), "ablate")
        folder = (Path(chosen) if chosen else home) / f"kernels-{digest}"
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError):  # RuntimeError: a user without a home folder
        return None
    return folder


CACHE = cache_folder()
if CACHE is not None:
    numba.config.CACHE_DIR = str(CACHE)  # type: ignore[attr-defined]


def in_hashed_folder(function: F) -> F:
    """The function itself. Asserts that a change of its file will be noticed, if the file belongs to the package."""
    path = Path(function.__code__.co_filename)
    if path.is_relative_to(PACKAGE):
        folder = path.relative_to(PACKAGE).parts[0]
        assert folder in HASHED_FOLDERS, (
            f"{path}: {function.__name__} is compiled, but a change of this file would not be noticed; "
            f"move it to one of {', '.join(HASHED_FOLDERS)}, or add its folder to HASHED_FOLDERS"
        )
    return function


class _Locator(UserProvidedCacheLocator):
    """Names the cache by a source's path within the package: checkouts with the same sources share their kernels."""

    @classmethod
    def get_suitable_cache_subpath(cls, py_file: str) -> str:
        folder = Path(py_file).parent
        if folder.is_relative_to(PACKAGE):
            return ".".join(folder.relative_to(PACKAGE).parts)
        return str(super().get_suitable_cache_subpath(py_file))


class _CacheImpl(CompileResultCacheImpl):
    _locator_classes = [_Locator, *CompileResultCacheImpl._locator_classes]  # noqa: RUF012, as in Numba


class KernelCache(FunctionCache):
    """Numba's cache of one kernel. If several processes start together, one compiles, and the others load its result.

    If the cache cannot be read or written (a damaged file, a full disk), the kernel is compiled again."""

    _impl_class = _CacheImpl
    _lock: int | None = None

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        self._choose_index(signature)
        loaded = self._load(signature, target_context)
        if loaded is None:
            self._lock = _locked(f"{self._py_func.__name__}.lock")
            loaded = self._load(signature, target_context)  # the process that held the lock may have saved it
            if loaded is not None:
                self._unlock()
        return loaded  # if None, Numba compiles the kernel and calls save_overload, which releases the lock

    def save_overload(self, signature: Any, compiled: Any) -> None:
        self._choose_index(signature)
        with contextlib.suppress(Exception):
            super().save_overload(signature, compiled)
        self._unlock()

    def _choose_index(self, signature: Any) -> None:
        """One index per version of an environment in a user's folder; see `envs.register_environment`.

        Only programs that can import the environment can read such an index."""
        classes = [getattr(argument, "instance_class", None) for argument in signature]
        digests = [digest for cls in classes if (digest := getattr(cls, "source_digest", None))]
        self._cache_file = IndexDataCacheFile(
            self._cache_path, ".".join([self._impl.filename_base, *digests]), self._impl.locator.get_source_stamp()
        )

    def _load(self, signature: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(signature, target_context)
        except Exception:  # unpickling a damaged file may raise anything
            with contextlib.suppress(OSError):
                self.flush()  # otherwise nothing could be saved either
            return None

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _locked(name: str) -> int | None:
    """A descriptor that holds this lock of the cache until it is closed; None if files cannot be locked."""
    assert CACHE is not None
    try:
        descriptor = os.open(CACHE / name, os.O_RDONLY | os.O_CREAT, 0o666)
    except OSError:
        return None
    try:
        lock(descriptor, wait=True)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
