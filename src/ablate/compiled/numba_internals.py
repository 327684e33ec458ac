"""The only module that uses parts of Numba and llvmlite outside their public interfaces.

An upgrade of Numba may rename or change any of these. tests/compiled/test_jit.py fails if one no longer works:
caching (`test_a_kernel_is_compiled_once` and those after it), linking (`test_a_kernel_calls_only_code_of_its_own`),
announcing (`test_a_compilation_is_announced`); tests/compiled/test_atomic.py covers the code generation."""

from __future__ import annotations

from typing import Any

from llvmlite.binding import Linkage
from numba.core import cgutils, event, types
from numba.core.caching import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile, UserProvidedCacheLocator
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler

__all__ = [
    "NO_REFERENCE_COUNTS",
    "CompileResultCacheImpl",
    "Compiler",
    "FunctionCache",
    "IndexDataCacheFile",
    "JITCodeLibrary",
    "Linkage",
    "UserProvidedCacheLocator",
    "cgutils",
    "event",
    "set_cache",
    "types",
]

NO_REFERENCE_COUNTS: dict[str, Any] = {"_nrt": False}  # an option of numba.njit


def set_cache(dispatcher: Any, cache: FunctionCache) -> None:
    """Let a compiled function load and save its machine code through `cache`."""
    dispatcher._cache = cache
