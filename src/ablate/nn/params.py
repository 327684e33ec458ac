"""One flat parameter vector with named views, in a buffer that the caller hands in, so that it can be shared."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import TypeVar

import numpy as np

Vector = TypeVar("Vector")  # a flat numpy array or torch tensor


class ParameterLayout:
    """Where each named parameter lies in the flat vector, in the order given."""

    def __init__(self, shapes: Iterable[tuple[str, tuple[int, ...]]]) -> None:
        self.shapes = dict(shapes)
        self.size = sum(prod(shape) for shape in self.shapes.values())

    def views(self, flat: Vector) -> dict[str, Vector]:
        """Named views of a flat vector (size,), numpy or torch: writing to a view writes to the vector."""
        assert len(flat) == self.size, (len(flat), self.size)  # type: ignore[arg-type]
        views, start = {}, 0
        for name, shape in self.shapes.items():
            stop = start + prod(shape)
            views[name] = flat[start:stop].reshape(shape)  # type: ignore[index]
            start = stop
        return views

    def initialise(self, flat: np.ndarray, rng: np.random.Generator, std: float) -> None:
        """Weights N(0, std²), biases 0."""
        for name, view in self.views(flat).items():
            view[...] = 0.0 if name.endswith("bias") else std * rng.standard_normal(view.shape)
