"""Folders of sweeps with invented numbers, for tests of code that reads them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
from helpers import config_of

from ablate.config.serial import to_dict
from ablate.records.files import write_json
from ablate.records.manifest import write_manifest, write_status
from ablate.records.schema import CELL, CELL_LOG, COLUMNS, EPISODES, EVALUATIONS, STUDY, UPDATES
from ablate.types import Counters

METRICS: dict[str, dict[str, Any]] = {
    "final_score": {
        "label": "final evaluation", "source": "evaluations", "statistic": "mean", "window": [1.0, 1.0],
        "budget": "own",
    },
    "auc": {"label": "mean evaluation", "source": "evaluations", "statistic": "auc"},
    "speed": {
        "label": "steps to reach -1", "source": "evaluations", "statistic": "first_reach", "score": -1.0,
        "smaller_is_better": True,
    },
    "fluctuation": {
        "label": "spread of the last fifth", "source": "episodes", "statistic": "std", "x": "episode",
        "window": [0.8, 1.0], "smaller_is_better": True,
    },
}  # fmt: skip
# The columns of updates.csv after the common ones.
ALGORITHM_COLUMNS = {
    "a3c": ("policy_loss", "value_loss", "entropy", "grad_norm", "staleness", "learning_rate"),
    "dqn": ("td_loss", "q_mean", "grad_norm", "epsilon", "beta", "learning_rate"),
}
DEFAULTS = {"x": "global_step", "window": [0.0, 1.0], "budget": "equal", "score": None, "smaller_is_better": False}


def write_sweep(
    folder: Path,
    arms: dict[str, dict[str, Any]],
    seeds: range = range(6),
    episodes: int = 60,
    claims: tuple[dict[str, Any], ...] = (),
    failed: tuple[tuple[str, int], ...] = (),
    missing: tuple[tuple[str, int], ...] = (),
    **study: Any,
) -> Path:
    """Write a sweep's folder; curves rise from -6 to each arm's level, with noise that depends on the seed.

    arms: {name: {overrides: [...], level: final mean reward per step, speed: episodes to reach it, length: steps per
    episode, levels: of factors, arm and environment: of a study with sweep.environments}}."""
    study_arms = {}
    for a, (arm, shape) in enumerate(arms.items()):
        base = config_of(*shape.get("overrides", []), "schedule=interleaved", "evaluation.every_seconds=null")
        length = shape.get("length", 200)
        config = to_dict(base)
        study_arms[arm] = {
            "label": shape.get("label", arm),
            "overrides": shape.get("overrides", []),
            "identity": f"{a:08x}",
            "config": config,
            "levels": shape.get("levels", {}),
            "arm": shape.get("arm", ""),
            "environment": shape.get("environment", ""),
        }
        for seed in seeds:
            if (arm, seed) in missing:
                continue
            cell = folder / arm / f"seed={seed}"
            cell.mkdir(parents=True)
            own = copy.deepcopy(base)
            own.seed = seed
            write_manifest(cell, own, ["src/run.py", f"seed={seed}"], [f"seed={seed}"])
            rng = np.random.default_rng([a, seed])
            level, speed = shape.get("level", -0.5) + 0.3 * rng.standard_normal(), shape.get("speed", 15.0)
            _write_tables(cell, rng, level, speed, length, episodes, base.evaluation.horizon or 200, base.algo.name)
            has_failed = (arm, seed) in failed
            write_status(cell, "failed" if has_failed else "completed",
                         "worker-0 was killed by SIGKILL" if has_failed else "",
                         Counters(episodes * length // 10, episodes * length, episodes))  # fmt: skip
            attempt = {"started": "2026-11-21T12:00:00+00:00", "seconds": 3.5 + a, "max_rss_mb": 300.0, "host": "here"}
            outcome = (
                {"outcome": "failed", "reason": "worker-0 was killed by SIGKILL"}
                if has_failed
                else {"outcome": "completed", "reason": ""}
            )
            write_json(cell / CELL, {"attempts": [{**attempt, **outcome}]})
            (cell / CELL_LOG).write_text(
                "a line of the log\nworker-0 was killed by SIGKILL\n" if has_failed else "done\n"
            )
    write_json(folder / STUDY, {
        "schema_version": 1,
        "name": folder.name,
        "question": "What does this setting do?",
        "command": ["src/run.py", f"sweep={folder.name}"],
        "arms": study_arms,
        "seeds": list(seeds),
        "baseline": next(iter(arms)),
        "metric": "final_score",
        "metrics": {name: {**DEFAULTS, **metric} for name, metric in METRICS.items()},
        "smallest_effect": 0.2,
        "claims": [{"real_time": False, **claim} for claim in claims],
        "machine": {"cpu": "invented", "cpus": 2},
        "git": None,
        "versions": {},
        "started": "2026-11-21T12:00:00+00:00",
        **study,
    })  # fmt: skip
    return folder


def _write_tables(
    cell: Path,
    rng: np.random.Generator,
    level: float,
    speed: float,
    length: int,
    episodes: int,
    horizon: int,
    algo: str,
) -> None:
    def curve(episode: np.ndarray, noise: float) -> np.ndarray:
        return level - (6 + level) * np.exp(-episode / speed) + noise * rng.standard_normal(len(episode))

    n = np.arange(1, episodes + 1)
    per_step = curve(n, 0.2)
    steps, times = n * length, n * length * 1e-5
    moving = per_step.copy()
    for i in range(1, episodes):
        moving[i] = 0.99 * moving[i - 1] + 0.01 * per_step[i]
    _write(cell, EPISODES, zip(n, n % 2, steps, times, per_step * length, [length] * episodes, per_step, moving,
                               [False] * episodes, [True] * episodes, strict=True))  # fmt: skip
    updates = np.arange(100, steps[-1] // 10 + 1, 100)
    columns = rng.standard_normal((len(updates), 4))
    staleness = rng.integers(0, 4, len(updates))
    _write(
        cell,
        UPDATES,
        ((u, u * 10, u * 1e-4, *row, s, 1e-4) for u, row, s in zip(updates, columns, staleness, strict=True)),
        ALGORITHM_COLUMNS[algo],
    )
    every = max(length, steps[-1] // 12)
    at = np.append(np.arange(every, steps[-1], every), steps[-1])
    scores = curve(at / length, 0.05)
    _write(cell, EVALUATIONS, (
        (i, x, x // 10, x * 1e-5, k, (score + 0.1 * rng.standard_normal()) * horizon, horizon, horizon, "mode")
        for i, (x, score) in enumerate(zip(at, scores, strict=True), start=1) for k in range(1, 4)
    ))  # fmt: skip


def _write(cell: Path, name: str, rows: Any, more_columns: tuple[str, ...] = ()) -> None:
    lines = [",".join((*COLUMNS[name], *more_columns)), *(",".join(map(str, row)) for row in rows)]
    (cell / name).write_text("\n".join(lines) + "\n")
