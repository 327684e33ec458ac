"""The files of a run: names, columns and their versions. A change of columns is a new version."""

from __future__ import annotations

from pathlib import Path

SCHEMA_VERSION = 1

MANIFEST = "manifest.json"
STATUS = "status.json"
EPISODES = "episodes.csv"
UPDATES = "updates.csv"
EVALUATIONS = "evaluations.csv"
SCORES = "scores.csv"  # what src/evaluate.py played
VIDEOS = "videos"
LAST_CHECKPOINT = "checkpoints/last.safetensors"
BEST_CHECKPOINT = "checkpoints/best.safetensors"
REPLAY_FILES = "replay-*.safetensors"  # of save_replay, beside the checkpoint that goes with it
STUDY = "study.json"  # of a sweep's folder: what is compared
CELL = "cell.json"  # of a cell's folder: its attempts, and how each ended
CELL_LOG = "cell.log"  # what the cell's process printed
LEARNING_CURVE = "figures/learning_curve.png"
REPORT = "report.html"  # of a sweep's folder

# Returns and rewards are raw (unshifted, unscaled, unclipped); times are seconds of training since the first start.
COLUMNS: dict[str, tuple[str, ...]] = {
    EPISODES: (
        "episode", "worker", "global_step", "wall_time_s", "episodic_return", "episodic_length",
        "mean_step_reward", "moving_average", "terminated", "truncated",
    ),
    UPDATES: (
        "update", "global_step", "wall_time_s", "policy_loss", "value_loss", "entropy", "grad_norm", "staleness",
        "learning_rate",
    ),
    EVALUATIONS: (
        "evaluation", "global_step", "update", "wall_time_s", "episode", "episodic_return", "episodic_length",
        "horizon", "protocol",
    ),
    SCORES: ("episode", "episodic_return", "episodic_length", "horizon", "protocol"),
}  # fmt: skip
DQN_UPDATES = (  # the columns of updates.csv where DQN wrote it
    "update", "global_step", "wall_time_s", "td_loss", "q_mean", "grad_norm", "epsilon", "beta",
    "effective_sample_size", "sample_age", "learning_rate",
)  # fmt: skip
WALL_CLOCK_COLUMNS = ("wall_time_s",)  # what may differ between two runs of the same interleaved configuration
STATES = ("running", "completed", "interrupted", "failed")


def columns_under(header: str, name: str) -> tuple[str, ...]:
    """The columns of this table that a file with such a header has: those written here, if it is another."""
    return DQN_UPDATES if name == UPDATES and header == ",".join(DQN_UPDATES) else COLUMNS[name]


def cell_folder(sweep: Path, arm: str, seed: int) -> Path:
    """Where a sweep's cell lies."""
    return sweep / arm / f"seed={seed}"
