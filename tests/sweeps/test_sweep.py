"""The plan of a sweep, what it refuses, and its folder. Nothing is trained here."""

from __future__ import annotations

import copy
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import ROOT, config_of
from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import run_job
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, open_dict
from processes import START_S, Run, eventually

from ablate.analysis.load import load_sweep
from ablate.analysis.report import write_report
from ablate.analysis.summary import summarise
from ablate.analysis.verdicts import looks
from ablate.cli import hydra_app
from ablate.cli.arguments import complete_arguments, quoted
from ablate.cli.compose import CellComposer, compose_and_plan
from ablate.cli.resolvers import register
from ablate.config.choices import Sampler, ScoreUnit, Source, Statistic
from ablate.config.schema import ConfigError, MetricConfig, SweepConfig
from ablate.config.serial import to_dict
from ablate.envs.make import kind_of
from ablate.nn import precision
from ablate.parallel.signals import Interrupted
from ablate.paths import portable
from ablate.records.files import write_json
from ablate.records.manifest import write_status
from ablate.records.schema import CELL, COLUMNS, EPISODES, MANIFEST, REPORT, STATUS, STUDY, STUDY_SOURCE
from ablate.records.study_file import SearchRecord, read_study
from ablate.runs.run import RunFailed
from ablate.sweeps import live, train_cell
from ablate.sweeps.cell import STOP
from ablate.sweeps.plan import Estimate, SweepPlan, describe, estimate, make_plan, share_done
from ablate.sweeps.run import refuse_folder, run
from ablate.sweeps.study import expand
from ablate.sweeps.study_record import record_study
from ablate.types import Counters
from hydra_plugins.ablate_sweeper import AblateSweeper

QUICK = runpy.run_path(str(ROOT / "sweeps/reproduce.py"))["QUICK"]
SHORT = ("schedule=interleaved", "max_episodes=null", "total_steps=1000", "evaluation.every_steps=500")
METRIC = MetricConfig(label="area", source=Source.evaluations, statistic=Statistic.auc)
PLAIN = ("env=pendulum", *SHORT)
STUDY_FILE: dict[str, Any] = {
    "name": "invented",
    "base": list(PLAIN),
    "arms": {
        "w2": {"label": "two", "overrides": ["workers=2"]},
        "w4": {"label": "four", "overrides": ["workers=4", "total_steps=2000"]},
    },
    "seeds": "0-1",
}


def changed(*path_and_value: Any) -> dict[str, Any]:
    """STUDY_FILE with one value replaced or added: changed("arms", "w2", "overrides", [...])."""
    study = copy.deepcopy(STUDY_FILE)
    *path, last, value = path_and_value
    node = study
    for key in path:
        node = node[key]
    node[last] = value
    return study


def claim(**own: str) -> dict[str, Any]:
    judged = {"id": "A1", "words": "in words", "metric": "auc", "inequality": "w2 < w4", **own}
    return changed("claims", [judged])


def designed(design: str | None, factors: dict[str, Any], **more: Any) -> dict[str, Any]:
    """STUDY_FILE with factors in place of its arms."""
    return {**{key: value for key, value in STUDY_FILE.items() if key != "arms"}, "factors": factors,
            **({"design": design} if design else {}), **more}  # fmt: skip


TWO: dict[str, Any] = {
    "workers": {"baseline": 1, "alternatives": [2]},
    "algo.t_max": {"baseline": 5, "alternatives": [20], "label": "rollout"},
}


class Planner:
    """Runs `python src/run.py -m <arguments>` up to the point at which the first cell would start."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self._monkeypatch = folder, monkeypatch
        self.jobs: list[DictConfig] = []  # what each cell's job composes
        self.launched: list[tuple[ConfigLoader, DictConfig, list[str]]] = []  # what a launcher is given for each job

    def __call__(self, *arguments: str, study: dict[str, Any] | None = None, jobs: bool = False) -> SweepPlan:
        """study: the content of a file sweep/invented.yaml, which is selected. If the arguments name no folder, the
        cells are in <folder>/sweeps/invented."""
        search = [str(ROOT / "sweeps")]
        if study is not None:
            path = self._folder / "searched" / "sweep" / "invented.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                "# @package _global_\n" + yaml.safe_dump({"sweep": study}, allow_unicode=True, sort_keys=False)
            )
            search.append(str(path.parents[1]))
            arguments = ("sweep=invented", *arguments)
        if not any(argument.startswith("hydra.sweep.dir=") for argument in arguments):
            folder = self._folder / "sweeps" / "invented"
            arguments = (*arguments, f"hydra.sweep.dir={quoted(str(folder))}")
        plans: list[SweepPlan] = []

        def instead_of_run(plan: SweepPlan, launch: Any, job_overrides: Any) -> None:
            plans.append(plan)
            self.launched += [(loader, master, job_overrides(cell)) for cell in plan.cells]
            if jobs:
                self.jobs += [loader.load_sweep_config(master, overrides) for *_, overrides in self.launched]

        self._monkeypatch.setattr("sys.argv", ["src/run.py", *arguments])
        self._monkeypatch.setattr("ablate.sweeps.plan.estimate", lambda plan: None)  # it would train
        self._monkeypatch.setattr("ablate.sweeps.run.run", instead_of_run)
        register()
        entries = ",".join(quoted(f"file://{entry}") for entry in search)
        overrides = complete_arguments(list(arguments))
        overrides += ["hydra.mode=MULTIRUN", f"hydra.searchpath=[{entries}]"]
        GlobalHydra.instance().clear()
        try:
            loader = Hydra.create_main_hydra2("run", create_config_search_path(str(ROOT / "conf"))).config_loader
            master = loader.load_configuration("config", overrides, run_mode=RunMode.MULTIRUN)
            sweeper = AblateSweeper()
            context = HydraContext(config_loader=loader, callbacks=Callbacks())
            sweeper.setup(hydra_context=context, task_function=lambda _: None, config=master)
            sweeper.sweep(list(master.hydra.overrides.task))
        finally:
            GlobalHydra.instance().clear()
        return plans[0] if plans else None  # type: ignore[return-value]


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planner:
    return Planner(tmp_path, monkeypatch)


def refusal(
    planned: Planner, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], study: dict[str, Any] | None
) -> str:
    """The single line of the error message; the exit code must be 2."""
    code = hydra_app.exit_code(lambda: planned(*arguments, study=study))
    printed = capsys.readouterr()
    assert code == 2, printed
    assert printed.err.count("\n") == 1, printed.err
    return printed.err.strip()


def as_completed(plan: SweepPlan) -> SweepPlan:
    """Make the folders of completed cells, with tables that have no rows."""
    for cell in plan.cells:
        cell.folder.mkdir(parents=True, exist_ok=True)
        write_json(cell.folder / MANIFEST, {"config": to_dict(replace(plan.configs[cell.arm], seed=cell.seed))})
        write_status(cell.folder, "completed", "total_steps=1000 reached", Counters(0, 1000, 0))
        for name in ("episodes.csv", "updates.csv", "evaluations.csv"):
            (cell.folder / name).write_text(",".join(COLUMNS[name]) + "\n")
    return plan


def states(plan: SweepPlan) -> dict[str, str]:
    return {cell.name: cell.state for cell in plan.cells}


# What is refused: the key, the value, and what would be right.

REFUSED_STUDIES: list[tuple[dict[str, Any], tuple[str, ...], str]] = [
    (designed("leave_on_out", TWO), (), "Invalid value 'leave_on_out', expected one of [leave_one_out, add_one_in,"),
    (designed("path", {"workers": {"baseline": 1}}), (), "sweep.factors.workers.alternatives=[]: at least one other"),
    (
        designed("path", {"workers": {"baseline": 1, "alternatives": []}}), (),
        "sweep.factors.workers.alternatives=[]: at least one other value is needed",
    ),
    (
        designed("path", {"algo.t_mx": {"baseline": 5, "alternatives": [20]}}), (),
        "sweep.factors: algo.t_mx=5: no such key; did you mean algo.t_max?",
    ),
    (
        designed("path", {"workers": {"baseline": 1, "alternatives": ["two"]}}), (),
        "sweep.factors: workers=two: Value 'two' of type 'str'",
    ),
    (
        designed("factorial", {key: {"baseline": 0, "alternatives": [*range(1, 12)]} for key in ("a", "b", "c")}), (),
        "sweep.design=factorial: 12 x 12 x 12 = 1728 arms, more than 128; drop values or factors",
    ),
    (changed("factors", TWO), (), "sweep.design=null: the factors workers, algo.t_max need a design; give one of"),
    (
        {**changed("factors", TWO), "design": "path"}, (),
        "sweep.factors: the study also has the arms w2, w4; give arms or factors, not both",
    ),
    (changed("design", "path"), (), "sweep.design=path: a design needs factors; give sweep.factors"),
    (designed("path", TWO), ("algo.t_max=7",), "algo.t_max=7: the arm start is about algo.t_max=5, which this would"),
    (designed("path", TWO, baseline="begin"), (), "sweep.baseline=begin: no such arm"),
    (
        claim(inequality="(w2 - w4 > (w4 - w2)"), (),
        "sweep.claims A1: inequality=(w2 - w4 > (w4 - w2): it has 2 opening and 1 closing brackets",
    ),
    (claim(inequality="(w2 - w4) > w4"), (), "the weights of its arms add up to -1, not to 0"),
    (changed("baseline", "w3"), (), "sweep.baseline=w3: no such arm; did you mean w4? (there are: w2, w4)"),
    (claim(inequality="w2 < w44"), (), "sweep.claims A1: inequality=w2 < w44: w44: no such arm; did you mean w4?"),
    (claim(inequality="w2<w4"), (), "sweep.claims A1: inequality=w2<w4: write <arm> < <arm>"),
    (claim(inequality="w=2 < w4"), (), "with spaces (the arms are: w2, w4)"),
    (claim(inequality="w2 ~ w4"), (), "sweep.smallest_effect=null: a claim of equality (~) needs"),
    (claim(metric="final_scor"), (), "sweep.claims A1: metric=final_scor: no such metric; did you mean final_score?"),
    (changed("metric", "auk"), (), "sweep.metric=auk: no such metric; did you mean auc?"),
    (
        changed("metrics", {"speed": {"label": "", "source": "evaluations", "statistic": "first_reach"}}), (),
        "sweep.metrics.speed.score=null: first_reach needs a score",
    ),
    (
        changed("metrics", {"speed": {"label": "", "source": "evaluation", "statistic": "mean"}}), (),
        "Invalid value 'evaluation', expected one of [evaluations, episodes]",
    ),
    (changed("seeds", "5-1"), (), "sweep.seeds=5-1: 5-1 runs backwards; give 1-5"),
    (changed("seeds", "a"), (), "sweep.seeds=a: seeds are written 0-29, or 0-4,7"),
    (changed("seeds", "1,1"), (), "sweep.seeds=1,1: 1 occurs twice"),
    (changed("seeds", "0-4,3"), (), "sweep.seeds=0-4,3: 3 occurs twice"),
    (changed("seeds", "-1"), (), "sweep.seeds=-1: seeds are written 0-29"),
    (STUDY_FILE, ("sweep.seeds=-3",), "sweep.seeds=-3: seeds are written 0-29"),
    (STUDY_FILE, ("sweep.seeds=0-999999999",), "sweep.seeds=0-999999999: 0-999999999 is more than"),
    (STUDY_FILE, ("seed=1,1",), "seed=1,1: 1 occurs twice"),
    (STUDY_FILE, ("seed=-1",), "seed=-1: a seed is a whole number from 0 to"),
    (STUDY_FILE, ("seed=-1,2",), "seed=-1: a seed is a whole number from 0 to"),
    (STUDY_FILE, ("sweep.seeds=0-3", "seed=1"), "sweep.seeds=0-3 seed=1: give only one of them"),
    (STUDY_FILE, ("workers=3",), "workers=3: the arm w2 is about workers=2, which this would undo; change the study's"),
    (STUDY_FILE, ("total_steps=500",), "total_steps=500: the arm w4 is about total_steps=2000, which this would undo"),
    (
        changed("arms", "w2", "overrides", ["+env.kwargs.g=3"]), ("env=gymnasium", "+env.kwargs={g: 5}"),
        "+env.kwargs={g: 5}: the arm w2 is about +env.kwargs.g=3, which this would undo",
    ),
    (
        changed("arms", "w2", "overrides", ["workers=x2"]), (),
        "sweep.arms.w2: workers=x2: a multiple needs a number in sweep.base or on the command line, not nothing",
    ),
    (
        changed("arms", "w2", "overrides", ["max_episodes=x2"]), (),
        "max_episodes=x2: a multiple needs a number in sweep.base or on the command line, not max_episodes=null",
    ),
    (
        changed("arms", "w2", "overrides", ["workers=2", "evaluation.every_steps=250"]), (),
        "evaluation.every_steps: the arms have different values (w2: 250, w4: 500), so their scores cannot",
    ),
    (STUDY_FILE, ("evaluation.every_seconds=5",), "evaluation.every_seconds=5: cells of a sweep are evaluated at"),
    (STUDY_FILE, ("workers=1,2",), "workers=1,2: the study already has the arms w2, w4; give one value"),
    (STUDY_FILE, ("+wokers=8",), "wokers=8: no such key; did you mean workers?"),
    (STUDY_FILE, ("sweep.parallel=0",), "sweep.parallel=0: input should be greater than or equal to 1"),
    (STUDY_FILE, ("sweep.parallel=1,2",), "sweep.parallel=1,2: these keys cannot be swept over"),
    (STUDY_FILE, ("sweep.max_retries=-1",), "sweep.max_retries=-1: input should be greater than or equal to 0"),
    (STUDY_FILE, ("sweep.time_limit_s=0",), "sweep.time_limit_s=0.0: input should be greater than 0"),
    (STUDY_FILE, ("+sweep.paralel=2",), "sweep.paralel=2: no such key; did you mean sweep.parallel?"),
    (STUDY_FILE, ("resume=outputs/x",), "resume=outputs/x: a sweep starts new runs; resume one run at a time"),
    (
        changed("arms", "w2", "overrides", ["workers=2", "env.max_ep_step=100"]), (),
        "evaluation.horizon: w2 would be evaluated with 100, w4 with 200, which cannot be compared; give all arms",
    ),
    (changed("arms", "w2", "overrides", ["wokers=2"]), (), "sweep.arms.w2: wokers=2: no such key; did you mean worker"),
    (changed("arms", "w2", "overrides", ["+wokers=2"]), (), "sweep.arms.w2: wokers=2: no such key; did you mean"),
    (changed("arms", "w2", "overrides", ["workers=two"]), (), "sweep.arms.w2: workers=two: Value 'two' of type 'str'"),
    (changed("arms", "w2", "overrides", ["workers=0"]), (), "sweep.arms.w2: workers=0: input should be greater than"),
    (changed("arms", "w2", "overrides", ["workers"]), (), "sweep.arms.w2: workers: overrides have the form key=value"),
    (changed("arms", "w2", "overrides", ["workers=2,3"]), (), "sweep.arms.w2: workers=2,3: an arm has one value"),
    (changed("arms", "w2", "overrides", ["env=pendulun"]), (), "env=pendulun: no such option; did you mean pendulum?"),
    (changed("arms", "w2", {"label": "no overrides"}), (), "w2.overrides: no value; it is needed"),
    (changed("arms", "W 2", {"overrides": ["workers=3"]}), (), "sweep.arms.W 2: it is a folder's name"),
    (changed("arms", "../up", {"overrides": ["workers=3"]}), (), "sweep.arms.../up: it is a folder's name; use"),
    (changed("arms", "x" * 300, {"overrides": ["workers=3"]}), (), "xxx: it is a folder's name"),
    (changed("name", "x" * 300), (), "sweep.name=xxx"),
    (changed("name", "../up"), (), "sweep.name=../up: string should match pattern"),
    (changed("paralel", 3), (), "Key 'paralel' not in 'SweepConfig'"),
    (changed("base", [*PLAIN, "hydra/launcher=basic"]), (), "sweep.base: hydra/launcher=basic: Hydra ignores it"),
    (changed("base", [*PLAIN, "hydra.sweep.dir=/tmp"]), (), "sweep.base: hydra.sweep.dir=/tmp: Hydra ignores it"),
    (changed("base", [*PLAIN, "sweep.parallel=1"]), (), "sweep.base: sweep.parallel=1: write it next to base and arms"),
    (changed("base", [*PLAIN, "seed=3"]), (), "sweep.base: seed=3: give the study's seeds as sweep.seeds=0-29"),
    (changed("base", [*PLAIN, "resume=x"]), (), "sweep.base: resume=x: a sweep starts new runs"),
    (changed("base", [*PLAIN, "env.max_ep_stp=3"]), (), "env.max_ep_stp=3: no such key; did you mean env.max_ep_step?"),
    (changed("base", [*PLAIN, "evaluation.every_steps=null"]), (), "evaluation.every_steps=null: cells of w2 would"),
]  # fmt: skip


@pytest.mark.parametrize(("study", "arguments", "line"), REFUSED_STUDIES, ids=[row[2][:60] for row in REFUSED_STUDIES])
def test_a_study_is_refused_in_one_line(
    study: dict[str, Any],
    arguments: tuple[str, ...],
    line: str,
    planned: Planner,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert line in refusal(planned, capsys, arguments, study)
    assert os.listdir(tmp_path) == ["searched"], "nothing is made"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("sweep=max_ep_step,workers",), "sweep=max_ep_step,workers: these keys cannot be swept over"),
        (("sweep=workerz",), "sweep=workerz: no such option; did you mean workers?"),
        (("optimizer.lr=interval(0,1)",), "optimizer.lr=interval(0,1): only lists can be swept over: 1,2,4 or"),
        (("env=glob(*)",), "env=glob(*): only lists can be swept over"),
        (("workers=2,4,2",), "sweep: 2 arms are named workers-2; give each value once"),
        (("workers=2,4", "workers=1"), "workers=2,4: workers is given twice; give it once"),
        (("figures=true,false",), "sweep: the arms figures-true and figures-false are the same configuration"),
        (("workers=2,4", "sweep.baseline=workers-3"), "sweep.baseline=workers-3: no such arm; did you mean workers-4?"),
        (("workers=2,4", "resume=x"), "resume=x: a sweep starts new runs"),
        (("workers=2,0",), "workers=0: input should be greater than or equal to 1"),
        (("env.max_ep_step=100,200",), "evaluation.horizon: max_ep_step-100 would be evaluated with 100"),
        (("+env.kwargs.g=9.0,5.0",), "env.kwargs: g-9.0 would be evaluated with {'g': 9.0}, g-5.0 with"),
        (("+env.kwargs.g=9.0,5.0",), "; for a difference in training only, see docs/sweeps.md, Settings that only"),
        (("env=breakout", "env.sticky_actions=0,0.25"), "env.sticky_actions: sticky_actions-0 would be"),
        (("env=breakout", "protocol=report,machado2018"), "env.frame_skip: protocol-report would be evaluated with"),
        (("load='/a b','/a,b'",), "sweep: load='/a b' and load='/a,b' would share the folder load--a-b"),
        (("hydra/launcher=local,basic",), "Sweeping over Hydra's configuration is not supported"),
    ],
    ids=str,
)  # fmt: skip
def test_a_plain_sweep_is_refused_in_one_line(
    arguments: tuple[str, ...], line: str, planned: Planner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line in refusal(planned, capsys, (*SHORT, *arguments), None)
    assert os.listdir(tmp_path) == [], "nothing is made"


@pytest.mark.parametrize(
    "arguments", [("-m", "workers=2,4", "+wokers=8"), ("sweep=workers", "sweep.seeds=5-1")], ids=str
)
def test_a_refused_study_exits_with_code_2(arguments: tuple[str, ...], tmp_path: Path) -> None:
    command = [sys.executable, "src/run.py", *arguments, f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done
    assert os.listdir(tmp_path) == []


# What is planned.


def test_a_dry_run_makes_nothing(planned: Planner, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert planned("sweep.dry_run=true", study=STUDY_FILE) is None
    assert os.listdir(tmp_path) == ["searched"]
    assert "4 = 2 arms x 2 seeds; 0 completed, 4 to run" in capsys.readouterr().out


def test_a_design_is_planned_and_recorded(planned: Planner, capsys: pytest.CaptureFixture[str]) -> None:
    """Four arms, and three claims, which study.json has like claims by hand; the levels are there for the figures."""
    plan = planned(study=designed("factorial", TWO), jobs=True)
    printed = capsys.readouterr().out
    assert (
        "design    factorial of workers, rollout: 4 arms, 3 claims (arms of other designs: leave_one_out 3," in printed
    )
    assert "8 = 4 arms x 2 seeds" in printed
    assert {(job.workers, job.algo.t_max) for job in planned.jobs} == {(1, 5), (1, 20), (2, 5), (2, 20)}
    plan.folder.mkdir(parents=True)
    record_study(plan)
    study = read_study(plan.folder)
    assert (study.design, study.factors) == ("factorial", {"workers": "workers", "algo.t_max": "rollout"})
    assert study.arms["workers-2_rollout-5"].levels == {"workers": "2", "algo.t_max": "5"}
    assert study.claims[-1].inequality == (
        "(workers-2_rollout-20 - workers-1_rollout-20) > (workers-2_rollout-5 - workers-1_rollout-5)"
    )
    another = planned("sweep.design=leave_one_out", study=designed("factorial", TWO))
    assert list(another.configs) == ["all", "without-workers-2", "without-rollout-20"]


def test_the_study_of_dqns_components_composes(planned: Planner) -> None:
    plan = planned("sweep=dqn_components")
    assert list(plan.configs) == [
        "all", "without-double-q", "without-dueling", "without-n_step-10", "without-replay-prioritized",
        "without-loss-squared",
    ]  # fmt: skip
    of_all = plan.configs["all"]
    assert (of_all.replay.name, of_all.model.dueling, of_all.algo.n_step) == ("prioritized", True, 10)  # type: ignore
    assert plan.configs["without-dueling"].model == replace(of_all.model, dueling=False)  # type: ignore[call-arg]


def test_the_command_line_counts_for_all_arms(planned: Planner) -> None:
    plan = planned("log_interval=7", "seed=range(3)", study=STUDY_FILE)
    assert {arm: (config.workers, config.log_interval) for arm, config in plan.configs.items()} == {
        "w2": (2, 7),
        "w4": (4, 7),
    }
    assert list(states(plan)) == [f"{arm} seed={seed}" for seed in range(3) for arm in ("w2", "w4")]
    assert planned("sweep.seeds='0-1,7'", study=STUDY_FILE).study.seeds == (0, 1, 7)


def test_one_arm_of_a_study_can_be_run(planned: Planner) -> None:
    """The study stays whole: its claims name the other arms, too."""
    for chosen in ("sweep.arms=w4", "sweep.arms=[w4]", "sweep.only=[w4]"):
        plan = planned(chosen, study=claim())
        assert list(states(plan)) == ["w4 seed=0", "w4 seed=1"]
        assert list(plan.configs) == ["w2", "w4"]
    with pytest.raises(ConfigError, match=r"^sweep.arms=w5: no such arm; did you mean w4\?"):
        planned("sweep.arms=w5", study=STUDY_FILE)


def test_workers_are_those_of_the_arms_that_have_workers(planned: Planner) -> None:
    """An arm of DQN used to refuse a study of both algorithms with workers=2."""
    both = {"a3c": {"overrides": ["algo=a3c"]}, "dqn": {"overrides": ["algo=dqn"]}}
    study = {**changed("arms", both), "base": ["env=cartpole", *SHORT]}
    plan = planned("workers=3", study=study, jobs=True)
    assert {arm: config.workers for arm, config in plan.configs.items()} == {"a3c": 3, "dqn": 1}
    assert {job.workers for job in planned.jobs} == {3, None}
    with pytest.raises(ConfigError, match="workers=3: DQN has one learner"):
        planned("workers=3", "algo=dqn", "env=cartpole", *SHORT)


def test_a_study_keeps_the_number_of_workers_that_it_began_with(
    planned: Planner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Left out, it is the number of CPUs: the same command used to be another experiment on another machine."""
    study = changed("arms", {"a": {"overrides": []}, "b": {"overrides": ["algo.t_max=5"]}})
    monkeypatch.setattr("ablate.algos.a3c.spec.usable_cpus", lambda: 7)
    first = swept(planned(study=study, jobs=True))
    assert {job.workers for job in planned.jobs} == {7}
    assert "workers=7: the number of CPUs here" in capsys.readouterr().err
    monkeypatch.setattr("ablate.algos.a3c.spec.usable_cpus", lambda: 64)
    again = planned(study=study)
    assert (again.folder, again.to_run) == (first.folder, [])
    assert "workers=7: as in its study.json" in capsys.readouterr().err
    study["arms"]["new"] = {"overrides": ["algo.t_max=50"]}
    assert planned(study=study).configs["new"].workers == 7
    other = planned("workers=2", study=study)
    assert other.folder != first.folder


@pytest.mark.parametrize("flags", [{"avx512_bf16"}, set()])
def test_a_study_keeps_the_precision_that_it_began_with(
    flags: set[str], planned: Planner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Left out, it is what the processor does fastest: the same command used to begin again on another machine."""
    command = ("algo=dqn", "env=breakout", "algo.n_step=1,3", "sweep.seeds=2", *SHORT, "replay.capacity=1000")
    monkeypatch.setattr(precision, "cpu_flags", lambda: flags)
    first = swept(planned(*command, jobs=True))
    (began,) = {config.precision for config in first.configs.values()}
    assert began == ("bf16" if flags else "float32")
    monkeypatch.setattr(precision, "cpu_flags", lambda: set() if flags else {"amx_bf16"})
    again = planned(*command)
    assert (again.folder, again.to_run) == (first.folder, [])
    assert f"precision={began}: as in its study.json" in capsys.readouterr().err
    other = "float32" if flags else "bf16"
    assert planned(*command, f"precision={other}").folder != first.folder


def test_an_arm_that_gives_a_multiple_follows_the_command_line(planned: Planner) -> None:
    """Half the steps stay half the steps, so the arm's label stays true."""
    study = changed("arms", "w4", "overrides", ["workers=4", "total_steps=x0.5", "optimizer.lr=x3"])
    study["base"] += ["optimizer.lr=1e-4"]
    for arguments, steps in (((), {"w2": 1000, "w4": 500}), (("total_steps=300",), {"w2": 300, "w4": 150})):
        plan = planned(*arguments, study=study, jobs=True)
        assert {arm: config.total_steps for arm, config in plan.configs.items()} == steps
        assert [config.optimizer.lr for config in plan.configs.values()] == pytest.approx([1e-4, 3e-4])
        assert {job.total_steps for job in planned.jobs} == set(steps.values())
        planned.jobs.clear()
        planned.launched.clear()


def test_the_quick_reproduction_runs_the_arms_that_its_labels_name(planned: Planner) -> None:
    """The report's 6 workers have half the episodes of its 12. Earlier all arms got the 300 of --quick."""
    plan = planned("sweep=workers", *QUICK)
    episodes = {arm.label: plan.configs[arm.name].max_episodes for arm in plan.study.arms}
    assert episodes == {"12 workers": 300, "6 workers, half the episodes": 150, "4 workers": 300}


def test_all_arms_of_an_environment_are_looked_at_alike(planned: Planner, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned("env=cartpole", "algo=a3c,dqn", "total_steps=20000", "max_episodes=null", jobs=True)
    looks = {
        (c.every_steps, c.episodes, c.at_start, c.every_seconds) for c in (p.evaluation for p in plan.configs.values())
    }
    assert looks == {(5000, 10, True, None)}  # the defaults are 20 000 and 5000
    assert {job.evaluation.every_steps for job in planned.jobs} == {5000}
    planned("env=cartpole", "algo=a3c,dqn", "total_steps=20000", "max_episodes=null", "sweep.dry_run=true")
    assert "evaluated every 5000 steps, and before the first, 10 episodes each" in capsys.readouterr().out


def test_a_studys_folder_holds_its_file_and_the_unit_of_its_scores(planned: Planner) -> None:
    plan = swept(planned(study=STUDY_FILE))
    assert yaml.safe_load((plan.folder / STUDY_SOURCE).read_text()) == {"sweep": STUDY_FILE}
    assert load_sweep(str(plan.folder)).study.score_units == {"Pendulum-v1": "reward_per_step"}
    given = replace(plan.study, settings=replace(plan.study.settings, score=ScoreUnit.episodic_return))
    swept(make_plan(given, plan.configs, plan.folder))
    study = load_sweep(plan.folder).study
    assert study.score_units == {"Pendulum-v1": "episodic_return"}
    assert study.changes[-1].what == ["the unit of scores in Pendulum-v1 reward_per_step -> episodic_return"]
    swept(make_plan(plan.study, plan.configs, plan.folder))  # without a word on it, it stays what it was
    assert load_sweep(plan.folder).study.score_units == {"Pendulum-v1": "episodic_return"}


def test_the_direction_of_a_metric_follows_from_its_statistic() -> None:
    for statistic, smaller in (
        ("first_reach", True),
        ("duration", True),
        ("std", True),
        ("mean", False),
        ("auc", False),
    ):
        metric = MetricConfig(label="", source=Source.evaluations, statistic=Statistic(statistic))
        assert metric.smaller_is_better is smaller
    assert MetricConfig(
        label="", source=Source.evaluations, statistic=Statistic.mean, smaller_is_better=True
    ).smaller_is_better


def test_the_command_need_not_name_what_only_arms_have(planned: Planner) -> None:
    plan = planned(*SHORT, "env.id=Pendulum-v1,CartPole-v1")
    assert [config.env.id for config in plan.configs.values()] == ["Pendulum-v1", "CartPole-v1"]
    plan = planned(*PLAIN[:-2], "evaluation.every_steps=500", "max_episodes=null", "total_steps=1000,2000")
    assert [config.total_steps for config in plan.configs.values()] == [1000, 2000]


def test_factors_may_have_values_of_any_kind(tmp_path: Path) -> None:
    """Each value is unchanged in its arm, and each arm has its own folder."""
    values = {
        "-1.5": -1.5, "1.5": 1.5, "'with space'": "with space", '"it\'s"': "it's", "'Ünï'": "Ünï", "[1,-1]": [1, -1],
        "[1,1]": [1, 1], "{a:1}": {"a": 1}, "'a=b,c'": "a=b,c", "null": None, "'" + 300 * "x" + "'": 300 * "x",
        "'" + 299 * "x" + "y'": 299 * "x" + "y",
    }  # fmt: skip
    arguments = ["env.id=faulty_envs:Takes-v0", "env.max_ep_step=20", f"+env.kwargs.value={','.join(values)}"]
    arms = expand(complete_arguments(arguments), SweepConfig(metric="auc", metrics={"auc": METRIC}), 1).arms
    assert [config_of(*arm.overrides).env.kwargs["value"] for arm in arms] == list(values.values())
    assert len({arm.name for arm in arms}) == len(values)
    assert max(len(arm.name) for arm in arms) < 100
    for arm in arms:
        (tmp_path / arm.name).mkdir()


def test_arms_that_share_a_composition_are_as_if_composed_alone(planned: Planner) -> None:
    arms = {
        "a": ["algo.gamma=0.5", "workers=2"], "b": ["++optimizer.eps=1e-5", "workers=3"], "c": ["optimizer.lr=1e-5"],
        "d": ["env.max_ep_step=null", "evaluation.horizon=200"], "e": ["model.torso_hidden=[8,8]", "total_steps=5"],
        "f": ["optimizer=rmsprop"], "g": ["++algo.gamma=0.25"], "h": ["optimizer=rmsprop", "optimizer.alpha=0.5"],
    }  # fmt: skip
    plan = planned(study=changed("arms", {name: {"overrides": own} for name, own in arms.items()}))
    for arm in plan.study.arms:
        assert plan.configs[arm.name] == compose_and_plan(arm.overrides).config, arm


def test_cells_of_an_arm_are_composed_once_and_written_as_hydra_writes_them(planned: Planner, tmp_path: Path) -> None:
    """Compared with Hydra's own run_job, which composes each job by itself."""
    own = {"a": ["workers=2", "model.torso_hidden=[8, 8]"], "seed-1": ["algo.gamma=0.123456789", "optimizer=rmsprop"]}
    study = changed("arms", {name: {"overrides": overrides} for name, overrides in own.items()})
    folder = tmp_path / "a folder, with = and 0"
    plan = planned(f"hydra.sweep.dir={quoted(str(folder))}", "sweep.time_limit_s=30", study=study)
    loader, master, _ = planned.launched[0]
    composer, full = CellComposer(loader, master), loader.load_sweep_config
    composed: list[list[str]] = []
    loader.load_sweep_config = lambda master, overrides: composed.append(overrides) or full(master, overrides)  # type: ignore
    jobs = [composer.compose(overrides, number) for number, (*_, overrides) in enumerate(planned.launched)]
    assert len(composed) == len(own)
    context = HydraContext(config_loader=loader, callbacks=Callbacks())
    for number, (cell, job, (*_, overrides)) in enumerate(zip(plan.cells, jobs, planned.launched, strict=True)):
        theirs = full(master, overrides)
        with open_dict(theirs):
            theirs.hydra.job.id = theirs.hydra.job.num = number
        record = run_job(lambda _: None, theirs, "hydra.sweep.dir", "hydra.sweep.subdir", context, False)
        assert job.overrides == record.overrides
        assert job.config == replace(plan.configs[cell.arm], seed=cell.seed, sweep=job.config.sweep)
        assert job.config.sweep.time_limit_s == 30
        assert job.folder == cell.folder == Path(theirs.hydra.runtime.output_dir)
        written = {path: portable(path.read_text()) for path in (cell.folder / ".hydra").iterdir()}
        assert job.files == written
        assert not any(f"{ROOT}/" in text for text in job.files.values())


@pytest.mark.parametrize("env", ["env=pendulum", "env=cartpole", "env.id=MountainCarContinuous-v0"])
def test_a_cell_is_given_its_configuration_and_what_is_known_of_its_environment(
    env: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ablate.config.plugins._NAMED", {})  # other tests of this process have named modules
    config = compose_and_plan([env, *SHORT, "seed=7"]).config
    request = train_cell.CellRequest.read(train_cell.CellRequest.of(config, ["seed=7"], tmp_path))
    assert replace(train_cell.config_of(request.arm()), seed=request.config["seed"]) == config
    looked_at, spec = kind_of(config.env).spec(config.env), request.known_spec()
    assert spec is not None
    assert (spec, spec.notes) == (looked_at, looked_at.notes)
    monkeypatch.setattr("ablate.config.plugins._NAMED", {"my_module": None})
    mine = train_cell.CellRequest.read(train_cell.CellRequest.of(config, ["seed=7"], tmp_path))
    assert (mine.modules, mine.known_spec()) == (["my_module"], None)


ORPHANED = """
import os, sys
from pathlib import Path
from ablate.cli.compose import compose_and_plan
from ablate.sweeps.cell_process import Program
from ablate.sweeps.train_cell import CellRequest
folder, *overrides = sys.argv[1:]
request = CellRequest.of(compose_and_plan(overrides).config, [], Path(folder))
print(Program(request, Path(folder), os.open(os.devnull, os.O_WRONLY)).pid, flush=True)
os._exit(0)
"""


def test_a_cell_ends_if_its_sweep_was_killed_while_it_imported(tmp_path: Path) -> None:
    """It has its request, and no signal comes any more."""
    folder = tmp_path / "cell"
    folder.mkdir()
    program = ("-c", ORPHANED, str(folder))
    run = Run(folder, *SHORT, "max_episodes=null", "total_steps=100000000000", program=program)
    assert run.exit_code() == 0, run.errors
    assert run.output.strip().isdigit(), run.errors
    assert eventually(lambda: not run.processes()), run.kill()
    assert not (folder / MANIFEST).exists()


@pytest.mark.parametrize("module", ["ablate.sweeps.preload", "ablate.play.random_policy"])
def test_other_programs_of_a_sweep_end_too(module: str) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    started = subprocess.run([sys.executable, "-m", module, str(ended.pid)], stdin=subprocess.DEVNULL, timeout=START_S)
    assert started.returncode == -signal.SIGKILL


@pytest.mark.parametrize("name", ["with a space", "it's", 'a "quoted" one', "a=b,c", "[x]", "Ünï"])
def test_the_folder_may_have_any_name(name: str, planned: Planner, tmp_path: Path) -> None:
    folder = tmp_path / name
    plan = planned(*PLAIN, "workers=2,4", f"hydra.sweep.dir={quoted(str(folder))}", jobs=True)
    assert plan.folder == folder
    assert [Path(job.hydra.sweep.dir) / job.hydra.sweep.subdir for job in planned.jobs] == [
        cell.folder for cell in plan.cells
    ]


# Which folder a sweep uses.


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SweepPlan]:
    """STUDY_FILE itself, with one more arm, and with another setting."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        planner = Planner(tmp_path_factory.mktemp("composed"), monkeypatch)
        return {
            "study": planner(study=STUDY_FILE),
            "more": planner("sweep.seeds=0-2", study=changed("arms", "w8", {"overrides": ["workers=8"]})),
            "other": planner("algo.gamma=0.5", study=STUDY_FILE),
        }


Folder = Callable[[str], SweepPlan]


@pytest.fixture
def plan_of(composed: dict[str, SweepPlan], tmp_path: Path) -> Folder:
    """Makes the current plan of one of `composed` in the test's own folder."""
    return lambda name: make_plan(composed[name].study, composed[name].configs, tmp_path / "invented")


def swept(plan: SweepPlan) -> SweepPlan:
    """Run the plan with a launcher whose cells complete immediately."""

    def launch(jobs: Any) -> list[Any]:
        as_completed(plan)
        for cell in plan.cells:
            write_json(cell.folder / CELL, {"attempts": [{"outcome": "completed", "reason": "", "seconds": 10.0}]})
        return []

    run(plan, launch, lambda cell: [])
    return plan


def test_a_repeated_command_skips_what_is_completed(planned: Planner) -> None:
    arguments = (*PLAIN, "workers=2,4", "seed=range(2)")
    swept(planned(*arguments))
    assert planned(*arguments).to_run == []
    assert [cell.name for cell in planned(*arguments[:-1], "seed=range(3)").to_run] == [
        "workers-2 seed=2",
        "workers-4 seed=2",
    ]


def test_more_seeds_and_more_arms_extend_the_folder(plan_of: Folder) -> None:
    first = swept(plan_of("study"))
    more = plan_of("more")
    assert more.folder == first.folder
    assert [cell.name for cell in more.to_run] == ["w8 seed=0", "w8 seed=1", "w2 seed=2", "w4 seed=2", "w8 seed=2"]
    swept(more)
    swept(plan_of("study"))  # the smaller study forgets nothing
    sweep = load_sweep(more.folder)
    assert (list(sweep.arms), sweep.study.seeds) == (["w2", "w4", "w8"], [0, 1, 2])
    assert set(sweep.cells["state"]) == {"completed"}


def test_arms_that_are_added_are_compared_with_those_that_are_there(planned: Planner) -> None:
    swept(planned(*PLAIN, "workers=1,2"))
    for override in ("evaluation.episodes=50", "evaluation.horizon=70", "+env.kwargs.g=5"):
        key = override.lstrip("+").partition("=")[0].removesuffix(".g")
        with pytest.raises(ConfigError, match=f"^{key}: workers-1 .* has workers-1, workers-2 already: or"):
            planned(*PLAIN, "workers=4,8", override)
    assert len(planned(*PLAIN, "workers=4,8").to_run) == 2


def test_another_configuration_goes_to_a_folder_of_its_own(plan_of: Folder) -> None:
    first = swept(plan_of("study"))
    before = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")}
    other = swept(plan_of("other"))
    assert other.folder.parent == first.folder.parent
    assert other.folder.name.startswith("invented-")
    assert other.moved.endswith("has w2 with algo.gamma=0.9 (now 0.5)")
    assert {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")} == before
    assert (plan_of("other").folder, plan_of("other").to_run) == (other.folder, [])
    assert (plan_of("study").folder, plan_of("study").to_run) == (first.folder, [])


def test_a_study_changed_afterwards_is_reported(plan_of: Folder) -> None:
    """A claim that is reversed after its cells have completed must not look as if it was made before."""
    plan = swept(plan_of("study"))
    assert load_sweep(plan.folder).study.changes == []
    settings = replace(plan.study.settings, smallest_effect=7.0)
    swept(make_plan(replace(plan.study, settings=settings), plan.configs, plan.folder))
    swept(plan_of("more"))
    study = load_sweep(plan.folder).study
    before = plan.study.settings.smallest_effect
    assert [(change.completed, change.what) for change in study.changes] == [
        (4, [f"smallest_effect {before} -> 7.0"]),
        (4, [f"smallest_effect 7.0 -> {before}", "arms added: w8", "seeds added: 2"]),
    ]
    assert any("smallest_effect" in note for note in summarise(load_sweep(plan.folder)).notes)


@pytest.mark.parametrize("what", ["seeds", "an arm and the smallest effect"])
def test_a_change_is_reported_if_the_command_asks_only_for_new_cells(what: str, plan_of: Folder) -> None:
    """The verdict on the cells that were there has been seen, whether or not the command names them again."""
    plan = plan_of("study")
    first, second = plan.study.arms
    if what == "seeds":
        swept(plan)
        later = replace(plan.study, seeds=(7, 8))
    else:
        swept(make_plan(replace(plan.study, arms=(first,)), {first.name: plan.configs[first.name]}, plan.folder))
        settings = replace(plan.study.settings, smallest_effect=7.0)
        later = replace(plan.study, arms=(second,), settings=settings)
    swept(make_plan(later, {arm.name: plan.configs[arm.name] for arm in later.arms}, plan.folder))
    study = read_study(plan.folder)
    (change,) = study.changes
    if what == "seeds":
        assert (change.completed, change.what, change.seeds) == (4, ["seeds added: 7, 8"], [0, 1])
        assert looks(study) == [[0, 1], [0, 1, 7, 8]]
    else:
        assert change.completed == 2
        assert f"arms added: {second.name}" in change.what
        assert any(text.startswith("smallest_effect") for text in change.what)


def test_keys_that_change_no_record_may_differ(plan_of: Folder) -> None:
    plan = swept(plan_of("study"))
    shown = {arm: replace(config, checkpoint_every_seconds=1.0, figures=True) for arm, config in plan.configs.items()}
    assert make_plan(plan.study, shown, plan.folder).to_run == []


# What is damaged.


DAMAGE = [b"", b"{", b"[]", b"\0" * 100, b'{"state": []}', b"\xff\xfe", b"null"]


@pytest.mark.parametrize("content", DAMAGE)
def test_a_damaged_status_is_an_interruption(content: bytes, plan_of: Folder) -> None:
    plan = swept(plan_of("study"))
    (plan.cells[0].folder / STATUS).write_bytes(content)
    assert [(cell.name, cell.state) for cell in plan_of("study").to_run] == [("w2 seed=0", "interrupted")]


@pytest.mark.parametrize("content", DAMAGE)
def test_a_damaged_manifest_of_a_cell_is_reported(content: bytes, plan_of: Folder) -> None:
    """The cell starts again, but a completed cell is never overwritten."""
    folder = swept(plan_of("study")).cells[0].folder
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(ConfigError, match=r"seed=0: it contains a completed run but no readable manifest.json; move"):
        plan_of("study")
    write_status(folder, "interrupted", "SIGTERM", Counters())
    assert [(cell.name, cell.state) for cell in plan_of("study").to_run] == [("w2 seed=0", "interrupted")]


@pytest.mark.parametrize("content", [*DAMAGE, b'{"arms": {"w2": {}}, "seeds": []}', b'{"arms": {}, "seeds": ["x"]}'])
def test_a_damaged_study_is_refused(content: bytes, plan_of: Folder) -> None:
    plan = swept(plan_of("study"))
    (plan.folder / STUDY).write_bytes(content)
    with pytest.raises(ConfigError, match=r"study.json: cannot be read \(.*\); move it away"):
        plan_of("study")
    (plan.folder / STUDY).unlink()  # as the line says
    assert plan_of("study").to_run == []


def test_another_run_in_a_cells_folder_is_refused(plan_of: Folder) -> None:
    plan = swept(plan_of("other"))
    (plan.folder / STUDY).unlink()
    with pytest.raises(ConfigError, match=r"w2/seed=0: it contains a run with another [\w.]+; remove that folder"):
        plan_of("study")


def test_a_cell_of_another_seed_is_refused(plan_of: Folder) -> None:
    folder = swept(plan_of("study")).folder
    (folder / "w2" / "seed=0").rename(folder / "w2" / "seed=2")
    with pytest.raises(ConfigError, match=r"w2/seed=2: it contains a run with another seed; remove that folder"):
        plan_of("more")


@pytest.mark.parametrize("content", [*DAMAGE, b'{"attempts": [1]}', b'{"attempts": [{}]}'])
def test_a_damaged_cell_json_of_a_completed_cell_does_no_harm(content: bytes, plan_of: Folder) -> None:
    plan = swept(plan_of("study"))
    (plan.cells[0].folder / CELL).write_bytes(content)
    more = plan_of("more")._replace(cells=[cell for cell in plan_of("more").cells if cell.arm != "w8"])
    assert estimate(more).seconds == {"w2": 10.0, "w4": 10.0}
    assert estimate(more).source == "3 completed cells"
    assert set(load_sweep(plan.folder).cells["state"]) == {"completed"}


def test_a_completed_cell_with_a_short_table_is_trained_again(
    plan_of: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = swept(plan_of("study")).cells[0]
    (cell.folder / EPISODES).unlink()
    plan = plan_of("study")
    assert [(cell.name, cell.state) for cell in plan.to_run] == [("w2 seed=0", "damaged")]
    text = describe(plan, "local", 1, None)
    assert "\ntrains    a3c on Pendulum-v1\narms      w2" in text
    assert "3 completed, 1 to run (1 damaged before)" in text
    missing = f"{cell.folder / EPISODES}: damaged: the run has completed, but there is no such file"
    assert f"damaged   {missing}; the cell is trained again" in text


# Disks.


def full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_report_that_cannot_be_written_is_one_line(plan_of: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of("study")
    monkeypatch.setattr("ablate.analysis.summary.replace_atomically", full)
    with pytest.raises(RunFailed) as failure:
        swept(plan)
    assert str(failure.value) == (
        "the report could not be written ([Errno 28] No space left on device); the cells' results are safe, and "
        f"python src/plot.py {plan.folder} writes it again"
    )
    monkeypatch.undo()
    assert len(write_report(summarise(load_sweep(plan.folder)))) > 0
    assert plan_of("study").to_run == []


def test_a_study_that_cannot_be_written_is_one_line(plan_of: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablate.records.study_file.write_json", full)
    with pytest.raises(
        RunFailed, match=r"invented: a file could not be written \(.*No space left.*\); repeat the comm"
    ):
        run(plan_of("study"), lambda jobs: [], lambda cell: [])


@pytest.mark.parametrize("place", ["tempfile.TemporaryDirectory", "run_cell"])
def test_a_sweep_that_cannot_probe_has_no_estimate(
    place: str, plan_of: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(f"ablate.sweeps.plan.{place}", full)
    assert estimate(plan_of("study")) is None
    assert "no estimate: the probe failed ([Errno 28] No space left on device)" in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["file", "file/sweep"])
def test_a_sweeps_folder_is_refused_before_the_probes(folder: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=rf"^hydra.sweep.dir={tmp_path / folder}: file is no folder; give"):
        refuse_folder(tmp_path / folder)


# What other sweeps do meanwhile.


def test_an_estimate_names_the_arms_that_were_not_probed(
    plan_of: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The number of workers makes a kind of arm; each probe costs another time."""
    study = plan_of("study")
    configs = {f"w{n}": replace(study.configs["w2"], workers=n) for n in range(1, 10)}
    monkeypatch.setattr("ablate.sweeps.plan._probe", lambda config, fork: (0.0, float(config.workers), 0.0, 0.0))
    made = estimate(make_plan(study.study, configs, study.folder))
    assert made is not None
    assert made.seconds == {f"w{n}": 1000.0 * (n if n < 5 else 1) for n in range(1, 10)}
    probes = "4 short probes of training, without evaluations"
    assert made.source == f"{probes}; not probed, steps counted like those of w1: w5, w6, w7 and 2 more"
    assert capsys.readouterr().err.count("probing") == 4
    few = estimate(make_plan(study.study, {arm: configs[arm] for arm in ("w1", "w2")}, study.folder))
    assert few is not None
    assert few.source == "2 short probes of training, without evaluations"
    algo = configs["w1"].algo
    for own in ({"algo": replace(algo, t_max=50)}, {"model": replace(configs["w1"].model, actor_hidden=(7,))}):
        costs = estimate(
            make_plan(study.study, {"w1": configs["w1"], "w2": replace(configs["w1"], **own)}, study.folder)
        )
        assert costs is not None
        assert costs.source.startswith("2 short probes")


def test_an_estimate_counts_what_is_left_of_a_cell(plan_of: Folder) -> None:
    plan = plan_of("study")
    begun, new = (cell for cell in plan.cells if cell.arm == "w2")
    begun.folder.mkdir(parents=True)
    write_status(begun.folder, "interrupted", "SIGTERM", Counters(0, 900))  # of 1000 steps
    made = Estimate(dict.fromkeys(plan.configs, 600.0), dict.fromkeys(plan.configs, 0.0), "a test")
    assert made.words(plan._replace(cells=[begun, new]), 1).startswith("about 11 min")


def test_a_second_sweep_in_the_same_folder_is_refused(plan_of: Folder) -> None:
    refused = []

    def second(jobs: Any) -> list[Any]:
        with pytest.raises(ConfigError, match="invented: another sweep runs in this folder"):
            run(plan_of("study"), lambda jobs: [], lambda cell: [])
        refused.append(True)
        return []

    with pytest.raises(RunFailed):
        run(plan_of("study"), second, lambda cell: [])
    assert refused


def test_a_plan_is_renewed_once_the_folder_is_its_own(plan_of: Folder) -> None:
    """Between plan and lock, another sweep may have completed the cells, or used the folder for other cells."""
    late, other = plan_of("study"), plan_of("other")
    swept(plan_of("study"))
    launched: list[Any] = []
    run(late, launched.append, lambda cell: [])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="another sweep has just used it; repeat the command"):
        run(other, launched.append, lambda cell: [])  # type: ignore[arg-type]
    assert launched == []


def test_a_folder_that_cannot_be_made_is_refused(composed: dict[str, SweepPlan], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    plan = make_plan(composed["study"].study, composed["study"].configs, tmp_path / "file" / "sweep")
    with pytest.raises(ConfigError, match=r"hydra.sweep.dir=.*/file/sweep: Not a directory"):
        run(plan, lambda jobs: [], lambda cell: [])


def test_cells_of_which_a_launcher_says_nothing_are_lost(plan_of: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_of("study")
    with pytest.raises(RunFailed, match="4 of 4 cells"):
        run(plan, lambda jobs: [], lambda cell: [])
    assert capsys.readouterr().out.count("failed    w") == 4
    assert set(load_sweep(plan.folder).cells["reason"]) == {"lost: its process left no message"}


@pytest.mark.parametrize("trials", [False, True], ids=["study", "trials of a search"])
def test_a_sweep_that_is_asked_to_stop_is_interrupted(
    trials: bool, plan_of: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    """The request comes when the launcher has already seen it, and all cells have not started: none is lost."""
    plan = plan_of("study")
    if trials:
        plan = plan._replace(study=replace(plan.study, search=SearchRecord({}, Sampler.random, 0, 1, [5])))

    def asked(jobs: Any) -> list[Any]:
        (plan.folder / STOP).touch()
        return []

    with pytest.raises(Interrupted) as stopped:
        run(plan, asked, lambda cell: [])
    assert stopped.value.signal == signal.SIGTERM
    out = capsys.readouterr().out
    assert ("sweep     0 of 4 cells completed, 4 not started\n" in out) is not trials
    assert "repeat the command to continue\n" in out
    assert not (plan.folder / STOP).exists()
    swept(plan_of("study"))


def test_a_page_shows_the_sweep_while_it_runs(plan_of: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last page is the report; that of a sweep that was stopped says so."""
    monkeypatch.setattr(live, "FIRST_S", 0.0)
    monkeypatch.setattr(live, "EVERY_S", 0.01)
    monkeypatch.setattr(live, "SHARE", 1.0)
    pages: list[str] = []

    def shows(text: str) -> None:
        deadline = time.monotonic() + 60
        while not (page.exists() and text in page.read_text()):
            assert time.monotonic() < deadline, text
            time.sleep(0.01)

    def launch(jobs: Any) -> list[Any]:
        first, second = plan.cells[:2]
        for cell in (first, second):
            cell.folder.mkdir(parents=True)
            write_json(cell.folder / CELL, {"attempts": [{"host": "here"}]})
            write_status(cell.folder, "running", "", Counters(0, 500))
        shows("0 of 4 cells completed, 2 running")
        write_json(first.folder / CELL, {"attempts": [{"outcome": "failed", "reason": "exited with code 3"}]})
        shows("0 of 4 cells completed, 1 running, 1 failed")
        pages.append(page.read_text())
        raise KeyboardInterrupt

    plan = plan_of("study")
    page = plan.folder / REPORT
    with pytest.raises(KeyboardInterrupt):
        run(plan, launch, lambda cell: [])
    assert "seed 0: running, 25 %" in pages[0]
    assert "location.reload" in pages[0]
    assert live.STOPPED_PAGE in page.read_text()
    assert "location.reload" not in page.read_text()
    assert list(plan.folder.glob(".*")) == []
    for cell in plan.cells:
        shutil.rmtree(cell.folder, ignore_errors=True)
    swept(plan_of("study"))
    assert live.STOPPED_PAGE not in page.read_text()
    assert "location.reload" not in page.read_text()


class Clock:
    now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


def test_what_is_left_counts_cells_under_way_and_not_what_was_done_before(
    plan_of: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two cells need 1000 steps, two need 2000. One of these had 1000 before. After 900 s it has 1800, and one cell
    of 1000 steps is completed. So 1800 steps were done, and 3200 are left."""
    clock = Clock()
    monkeypatch.setattr("ablate.sweeps.watch.time", clock)
    plan = plan_of("study")
    first, second = as_completed(plan).cells[:2]
    for cell in plan.cells:
        write_status(cell.folder, "interrupted", "SIGTERM", Counters(0, 1000 if cell == second else 0))

    def launch(jobs: Any) -> list[Any]:
        clock.now_s = 900.0
        write_status(second.folder, "running", "", Counters(0, 1800))
        write_json(first.folder / CELL, {"attempts": [{"outcome": "completed", "reason": "", "seconds": 900.0}]})
        return []

    with pytest.raises(RunFailed):
        run(plan_of("study"), launch, lambda cell: [])
    assert f"{first.name} completed in 900.0 s; about 27 min left" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("total_steps", "max_episodes", "share"), [(1000, None, 0.25), (None, 100, 0.5), (1000, 100, 0.5), (200, 100, 1.0)]
)
def test_a_cell_is_as_far_as_the_limit_that_it_is_nearest_to(
    tmp_path: Path, total_steps: int | None, max_episodes: int | None, share: float
) -> None:
    assert share_done(tmp_path, total_steps, max_episodes) == 0.0
    write_status(tmp_path, "running", "", Counters(7, 250, 50))
    assert share_done(tmp_path, total_steps, max_episodes) == share


def test_a_cell_that_was_ended_from_outside_is_no_success(plan_of: Folder) -> None:
    """The SIGTERM came from elsewhere: a user's kill, or a cluster's time limit."""
    plan = plan_of("study")

    def launch(jobs: Any) -> list[Any]:
        for cell in as_completed(plan).cells:
            outcome = "interrupted" if cell.seed else "completed"
            write_json(cell.folder / CELL, {"attempts": [{"outcome": outcome, "reason": "SIGTERM", "seconds": 1.0}]})
        return []

    with pytest.raises(RunFailed, match="2 of 4 cells were interrupted; repeat the command to continue them"):
        run(plan, launch, lambda cell: [])


def test_what_a_killed_sweep_left_half_written_is_removed(plan_of: Folder) -> None:
    plan = swept(plan_of("study"))
    for path in (plan.folder / ".study.json.4194305.tmp", plan.cells[0].folder / ".cell.json.4194305.tmp"):
        path.write_text("half")
    swept(plan_of("study"))
    assert list(plan.folder.rglob("*.tmp")) == []


@pytest.mark.parametrize(
    ("overrides", "note"),
    [
        (["env=cartpole"], "scores of Pendulum-v1 and CartPole-v1 have different units"),
        (["workers=4"], "it is about real time, and the workers of w2 take turns"),
    ],
)
def test_the_plan_names_claims_that_no_result_can_answer(
    planned: Planner, capsys: pytest.CaptureFixture[str], overrides: list[str], note: str
) -> None:
    study = claim(real_time=True)  # type: ignore[arg-type]
    study["arms"]["w4"]["overrides"] = overrides
    planned(study=study)
    assert f"note      the claim A1 cannot be tested: {note}\n" in capsys.readouterr().out


def test_a_key_of_the_command_line_is_checked_against_the_arms(
    planned: Planner, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sweep's own configuration has the default algorithm, which has no such key."""
    plan = planned("sweep=dqn_components", "algo.batch_size=16", "sweep.seeds=0")
    assert {config.algo.batch_size for config in plan.configs.values()} == {16}
    assert refusal(planned, capsys, ("sweep=dqn_components", "algo.t_max=5"), None) == (
        "algo.t_max=5: only algo.name=a3c has this key (arm all)"
    )
    assert refusal(planned, capsys, ("sweep=classic_control", "algo.batch_size=16"), None) == (
        "algo.batch_size=16: only algo.name=dqn has this key (arm a3c-cartpole)"
    )


def test_each_arm_has_the_values_of_its_algorithm_and_environment(planned: Planner) -> None:
    plan = planned("sweep=classic_control", "sweep.seeds=0-2", "algo.gamma=0.9")
    assert len(plan.cells) == 2 * 3 * 3
    assert plan.cells[1].folder.relative_to(plan.folder) == Path("dqn-cartpole/seed=0")
    for name, config in plan.configs.items():
        algo, env = name.split("-")
        alone = config_of(f"algo={algo}", f"env={env}", "algo.gamma=0.9")
        assert (config.algo, config.env, config.model) == (alone.algo, alone.env, alone.model)
        twin = plan.configs[f"{'dqn' if algo == 'a3c' else 'a3c'}-{env}"]
        assert config.total_steps == twin.total_steps
    words = describe(plan, "local", 2, None)
    assert "arms      a3c (baseline), dqn\nin each   cartpole, acrobot, mountain_car\n" in words
    assert "CartPole-v1 475, Acrobot-v1 -100, MountainCar-v0 -110" in words
