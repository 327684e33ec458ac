"""TensorBoard events with CleanRL's tag names, beside the CSV files."""

from __future__ import annotations

from pathlib import Path


class TensorBoard:
    """Writes scalars under `<run>/tensorboard/`. Imports torch, so only logger=tensorboard makes one."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def write(self, step: int, **scalars: float) -> None:
        """Scalars at an environment step; a tag's slash is written as two underscores: charts__SPS."""
        for tag, value in scalars.items():
            self._writer.add_scalar(tag.replace("__", "/"), value, step)

    def close(self) -> None:
        self._writer.close()
