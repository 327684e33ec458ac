"""Log a run to MLflow: an experiment per study, a run per seed, with the arm as a tag."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from typing import Any

from ablate.parallel.machine import lock
from ablate.paths import ROOT
from ablate.records.log import RunName, Waiting
from ablate.records.schema import EndState

BATCH = 1000  # metrics per request, the most that MLflow takes
STATUS = {"completed": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


class MlflowLog:
    """Sends rows at each checkpoint, so a resumed run has none of them twice."""

    def __init__(self, store: str, run: RunName, settings: Mapping[str, Any]) -> None:
        """store: a server's address, or a file for an SQLite database. settings: by dotted key."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient
        from mlflow.entities import Param

        for library in ("mlflow", "alembic"):  # they report each table of a new database
            logging.getLogger(library).setLevel(logging.WARNING)
        self._waiting = Waiting()
        if "://" in store:
            self._client, where = MlflowClient(store), None
            self._id = self._opened(run, None)
        else:
            file = ROOT / store
            file.parent.mkdir(parents=True, exist_ok=True)
            where = os.open(file.parent, os.O_RDONLY)
            try:
                lock(where, wait=True)  # several cells may be about to make the database, or the experiment
                self._client = MlflowClient(f"sqlite:///{file}?timeout=60")
                self._id = self._opened(run, (file.parent / "mlartifacts").as_uri())
            finally:
                os.close(where)
        if not self._client.get_run(self._id).data.params:
            params = [Param(key, str(value)) for key, value in settings.items()]
            for i in range(0, len(params), 100):  # the most that MLflow takes
                self._client.log_batch(self._id, params=params[i : i + 100])

    def _opened(self, run: RunName, artifacts: str | None) -> str:
        """The id of the run with this key, which is made if there is none."""
        experiment = self._client.get_experiment_by_name(run.group)
        id = experiment.experiment_id if experiment else self._client.create_experiment(run.group, artifacts)
        earlier = self._client.search_runs([id], f"tags.key = '{run.key}'", max_results=1)
        if earlier:
            self._client.update_run(earlier[0].info.run_id, "RUNNING")
            return str(earlier[0].info.run_id)
        tags = {"key": run.key} | ({"study": run.group, "arm": run.arm} if run.arm else {})
        return str(self._client.create_run(id, tags=tags, run_name=run.name).info.run_id)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        self._waiting.add(step, scalars)

    def flush(self) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [
            Metric(tag, float(value), now, step)
            for step, scalars in self._waiting.taken()
            for tag, value in scalars.items()
        ]
        for i in range(0, len(metrics), BATCH):
            self._client.log_batch(self._id, metrics=metrics[i : i + BATCH])

    def close(self, state: EndState, final_score: float | None) -> None:
        if final_score is not None:
            self._client.log_metric(self._id, "final_score", final_score)
        self._client.set_terminated(self._id, STATUS[state])
