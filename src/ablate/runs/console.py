"""What a run says in the terminal beside its display: before it trains, and after."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from ablate.config.schema import AtariConfig, Config, DQNConfig
from ablate.records.checkpoint import Checkpoint
from ablate.records.schema import BEST_CHECKPOINT, EPISODES, EVALUATIONS, LAST_CHECKPOINT, LEARNING_CURVE, UPDATES
from ablate.types import Counters


def title(config: Config) -> str:
    """The run in a line."""
    crew = f"{config.workers} worker{'s' * (config.workers != 1)}"
    if config.replay:
        envs = config.envs_per_worker
        crew = f"{config.replay.name} replay · {envs} environment{'s' * (envs > 1)}"
    return f"{config.algo.name} · {config.env.id} · {crew} · {config.schedule} · {config.backend}"


def announcement(
    config: Config, folder: Path, resumed: Checkpoint | None, backend: str, replay: str, dropped: int
) -> Iterator[str]:
    """What is known before the first step. backend, replay: what was found out of them; dropped: rows of the CSVs."""
    yield f"run      {shown(folder)}"
    if backend and resumed is None:
        yield f"backend  {backend}"
    if replay:
        yield f"replay   {replay}"
    algo, total = config.algo, config.total_steps
    if isinstance(algo, DQNConfig) and total is not None and total <= algo.warmup_steps:
        yield f"note     total_steps={total} ends in algo.warmup_steps={algo.warmup_steps}: nothing is learned"
    if resumed is not None:
        yield from _resumption(config, resumed, dropped)
    elif config.load:
        yield f"loaded   {config.load}"


def _resumption(config: Config, checkpoint: Checkpoint, dropped: int) -> Iterator[str]:
    """Where a resumed run goes on, and what is not as it was."""
    counters = Counters(**checkpoint.state["counters"])
    workers = checkpoint.state["workers"].values()
    later = f"; {dropped} later rows dropped from the CSVs" if dropped else ""
    yield f"resumed  at step {counters.steps}, episode {counters.episodes}{later}"
    if any(state.get("replay", ...) is None for state in workers):
        assert isinstance(config.algo, DQNConfig)
        steps = config.algo.warmup_steps
        yield f"note     the replay was not saved (save_replay=true): {steps} steps fill it, then learning goes on"
    if any(state.get("env", ...) is None for state in workers) and counters.steps:
        env = config.env
        how = " in env.threads" if isinstance(env, AtariConfig) and env.threads else ""
        yield f"note     the state of {env.id}{how} cannot be saved: new episodes begin"


def report(config: Config, folder: Path, counters: Counters, elapsed_s: float, interrupted: bool) -> None:
    """Draw the figure, and say what was done and where it is."""
    print(
        f"{'interrupted' if interrupted else 'completed'}: {counters.episodes} episodes, {counters.steps} steps, "
        f"{counters.updates} updates in {elapsed_s:.1f} s ({counters.steps / max(elapsed_s, 1e-9):.0f} steps/s)"
    )
    files = [EPISODES, UPDATES, EVALUATIONS, LAST_CHECKPOINT, BEST_CHECKPOINT]
    if config.figures:
        from ablate.analysis.figures import learning_curve
        from ablate.analysis.load import load_run

        try:
            learning_curve(load_run(folder), folder / LEARNING_CURVE)
            files.append(LEARNING_CURVE)
        except OSError as error:
            print(f"the figure could not be written: {error}", file=sys.stderr)
    for name in files:
        if (folder / name).exists():
            print(f"  {shown(folder / name)}")
    if interrupted:
        print(f"go on with: {resume_command(folder)}")


def resume_command(folder: Path) -> str:
    return f"python src/run.py resume={shown(folder)}"


def shown(path: Path) -> str:
    """A path as the user would type it: relative to the current folder where that is shorter."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
