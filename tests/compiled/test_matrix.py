"""The small products are compared with numpy, for every remainder of the loops over several rows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ablate.compiled.activation import ACTIVATIONS, IDENTITY
from ablate.compiled.jit import kernel
from ablate.compiled.matrix import Matrix, affine, product

SIZES = (*range(1, 10), 16, 33)
MARGIN = 3  # numbers on both sides that do not belong to the matrix
TOLERANCE = {np.float32: 3e-5, np.float64: 1e-12}
FUNCTIONS = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "tanh": np.tanh,
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
}
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@kernel
def affine_of(activation, y, x, w, b):
    affine(activation, y, x, Matrix(w[0], MARGIN, w[1], w[2]), b)


@kernel
def product_of(c, a, b, m, k, n):
    product(
        Matrix(c[0], MARGIN, c[1], c[2]), Matrix(a[0], MARGIN, a[1], a[2]), Matrix(b[0], MARGIN, b[1], b[2]), m, k, n
    )


class Stored:
    """A matrix of random numbers that is stored in a flat vector, by rows or by columns."""

    def __init__(self, rng: np.random.Generator, m: int, n: int, by_rows: bool, dtype: type) -> None:
        self.flat = rng.standard_normal(m * n + 2 * MARGIN).astype(dtype)
        part = self.flat[MARGIN:-MARGIN]
        self.values = part.reshape(m, n) if by_rows else part.reshape(n, m).T
        self.place = (self.flat, *((n, 1) if by_rows else (1, m)))

    def margins(self) -> np.ndarray:
        return np.concatenate((self.flat[:MARGIN], self.flat[-MARGIN:]))


@each_dtype
@pytest.mark.parametrize("by_rows", [True, False])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_affine_equals_numpy(name: str, by_rows: bool, dtype: type) -> None:
    rng = np.random.default_rng(0)
    for k, n in itertools.product(SIZES, SIZES):
        w = Stored(rng, k, n, by_rows, dtype)
        x, b = 3 * rng.standard_normal((2, max(k, n))).astype(dtype)
        y = Stored(rng, 1, n, True, dtype)
        expected, margins = FUNCTIONS[name](b[:n] + x[:k] @ w.values), y.margins()
        affine_of(ACTIVATIONS.get(name, IDENTITY), y.values[0], x[:k], w.place, b[:n])
        np.testing.assert_allclose(y.values[0], expected, 0, TOLERANCE[dtype], err_msg=f"{k} {n}")
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
def test_product_equals_numpy(c_by_rows: bool, a_by_rows: bool, b_by_rows: bool, dtype: type) -> None:
    rng = np.random.default_rng(0)
    for m, k, n in itertools.product(SIZES, SIZES, SIZES):
        a, b = Stored(rng, m, k, a_by_rows, dtype), Stored(rng, k, n, b_by_rows, dtype)
        c = Stored(rng, m, n, c_by_rows, dtype)
        margins = c.margins()
        c.values[...] = np.nan
        product_of(c.place, a.place, b.place, m, k, n)
        np.testing.assert_allclose(c.values, a.values @ b.values, 0, TOLERANCE[dtype], err_msg=f"{m} {k} {n}")
        np.testing.assert_array_equal(c.margins(), margins)
