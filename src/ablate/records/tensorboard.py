"""TensorBoard events with the tag names of CleanRL, in addition to the CSV files."""

from __future__ import annotations

from pathlib import Path


class TensorBoard:
    """Writes scalars under `<run>/tensorboard/`. It imports torch, so it is created only for logger=tensorboard."""

    def __init__(self, folder: Path, first_step: int | None) -> None:
        """first_step: of a resumed run; what was written from this step on counts no longer."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)

    def write(self, step: int, **scalars: float) -> None:
        """Write scalars at an environment step. In argument names, two underscores stand for the slash: charts__SPS."""
        for tag, value in scalars.items():
            self._writer.add_scalar(tag.replace("__", "/"), value, step)

    def close(self) -> None:
        self._writer.close()
