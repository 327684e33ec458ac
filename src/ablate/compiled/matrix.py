"""Small matrix products inside kernels, over parts of flat vectors.

BLAS is made for large matrices: for a rollout, its calls cost more than the arithmetic, and it may start threads. Each
loop below runs along contiguous numbers and uses several rows at a time, so that each loaded number is used often and
LLVM can generate vector instructions."""

# ruff: noqa: E741 (l is the index that a product sums over)
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ablate.compiled.activation import ActivationConstants, activate, clamp
from ablate.compiled.jit import inlined, leaf


class Matrix(NamedTuple):
    """Element (i, j) is flat[start + i · row + j · column]."""

    flat: np.ndarray
    start: int
    row: int
    column: int


@inlined
def transposed(m: Matrix) -> Matrix:
    return Matrix(m.flat, m.start, m.column, m.row)


@inlined
def at(m: Matrix, i: int, j: int) -> float:
    return m.flat[m.start + i * m.row + j * m.column]


@inlined
def row(m: Matrix, i: int, n: int) -> np.ndarray:
    """The n numbers of row i, which must be contiguous (column = 1)."""
    start = m.start + i * m.row
    return m.flat[start : start + n]


@leaf
def affine(activation: ActivationConstants, y: np.ndarray, x: np.ndarray, w: Matrix, b: np.ndarray) -> None:
    """y = activation(b + x W), with x (k,), W (k, n), y and b (n,); the rows or the columns of W are contiguous."""
    k, n = len(x), len(y)
    low, high, inf = y.dtype.type(activation.low), y.dtype.type(activation.high), y.dtype.type(np.inf)
    if w.column != 1:
        w_t = transposed(w)
        j = 0
        while j + 2 <= n:
            s0, s1 = _dot_2(x, row(w_t, j, k), row(w_t, j + 1, k))
            y[j] = clamp(b[j] + s0, low, high)
            y[j + 1] = clamp(b[j + 1] + s1, low, high)
            j += 2
        if j < n:
            y[j] = clamp(b[j] + _dot_1(x, row(w_t, j, k)), low, high)
    elif k == 1:
        _set_1(low, high, y, b, x[0], row(w, 0, n))
    elif k == 2:
        _set_2(low, high, y, b, x[0], x[1], row(w, 0, n), row(w, 1, n))
    elif k == 3:
        _set_3(low, high, y, b, x[0], x[1], x[2], row(w, 0, n), row(w, 1, n), row(w, 2, n))
    elif k == 4:
        _set_4(low, high, y, b, x[0], x[1], x[2], x[3], row(w, 0, n), row(w, 1, n), row(w, 2, n), row(w, 3, n))
    else:
        _set_4(-inf, inf, y, b, x[0], x[1], x[2], x[3], row(w, 0, n), row(w, 1, n), row(w, 2, n), row(w, 3, n))
        l = 4
        while l + 5 <= k:
            _add_5(
                y,
                x[l], x[l + 1], x[l + 2], x[l + 3], x[l + 4],
                row(w, l, n), row(w, l + 1, n), row(w, l + 2, n), row(w, l + 3, n), row(w, l + 4, n),
            )  # fmt: skip
            l += 5
        while l < k:
            _add_1(y, x[l], row(w, l, n))
            l += 1
        for j in range(n):
            y[j] = clamp(y[j], low, high)
    activate(activation.kind, y)


@leaf
def product(c: Matrix, a: Matrix, b: Matrix, m: int, k: int, n: int) -> None:
    """C = A B, with C (m, n), A (m, k), B (k, n), k ≥ 1.

    The rows or the columns of C are contiguous. If its rows are: so are the rows of B, or the columns of B and the rows
    of A. If its columns are: the same holds for Cᵀ = Bᵀ Aᵀ."""
    if c.column != 1:
        c, a, b, m, n = transposed(c), transposed(b), transposed(a), n, m
    if b.column == 1:
        _rows(c, a, b, m, k, n)
    else:
        _dots(c, a, transposed(b), m, k, n)


@leaf
def clamped_product(
    c: Matrix, a: Matrix, b: Matrix, y: Matrix, activation: ActivationConstants, m: int, k: int, n: int
) -> None:
    """C = A B ⊙ activation'(Y) for a clamp, k ≤ 2 and m ≥ 2: the backward pass of a head. All rows are contiguous."""
    low, high = activation.low, activation.high
    for pair in range(0, m, 2):
        i = min(pair, m - 2)  # the last of an odd number of rows is computed together with the row before
        c0, c1, y0, y1 = row(c, i, n), row(c, i + 1, n), row(y, i, n), row(y, i + 1, n)
        if k == 1:
            _clamped_1_to_2(c0, c1, y0, y1, low, high, at(a, i, 0), at(a, i + 1, 0), row(b, 0, n))
        else:
            _clamped_2_to_2(
                c0, c1, y0, y1, low, high,
                at(a, i, 0), at(a, i, 1), at(a, i + 1, 0), at(a, i + 1, 1), row(b, 0, n), row(b, 1, n),
            )  # fmt: skip


@leaf
def _rows(c: Matrix, a: Matrix, b: Matrix, m: int, k: int, n: int) -> None:
    """C[i] = Σ_l A[i, l] B[l], two rows of C and five of B at a time (rollouts often have 5, 10 or 20 steps)."""
    i = 0
    while i + 2 <= m:
        y, z = row(c, i, n), row(c, i + 1, n)
        if k >= 5:
            _put_5_to_2(
                y, z,
                at(a, i, 0), at(a, i, 1), at(a, i, 2), at(a, i, 3), at(a, i, 4),
                at(a, i + 1, 0), at(a, i + 1, 1), at(a, i + 1, 2), at(a, i + 1, 3), at(a, i + 1, 4),
                row(b, 0, n), row(b, 1, n), row(b, 2, n), row(b, 3, n), row(b, 4, n),
            )  # fmt: skip
            l = 5
        elif k >= 2:
            _put_2_to_2(y, z, at(a, i, 0), at(a, i, 1), at(a, i + 1, 0), at(a, i + 1, 1), row(b, 0, n), row(b, 1, n))
            l = 2
        else:
            _put_1_to_2(y, z, at(a, i, 0), at(a, i + 1, 0), row(b, 0, n))
            l = 1
        while l + 5 <= k:
            _add_5_to_2(
                y, z,
                at(a, i, l), at(a, i, l + 1), at(a, i, l + 2), at(a, i, l + 3), at(a, i, l + 4),
                at(a, i + 1, l), at(a, i + 1, l + 1), at(a, i + 1, l + 2), at(a, i + 1, l + 3), at(a, i + 1, l + 4),
                row(b, l, n), row(b, l + 1, n), row(b, l + 2, n), row(b, l + 3, n), row(b, l + 4, n),
            )  # fmt: skip
            l += 5
        while l < k:
            _add_1_to_2(y, z, at(a, i, l), at(a, i + 1, l), row(b, l, n))
            l += 1
        i += 2
    if i < m:
        y = row(c, i, n)
        y[:] = 0
        l = 0
        while l + 5 <= k:
            _add_5(
                y,
                at(a, i, l), at(a, i, l + 1), at(a, i, l + 2), at(a, i, l + 3), at(a, i, l + 4),
                row(b, l, n), row(b, l + 1, n), row(b, l + 2, n), row(b, l + 3, n), row(b, l + 4, n),
            )  # fmt: skip
            l += 5
        while l < k:
            _add_1(y, at(a, i, l), row(b, l, n))
            l += 1


@leaf
def _dots(c: Matrix, a: Matrix, b: Matrix, m: int, k: int, n: int) -> None:
    """C[i, j] = A[i] · B[j]."""
    for i in range(m):
        x, y = row(a, i, k), row(c, i, n)
        j = 0
        while j + 2 <= n:
            s0, s1 = _dot_2(x, row(b, j, k), row(b, j + 1, k))
            y[j] = s0
            y[j + 1] = s1
            j += 2
        if j < n:
            y[j] = _dot_1(x, row(b, j, k))


# p, q: numbers; r, y, z, b: rows of the same length.


@leaf
def _set_4(low, high, y, b, p0, p1, p2, p3, r0, r1, r2, r3):
    for j in range(len(y)):
        y[j] = clamp(b[j] + p0 * r0[j] + p1 * r1[j] + p2 * r2[j] + p3 * r3[j], low, high)


@leaf
def _set_3(low, high, y, b, p0, p1, p2, r0, r1, r2):
    for j in range(len(y)):
        y[j] = clamp(b[j] + p0 * r0[j] + p1 * r1[j] + p2 * r2[j], low, high)


@leaf
def _set_2(low, high, y, b, p0, p1, r0, r1):
    for j in range(len(y)):
        y[j] = clamp(b[j] + p0 * r0[j] + p1 * r1[j], low, high)


@leaf
def _set_1(low, high, y, b, p0, r0):
    for j in range(len(y)):
        y[j] = clamp(b[j] + p0 * r0[j], low, high)


@leaf
def _add_5(y, p0, p1, p2, p3, p4, r0, r1, r2, r3, r4):
    for j in range(len(y)):
        y[j] += p0 * r0[j] + p1 * r1[j] + p2 * r2[j] + p3 * r3[j] + p4 * r4[j]


@leaf
def _add_1(y, p0, r0):
    for j in range(len(y)):
        y[j] += p0 * r0[j]


@leaf
def _put_5_to_2(y, z, p0, p1, p2, p3, p4, q0, q1, q2, q3, q4, r0, r1, r2, r3, r4):
    for j in range(len(y)):
        y[j] = p0 * r0[j] + p1 * r1[j] + p2 * r2[j] + p3 * r3[j] + p4 * r4[j]
        z[j] = q0 * r0[j] + q1 * r1[j] + q2 * r2[j] + q3 * r3[j] + q4 * r4[j]


@leaf
def _put_2_to_2(y, z, p0, p1, q0, q1, r0, r1):
    for j in range(len(y)):
        y[j] = p0 * r0[j] + p1 * r1[j]
        z[j] = q0 * r0[j] + q1 * r1[j]


@leaf
def _clamped_2_to_2(c0, c1, y0, y1, low, high, p0, p1, q0, q1, r0, r1):
    zero = c0.dtype.type(0)
    low, high = c0.dtype.type(low), c0.dtype.type(high)
    for j in range(len(c0)):
        s, t = p0 * r0[j] + p1 * r1[j], q0 * r0[j] + q1 * r1[j]
        c0[j] = s if (y0[j] > low) & (y0[j] < high) else zero
        c1[j] = t if (y1[j] > low) & (y1[j] < high) else zero


@leaf
def _clamped_1_to_2(c0, c1, y0, y1, low, high, p0, q0, r0):
    zero = c0.dtype.type(0)
    low, high = c0.dtype.type(low), c0.dtype.type(high)
    for j in range(len(c0)):
        s, t = p0 * r0[j], q0 * r0[j]
        c0[j] = s if (y0[j] > low) & (y0[j] < high) else zero
        c1[j] = t if (y1[j] > low) & (y1[j] < high) else zero


@leaf
def _put_1_to_2(y, z, p0, q0, r0):
    for j in range(len(y)):
        y[j] = p0 * r0[j]
        z[j] = q0 * r0[j]


@leaf
def _add_5_to_2(y, z, p0, p1, p2, p3, p4, q0, q1, q2, q3, q4, r0, r1, r2, r3, r4):
    for j in range(len(y)):
        y[j] += p0 * r0[j] + p1 * r1[j] + p2 * r2[j] + p3 * r3[j] + p4 * r4[j]
        z[j] += q0 * r0[j] + q1 * r1[j] + q2 * r2[j] + q3 * r3[j] + q4 * r4[j]


@leaf
def _add_1_to_2(y, z, p0, q0, r0):
    for j in range(len(y)):
        y[j] += p0 * r0[j]
        z[j] += q0 * r0[j]


@leaf
def _dot_2(x, r0, r1):
    s0, s1 = x.dtype.type(0), x.dtype.type(0)
    for l in range(len(x)):
        s0 += x[l] * r0[l]
        s1 += x[l] * r1[l]
    return s0, s1


@leaf
def _dot_1(x, r0):
    s = x.dtype.type(0)
    for l in range(len(x)):
        s += x[l] * r0[l]
    return s
