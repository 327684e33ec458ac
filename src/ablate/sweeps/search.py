"""Search for the best values of some keys, then compare the best trial with the default on fresh seeds.

The trials are arms of an ordinary sweep in <folder>/search: each trial is trained with all tuning seeds, and its
objective is the mean of the primary metric over them. With sweep.environments each trial is trained in all of them, and
its objective is the mean of its normalised scores (Patterson et al. 2024). The comparison is an ordinary study in
<folder>, with the arms `default` and `tuned`. Tuning seeds start at FIRST_TUNING_SEED and test seeds are below it, so
no seed is both (Eimer et al. 2023, section 5).

A batch of trials is proposed from the finished cells alone, so a search that was killed goes on alike."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from hydra.core.override_parser.overrides_parser import OverridesParser

from ablate.config.choices import Sampler, Until
from ablate.config.schema import ArmConfig, ClaimConfig, ConfigError, SweepConfig
from ablate.paths import install, shown
from ablate.records.durations import approximate
from ablate.records.study_file import SearchRecord
from ablate.runs.run import RunFailed
from ablate.sweeps.plan import Estimate, SweepPlan, stored_study
from ablate.sweeps.space import Range, Values, described, draw_new, labels_of, parse_range
from ablate.sweeps.study import Study, expand, identity, study_name, undeferred

if TYPE_CHECKING:
    import optuna

FIRST_TUNING_SEED = 1_000_000
DEFAULT, TUNED = "default", "tuned"  # arms
TRIALS = "search"  # the folder of the trials in the study's folder
CLAIM = "tuned"


@dataclass(frozen=True)
class Search:
    """A search, as a command asks for it."""

    name: str
    settings: SweepConfig
    ranges: tuple[Range, ...]
    arguments: list[str]  # the command's overrides, which count for all arms
    seed: int  # the configuration's
    labels: dict[str, str] = field(default_factory=dict)  # by key

    @property
    def record(self) -> SearchRecord:
        own = self.settings.search
        seeds = list(range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + own.seeds))
        return SearchRecord(own.space, own.sampler, own.seed, own.batch, seeds)

    @property
    def anything(self) -> Values:
        """A setting of the space."""
        return {own.key: own.at(0) for own in self.ranges}

    @property
    def ends(self) -> Study:
        """A study with both ends of each interval, and each choice, as trials."""
        values = {own.key: own.choices or (own.text(own.low), own.text(own.high)) for own in self.ranges}
        settings = [{**self.anything, key: value} for key, choices in values.items() for value in choices]
        return self.trials({f"end-{place:03}": setting for place, setting in enumerate(settings)})

    def batch_after(self, trials: int) -> int:
        """How many trials are proposed after this many."""
        own = self.settings.search
        return max(0, min(own.batch, (own.trials or 0) - trials))

    @property
    def minimises(self) -> bool:
        metric = self.settings.metrics.get(self.settings.metric)
        return metric is not None and bool(metric.smaller_is_better)

    def trials(self, trials: dict[str, Values]) -> Study:
        """The sweep of the trials so far, next to the default."""
        tuning = self.record
        settings = replace(self.settings, claims=[], baseline=DEFAULT, until=Until.seeds, max_seeds=None)
        study = self._study(settings, {DEFAULT: Values(), **trials})
        levels = {name: trials[trial] for name, trial in _trial_names(study).items() if trial != DEFAULT}
        return replace(study, seeds=tuple(tuning.seeds), search=tuning, levels=levels, factors=self.labels)

    def comparison(self, chosen: Values, record: SearchRecord | None = None) -> Study:
        """The study that compares a trial with the default."""
        sign = "<" if self.minimises else ">"
        words = "The tuned setting is better than the default, on seeds that the search has not seen"
        claim = ClaimConfig(CLAIM, words, self.settings.metric, f"{TUNED} {sign} {DEFAULT}")
        settings = replace(self.settings, claims=[claim, *self.settings.claims], baseline=DEFAULT)
        study = self._study(settings, {DEFAULT: Values(), TUNED: chosen})
        if record and max(study.seeds) >= FIRST_TUNING_SEED:
            raise ConfigError(
                f"sweep.seeds: {max(study.seeds)}: tuning seeds begin at {FIRST_TUNING_SEED}; give smaller test seeds"
            )
        return replace(study, search=record)

    def _study(self, settings: SweepConfig, arms: dict[str, Values]) -> Study:
        made = {
            name: ArmConfig([f"{key}={value}" for key, value in values.items()], self._label(name, values))
            for name, values in arms.items()
        }
        return replace(expand(self.arguments, replace(settings, arms=made), self.seed), name=self.name)

    def _label(self, name: str, values: Values) -> str:
        words = described(values, self.labels)
        if name == TUNED:  # in several environments its label also names the environment
            return name if self.settings.environments or not words else f"{name}: {words}"
        return words or name


def search_of(arguments: list[str], settings: SweepConfig, seed: int) -> Search | None:
    """The search of a command; None if it asks for none. Raises ConfigError.

    arguments: the overrides of the command line, without Hydra's own. A sweep over an interval, such as
    optimizer.lr=interval(1e-4,1e-2), is a part of the space."""
    own = settings.search
    arguments = undeferred(arguments)
    overrides = OverridesParser.create().parse_overrides(arguments)
    swept = [o for o in overrides if o.is_sweep_override() and o.get_key_element() not in ("seed", "sweep.seeds")]
    if own.trials is None:
        if own.space:
            raise ConfigError("sweep.search.trials=null: the search has a space; give sweep.search.trials=30, or so")
        if continuous := [o for o in swept if not o.is_discrete_sweep()]:
            raise ConfigError(
                f"{continuous[0].input_line}: only lists can be swept over: 1,2,4 or range(1,5); to search an "
                "interval, give sweep.search.trials=30, or so"
            )
        return None
    if settings.arms or settings.factors or settings.baseline:
        raise ConfigError("sweep.search: a search makes its own arms and baseline; drop arms, factors and baseline")
    if settings.detach:
        raise ConfigError("sweep.detach=true: a search runs in its terminal; start it in tmux, or with nohup")
    space = dict(own.space)
    for override in swept:
        key, _, text = (override.input_line or "").partition("=")
        space[key] = text
    if not space:
        raise ConfigError("sweep.search.space={}: what is to be searched? Give <key>: interval(1e-4,1e-2)")
    ranges = tuple(
        parse_range(f"sweep.search.space.{key}" if key in own.space else key, key, text) for key, text in space.items()
    )
    if own.sampler is Sampler.tpe:
        _optuna()
    fixed = [o.input_line or "" for o in overrides if o not in swept]
    if clash := [text for text in fixed if text.partition("=")[0].lstrip("+") in space]:
        raise ConfigError(f"{clash[0]}: sweep.search.space has this key; drop one of them")
    settings = replace(settings, search=replace(own, space=space))
    name = settings.name or study_name(arguments)
    search = Search(name, settings, ranges, fixed, seed, labels_of(ranges))
    search.comparison(search.anything, search.record)  # refuses wrong claims, metrics and seeds
    return search


def first_trials(search: Search, folder: Path) -> Study:
    """The trials that are known before anything is trained: those of an earlier command, or the first batch.

    Raises ConfigError if the folder has a search with other settings."""
    trials = _stored_trials(search, folder / TRIALS)
    return search.trials(trials or propose(search, {}, {}, search.batch_after(0)))


def describe(search: Search, estimate: Estimate | None, parallel: int | None) -> str:
    """What the whole search trains, as a line of text."""
    own, comparison = search.settings.search, search.comparison(search.anything)
    tests, tasks = len(comparison.seeds), len(comparison.arms) // 2
    cells = (((own.trials or 0) + 1) * own.seeds + 2 * tests) * tasks
    time_needed = ""
    if estimate and parallel:
        seconds = cells * sum(estimate.seconds.values()) / len(estimate.seconds) / parallel
        time_needed = f", about {approximate(seconds)}"
    return (
        f"search    {own.trials} trials of {', '.join(search.labels.values())} ({own.sampler}, {own.batch} at a time) "
        f"and the default x {own.seeds} tuning seeds, then the best and the default x {tests} test seeds"
        f"{f', each in {tasks} environments' * (tasks > 1)}: {cells} cells{time_needed}"
    )


def run_trials(
    search: Search, folder: Path, plan_of: Callable[[Study], SweepPlan], train: Callable[[SweepPlan], None]
) -> Study | None:
    """Train the trials, batch after batch, and return the study that compares the best with the default.

    None if the best trial is the default itself. folder: the study's. plan_of: the plan of a sweep of trials. train:
    trains the plan's missing cells.
    Raises RunFailed if no trial has a score."""
    study = first_trials(search, folder)
    folder = folder / TRIALS
    while True:
        plan = plan_of(study)
        if plan.moved:
            raise ConfigError(f"sweep.name={search.name}: {plan.moved}; give another sweep.name for another search")
        train(plan)
        trials, objectives = _trials(study), _objectives(folder)
        new = propose(search, trials, objectives, search.batch_after(len(trials)))
        if not new:
            break
        names = ", ".join(f"{name} ({described(values, search.labels)})" for name, values in new.items())
        print(f"search    {len(trials)} of {search.settings.search.trials} trials done; next {names}", flush=True)
        study = search.trials({**trials, **new})
    if not objectives:
        raise RunFailed(f"no trial of the search has a score; see {shown(folder)}")
    best = (min if search.minimises else max)(objectives, key=objectives.__getitem__)
    words = described(trials[best], search.labels)
    print(
        f"best      {best} of {len(trials)} trials: {words}; {search.settings.metric} {objectives[best]:.4g} over "
        f"{len(search.record.seeds)} tuning seeds",
        flush=True,
    )
    identities: dict[str, set[str]] = {}
    for name, trial in _trial_names(study).items():
        identities.setdefault(trial, set()).add(identity(plan.configs[name]))
    if identities[best] == identities[DEFAULT]:
        print("sweep     the best trial is the default, so there is nothing to compare", flush=True)
        return None
    record = replace(search.record, trials=len(trials), best=best, objective=objectives[best])
    return search.comparison(trials[best], record)


def _stored_trials(search: Search, folder: Path) -> dict[str, Values]:
    """The trials that a search in this folder has proposed. Raises ConfigError if its settings were others."""
    stored = stored_study(folder)
    if stored is None:
        return {}
    now = search.record
    if stored.search != now or stored.metric != search.settings.metric:
        parts: dict[str, tuple[Any, Any]] = {"metric": (stored.metric, search.settings.metric)}
        for part in ("space", "sampler", "seed", "batch", "seeds"):
            parts[f"search.{part}"] = getattr(stored.search, part, None), getattr(now, part)
        key, (old, new) = next((key, pair) for key, pair in parts.items() if pair[0] != pair[1])
        raise ConfigError(
            f"sweep.{key}={new}: {shown(folder)} was searched with {old}; give another sweep.name for another search"
        )
    return {arm.arm or name: arm.levels for name, arm in stored.arms.items() if (arm.arm or name) != DEFAULT}


def _trial_names(study: Study) -> dict[str, str]:
    """The trial of each arm; in several environments, a trial is an arm in each."""
    return {arm.name: study.crossed.get(arm.name, (arm.name,))[0] for arm in study.arms}


def _trials(study: Study) -> dict[str, Values]:
    """The trials of a sweep of trials, without the default."""
    return {trial: study.levels[name] for name, trial in _trial_names(study).items() if name in study.levels}


def _objectives(folder: Path) -> dict[str, float]:
    """The objective of each trial that has one. Raises RunFailed if the primary metric cannot be computed."""
    from ablate.analysis.load import load_sweep
    from ablate.analysis.selection import objectives

    try:
        return {name: value for name, value in objectives(load_sweep(folder)).items() if name != DEFAULT}
    except ConfigError as error:
        raise RunFailed(f"the trials cannot be compared: {error}") from error


def propose(search: Search, trials: dict[str, Values], objectives: dict[str, float], number: int) -> dict[str, Values]:
    """The next trials, by name: none that was tried before. Fewer if the space has no more.

    They depend on these arguments alone."""
    new: dict[str, Values] = {}
    for index in range(len(trials), len(trials) + number):
        known = [*trials.values(), *new.values()]
        values = None
        if search.settings.search.sampler is Sampler.tpe:
            values = _from_optuna(search, trials, objectives, list(new.values()), index)
        if values is None or values in known:
            values = draw_new(search.ranges, np.random.default_rng([search.settings.search.seed, index]), known)
        if values is None:
            break
        new[f"trial-{index:03}"] = values
    return new


def _from_optuna(
    search: Search, trials: dict[str, Values], objectives: dict[str, float], waiting: list[Values], index: int
) -> Values:
    """What Optuna's sampler proposes after these trials, with its seed and the trial's index as the seed."""
    optuna = _optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {own.key: _distribution(own) for own in search.ranges}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # constant_liar: trials of the same batch count as bad, so that the batch is no single setting four times.
        sampler = optuna.samplers.TPESampler(seed=_seed(search.settings.search.seed, index), constant_liar=True)
    study = optuna.create_study(direction="minimize" if search.minimises else "maximize", sampler=sampler)
    for values, value in [
        *((trials[name], value) for name, value in objectives.items()),
        *((v, None) for v in waiting),
    ]:
        done = value is not None
        state = optuna.trial.TrialState.COMPLETE if done else optuna.trial.TrialState.RUNNING
        params = {own.key: _param(own, values[own.key]) for own in search.ranges}
        study.add_trial(optuna.create_trial(params=params, distributions=space, value=value, state=state))
    asked = study.ask(space).params
    return {own.key: own.choices[asked[own.key]] if own.choices else own.text(asked[own.key]) for own in search.ranges}


def _seed(seed: int, index: int) -> int:
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])


def _distribution(own: Range) -> optuna.distributions.BaseDistribution:
    distributions = _optuna().distributions
    if own.choices:  # by place, as a value may be a list
        return distributions.CategoricalDistribution(range(len(own.choices)))
    if own.whole:
        return distributions.IntDistribution(int(own.low), int(own.high), log=own.log)
    return distributions.FloatDistribution(own.low, own.high, log=own.log)


def _param(own: Range, text: str) -> int | float:
    if own.choices:
        return own.choices.index(text)
    return int(text) if own.whole else float(text)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            f"sweep.search.sampler={Sampler.tpe}: it needs Optuna; run {install('optuna')}, or give "
            f"sweep.search.sampler={Sampler.random}"
        ) from error
    return optuna
