"""Atomic operations for kernels of several processes that share memory: counting, and a lock."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import intrinsic

from ablate.compiled.jit import helper
from ablate.compiled.numba_internals import cgutils, types

_yield = types.ExternalFunction("sched_yield", types.int32())
PATIENCE = 5_000_000  # attempts before the holder of the lock counts as dead: some seconds on an idle machine


def _read_modify_write(operation: str) -> Any:
    """A function (int64 array, index, value) that does `operation` atomically and returns the old value."""

    def typed(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            native = context.make_array(signature.args[0])(context, builder, arguments[0])
            pointer = cgutils.gep_inbounds(builder, native.data, arguments[1])
            return builder.atomic_rmw(operation, pointer, arguments[2], "seq_cst")

        return types.int64(types.Array(types.int64, 1, "C"), types.int64, types.int64), generate

    return intrinsic(typed)


add = _read_modify_write("add")
exchange = _read_modify_write("xchg")


@helper
def acquire(lock: np.ndarray) -> bool:
    """Wait for the lock (1,) int64. Returns False if it is not released in time."""
    for _ in range(PATIENCE):
        if exchange(lock, 0, 1) == 0:
            return True
        _yield()
    return False


@helper
def release(lock: np.ndarray) -> None:
    exchange(lock, 0, 0)
