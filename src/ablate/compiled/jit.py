"""What the author of a kernel needs: decorators for kernels and for the functions that they call.

kernel: called from Python. helper: called by kernels. leaf: called so often that a call would cost more than its work.
inlined: like leaf, for functions that return a view of an array. implements: the version of a function for one type."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numba
from numba.extending import overload

from ablate.compiled.kernel_cache import CACHE, KernelCache, in_hashed_folder
from ablate.compiled.linking import KernelCompiler
from ablate.compiled.numba_internals import NO_REFERENCE_COUNTS, event, set_cache

# nogil: the thread that watches the parent must run. fastmath without "nnan" and "ninf": the check for numbers that are
# not finite must see them. No reference counts, so that views of arrays cost nothing: kernels allocate no memory.
OPTIONS: Any = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "nsz", "arcp", "contract"},
    **NO_REFERENCE_COUNTS,
}


def kernel(function: Callable[..., Any]) -> Any:
    """Decorator of a function that Python calls. It is compiled at its first call, or loaded from the cache.

    A kernel outside the package (a test, a benchmark) is compiled again if its own file changes, but not if a
    function that it calls changes in another file; see kernel_cache.py."""
    compiled = numba.njit(**OPTIONS, pipeline_class=KernelCompiler)(in_hashed_folder(function))
    if CACHE is not None:
        set_cache(compiled, KernelCache(function))
    return compiled


def helper(function: Callable[..., Any]) -> Any:
    """Decorator of a function that kernels call."""
    return numba.njit(**OPTIONS)(in_hashed_folder(function))


def leaf(function: Callable[..., Any]) -> Any:
    """Decorator of a small function that kernels call often: LLVM puts its code in place of the call."""
    return numba.njit(**OPTIONS, forceinline=True)(in_hashed_folder(function))


def inlined(function: Callable[..., Any]) -> Any:
    """Decorator of a small function that returns a view of an array: without reference counts it must be inlined."""
    return numba.njit(**OPTIONS, inline="always")(in_hashed_folder(function))


def implements(
    function: Callable[..., Any], parameters: type, fastmath: bool = True
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: in kernels, a call of `function` with a first argument of type `parameters` runs the decorated one.

    parameters: a NamedTuple. The choice is made when a kernel is compiled, because for Numba each NamedTuple is a type
    of its own (types differ by the names of the class and its fields). The alternative would be a factory that makes
    one kernel per set of functions, but the cache would never find such kernels."""

    options: Any = OPTIONS if fastmath else {**OPTIONS, "fastmath": False}

    def register(implementation: Callable[..., Any]) -> Callable[..., Any]:
        def choose(first: Any, *others: Any) -> Callable[..., Any] | None:
            return implementation if getattr(first, "instance_class", None) is parameters else None

        overload(function, jit_options=options, strict=False)(choose)
        return in_hashed_folder(implementation)

    return register


class _Listener(event.Listener):
    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback

    def on_start(self, compilation: Any) -> None:
        self._callback()

    def on_end(self, compilation: Any) -> None:
        pass


@contextlib.contextmanager
def announcing(callback: Callable[[], None]) -> Iterator[None]:
    """Call `callback` whenever something has to be compiled within the context."""
    with event.install_listener("numba:compile", _Listener(callback)):
        yield
