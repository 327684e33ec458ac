"""One flat parameter vector with named views, in a buffer that the caller hands in, so that it can be shared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import TypeVar

import numpy as np

Vector = TypeVar("Vector")  # a flat numpy array or torch tensor


class ParameterLayout:
    """Where each named parameter lies in the flat vector, in the order given: `starts` has its first place.

    orders: the axes of a parameter as they lie, slowest first, where they do not lie as this says: a weight (n_out,
    n_in) lies with its longer side contiguous, as (n_in, n_out) where n_in < n_out (the compiled loops run over the
    longer side, with stride 1), and anything else as its shape says."""

    def __init__(
        self, shapes: Iterable[tuple[str, tuple[int, ...]]], orders: Mapping[str, tuple[int, ...]] | None = None
    ) -> None:
        self.shapes = dict(shapes)
        self.starts: dict[str, int] = {}
        self.size = 0
        self._orders: dict[str, tuple[int, ...]] = {}
        for name, shape in self.shapes.items():
            self.starts[name] = self.size
            self.size += prod(shape)
            tall = len(shape) == 2 and shape[1] < shape[0]
            self._orders[name] = (orders or {}).get(name, (1, 0) if tall else tuple(range(len(shape))))

    def views(self, flat: Vector) -> dict[str, Vector]:
        """Named views of a flat vector (size,), numpy or torch: writing to a view writes to the vector.

        Each has its parameter's shape, however it lies."""
        assert len(flat) == self.size, (len(flat), self.size)  # type: ignore[arg-type]
        views = {}
        for name, shape in self.shapes.items():
            order = self._orders[name]
            part = self.block(flat, name, name).reshape([shape[axis] for axis in order])  # type: ignore[attr-defined]
            permute = getattr(part, "permute", None) or part.transpose  # as torch calls it, and numpy
            views[name] = permute(*(order.index(axis) for axis in range(len(shape))))
        return views

    def block(self, flat: Vector, first: str, last: str) -> Vector:
        """The part of the flat vector from one parameter to another."""
        part: Vector = flat[self.starts[first] : self.starts[last] + prod(self.shapes[last])]  # type: ignore[index]
        return part

    def initialise(self, flat: np.ndarray, rng: np.random.Generator, std: float) -> None:
        """Weights N(0, std²), biases 0."""
        for name, view in self.views(flat).items():
            view[...] = 0.0 if name.endswith("bias") else std * rng.standard_normal(view.shape)
