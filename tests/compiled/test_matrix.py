"""The small products against numpy, for every remainder of the loops that take several rows at a time."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from ablate.compiled.jit import kernel
from ablate.compiled.matrix import Matrix, add_product, affine

SIZES = (*range(1, 10), 16, 33)
MARGIN = 3  # numbers on both sides that are not the matrix's
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-12}
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@kernel
def affine_of(y, x, w, b):
    affine(y, x, Matrix(w[0], MARGIN, w[1], w[2]), b)


@kernel
def product_of(c, a, b, m, k, n):
    add_product(
        Matrix(c[0], MARGIN, c[1], c[2]), Matrix(a[0], MARGIN, a[1], a[2]), Matrix(b[0], MARGIN, b[1], b[2]), m, k, n
    )


class Laid:
    """A matrix of random numbers that lies somewhere in a flat vector, by rows or by columns."""

    def __init__(self, rng: np.random.Generator, m: int, n: int, by_rows: bool, dtype: type) -> None:
        self.flat = rng.standard_normal(m * n + 2 * MARGIN).astype(dtype)
        part = self.flat[MARGIN:-MARGIN]
        self.values = part.reshape(m, n) if by_rows else part.reshape(n, m).T
        self.place = (self.flat, *((n, 1) if by_rows else (1, m)))

    def margins(self) -> np.ndarray:
        return np.concatenate((self.flat[:MARGIN], self.flat[-MARGIN:]))


@each_dtype
@pytest.mark.parametrize("by_rows", [True, False])
def test_affine(by_rows: bool, dtype: type) -> None:
    rng = np.random.default_rng(0)
    for k, n in product(SIZES, SIZES):
        w = Laid(rng, k, n, by_rows, dtype)
        x, b = rng.standard_normal((2, max(k, n))).astype(dtype)
        y = Laid(rng, 1, n, True, dtype)
        margins = y.margins()
        affine_of(y.values[0], x[:k], w.place, b[:n])
        np.testing.assert_allclose(y.values[0], b[:n] + x[:k] @ w.values, 0, TOLERANCE[dtype], err_msg=f"{k} {n}")
        np.testing.assert_array_equal(y.margins(), margins)


# C by rows needs B by rows, or else A by rows; C by columns needs A by columns, or else B by columns.
@each_dtype
@pytest.mark.parametrize(
    ("c_by_rows", "a_by_rows", "b_by_rows"),
    [
        (True, True, True), (True, False, True), (True, True, False),
        (False, False, False), (False, False, True), (False, True, False),
    ],
)  # fmt: skip
def test_add_product(c_by_rows: bool, a_by_rows: bool, b_by_rows: bool, dtype: type) -> None:
    rng = np.random.default_rng(0)
    for m, k, n in product(SIZES, SIZES, SIZES):
        a, b = Laid(rng, m, k, a_by_rows, dtype), Laid(rng, k, n, b_by_rows, dtype)
        c = Laid(rng, m, n, c_by_rows, dtype)
        expected, margins = c.values + a.values @ b.values, c.margins()
        product_of(c.place, a.place, b.place, m, k, n)
        np.testing.assert_allclose(c.values, expected, 0, TOLERANCE[dtype], err_msg=f"{m} {k} {n}")
        np.testing.assert_array_equal(c.margins(), margins)
