"""Named views of one flat parameter vector, which the caller allocates (in shared memory, for example)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import TypeVar

import numpy as np

Vector = TypeVar("Vector")  # a flat numpy array or torch tensor


class ParameterLayout:
    """The place of each named parameter in the flat vector, in the given order. starts: index of its first number.

    A weight (n_out, n_in) is stored with its longer side contiguous, because the compiled loops run over the longer
    side: as (n_in, n_out) if n_in < n_out. Anything else is stored as its shape says. orders: other orders of the axes
    in memory, slowest first, by name."""

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

        Each view has its parameter's shape, whatever its order in memory."""
        assert len(flat) == self.size, (len(flat), self.size)  # type: ignore[arg-type]
        views = {}
        for name, shape in self.shapes.items():
            order = self._orders[name]
            part = self.block(flat, name, name).reshape([shape[axis] for axis in order])  # type: ignore[attr-defined]
            permute = getattr(part, "permute", None) or part.transpose  # the names in torch and in numpy
            views[name] = permute(*(order.index(axis) for axis in range(len(shape))))
        return views

    def block(self, flat: Vector, first: str, last: str) -> Vector:
        """The part of the flat vector from parameter `first` to parameter `last`, both included."""
        part: Vector = flat[self.starts[first] : self.starts[last] + prod(self.shapes[last])]  # type: ignore[index]
        return part

    def initialise(self, flat: np.ndarray, rng: np.random.Generator, std: float) -> None:
        """Weights N(0, std²), biases 0."""
        for name, view in self.views(flat).items():
            view[...] = 0.0 if name.endswith("bias") else std * rng.standard_normal(view.shape)
