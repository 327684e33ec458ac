"""The buffers of one batch on its way to the network and back, and work on a GPU that is recorded once.

B: transitions of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ablate.types import Batch

WARM_UP = 3  # runs before the recording: libraries allocate memory and choose algorithms in the first ones


class QMetrics(NamedTuple):
    """The results of one update."""

    td_errors: np.ndarray  # (B,), δ = y - Q(s, a)
    q_mean: float  # mean over the batch of max_a Q(s, a)
    loss: float
    grad_norm: float  # of the whole gradient, after clamping


class Transitions(NamedTuple):
    """A batch without its observations: the rows of one tensor, so that one copy to a GPU is enough."""

    actions: Tensor  # (B,) in a float dtype
    returns: Tensor  # (B,)
    discounts: Tensor  # (B,)
    weights: Tensor  # (B,)


class BatchBuffers:
    """The buffers of one batch, in pinned memory if they are copied to a GPU.

    observations: (2B, *shape), first all s_t, then all s_{t+n}."""

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
        rows = len(Transitions._fields)
        self._transitions = torch.zeros(rows, batch_size, dtype=dtype, device=device, pin_memory=pinned)
        self.transitions = Transitions(*self._transitions)
        scalars = len(QMetrics._fields) - 1  # all but the TD errors
        self._metrics = torch.zeros(batch_size + scalars, dtype=dtype, device=device, pin_memory=pinned)
        self._batch_size = batch_size
        self._arrived = torch.cuda.Event() if pinned else None

    def put(self, batch: Batch) -> None:
        """Write all of the batch but the observations, which the replay writes itself."""
        for name, row in zip(Transitions._fields, self._transitions.numpy(), strict=True):
            row[:] = getattr(batch, name)

    def send(self, to: BatchBuffers) -> None:
        """Begin to copy the batch to buffers on a GPU."""
        to.observations.copy_(self.observations, non_blocking=True)
        to._transitions.copy_(self._transitions, non_blocking=True)

    def put_metrics(self, td_errors: Tensor, q_mean: Tensor, loss: Tensor, grad_norm: Tensor) -> None:
        """Write the results of the update, in the order of QMetrics."""
        torch.cat((td_errors, torch.stack((q_mean, loss, grad_norm))), out=self._metrics)

    def fetch_metrics(self, source: BatchBuffers) -> None:
        """Begin to copy the results from buffers on a GPU, once they are there."""
        assert self._arrived is not None
        self._metrics.copy_(source._metrics, non_blocking=True)
        self._arrived.record()

    def metrics(self) -> QMetrics:
        """The results of the update. Waits for a GPU. Call it before the buffers take the next batch."""
        if self._arrived is not None:
            self._arrived.synchronize()
        metrics = self._metrics.numpy()
        td_errors, scalars = metrics[: self._batch_size], metrics[self._batch_size :]
        return QMetrics(td_errors.copy(), *scalars.tolist())


class RecordedWork:
    """Work on a GPU that is recorded at its first call, and from then on launched as a whole (a CUDA graph).

    The work must read and write the same memory every time. It is repeated while it is recorded, so doing it more than
    once must do no harm."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if self._graph is None:
            self._graph = self._record()
        self._graph.replay()

    def _record(self) -> torch.cuda.CUDAGraph:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._work()
        return graph
