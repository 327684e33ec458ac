"""Matrix products by BLAS inside kernels, for batches: from 64 rows on it is twice as fast as the loops of matrix.py.

Numba calls the BLAS of scipy, which computes on one thread in the processes of a run (parallel/supervisor.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg.cython_blas  # noqa: F401 (imported now, not during the first product)

from ablate.compiled.jit import helper
from ablate.compiled.numba_internals import types

_PLAIN, _TRANSPOSED = ord("n"), ord("t")
_FLOAT32, _FLOAT64 = ord("s"), ord("d")
_ONE_AND_ZERO_32: np.ndarray = np.array([1, 0], np.float32)
_ONE_AND_ZERO_64: np.ndarray = np.array([1, 0], np.float64)
# OpenBLAS multiplies matrices of up to a million multiplications without copying them first: up to a third faster.
SMALL = 1_000_000
_address = types.uintp
_xxgemm: Any = types.ExternalFunction(
    "numba_xxgemm",  # of Numba's np.dot; Fortran's order: C is (m, n) with contiguous columns
    types.intc(
        types.char, types.char, types.char, types.intp, types.intp, types.intp, _address, _address, types.intp,
        _address, types.intp, _address, _address, types.intp,
    ),
)  # fmt: skip


@helper
def gemm(
    c: np.ndarray,
    c_start: int,
    a: np.ndarray,
    a_start: int,
    a_row: int,
    a_transposed: bool,
    b: np.ndarray,
    b_start: int,
    b_row: int,
    b_transposed: bool,
    m: int,
    k: int,
    n: int,
) -> None:
    """C = A B, with C (m, n), A (m, k), B (k, n) as parts of flat vectors of the same dtype, k ≥ 1.

    C's rows follow one another. a_row, b_row: the length of a row as it is stored. a_transposed, b_transposed: Aᵀ or Bᵀ
    is what is stored."""
    size = c.itemsize
    kind = _FLOAT32 if size == 4 else _FLOAT64
    one = _ONE_AND_ZERO_32.ctypes.data if size == 4 else _ONE_AND_ZERO_64.ctypes.data
    rows = m
    while rows * k * n > SMALL and rows > 8:
        rows = (rows + 1) // 2
    b_at = b.ctypes.data + size * b_start
    for first in range(0, m, rows):
        a_at = a.ctypes.data + size * (a_start + first * (1 if a_transposed else a_row))
        c_at = c.ctypes.data + size * (c_start + first * n)
        _xxgemm(
            kind, _TRANSPOSED if b_transposed else _PLAIN, _TRANSPOSED if a_transposed else _PLAIN,
            n, min(rows, m - first), k, one, b_at, b_row, a_at, a_row, one + size, c_at, n,
        )  # fmt: skip
