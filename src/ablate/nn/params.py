"""One flat parameter vector with named views, in a buffer that the caller hands in, so that it can be shared."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import TypeVar

import numpy as np

Vector = TypeVar("Vector")  # a flat numpy array or torch tensor


class ParameterLayout:
    """Where each named parameter lies in the flat vector, in the order given: `starts` has its first place.

    A weight (n_out, n_in) lies with its longer side contiguous, as (n_in, n_out) where n_in < n_out: the compiled loops
    run over the longer side, with stride 1."""

    def __init__(self, shapes: Iterable[tuple[str, tuple[int, ...]]]) -> None:
        self.shapes = dict(shapes)
        self.starts: dict[str, int] = {}
        self.size = 0
        for name, shape in self.shapes.items():
            self.starts[name] = self.size
            self.size += prod(shape)

    def views(self, flat: Vector) -> dict[str, Vector]:
        """Named views of a flat vector (size,), numpy or torch: writing to a view writes to the vector.

        Each has its parameter's shape; where a weight lies as (n_in, n_out), the view is the transposed one."""
        assert len(flat) == self.size, (len(flat), self.size)  # type: ignore[arg-type]
        views = {}
        for name, shape in self.shapes.items():
            start = self.starts[name]
            part = flat[start : start + prod(shape)]  # type: ignore[index]
            tall = len(shape) == 2 and shape[1] < shape[0]
            views[name] = part.reshape(shape[::-1]).T if tall else part.reshape(shape)
        return views

    def initialise(self, flat: np.ndarray, rng: np.random.Generator, std: float) -> None:
        """Weights N(0, std²), biases 0."""
        for name, view in self.views(flat).items():
            view[...] = 0.0 if name.endswith("bias") else std * rng.standard_normal(view.shape)
