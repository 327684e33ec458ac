"""What kernels of several processes need to share memory: indivisible counting, and a lock."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from ablate.compiled.jit import helper

_yield = types.ExternalFunction("sched_yield", types.int32())
PATIENCE = 5_000_000  # turns given away before a holder of the lock counts as dead: seconds, on an idle machine


@intrinsic
def add(typingctx: Any, array: Any, index: Any, value: Any) -> Any:
    """array[index] += value for an int64 array, indivisibly. Returns what was there before."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, signature, arguments)
        return builder.atomic_rmw("add", pointer, arguments[2], "seq_cst")

    return types.int64(types.Array(types.int64, 1, "C"), types.int64, types.int64), generate


@intrinsic
def exchange(typingctx: Any, array: Any, index: Any, value: Any) -> Any:
    """Put value into array[index], indivisibly. Returns what was there before."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, signature, arguments)
        return builder.atomic_rmw("xchg", pointer, arguments[2], "seq_cst")

    return types.int64(types.Array(types.int64, 1, "C"), types.int64, types.int64), generate


def _pointer(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    return cgutils.gep_inbounds(builder, array.data, arguments[1])


@helper
def acquire(lock: np.ndarray) -> bool:
    """Wait until the lock (1,) int64 is ours; False if nobody lets it go."""
    for _ in range(PATIENCE):
        if exchange(lock, 0, 1) == 0:
            return True
        _yield()
    return False


@helper
def release(lock: np.ndarray) -> None:
    exchange(lock, 0, 0)
