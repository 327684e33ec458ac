"""TensorBoard events with the tag names of CleanRL, in addition to the CSV files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ablate.records.schema import EndState


class TensorBoard:
    """Writes scalars under `<run>/tensorboard/`. It imports torch, so it is created only for logger=tensorboard."""

    def __init__(self, folder: Path, first_step: int | None, settings: Mapping[str, Any]) -> None:
        """first_step: of a resumed run; what was written from this step on counts no longer. settings: by dotted key,
        for the table of hyperparameters."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)
        self._settings = {
            key: value if isinstance(value, bool | int | float) else str(value) for key, value in settings.items()
        }

    def write(self, step: int, scalars: dict[str, float]) -> None:
        for tag, value in scalars.items():
            self._writer.add_scalar(tag, value, step)

    def flush(self) -> None:
        """Nothing to do: after a resume, `first_step` hides what came after the checkpoint."""

    def close(self, state: EndState, final_score: float | None) -> None:
        scores = {} if final_score is None else {"final_score": final_score}
        self._writer.add_hparams(self._settings, scores, run_name=".")  # in the run's own folder
        self._writer.close()
