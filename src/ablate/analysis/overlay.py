"""Several runs, or several sweeps, of one environment in one figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from ablate.analysis.figure_parts import new_figure
from ablate.analysis.figures import (
    COLOURS,
    evaluation_means,
    finish_x,
    fitted,
    panel_columns,
    set_title,
    style,
    title,
)
from ablate.analysis.load import Run, Sweep
from ablate.analysis.metrics import decay_for, moving_average
from ablate.analysis.sweep_figures import draw_arms
from ablate.config.choices import ScoreUnit
from ablate.config.derived import default_score_unit
from ablate.config.schema import ConfigError

MOST_NAMED = 30  # runs in a legend: more cannot be told apart
LINE = 0.27  # of a legend, in inches


def draw_runs(runs: Sequence[Run]) -> Figure:
    """Training (moving average) and evaluations (mean, 95 % confidence interval over episodes) against steps, per run.

    Raises ConfigError for runs of different environments."""
    env_id = _one_environment([str(run.setting("env.id")) for run in runs])
    unit = default_score_unit(env_id)
    per_step = unit is ScoreUnit.reward_per_step
    with style():
        columns = panel_columns(2)
        height = 4.8 + LINE * max(0, min(len(runs), MOST_NAMED) - 4)  # below the panels, the legend has a line per run
        figure, (training, evaluation) = new_figure(2 // columns, columns, (11, height), one_x=False)
        for number, run in enumerate(runs):
            colour = COLOURS[number % len(COLOURS)]
            score = run.episodes["mean_step_reward" if per_step else "episodic_return"].to_numpy(float)
            smooth = moving_average(score, decay_for(len(score))) if len(score) else score
            name = fitted(figure, f"{run.folder.name}: {title(run)}", 0.9) if number < MOST_NAMED else None
            training.plot(run.episodes["global_step"], smooth, color=colour, label=name)
            means = evaluation_means(run.evaluations, per_step)
            evaluation.plot(means["global_step"], means["mean"], color=colour, marker="o", markersize=4)
            low, high = means["mean"] - means["half_width"], means["mean"] + means["half_width"]
            evaluation.fill_between(means["global_step"], low, high, color=colour, alpha=0.2, linewidth=0)
        if len(runs) > MOST_NAMED:
            training.plot([], [], " ", label=f"and {len(runs) - MOST_NAMED} more")
        training.set(ylabel=unit.words, title="training", xlabel="environment steps")
        evaluation.set(title="evaluations", xlabel="environment steps")
        finish_x(training)
        finish_x(evaluation, "no evaluation yet")
        figure.legend(loc="outside lower center", ncols=1, frameon=False, fontsize="small")
        set_title(figure, env_id)
        sns.despine(fig=figure)
    return figure


def draw_panels(sweeps: Sequence[Sweep], question: str) -> Figure:
    """The training of all arms of several sweeps, one panel per arm; their arms have different names."""
    arms = {name: arm for sweep in sweeps for name, arm in sweep.study.arms.items()}
    tables = {
        name: pd.concat([getattr(sweep, name) for sweep in sweeps], ignore_index=True)
        for name in ("cells", "episodes", "evaluations")
    }
    return draw_arms(replace(sweeps[0], study=replace(sweeps[0].study, question=question, arms=arms), **tables))


def together(sweeps: Sequence[Sweep]) -> Sweep:
    """Several sweeps of one environment as one, with arms <sweep>.<arm>. Only its curves can be drawn.

    Raises ConfigError for sweeps of different environments or units of the score."""
    names = [sweep.study.name for sweep in sweeps]
    if len(set(names)) < len(names):
        names = [f"{name}-{number}" for number, name in enumerate(names, 1)]
    _one_environment([arm.config["env"]["id"] for sweep in sweeps for arm in sweep.study.arms.values()])
    if len({sweep.per_step for sweep in sweeps}) > 1:
        raise ConfigError(f"{', '.join(names)}: their scores have different units (sweep.score)")
    arms = {
        f"{name}.{arm}": replace(content, label=f"{name}: {sweep.arms[arm]}")
        for name, sweep in zip(names, sweeps, strict=True)
        for arm, content in sweep.study.arms.items()
    }
    study = replace(sweeps[0].study, name=" and ".join(names), question="", arms=arms, baseline=next(iter(arms)))

    def table(of: str) -> pd.DataFrame:
        parts = zip(names, (getattr(sweep, of) for sweep in sweeps), strict=True)
        return pd.concat([part.assign(arm=f"{name}." + part["arm"]) for name, part in parts], ignore_index=True)

    return Sweep(sweeps[0].folder, study, table("cells"), table("episodes"), table("evaluations"), torn=0)


def _one_environment(ids: Sequence[str]) -> str:
    if others := set(ids) - {ids[0]}:
        raise ConfigError(f"{ids[0]} and {', '.join(sorted(others))}: only one environment can be drawn together")
    return ids[0]
