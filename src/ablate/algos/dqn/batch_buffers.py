"""Where batches lie on their way to a network, where what is told of them comes back, and the work between, recorded.

B: transitions of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ablate.types import Batch

WARM_UP = 3  # times that work is done before it is recorded: libraries allocate and choose in the first


class QMetrics(NamedTuple):
    """What is told of an update."""

    td_errors: np.ndarray  # (B,), δ = y - Q(s, a)
    q_mean: float  # mean over the batch of max_a Q(s, a)
    loss: float
    grad_norm: float  # of the whole gradient, after clamping


class Slot:
    """The buffers of one batch, pinned where they are copied to a GPU from.

    observations: (2B, *shape) both observations, one behind the other. numbers: (4, B) actions, returns, discounts,
    weights. told: (B + 3,) TD errors, q_mean, loss, norm of the gradient."""

    def __init__(
        self,
        batch_size: int,
        shape: tuple[int, ...],
        images: torch.dtype,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        pinned: bool = False,
    ) -> None:
        self.observations = torch.zeros(2 * batch_size, *shape, dtype=images, device=device, pin_memory=pinned)
        self.numbers = torch.zeros(4, batch_size, dtype=dtype, device=device, pin_memory=pinned)
        self.told = torch.zeros(batch_size + 3, dtype=dtype, device=device, pin_memory=pinned)
        self._arrived = torch.cuda.Event() if pinned else None

    def put(self, batch: Batch) -> None:
        """Its numbers; observations are written where they lie."""
        numbers = self.numbers.numpy()
        for row, values in zip(numbers, (batch.actions, batch.returns, batch.discounts, batch.weights), strict=True):
            row[:] = values

    def send(self, to: Slot) -> None:
        """Begin to copy the batch to a slot on a GPU."""
        to.observations.copy_(self.observations, non_blocking=True)
        to.numbers.copy_(self.numbers, non_blocking=True)

    def fetch(self, told: Tensor) -> None:
        """Begin to copy what is told from a GPU, once it is there."""
        assert self._arrived is not None
        self.told.copy_(told, non_blocking=True)
        self._arrived.record()

    def metrics(self) -> QMetrics:
        """What was told of the batch, for which a GPU is waited for. Before the slot takes the next batch."""
        if self._arrived is not None:
            self._arrived.synchronize()
        told = self.told.numpy()
        return QMetrics(told[:-3].copy(), *told[-3:].tolist())


class Recorded:
    """Work on a GPU, recorded at its first call and started as a whole from then on (a CUDA graph).

    It must read and write the same memory every time, and do no harm if it is done more often."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if self._graph is None:
            self._record()
        assert self._graph is not None
        self._graph.replay()

    def _record(self) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._work()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._work()
