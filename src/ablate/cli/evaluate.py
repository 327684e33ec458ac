"""Play a saved run:  python src/evaluate.py run=<folder or checkpoint> episodes=100 video=true"""

from __future__ import annotations

import csv
import importlib.util
import io
import os
import signal
import sys
import time
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import FrameType

import gymnasium
import numpy as np
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.progress import Progress, TextColumn
from yaml import YAMLError

from ablate.cli.arguments import refuse_number
from ablate.cli.hydra_app import exit_code
from ablate.cli.video import refuse_missing_ffmpeg, rgb, same_size, steps_per_second, write_images, write_video
from ablate.config.choices import ActionChoice, Display
from ablate.config.derived import evaluation_horizon, horizon_notes
from ablate.config.plugins import import_plugins
from ablate.config.schema import LARGEST, LARGEST_SEED, Config, ConfigError
from ablate.config.serial import read_config
from ablate.config.validation import suggest
from ablate.envs.make import kind_of
from ablate.parallel.closing import close_now, closing_at_end
from ablate.parallel.descendants import Guard, ending_descendants
from ablate.parallel.signals import Interrupted
from ablate.parallel.supervisor import ChildFailed
from ablate.paths import install, locate, shown
from ablate.play.episodes import Episode, make_envs, play, play_in_processes
from ablate.play.policy import Policy
from ablate.records.checkpoint import find_checkpoint, read_checkpoint
from ablate.records.display import resolve_mode
from ablate.records.files import refuse_unwritable, replace_atomically
from ablate.records.schema import COLUMNS, MANIFEST, SCORES, VIDEOS
from ablate.records.terminal import PlainConsole, print_if_read
from ablate.runs.run import RunFailed
from ablate.seeding import Role, generator

HELP = """Play a saved run:  python src/evaluate.py run=<folder or checkpoint> [key=value ...]

  run=<path>        a run's folder (its last checkpoint), or a file: <run>/checkpoints/best.safetensors
  episodes=20       number of episodes to play
  horizon=null      steps after which an episode is cut; null: as in the run's own evaluations
  action=null       mode: the most likely action; sample: a draw from the policy (DQN: ε-greedy); null: as in the run
  seed=0            seed of the episodes' starts and of the policy's draws
  video=false       true: write mp4 videos of the best and the median episode to <run>/videos (extra [video])
  frames=false      true: write the same two episodes as numbered images to <run>/videos/evaluation-best/ and -median/
  render=null       human: show the episodes in a window
  plugins=[]        your own modules with which the run was trained

The scores replace those in <run>/scores.csv. Games are played to their end, with all lives and raw scores."""
LINE_EVERY_S = 10.0  # time between two progress lines, which replace the progress bar if there is no terminal
LEAST_WIDTH_OF_BAR = 80  # columns; in a narrower terminal, only the text is shown
ENOUGH_EPISODES = 30  # the mean of this many returns is approximately normally distributed
MOST_EPISODES = 1_000_000


@dataclass
class Options:
    """The options that can be given as key=value: see HELP."""

    run: str = ""
    episodes: int = 20
    horizon: int | None = None
    action: ActionChoice | None = None
    seed: int = 0
    video: bool = False
    frames: bool = False
    render: str | None = None
    plugins: list[str] = field(default_factory=list)


def main() -> None:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(HELP)
        return
    options = read_options(sys.argv[1:])
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)
    guard = Guard()  # environments may start programs
    try:
        with closing_at_end(), ending_descendants(guard.mark):
            evaluate(options)
    finally:
        guard.close()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)


def evaluate(options: Options) -> None:
    """Play, write the scores, print them, and film what was asked for."""
    import_plugins(options.plugins)
    path = find_checkpoint(locate(options.run))
    checkpoint = read_checkpoint(path)
    config = read_config(path, checkpoint.state["config"])
    folder = next((f for f in path.parents[:2] if (f / MANIFEST).exists()), path.parent)
    horizon = options.horizon or evaluation_horizon(config)
    fps = drawing_rate(config) if options.video or options.frames else 0.0
    if options.video or options.frames:
        refuse_unwritable(folder / VIDEOS)
    try:
        refuse_unwritable(folder)
    except ConfigError as error:
        print(f"note     {error}: the scores are only printed", file=sys.stderr)
    for note in () if options.horizon else horizon_notes(config, "horizon"):
        print_if_read(f"note     {note}")
    streams = episode_streams(options.seed, options.episodes)
    action = options.action or config.evaluation.action
    sample = action == ActionChoice.sample
    if config.env.has_images and not options.render:
        played = play_in_processes(checkpoint, horizon, sample, streams, config.hang_timeout_s)
    else:
        env = shown_env(config, horizon, options.render)
        played = play(Policy.of(checkpoint, sample), [env], streams)
    try:
        episodes = sorted(with_progress(played, options.episodes), key=lambda episode: episode.number)
    except ChildFailed as failure:
        raise RunFailed(str(failure)) from failure

    print_if_read(f"{config.env.id}, {path.name}, {options.episodes} episodes of at most {horizon} steps, {action}")
    print_if_read("\n".join(summary(episodes, kind_of(config.env).reference_scores(config.env))))
    replaced = " (its earlier scores are replaced)" if (folder / SCORES).exists() else ""
    write_scores(folder / SCORES, episodes, horizon, action)
    print_if_read(f"scores   {shown(folder / SCORES)}{replaced}")
    for name, episode in best_and_median(episodes).items():
        path = folder / VIDEOS / f"evaluation-{name}"
        note = f"(episode {episode.number + 1}: {episode.score.episodic_return:g})"
        if options.video:
            frames = same_size(replayed(config, horizon, episode), config.env.id)
            write_video(frames, fps, path.with_suffix(".mp4"))
            print_if_read(f"video    {shown(path.with_suffix('.mp4'))} {note}")
        if options.frames:
            write_images(replayed(config, horizon, episode), path)
            print_if_read(f"frames   {shown(path)}/ {note}")


def write_scores(path: Path, episodes: list[Episode], horizon: int | None, action: ActionChoice) -> None:
    """Raises RunFailed if the file cannot be written."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS[SCORES])
    writer.writerows((e.number + 1, *e.score, horizon, action) for e in episodes)
    try:
        replace_atomically(path, text.getvalue().encode())
    except OSError as error:
        raise RunFailed(f"the scores above could not be written: {error}") from error


def read_options(arguments: list[str]) -> Options:
    """Parse key=value arguments. Raises ConfigError for an unknown option and a value out of range."""
    schema = OmegaConf.structured(Options)
    known = [field.name for field in fields(Options)]
    if arguments and "=" not in arguments[0]:  # a path without run=, as src/plot.py accepts it
        arguments = [f"run={arguments[0]}", *arguments[1:]]
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        if not equals or key not in known:
            raise ConfigError(f"{argument}: no such option{suggest(key, known)} (there are: {', '.join(known)})")
    values, booleans = schema, [field.name for field in fields(Options) if field.type == "bool"]
    run = ""
    for argument in arguments:
        key, _, value = argument.partition("=")
        if value == MISSING:
            raise ConfigError(f"{argument}: no value")
        if key == "run":
            run = value  # any path, also one with characters that have a meaning in YAML
            continue
        if key in booleans:
            refuse_number(argument, [value])
        try:
            values = OmegaConf.merge(values, OmegaConf.from_dotlist([argument]))
            OmegaConf.resolve(values)
        except (OmegaConfBaseException, YAMLError) as error:
            needs_list = "is not a ListConfig" in str(error)
            why = f"a list is needed, as in {key}=[{value}]" if needs_list else str(error).splitlines()[0]
            raise ConfigError(f"{argument}: {why}") from error
    options = OmegaConf.to_object(values)
    assert isinstance(options, Options)
    options.run = run
    if not options.run:
        raise ConfigError("run: no value; give run=<a run's folder or a checkpoint>")
    for key, least, most in (("episodes", 1, MOST_EPISODES), ("horizon", 1, LARGEST), ("seed", 0, LARGEST_SEED)):
        value = getattr(options, key)
        if value is not None and not least <= value <= most:
            raise ConfigError(f"{key}={value}: it must be at least {least} and at most {most}")
    if options.render not in (None, "human"):
        raise ConfigError(f"render={options.render}: only render=human is possible")
    if options.render and (options.video or options.frames):
        raise ConfigError(f"render=human {'video' if options.video else 'frames'}=true: give only one of them")
    if options.video:
        if importlib.util.find_spec("moviepy") is None:
            raise ConfigError(f"video=true: needs the extra [video]; run {install('video')}")
        refuse_missing_ffmpeg()
    return options


def episode_streams(seed: int, episodes: int) -> list[np.random.Generator]:
    """A random stream per episode, none of which training or a run's own evaluations draw from, whatever their seed."""
    return generator(seed, Role.later_evaluation).spawn(episodes)


def with_progress(episodes: Iterator[Episode], total: int) -> Iterator[Episode]:
    """Pass the episodes on and show the progress on stderr: a bar in a terminal, else one line every LINE_EVERY_S."""
    returns: list[float] = []
    printed_at = time.monotonic()
    live = sys.stderr.isatty() and resolve_mode(Display.auto) == Display.live
    console = PlainConsole(stderr=True)
    columns = () if console.width >= LEAST_WIDTH_OF_BAR else (TextColumn("{task.description}"),)  # (): all of rich's
    with Progress(*columns, console=console, transient=True, disable=not live) as bar:
        task = bar.add_task(f"episode 0 of {total}", total=total)
        for episode in episodes:
            yield episode
            returns.append(episode.score.episodic_return)
            line = f"episode {len(returns)} of {total}, mean return so far {np.mean(returns):.2f}"
            bar.update(task, advance=1, description=line)
            if not live and time.monotonic() - printed_at > LINE_EVERY_S:
                printed_at = time.monotonic()
                print(line, file=sys.stderr, flush=True)


def summary(episodes: list[Episode], references: tuple[float, float] | None) -> list[str]:
    """The returns in a few lines: mean with its 95% confidence interval, median, range and human-normalised score.

    The human-normalised score is (return - random) / (human - random). references: the returns of a random policy and
    of a human; None if they are unknown."""
    returns = np.array([episode.score.episodic_return for episode in episodes])
    steps = sum(episode.score.episodic_length for episode in episodes)
    lines = [
        f"return   mean {mean_and_interval(returns)}",
        f"         median {np.median(returns):.2f}   min {returns.min():.2f}   max {returns.max():.2f}",
        f"per step mean {returns.sum() / steps:.4f}",
    ]
    if references is not None:
        random, human = references
        normalised = mean_and_interval((returns - random) / (human - random))
        lines.append(f"human    {normalised}; a random policy ({random:g}) scores 0 and a human ({human:g}) scores 1")
    if 1 < len(episodes) < ENOUGH_EPISODES:
        lines.append(
            f"note     from {len(episodes)} episodes: the interval assumes normally distributed returns; if they are "
            "not, it may contain impossible values; episodes=100 gives a better interval"
        )
    return lines


def mean_and_interval(values: np.ndarray) -> str:
    """The mean and the half width of its 95% confidence interval by Student's t."""
    from scipy import stats

    if len(values) < 2:
        return f"{values.mean():.2f} (no interval from one episode)"
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{values.mean():.2f} ± {half:.2f} (95 %)"


def shown_env(config: Config, horizon: int | None, render_mode: str | None) -> gymnasium.Env:
    """The run's environment as in its evaluations, with a render mode."""
    return make_envs(config, horizon, 1, render_mode=render_mode)[0]


def drawing_rate(config: Config) -> float:
    """Steps per second of a film. Raises ConfigError before anything is played if there are no frames to draw."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws frames without a screen
    try:
        env = shown_env(config, None, "rgb_array")
    except ConfigError as error:
        raise ConfigError(f"{error}; frames need an environment with render_mode=rgb_array") from error
    try:
        if "rgb_array" not in (env.metadata.get("render_modes") or ()):
            raise ConfigError(f"{config.env.id}: this environment cannot draw its frames (render_mode rgb_array)")
        env.reset(seed=0)
        rgb(env.render(), config.env.id)
        return steps_per_second(env.metadata)
    finally:
        close_now(env.close)


def best_and_median(episodes: list[Episode]) -> dict[str, Episode]:
    """The first episode with the best return, and the median episode (the lower one if two are in the middle)."""
    ranked = sorted(episodes, key=lambda e: e.score.episodic_return)
    best = max(episodes, key=lambda e: e.score.episodic_return)
    return {"best": best, "median": ranked[(len(ranked) - 1) // 2]}


def replayed(config: Config, horizon: int | None, episode: Episode) -> Iterator[np.ndarray]:
    """Play an episode again from its seed and its actions. Yields its first frame and one frame per step.

    Raises ConfigError at the end if the return differs from the episode's."""
    total, env = 0.0, shown_env(config, horizon, "rgb_array")
    try:
        env.reset(seed=episode.seed)
        yield rgb(env.render(), config.env.id)
        for action in episode.actions:
            total += float(env.step(copy(action))[1])  # the environment may alter what it gets
            yield rgb(env.render(), config.env.id)
    finally:
        close_now(env.close)
    if total != episode.score.episodic_return:
        raise ConfigError(
            f"{config.env.id} is not reproducible from a seed (episode {episode.number + 1}: the return was "
            f"{episode.score.episodic_return:g}, and {total:g} when played again); use render=human"
        )


def program() -> int:
    """Run `main` and return its exit code."""
    return exit_code(main)
