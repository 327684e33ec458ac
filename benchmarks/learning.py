"""That A3C learns a game, for src/benchmark.py: Breakout for some minutes, next to a policy that acts at random."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console

from ablate.analysis.statistics import Interval, interval, mean
from ablate.config.schema import Config
from ablate.config.serial import from_dict
from ablate.envs.make import make_env
from ablate.paths import ROOT
from ablate.play.episodes import play_in_processes
from ablate.records.checkpoint import read_checkpoint
from ablate.records.schema import LAST_CHECKPOINT
from ablate.seeding import Role, draw_seed, generator
from benchmarks.a3c import table_of

GAMES = 100  # to score a policy
FACTOR = 2.0  # clearly better: the interval's lower end above so many times the upper end of random play's
TRAINING = (
    "algo=a3c", "env=breakout", "model=conv_lstm_42", "max_episodes=null", "evaluation.every_seconds=null",
    "evaluation.every_steps=null", "figures=false", "total_steps=1000000000",
)  # fmt: skip
STOPPED = 128 + signal.SIGINT  # the program's exit code


def benchmark_learning(console: Console, seconds: float, repeats: int, workers: list[int]) -> None:
    """A run for each number of workers and each of `repeats` seeds; its policy samples its actions in GAMES games."""
    table = table_of(
        f"Breakout: mean score of {GAMES} whole games, with its 95% CI",
        f"clearly: its lower end is above {FACTOR:g} times the upper end of random play's",
        ("policy",),
        ("workers", "seed", "steps", "score", "95% CI", "clearly"),
    )
    random: Interval | None = None
    for n in workers:
        for seed in range(1, repeats + 1):
            with tempfile.TemporaryDirectory(prefix="ablate-benchmark-") as folder:
                train(Path(folder, "run"), seconds, f"workers={n}", f"seed={seed}")
                path = Path(folder, "run", LAST_CHECKPOINT)
                state = read_checkpoint(path).state
                config = from_dict(state["config"])
                if random is None:
                    random = interval(random_scores(config), mean)
                    table.add_row("random", "", "", "", *cells(random), "")
                trained = interval(trained_scores(path, config), mean)
            better = "yes" if trained.low > FACTOR * random.high else "no"
            table.add_row("A3C-LSTM", str(n), str(seed), f"{state['counters']['steps']:,}", *cells(trained), better)
    console.print(table)


def train(folder: Path, seconds: float, *overrides: str) -> None:
    """A run that is stopped as Ctrl-C stops it, with a checkpoint. Its progress goes to stderr."""
    run = [sys.executable, str(ROOT / "src/run.py"), *TRAINING, *overrides, f"hydra.run.dir={folder}"]
    program = subprocess.Popen(run, stdout=sys.stderr)
    try:
        program.wait(seconds)
    except subprocess.TimeoutExpired:
        program.send_signal(signal.SIGINT)
        if program.wait() == STOPPED:
            return
    finally:
        program.kill()
    raise RuntimeError(f"{' '.join(run)} ended with code {program.returncode}")


def trained_scores(checkpoint: Path, config: Config) -> np.ndarray:
    streams = generator(0, Role.evaluation).spawn(GAMES)
    played = play_in_processes(checkpoint, None, True, streams, config.hang_timeout_s)
    return np.array([episode.score.episodic_return for episode in played])


def random_scores(config: Config) -> np.ndarray:
    """All actions are alike, in the same games."""
    env = make_env(config.env, training=False)
    scores = []
    for stream in generator(0, Role.evaluation).spawn(GAMES):
        env.reset(seed=draw_seed(stream))
        points, over = 0.0, False
        while not over:
            _, reward, terminated, truncated, _ = env.step(int(stream.integers(env.action_space.n)))  # type: ignore[attr-defined]
            points += float(reward)
            over = terminated or truncated
        scores.append(points)
    return np.array(scores)


def cells(score: Interval) -> tuple[str, str]:
    return f"{score.value:.2f}", f"{score.low:.2f}–{score.high:.2f}"
