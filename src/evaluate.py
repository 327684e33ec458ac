"""Play a saved run:  python src/evaluate.py run=<folder or checkpoint> episodes=20 video=true"""

from __future__ import annotations

import csv
import importlib.util
import io
import os
import sys
import warnings
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ablate import command_line
from ablate.config import ActionChoice, ConfigError, EnvConfig, evaluation_horizon, from_dict, locate, suggest
from ablate.evaluation import play
from ablate.policy import Policy
from ablate.records.checkpoint import find_checkpoint, read_checkpoint
from ablate.records.files import replace_atomically
from ablate.records.schema import COLUMNS, MANIFEST, SCORES, VIDEOS
from ablate.seeding import Role, generator

HELP = """Play a saved run:  python src/evaluate.py run=<folder or checkpoint> [key=value ...]

  run=<path>        a run's folder (its last checkpoint), or a file: <run>/checkpoints/best.safetensors
  episodes=20       how many to play
  horizon=null      steps after which an episode is cut; null: as in the run's own evaluations
  action=mode       mode: the most likely action; sample: a draw from the policy
  seed=0            of the starts, and of the draws
  video=false       true: an mp4 of the first episode, in <run>/videos (extra [video])
  render=null       human: watch it in a window

The scores are written to <run>/scores.csv, in place of the last ones."""


@dataclass
class Options:
    """What may be given as key=value: see HELP."""

    run: str = ""
    episodes: int = 20
    horizon: int | None = None
    action: ActionChoice = ActionChoice.mode
    seed: int = 0
    video: bool = False
    render: str | None = None


def main() -> None:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(HELP)
        return
    options = read_options(sys.argv[1:])
    path = find_checkpoint(locate(options.run))
    checkpoint = read_checkpoint(path)
    config = from_dict(checkpoint.state["config"])
    folder = next((f for f in path.parents[:2] if (f / MANIFEST).exists()), path.parent)
    horizon = options.horizon or evaluation_horizon(config)
    policy = Policy.of(checkpoint, options.action == "sample", options.seed)
    env = make_rendered_env(config.env, horizon, options, folder / VIDEOS)
    rng = generator(options.seed, Role.evaluation)
    try:
        scores = list(play(policy, env, options.episodes, rng))
    finally:
        env.close()

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS[SCORES])
    writer.writerows((i, *score, horizon, options.action) for i, score in enumerate(scores, start=1))
    replace_atomically(folder / SCORES, text.getvalue().encode())

    returns = np.array([score.episodic_return for score in scores])
    print(f"{config.env.id}, {path.name}, {options.episodes} episodes of at most {horizon} steps, {options.action}")
    print(f"return   mean {mean_and_interval(returns)}")
    print(f"         median {np.median(returns):.2f}   min {returns.min():.2f}   max {returns.max():.2f}")
    print(f"a step   mean {returns.sum() / sum(score.episodic_length for score in scores):.4f}")
    print(f"scores   {folder / SCORES}")
    if options.video:
        print(f"video    {folder / VIDEOS / 'evaluation-episode-0.mp4'}")


def read_options(arguments: list[str]) -> Options:
    """key=value arguments as Options. Raises ConfigError for what is not one of them or out of range."""
    schema = OmegaConf.structured(Options)
    known = [field.name for field in fields(Options)]
    if arguments and "=" not in arguments[0]:  # a bare path, as src/plot.py takes it
        arguments = [f"run={arguments[0]}", *arguments[1:]]
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        if not equals or key not in known:
            raise ConfigError(f"{argument}: no such option{suggest(key, known)} (there are: {', '.join(known)})")
    try:
        options = OmegaConf.to_object(OmegaConf.merge(schema, OmegaConf.from_dotlist(arguments)))
    except OmegaConfBaseException as error:
        given = next(argument for argument in arguments if argument.startswith(f"{error.full_key}="))
        raise ConfigError(f"{given}: {str(error).splitlines()[0]}") from error
    assert isinstance(options, Options)
    if not options.run:
        raise ConfigError("run: no value; give run=<a run's folder or a checkpoint>")
    for key in ("episodes", "horizon"):
        value = getattr(options, key)
        if value is not None and value < 1:
            raise ConfigError(f"{key}={value}: it must be at least 1")
    if options.render not in (None, "human"):
        raise ConfigError(f"render={options.render}: only human")
    if options.render and options.video:
        raise ConfigError("render=human video=true: give one of them")
    if options.video and importlib.util.find_spec("moviepy") is None:
        raise ConfigError("video=true: needs the extra [video]: pip install -e '.[video]'")
    return options


def make_rendered_env(env_config: EnvConfig, horizon: int | None, options: Options, videos: Path):  # type: ignore[no-untyped-def]
    """The run's environment, shown in a window or recorded if the options say so."""
    from gymnasium.wrappers import RecordVideo

    from ablate.envs.make import make_env

    if options.render:
        return make_env(env_config, horizon, render_mode=options.render)
    if not options.video:
        return make_env(env_config, horizon)
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws frames without a screen
    env = make_env(env_config, horizon, render_mode="rgb_array")
    if "rgb_array" not in env.metadata.get("render_modes", ()):
        raise ConfigError(f"video=true: {env_config.id} cannot draw its frames (render_mode rgb_array)")
    (videos / "evaluation-episode-0.mp4").unlink(missing_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other videos in the folder
        return RecordVideo(env, str(videos), lambda i: i == 0, name_prefix="evaluation", disable_logger=True)


def mean_and_interval(values: np.ndarray) -> str:
    """Mean and half width of its 95% confidence interval (Student-t)."""
    from scipy import stats

    if len(values) < 2:
        return f"{values.mean():.2f} (no interval from one episode)"
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{values.mean():.2f} ± {half:.2f} (95% CI)"


if __name__ == "__main__":
    sys.exit(command_line.exit_code(main))
