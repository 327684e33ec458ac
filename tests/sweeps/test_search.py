"""A search: which trials it proposes, that a repeated command goes on alike, and that its best trial is the best."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers import config_of
from processes import Run
from scipy import stats

from ablate.analysis.load import load_sweep
from ablate.analysis.markdown import search_words
from ablate.config.choices import Normalisation, Sampler, Source, Statistic
from ablate.config.schema import ArmConfig, ConfigError, MetricConfig, SearchConfig, SweepConfig
from ablate.config.serial import to_dict
from ablate.parallel.signals import Interrupted
from ablate.records.files import write_json
from ablate.records.manifest import write_status
from ablate.records.run_files import Attempt, write_attempts
from ablate.records.schema import COLUMNS, EVALUATIONS, MANIFEST
from ablate.records.study_file import read_study
from ablate.sweeps import run as sweeps
from ablate.sweeps.cell import STOP
from ablate.sweeps.plan import SweepPlan, make_plan
from ablate.sweeps.search import DEFAULT, FIRST_TUNING_SEED, TRIALS, TUNED, Search, propose, run_trials, search_of
from ablate.sweeps.space import parse_range
from ablate.sweeps.study import Study
from ablate.types import Counters

METRIC = MetricConfig(label="final", source=Source.evaluations, statistic=Statistic.mean, window=(1.0, 1.0))
REACH = MetricConfig(label="steps", source=Source.evaluations, statistic=Statistic.first_reach, score=0.5)
SPACE = {"optimizer.lr": "tag(log,interval(1e-5,1e-1))", "algo.t_max": "int(interval(1,40))", "workers": "choice(1,2)"}
BEST_LR = 1e-3


def search(sampler: str = "random", command: tuple[str, ...] = (), **settings: Any) -> Search:
    own = {"trials": 10, "seeds": 3, "batch": 4, "space": SPACE, **settings.pop("search", {})}
    given = {
        "metric": "final",
        "metrics": {"final": METRIC, "reach": REACH},
        "seeds": "0-9",
        "name": "tuned",
        **settings,
    }
    made = search_of(list(command), SweepConfig(search=SearchConfig(sampler=Sampler(sampler), **own), **given), 1)
    assert made is not None
    return made


def test_ranges_are_drawn_as_they_say() -> None:
    """Against the analytic distributions, by Kolmogorov and Smirnov."""
    rng = np.random.default_rng(1)
    lr, t_max, size = (
        parse_range("", "k", text)
        for text in ("tag(log,interval(1e-5,1e-1))", "int(interval(3,6))", "interval(-2.0,3.0)")
    )
    draws = {own: [own.at(rng.random()) for _ in range(2000)] for own in (lr, t_max, size)}
    assert stats.kstest(np.log10(np.array(draws[lr], float)), stats.uniform(-5, 4).cdf).pvalue > 0.01
    assert stats.kstest(np.array(draws[size], float), stats.uniform(-2, 5).cdf).pvalue > 0.01
    counts = [draws[t_max].count(str(value)) for value in (3, 4, 5, 6)]
    assert sum(counts) == 2000
    assert stats.chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("interval(1e-2,1e-4)", "must end above its start"),
        ("tag(log,interval(0,1))", "start above 0"),
        ("choice(5)", "at least two values"),
        ("choice(5,5)", "at least two values"),
        ("0.5", "not a range"),
        ("interval(1", "not a range"),
        ("interval(0,inf)", "too wide; give finite ends"),
        ("interval(-inf,inf)", "too wide"),
        ("interval(-1e308,1e308)", "too wide"),
        ("tag(log,interval(1e-300,1e300))", "too wide"),
        ("shuffle(1,2,3)", "shuffle would give other values each time"),
        ("shuffle(range(1,9))", "shuffle would give other values each time"),
    ],
)
def test_what_is_no_range_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"sweep\.search\.space\.algo\.gamma") as refusal:
        search(search={"space": {"algo.gamma": text}})
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": f"0-2,{FIRST_TUNING_SEED}"}, "tuning seeds begin at"),
        ({"arms": {"a": ArmConfig(overrides=[])}}, "makes its own arms"),
        ({"search": {"trials": None}}, "give sweep.search.trials"),
        ({"search": {"space": {}}}, "what is to be searched"),
        ({"metric": "finl"}, "no such metric; did you mean final"),
        ({"command": ("optimizer.lr=1e-3",)}, "sweep.search.space has this key"),
        ({"command": ("optimizer.lr=choice(1e-3)",)}, "^optimizer.lr=1e-3: sweep.search.space has this key"),
    ],
)
def test_searches_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        search(**settings)


def test_both_ends_of_each_interval_and_each_choice_are_planned_before_anything_is_trained() -> None:
    made = search(search={"space": {"algo.gamma": "interval(0.5,1.06)", "algo.t_max": "choice(5,10,20)"}})
    overrides = [[o for o in arm.overrides if o.startswith("algo.")] for arm in made.ends.arms]
    gammas, lengths = ["0.5", "1.06", *["0.5"] * 3], ["5", "5", "5", "10", "20"]
    assert overrides == [[], *([f"algo.gamma={g}", f"algo.t_max={t}"] for g, t in zip(gammas, lengths, strict=True))]


def test_a_search_may_be_asked_to_stop_between_two_batches(tmp_path: Path) -> None:
    made, trainer = search(search={"trials": 6, "batch": 2}), Trainer()

    def asked_after_the_first(plan: SweepPlan) -> None:
        trainer.train(plan)
        (plan.folder / STOP).touch()

    with pytest.raises(Interrupted):
        run_trials(made, tmp_path, lambda study: trainer.plan(study, tmp_path / TRIALS), asked_after_the_first)
    assert len(trials_of(tmp_path)) == 1 + 2 * 2
    (tmp_path / TRIALS / STOP).touch()
    with pytest.raises(Interrupted):
        sweeps.refuse_stopped(tmp_path / TRIALS)
    sweeps.refuse_stopped(tmp_path / TRIALS)


def test_an_override_holds_for_all_trials() -> None:
    """Hydra is given its value later (see `cli.arguments`), which is no choice between values."""
    assert search(command=("optimizer.eps=choice(1e-5)",)).arguments == ["optimizer.eps=1e-5"]


def test_a_search_needs_no_file() -> None:
    made = search(search={"space": {}}, command=("env=cartpole", "optimizer.lr=interval(1e-4,1e-2)", "seed=range(3)"))
    assert made.settings.search.space == {"optimizer.lr": "interval(1e-4,1e-2)"}
    assert made.comparison(made.anything).seeds == (0, 1, 2)
    with pytest.raises(ConfigError, match=r"to search an interval, give sweep\.search\.trials"):
        search_of(["optimizer.lr=interval(1e-4,1e-2)"], SweepConfig(metric="final", metrics={"final": METRIC}), 1)


def test_no_seed_is_both_for_tuning_and_for_testing() -> None:
    made = search()
    trials, comparison = made.trials({"trial-000": made.anything}), made.comparison(made.anything, made.record)
    assert trials.seeds == (FIRST_TUNING_SEED, FIRST_TUNING_SEED + 1, FIRST_TUNING_SEED + 2)
    assert comparison.seeds == tuple(range(10))
    assert [arm.name for arm in comparison.arms] == [DEFAULT, TUNED]
    assert [claim.inequality for claim in comparison.settings.claims] == ["tuned > default"]
    assert [claim.inequality for claim in search(metric="reach").comparison({}).settings.claims] == ["tuned < default"]


@pytest.mark.parametrize("sampler", ["random", "tpe"])
@pytest.mark.parametrize("metric", ["final", "reach"])
def test_a_sampler_goes_where_the_metric_is_better(sampler: str, metric: str) -> None:
    """TPE's later trials are nearer to the optimum of a planted function than independent draws, also if a smaller
    value is better."""
    if sampler == "tpe":
        pytest.importorskip("optuna")
    made = search(sampler, metric=metric, search={"trials": 64, "space": {"optimizer.lr": SPACE["optimizer.lr"]}})
    trials: dict[str, Any] = {}
    distances: dict[str, float] = {}
    while batch := made.batch_after(len(trials)):
        sign = 1 if metric == "reach" else -1
        new = propose(made, trials, {name: sign * distance for name, distance in distances.items()}, batch)
        assert new == propose(made, trials, {name: sign * distance for name, distance in distances.items()}, batch)
        trials |= new
        distances |= {name: abs(math.log10(float(values["optimizer.lr"]) / BEST_LR)) for name, values in new.items()}
    assert len({str(values) for values in trials.values()}) == 64
    late = np.mean(list(distances.values())[-20:])
    assert (late < 0.6) == (sampler == "tpe")  # the mean of independent draws is 1


def test_a_small_space_is_tried_once() -> None:
    made = search(search={"space": {"workers": "choice(1,2)", "algo.t_max": "range(1,4)"}, "trials": 50, "batch": 50})
    trials = propose(made, {}, {}, 50)
    assert sorted((values["workers"], values["algo.t_max"]) for values in trials.values()) == [
        (workers, t_max) for workers in "12" for t_max in "123"
    ]


composed = functools.cache(config_of)


class Killed(BaseException):
    pass


class Trainer:
    """Completes the cells of a plan with planted scores. stop_after: cells after which it is killed."""

    def __init__(self, stop_after: int = 10**9, diverging: str = "") -> None:
        self._left, self._diverging = stop_after, diverging
        self.configs: dict[str, Any] = {}

    def plan(self, study: Study, folder: Path) -> SweepPlan:
        base = ("schedule=interleaved", "total_steps=1000", "max_episodes=null", "evaluation.every_steps=500")
        for arm in study.arms:
            keys = [o for o in arm.overrides if o.partition("=")[0] in SPACE]
            env = [o for o in arm.overrides if o.startswith("env=")]
            given = (*base, "evaluation.every_seconds=null", *env, *(keys or ["workers=3"]))
            self.configs[arm.name] = composed(*given)
        return make_plan(study, {arm.name: self.configs[arm.name] for arm in study.arms}, folder)

    def train(self, plan: SweepPlan) -> None:
        def launch(jobs: Any) -> list[Any]:
            for arm, seed in jobs:
                if not self._left:
                    raise Killed
                self._left -= 1
                self._complete(plan, arm, int(seed))
            return []

        sweeps.run(plan, launch, lambda cell: [cell.arm, str(cell.seed)])

    def _complete(self, plan: SweepPlan, arm: str, seed: int) -> None:
        cell = next(cell for cell in plan.cells if (cell.arm, cell.seed) == (arm, seed))
        cell.folder.mkdir(parents=True, exist_ok=True)
        config = replace(plan.configs[arm], seed=seed)
        fails = arm == self._diverging
        write_json(cell.folder / MANIFEST, {"config": to_dict(config)})
        write_status(cell.folder, "failed" if fails else "completed", "", Counters(0, 1000, 0))
        write_attempts(cell.folder, [Attempt(outcome="failed" if fails else "completed")])
        for name in ("episodes.csv", "updates.csv", EVALUATIONS):
            (cell.folder / name).write_text(",".join(COLUMNS[name]) + "\n")
        best = 10 * BEST_LR if config.env.id == "Acrobot-v1" else BEST_LR
        score = -abs(math.log10(config.optimizer.lr / best)) + 0.1 * np.random.default_rng(seed).normal()
        with (cell.folder / EVALUATIONS).open("a") as file:
            for number, step in enumerate((500, 1000), 1):
                file.write(f"{number},{step},{step // 10},{step / 1000},1,{200 * score},200,200,mode\n")


@pytest.fixture(autouse=True)
def _nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is started, and no figures are drawn: the files are what matters here."""
    for name in ("close_server", "judge", "_play_at_random"):
        monkeypatch.setattr(sweeps, name, lambda *arguments: None)


def trials_of(folder: Path) -> dict[str, Any]:
    return {name: arm.levels for name, arm in read_study(folder / TRIALS).arms.items()}


def run(made: Search, folder: Path, trainer: Trainer) -> Study | None:
    return run_trials(made, folder, lambda study: trainer.plan(study, folder / TRIALS), trainer.train)


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_killed_search_goes_on_with_the_same_trials(sampler: str, tmp_path: Path) -> None:
    if sampler == "tpe":
        pytest.importorskip("optuna")
    made = search(sampler, search={"trials": 7, "seeds": 2, "batch": 3})
    whole = run(made, tmp_path / "whole", Trainer(diverging="trial-002"))
    assert whole is not None
    for stop_after in (0, 11):
        folder = tmp_path / str(stop_after)
        with pytest.raises(Killed):
            run(made, folder, Trainer(stop_after, diverging="trial-002"))
        assert run(made, folder, Trainer(diverging="trial-002")) == whole
        assert trials_of(folder) == trials_of(tmp_path / "whole")
    cells = load_sweep(tmp_path / "whole" / TRIALS).cells
    assert len(cells) == 8 * 2
    assert list(cells[cells["state"] == "failed"]["arm"].unique()) == ["trial-002"]
    with pytest.raises(ConfigError, match=r"sweep\.search\.seed=1: .* was searched with 0"):
        run(search(sampler, search={"trials": 7, "seeds": 2, "batch": 3, "seed": 1}), tmp_path / "whole", Trainer())


def test_the_best_trial_is_the_best_one(tmp_path: Path) -> None:
    made = search(search={"trials": 8})
    comparison = run(made, tmp_path, Trainer())
    assert comparison is not None
    assert comparison.search is not None
    trials = {name: values for name, values in trials_of(tmp_path).items() if name != DEFAULT}
    distances = {name: abs(math.log10(float(v["optimizer.lr"]) / BEST_LR)) for name, v in trials.items()}
    assert comparison.search.best == min(distances, key=distances.__getitem__)  # all trials have the same noise
    chosen = [f"{key}={value}" for key, value in trials[comparison.search.best].items()]
    assert set(chosen) <= set(comparison.arms[1].overrides)
    plan = Trainer().plan(comparison, tmp_path)
    Trainer().train(plan)
    words = search_words(read_study(tmp_path))
    assert f"{FIRST_TUNING_SEED} to {FIRST_TUNING_SEED + 2}" in words
    assert "test seeds 0 to 9" in words
    more = run(search(search={"trials": 9}), tmp_path, Trainer())
    assert more is not None
    assert more.search is not None
    assert more.search.trials == 9
    assert list(trials_of(tmp_path))[:9] == [DEFAULT, *trials]


def test_in_several_environments_the_best_on_average_is_chosen(tmp_path: Path) -> None:
    """By ranks, which scipy computes here: where the optima of two environments differ, it is neither of them."""
    made = search(search={"trials": 12}, environments=["cartpole", "acrobot"],
                  normalisation=Normalisation.cdf, metrics={"final": METRIC})  # fmt: skip
    comparison = run(made, tmp_path, Trainer())
    assert comparison is not None
    assert comparison.search is not None
    assert [arm.name for arm in comparison.arms] == [
        f"{a}-{e}" for e in ("cartpole", "acrobot") for a in (DEFAULT, TUNED)
    ]
    assert comparison.settings.claims[0].environment is None
    sweep = load_sweep(tmp_path / TRIALS)
    last = sweep.evaluations[sweep.evaluations["evaluation"] == 2].copy()
    last["trial"], last["env"] = zip(*last["arm"].str.rsplit("-", n=1), strict=True)
    assert last.groupby(["trial", "env"]).size().eq(3).all()
    last["share"] = last.groupby("env")["episodic_return"].transform(lambda own: (stats.rankdata(own) - 0.5) / len(own))
    means = last.groupby("trial")["share"].mean().drop(DEFAULT)
    assert comparison.search.best == means.idxmax()
    assert comparison.search.objective == pytest.approx(means.max())


@pytest.mark.slow
def test_a_command_searches_and_judges_the_best_trial(tmp_path: Path) -> None:
    """The whole thing, and again: the second time nothing is trained."""
    pytest.importorskip("optuna")
    study = tmp_path / "searched" / "sweep" / "tuning.yaml"
    study.parent.mkdir(parents=True)
    content = {
        "base": ["env=cartpole", "schedule=interleaved", "workers=1", "total_steps=2000", "max_episodes=null",
                 "evaluation.every_steps=1000", "evaluation.episodes=1"],
        "search": {"trials": 3, "seeds": 2, "batch": 2, "space": {"optimizer.lr": "tag(log,interval(1e-4,1e-2))"}},
        "seeds": "0-5", "metric": "auc",
    }  # fmt: skip
    study.write_text("# @package _global_\n" + yaml.safe_dump({"sweep": content}, sort_keys=False))
    folder = tmp_path / "sweep"
    arguments = ("sweep=tuning", f"hydra.searchpath=[file://{study.parents[1]}]", f"hydra.sweep.dir={folder}")
    first = Run(folder, *arguments)
    assert first.exit_code(400) == 0, first.errors
    assert first.output.count(" completed in ") == 4 * 2 + 2 * 6
    verdicts = (folder / "verdict.md").read_text()
    assert "### tuned: " in verdicts
    assert "3 trials (sampler tpe" in verdicts
    assert (folder / TRIALS / "report.html").exists()
    again = Run(folder, *arguments)
    assert again.exit_code(400) == 0, again.errors
    assert " completed in " not in again.output
