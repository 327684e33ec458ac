"""The files of runs and sweeps: names, columns and their version. A change of columns is a new version."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

SCHEMA_VERSION = 1

MANIFEST = "manifest.json"
STATUS = "status.json"
EPISODES = "episodes.csv"
UPDATES = "updates.csv"
EVALUATIONS = "evaluations.csv"
SCORES = "scores.csv"  # the episodes that src/evaluate.py played
VIDEOS = "videos"
CHECKPOINTS = "checkpoints"
LAST_CHECKPOINT = "checkpoints/last.safetensors"
BEST_CHECKPOINT = "checkpoints/best.safetensors"
REPLAY_FILES = "replay-*.safetensors"  # written by save_replay=true, next to the checkpoint that names it
STUDY = "study.json"  # in a sweep's folder: what is compared
STUDY_SOURCE = "study.yaml"  # in a sweep's folder: a copy of the study's file, if it has one
CELL = "cell.json"  # in a cell's folder: its attempts and how each ended
CELL_LOG = "cell.log"  # the output of the cell's process
LEARNING_CURVE = "figures/learning_curve.png"
REPORT = "report.html"  # in a sweep's folder
VERDICTS = "verdict.md"  # in a sweep's folder
SWEEP_LOG = "sweep.log"  # in a sweep's folder: the output of detached sweeps
DETACHED = "detached.json"  # in a sweep's folder: the process of its last start, if that was detached, and how it ended

# Returns and rewards are raw (unshifted, unscaled, unclipped). Times are seconds of training since the first start.
COLUMNS: dict[str, tuple[str, ...]] = {
    EPISODES: (
        "episode", "worker", "global_step", "wall_time_s", "episodic_return", "episodic_length",
        "mean_step_reward", "moving_average", "terminated", "truncated",
    ),
    UPDATES: ("update", "global_step", "wall_time_s"),  # then the columns of the algorithm
    EVALUATIONS: (
        "evaluation", "global_step", "update", "wall_time_s", "episode", "episodic_return", "episodic_length",
        "horizon", "protocol",
    ),
    SCORES: ("episode", "episodic_return", "episodic_length", "horizon", "protocol"),
}  # fmt: skip
WALL_CLOCK_COLUMNS = ("wall_time_s",)  # may differ between two runs of the same interleaved configuration
EndState = Literal["completed", "interrupted", "failed"]
State = Literal["running", EndState]  # of a run
ENDED = ("completed", "failed")  # states of cells whose result is known
MOVING_AVERAGE_DECAY = 0.99  # of the moving average over episodes: decay · old + (1 - decay) · new


def columns_of(name: str, header: str) -> tuple[str, ...]:
    """The columns of a table with this header. If the header does not fit: the columns that are needed."""
    columns = COLUMNS[name]
    given = tuple(header.split(","))
    return given if name == UPDATES and given[: len(columns)] == columns else columns


def cell_folder(sweep: Path, arm: str, seed: int) -> Path:
    """The folder of a sweep's cell."""
    return sweep / arm / f"seed={seed}"
