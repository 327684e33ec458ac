"""A3C's score on Breakout after some minutes of training, compared with a random policy and with the old default."""

from __future__ import annotations

import signal
import subprocess
import sys
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
from benchmarks.common import Options, table_of, temporary_folder, yes_or_no

GAMES = 100  # that score a policy
FACTOR = 2.0  # clearly better: the lower end of the interval is above this many times the upper end of random play's
TRAINING = (
    "algo=a3c", "env=breakout", "max_episodes=null", "total_steps=10000000",
    "evaluation.every_seconds=null", "evaluation.every_steps=null", "figures=false",
)  # fmt: skip
SETTINGS: dict[str, tuple[str, ...]] = {
    "default": (),
    "old default": (  # until November 2026: one small frame, an LSTM, Adam, sums over 20 steps
        "model=conv_lstm_42", "envs_per_worker=8", "algo.t_max=20", "algo.loss_reduction=sum", "algo.max_grad_norm=50",
        "optimizer=adam", "optimizer.lr=7e-4", "optimizer.betas=[0.9,0.999]", "optimizer.eps=1e-8",
        "optimizer.amsgrad=true",
    ),
}  # fmt: skip
STOPPED = 128 + signal.SIGINT  # the program's exit code


def benchmark_learning(console: Console, options: Options) -> None:
    """One run per setting, number of workers and seed. Its final policy samples its actions in GAMES games."""
    table = table_of(
        f"Breakout: mean score of {GAMES} whole games, with its 95% CI",
        f"clearly: the lower end of its CI is above {FACTOR:g} times the upper end of random play's\n"
        "ratio: score of the default, divided by that of the old default with the same workers and seed",
        ("policy",),
        ("workers", "seed", "steps", "score", "95% CI", "clearly", "ratio"),
    )
    random: Interval | None = None
    for n in options.workers:
        for seed in range(1, options.repeats + 1):
            scores = dict[str, float]()
            for name, overrides in SETTINGS.items():
                with temporary_folder() as folder:
                    train_for(folder / "run", options.seconds, *overrides, f"workers={n}", f"seed={seed}")
                    path = folder / "run" / LAST_CHECKPOINT
                    state = read_checkpoint(path).state
                    config = from_dict(state["config"])
                    if random is None:
                        random = interval(random_scores(config), mean)
                        table.add_row("random", "", "", "", *cells(random), "", "")
                    trained = interval(trained_scores(path, config), mean)
                scores[name] = trained.value
                better = yes_or_no(trained.low > FACTOR * random.high)
                ratio = f"{scores['default'] / trained.value:.1f}" if name != "default" and trained.value else ""
                steps = f"{state['counters']['steps']:,}"
                table.add_row(name, str(n), str(seed), steps, *cells(trained), better, ratio)
    console.print(table)


def train_for(folder: Path, seconds: float, *overrides: str) -> None:
    """Run the program and stop it as Ctrl-C does, so that it writes a checkpoint. Its progress goes to stderr."""
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
    played = play_in_processes(read_checkpoint(checkpoint), None, True, streams, config.hang_timeout_s)
    return np.array([episode.score.episodic_return for episode in played])


def random_scores(config: Config) -> np.ndarray:
    """Scores in the same games with uniformly random actions."""
    env = make_env(config.env, training=False)
    scores = []
    for stream in generator(0, Role.evaluation).spawn(GAMES):
        env.reset(seed=draw_seed(stream))
        points, ended = 0.0, False
        while not ended:
            _, reward, terminated, truncated, _ = env.step(int(stream.integers(env.action_space.n)))  # type: ignore[attr-defined]
            points += float(reward)
            ended = terminated or truncated
        scores.append(points)
    return np.array(scores)


def cells(score: Interval) -> tuple[str, str]:
    return f"{score.value:.2f}", f"{score.low:.2f}–{score.high:.2f}"
