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
from llvmlite.binding import Linkage
from numba.core import event
from numba.core.caching import CompileResultCacheImpl, FunctionCache, UserProvidedCacheLocator
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
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


def _package() -> Path:
    return Path(__file__).parents[1]


def cache_folder() -> Path | None:
    """A folder of these sources' own under $NUMBA_CACHE_DIR or the user's cache; None if none can be written to.

    Numba notices a change of a kernel's own file only: what it calls from another file would stay as it was."""
    sources = sorted(path for room in ("compiled", "replay") for path in (_package() / room).rglob("*.py"))
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


class _Locator(UserProvidedCacheLocator):
    """By where a source lies in the package, not on the disk: checkouts with the same sources share their kernels."""

    @classmethod
    def get_suitable_cache_subpath(cls, py_file: str) -> str:
        folder = Path(py_file).parent
        if folder.is_relative_to(_package()):
            return ".".join(folder.relative_to(_package()).parts)
        return str(super().get_suitable_cache_subpath(py_file))


class _Place(CompileResultCacheImpl):
    _locator_classes = [_Locator, *CompileResultCacheImpl._locator_classes]  # noqa: RUF012, as Numba has it


class KernelCache(FunctionCache):
    """Numba's cache of one kernel. Of processes that start together one compiles, the others find its work on disk.

    What cannot be read or written there (a damaged file, a full disk) costs a compilation, not the run."""

    _impl_class = _Place
    _lock: int | None = None

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        found = self._found(signature, target_context)
        if found is None:
            self._lock = _locked(f"{self._py_func.__name__}.lock")
            found = self._found(signature, target_context)  # by who held the lock before
            if found is not None:
                self._unlock()
        return found  # if nothing, Numba compiles and saves, and then the lock is let go

    def save_overload(self, signature: Any, compiled: Any) -> None:
        with contextlib.suppress(Exception):
            super().save_overload(signature, compiled)
        self._unlock()

    def _found(self, signature: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(signature, target_context)
        except Exception:  # unpickling a damaged file may raise anything
            with contextlib.suppress(OSError):
                self.flush()  # or nothing could be saved either
            return None

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _locked(name: str) -> int | None:
    """A descriptor that holds this lock of the cache until it is closed; None where files cannot be locked."""
    assert CACHE is not None
    try:
        descriptor = os.open(CACHE / name, os.O_RDONLY | os.O_CREAT, 0o666)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


class _Library(JITCodeLibrary):
    """The code of a kernel and of all that it calls, which no other code can stand in for.

    Numba leaves it to the linker which copy of a function is called. In the process that compiles, it takes those that
    were compiled before by themselves; where the kernel comes from disk, the kernel's own: these round differently."""

    def _optimize_final_module(self) -> None:
        for function in self._final_module.functions:
            if function.linkage == Linkage.linkonce_odr:
                function.linkage = Linkage.internal
                function.name += ".own"  # or others' calls would find it by name, optimized for its callers here
        super()._optimize_final_module()


class _Compiler(Compiler):
    def __init__(self, typing_context: Any, target_context: Any, _: None, *others: Any) -> None:
        library = _Library(target_context.codegen(), "kernel")
        library.enable_object_caching()
        super().__init__(typing_context, target_context, library, *others)


def kernel(function: Callable[..., Any]) -> Any:
    """Decorator for what is called from Python: compiled at its first call, or found on disk."""
    compiled = numba.njit(**OPTIONS, pipeline_class=_Compiler)(function)
    if CACHE is not None:
        compiled._cache = KernelCache(function)
    return compiled


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


class _Listener(event.Listener):
    def __init__(self, told: Callable[[], None]) -> None:
        self._told = told

    def on_start(self, compilation: Any) -> None:
        self._told()

    def on_end(self, compilation: Any) -> None:
        pass


@contextlib.contextmanager
def announcing(told: Callable[[], None]) -> Iterator[None]:
    """Around kernels' first calls: `told` is called when something has to be compiled."""
    with event.install_listener("numba:compile", _Listener(told)):
        yield
