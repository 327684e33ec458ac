"""Log a run to Weights & Biases: a group per study, a job type per arm, a run per seed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ablate.records.log import RunName, Waiting
from ablate.records.schema import EndState

PROJECT = "ablate"


class WandbLog:
    """Sends rows at each checkpoint, so a resumed run has none of them twice."""

    def __init__(self, mode: str, folder: Path, run: RunName, config: dict[str, Any]) -> None:
        """mode: offline writes to <run>/wandb, for `wandb sync`; online sends to the server."""
        import wandb

        self._waiting = Waiting()
        self._run = wandb.init(
            project=PROJECT,
            group=run.group,
            job_type=run.arm,
            name=run.name,
            id=hashlib.sha256(run.key.encode()).hexdigest()[:16],
            resume="allow",
            config=config,
            dir=folder,
            mode=mode,
            settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
        )
        self._run.define_metric("*", step_metric="global_step")

    def write(self, step: int, scalars: dict[str, float]) -> None:
        self._waiting.add(step, scalars)

    def flush(self) -> None:
        for step, scalars in self._waiting.taken():
            self._run.log({"global_step": step, **scalars})

    def close(self, state: EndState, final_score: float | None) -> None:
        if final_score is not None:
            self._run.summary["final_score"] = final_score
        self._run.summary["state"] = state
        self._run.finish(exit_code=int(state == "failed"))
