"""The rule of the command line: what is wrong is one line of less than 200 letters that names key and value. The exit
code is 2, and nothing is left behind. All cases run in this process, through the function behind src/run.py."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import ablate.sweeps.plan
import ablate.sweeps.run
from ablate.cli import evaluate, resolvers, train
from ablate.cli.hydra_app import ValidateFirst
from ablate.cli.messages import LONGEST, one_line
from ablate.config.schema import ConfigError

ACCEPTED = "accepted"
SWITCHES = ("HYDRA_FULL_ERROR", "ABLATE_SHOW_TRACEBACKS")  # the program sets them
TOO_LARGE = str(2**63)


@dataclass(frozen=True)
class Outcome:
    code: int
    errors: str
    left: list[str]  # files and folders that were not there before

    def refuses(self, *named: str) -> bool:
        """Whether the rule is kept, and the line names these texts."""
        (line,) = self.errors.splitlines() or [""]
        return self.code == 2 and len(line) < 200 and not self.left and all(text in line for text in named)


Program = Callable[..., Outcome]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Program:
    """src/run.py in an empty folder. A run or a sweep that would start prints `accepted` instead."""

    def accepted(*arguments: Any) -> None:
        print(ACCEPTED)

    def files() -> set[str]:
        return {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}

    def call(*arguments: str) -> Outcome:
        for name in SWITCHES:
            os.environ.pop(name, None)
        monkeypatch.setattr(sys, "argv", ["src/run.py", *arguments])
        before = files()
        capfd.readouterr()
        try:
            code = train.program()
        except SystemExit as leaving:  # from a callback
            code = int(leaving.code or 0)
        ValidateFirst.locked.close()  # it would be at the end of the process
        written = capfd.readouterr()
        left = [] if ACCEPTED in written.out else sorted(files() - before)
        return Outcome(code, written.err, left)

    for name in SWITCHES:
        monkeypatch.setenv(name, "")  # so that it is restored
    monkeypatch.setattr(train, "run", accepted)
    monkeypatch.setattr(ablate.sweeps.run, "run", accepted)
    monkeypatch.setattr(ablate.sweeps.plan, "estimate", lambda plan: None)
    monkeypatch.setattr(resolvers, "OUTPUTS", tmp_path / "outputs")
    monkeypatch.setattr(ValidateFirst, "ready", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    return call


LONG = "x" * 300
# A row per fault: the arguments, and what the line names.
REFUSED: tuple[tuple[list[str], tuple[str, ...]], ...] = (
    # A value that is no name of an option.
    *(([f"{group}=1"], (f"{group}=1: no such option",)) for group in (
        "algo", "env", "model", "replay", "optimizer", "evaluation", "logger", "protocol", "preprocessing",
        "experiment", "sweep", "hydra/launcher",
    )),
    (["algo=[a3c,dqn]"], ("algo=[a3c,dqn]: no such option", "a3c, dqn")),
    (["env={a:1}"], ("env={a:1}: no such option",)),
    (["model="], ("model=: no such option",)),
    (["env=../algo/a3c"], ("env=../algo/a3c: no such option",)),
    (["logger=null"], ("logger=null: no such option",)),
    (["sweep=null"], ("sweep=null: no such option",)),
    # The replay is optional, and Hydra ignores an option that it does not find.
    (["replay='a b'"], ("replay='a b': no such option",)),
    (["replay=''"], ("replay='': no such option",)),
    (["replay="], ("replay=: no such option",)),
    (["replay=../x"], ("replay=../x: no such option",)),
    (["replay=uniform"], ("replay=uniform: A3C learns from each step once",)),
    (["-m", "replay=uniform,'a b'"], ("no such option",)),
    # Designs.
    (["sweep=dqn_components", "sweep.design=leave"], ("sweep.design=leave", "leave_one_out")),
    (["sweep=dqn_components", "sweep.design=null"], ("sweep.design=null: the factors", "need a design")),
    (["sweep=workers", "sweep.design=path"], ("sweep.design=path: a design needs factors",)),
    (["sweep=dqn_components", "algo=dqn", "algo.double=true"], ("algo.double=true: the arm without-double-q is",)),
    (["sweep=dqn_components", "algo.n_step=1,3"], ("algo.n_step=1,3: the study already has the arms all,",)),
    # Folders.
    (["hydra.run.dir=file/x"], ("hydra.run.dir=", "file is no folder")),
    (["hydra.run.dir=/proc/x/y"], ("hydra.run.dir=/proc/x/y: no file can be written in /proc",)),
    ([f"hydra.run.dir=a/b/{LONG}"], ("hydra.run.dir=", "it cannot be made", "File name too long")),
    (["hydra.run.dir="], ("hydra.run.dir=: it is empty",)),
    (["hydra.run.dir=null"], ("hydra.run.dir=null: it is empty",)),
    (["hydra.output_subdir=../../x"], ("hydra.output_subdir=../../x: it must be a folder inside",)),
    (["hydra.output_subdir=/tmp/x"], ("hydra.output_subdir=/tmp/x: it must be a folder inside",)),
    ([f"hydra.output_subdir={LONG}"], ("hydra.output_subdir=", "it must be a folder inside")),
    (["-m", "seed=1,2", "hydra.sweep.dir=file/x", "sweep.dry_run=true"], ("hydra.sweep.dir=", "file: File exists")),
    ([f"resume={LONG}"], ("resume=xxx", "File name too long")),
    (["resume=a,b (c) {d"], ("resume=", "a,b (c) {d", "no such folder")),
    (["load=a=b,c"], ("load=", "a=b,c", "no such run or checkpoint")),
    # Interpolations.
    (["algo.gamma=${nothing}"], ("algo.gamma=${nothing}: ", "nothing")),
    (["algo.gamma=${oc.env:NO_SUCH_VARIABLE}"], ("algo.gamma=${oc.env:NO_SUCH_VARIABLE}: ",)),
    (["seed=${no_resolver:1}"], ("seed=${no_resolver:1}: ", "no_resolver")),
    (["env.id=${"], ("env.id=${: ",)),
    # Numbers.
    (["figures=2"], ("figures=2: give true or false",)),
    (["algo.lock_updates=-1"], ("algo.lock_updates=-1: give true or false",)),
    (["-m", "seed=1,2", "sweep.dry_run=7"], ("sweep.dry_run=7: give true or false",)),
    *(([f"{key}={TOO_LARGE}"], (f"{key}={TOO_LARGE}: ",)) for key in (
        "seed", "workers", "envs_per_worker", "max_episodes", "log_interval", "algo.t_max", "optimizer.decay_steps",
        "env.max_ep_step", "evaluation.every_steps", "algo.gamma", "checkpoint_every_seconds", "+env.kwargs.g",
    )),
    (["algo=dqn", "env=cartpole", f"algo.target_update={TOO_LARGE}"], (f"algo.target_update={TOO_LARGE}: ",)),
    (["algo=dqn", "env=cartpole", "replay.capacity=1e12"], ("replay.capacity=1e12: ", "write replay.capacity=1000")),
    (["algo.t_max=1e12"], ("algo.t_max=1e12: ", "write algo.t_max=1000000000000")),
    (["optimizer.decay_steps=1000000000000001"], ("optimizer.decay_steps=1000000000000001: ",)),
    (["model.actor_hidden=[1000000,1000000]"], ("model.name=mlp: the parameters of this network take 4e+03 GB",)),
    (["algo.gamma=1" + 400 * "0"], ("algo.gamma=1000",)),
    # Hydra's flags.
    (["--nothing"], ("unrecognized arguments: --nothing",)),
    (["--cfg", "jobs"], ("--cfg", "'jobs'")),
    (["seed=1", "--cfg", "job", "seed=2"], ("unrecognized arguments: seed=2",)),
    (["workers=1", "--resolve"], ("--resolve: only together with --cfg or --help",)),
    (["-m", "--cfg", "job"], ("--cfg --multirun: only one of them",)),
    (["--experimental-rerun=x.pickle"], ("--experimental-rerun=x.pickle: a pickle may run any code",)),
    # What would switch off the checks.
    *(([argument], (f"{argument}: this part of Hydra's configuration checks all others",)) for argument in (
        "~hydra/callbacks", "hydra/callbacks=null", "~hydra.callbacks", "~hydra.callbacks.ablate",
        "hydra.callbacks.ablate=null", "+hydra.callbacks={}", "~hydra", "hydra=null",
    )),
    (["-m", "seed=1,2", "hydra/sweeper=basic", "~hydra/callbacks"], ("~hydra/callbacks: this part of",)),
    (["-m", "seed=1,2", "hydra/sweeper=basic", "sweep.detach=true"], ("sweep.detach=true: only with hydra/sweeper=",)),
    (["sweep=workers", "sweep.detach=2"], ("sweep.detach=2: give true or false",)),
    (["env=cartpole", "sweep.detach=true"], ("sweep.detach=true: this key belongs to sweeps",)),
    (["-m", "seed=1,2", "hydra/sweeper=optuna"], ("hydra/sweeper=optuna: it has no seeds",)),
    *(([argument], (f"{argument}: the program writes no log through Hydra",)) for argument in (
        "hydra.job_logging.root.level=FOO", "hydra.job_logging.version=2", "hydra.hydra_logging.version=2",
        "hydra.hydra_logging=null", "~hydra.job_logging.handlers",
    )),
    *(([argument], (f"{argument}: give true, false or a list of loggers",)) for argument in (
        "hydra.verbose=7", "hydra.verbose=null", "hydra.verbose={a:1}",
    )),
    # Long texts and control characters.
    ([f"env.id={LONG}"], ("env.id=xxx",)),
    ([f"{LONG}=1"], ("xxx", "File name too long")),
    ([f"sweep.question='{LONG}'"], ("sweep.question=", "add -m")),
    (["env.id='a\nb\x1b[31m'"], ("env.id=", "\\x1b[31m")),
    # Studies: what can be known is said before the first cell.
    (["sweep=tune_everywhere", "sweep.until=decided"], ("sweep.until=decided: with several environments", "cdf")),
    (["sweep=sensitivity", "sweep.draws=128"], ("sweep.draws=128: input should be less than or equal to 127",)),
    (
        ["-m", "sweep.search.trials=6", "algo.t_max=interval(5,20)", "sweep.dry_run=true"],
        ("sweep.search.space.algo.t_max=interval(5,20): the key takes whole numbers; give int(interval(5,20))",),
    ),
    (
        ["-m", "sweep.search.trials=6", "optimizer.lr=interval(-5,-1)", "sweep.dry_run=true"],
        ("sweep.search.space.optimizer.lr=interval(-5,-1): a trial has optimizer.lr=-", "greater than 0"),
    ),
    (["-m", "seed=1,2", "sweep.metric=nothing", "sweep.dry_run=true"], ("sweep.metric=nothing: no such metric",)),
    (
        ["-m", "seed=1,2", "+sweep.metrics.a/b={label:x,source:episodes,statistic:mean}", "sweep.dry_run=true"],
        ("sweep.metrics.a/b",),
    ),
    (["hydra.output_subdir=${oc.env:NO_SUCH_VARIABLE}"], ("hydra.output_subdir=${oc.env:NO_SUCH_VARIABLE}: ",)),
    (["total_steps=-5"], ("total_steps=-5: ",)),
    (["max_episodes=0"], ("max_episodes=0: ",)),
    (["resume=~/no such run"], ("resume=~/no such run", "no such folder")),
    (["load=~/nothing"], ("load=~/nothing", "no such run or checkpoint")),
    (["hydra.run.dir=r\udce9s"], ("hydra.run.dir=r\\udce9s: it has bytes that are not UTF-8",)),
    (["workers=1000000"], ("workers=1000000: ", "4096",)),
    (["+@chedule=1"], ("+@chedule=1: there is no key before @",)),
    (["++hang/timeout_s=a,b"], ("++hang/timeout_s=a,b: ", "add -m")),
    (["experiment=pendulum_report", "env=file"], ("env=file: no such option",)),
    (["hydra/sweeper=" + "word " * 100], ("hydra/sweeper=word",)),
    (["-m", "workers=1,2", "sweep.max_retries=-1", "sweep.dry_run=true"], ("sweep.max_retries=-1: ",)),
    (["-m", "algo.gamma=0.9,${nothing}", "sweep.dry_run=true"], ("algo.gamma=${nothing}: ",)),
)  # fmt: skip


@pytest.mark.parametrize(("arguments", "named"), REFUSED, ids=lambda value: " ".join(value)[:60])
def test_what_is_wrong_is_one_line(arguments: list[str], named: tuple[str, ...], program: Program) -> None:
    outcome = program(*arguments)
    assert outcome.refuses(*named), outcome


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["replay=none"],
        ["figures=1", "algo.lock_updates=False"],
        ["hydra.run.dir=a b/(c),{d}=e"],
        ["hydra.output_subdir=.hydra/mine"],
        ["algo.gamma=${oc.decode:'0.5'}"],
        ["-m", "seed=1,2", "workers=2", "sweep.dry_run=false", "hydra.sweep.dir=a b"],
    ],
    ids=" ".join,
)
def test_what_is_right_is_accepted(arguments: list[str], program: Program, tmp_path: Path) -> None:
    assert program(*arguments) == Outcome(0, "", [])


def test_a_dry_run_leaves_nothing(program: Program, tmp_path: Path) -> None:
    assert program("-m", "seed=1,2", "workers=2", "sweep.dry_run=true", "hydra.sweep.dir=a/b") == Outcome(0, "", [])


@pytest.mark.parametrize(
    "text", ["a" * 1000, "word " * 200, f"resume={'/folder' * 60}: it is empty", "a\x1b[0m\n\r\tb"]
)
def test_a_message_is_one_short_line_with_its_beginning_and_end(text: str) -> None:
    line = one_line(text)
    assert len(line) <= LONGEST < 200
    assert line.isprintable()
    assert (line[:8], line[-1]) == (text.split("\x1b")[0][:8] if "\x1b" not in text else "a\\x1b[0m", text[-1])


# src/evaluate.py


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run=x", "episodes=5", "episodes=many"], "episodes=many: "),
        (["run=x", f"seed={TOO_LARGE}"], f"seed={TOO_LARGE}: it must be at least 0 and at most "),
        (["run=x", "episodes=1000000000000"], "episodes=1000000000000: it must be at least 1"),
        (["run=x", "episodes=1e3"], "episodes=1e3: "),
        (["run=x", "video=2"], "video=2: give true or false"),
        (["run=x", "seed={"], "seed={: "),
        (["run=x", "seed=${nothing}"], "seed=${nothing}: "),
        (["run="], "run: no value"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_option_of_evaluate_is_quoted_as_it_was_given(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        evaluate.read_options(arguments)
    assert str(refusal.value).startswith(message)


@pytest.mark.parametrize("path", ["a,b (c) {d", "null", "~", "[x]", "1", "a=b", "${x}", "a: b"])
def test_evaluate_takes_any_path(path: str) -> None:
    assert evaluate.read_options([f"run={path}"]).run == path


# Random command lines.

KEYS = (
    "seed", "workers", "envs_per_worker", "device", "backend", "precision", "schedule", "max_episodes", "total_steps",
    "log_interval", "checkpoint_every_seconds", "hang_timeout_s", "save_replay", "figures", "plugins", "algo.name",
    "algo.t_max", "algo.gamma", "algo.max_grad_norm", "algo.loss_reduction", "algo.bootstrap_truncated", "env.id",
    "env.max_ep_step", "env.reward_scale", "env.kwargs", "model.actor_hidden", "model.activation", "model.mu_scale",
    "optimizer.lr", "optimizer.betas", "optimizer.schedule", "optimizer.decay_steps", "evaluation.every_steps",
    "evaluation.every_seconds", "evaluation.action", "evaluation.horizon", "logger.display", "logger.tensorboard",
    "+env.kwargs.g", "resume", "load", "hydra.run.dir", "hydra.output_subdir", "algo", "env", "model", "optimizer",
    "replay", "logger", "evaluation", "protocol", "preprocessing", "experiment", "sweep", "algo_env", "hydra/launcher",
    "hydra.job.name", "hydra.sweep.dir",
)  # fmt: skip
SWEEP_KEYS = (
    "sweep.name", "sweep.seeds", "sweep.arms", "sweep.base", "sweep.baseline", "sweep.metric", "sweep.metrics",
    "sweep.claims", "sweep.smallest_effect", "sweep.parallel", "sweep.time_limit_s", "sweep.max_retries",
    "sweep.fail_fast", "sweep.dry_run", "hydra/sweeper",
)  # fmt: skip
VALUES = (
    "", "null", "nan", "inf", "-inf", "-1", "1e12", "1e999", TOO_LARGE, "9" * 400, "0x10", "1_000", "2", "0.5", "true",
    "a b", "''", "'a b'", '"', "'", "\\", "[", "]", "[]", "[1,[2]]", "[null]", "{", "{}", "{a:1}", "{a:{b:[1]}}", "(",
    "a,b", "1,2", "range(3)", "choice(1,2)", "glob(*)", "interval(0,1)", "sort(1,2)", "int(x)", "???",
    "${x}", "${seed}", "${oc.env:NO_SUCH_VARIABLE}", "${no_such:1}", "${", "$", "../x", "/", ".", "file", "file/x",
    "/proc/x", LONG,
    " ".join("word" for _ in range(100)), "ü\u2028\x07", "\udcff", "%s", "<b>", "[/red]", "async", "a=b", "_target_",
    "@", "x:y", "no_module:Name-v0", "a:b:c", "CartPole-v1", "ALE/Nothing-v5",
)  # fmt: skip
FLAGS = ("-m", "--cfg", "--cfg=job", "-h=1", "--resolve", "-x", "--package=algo", "-p", "--info=nothing", "--run", "--")


def bad_line(rng: random.Random) -> list[str]:
    """A command line with one or two faults, or a few that may be none."""
    kind = rng.randrange(8)
    if kind == 0:  # a typo in a key
        key = rng.choice(KEYS)
        at = rng.randrange(len(key))
        return [
            rng.choice(["", "+", "++", "~"])
            + key[:at]
            + rng.choice("xyz_.@/")
            + key[at + 1 :]
            + "="
            + rng.choice(VALUES)
        ]
    if kind == 1:
        return [rng.choice(VALUES), *([rng.choice(FLAGS)] if rng.random() < 0.5 else [])]
    if kind == 2:
        return [f"{rng.choice(KEYS)}={rng.choice(VALUES)}", rng.choice(FLAGS)]
    if kind == 3:
        keys = rng.sample(SWEEP_KEYS, 2)
        return ["-m", "seed=1,2", *(f"{key}={rng.choice(VALUES)}" for key in keys)]
    if kind == 4:
        return ["-m", *(f"{key}={rng.choice(VALUES)},{rng.choice(VALUES)}" for key in rng.sample(KEYS, 1))]
    base = rng.choice([[], ["algo=dqn", "env=cartpole"], ["env=breakout"], ["experiment=pendulum_report"]])
    return [*base, *(f"{key}={rng.choice(VALUES)}" for key in rng.sample(KEYS, rng.choice([1, 1, 2])))]


LINES = int(os.environ.get("ABLATE_FUZZ_LINES", "200"))
SEED = int(os.environ.get("ABLATE_FUZZ_SEED", "1"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_random_command_lines_keep_the_rule(program: Program) -> None:
    """A line is accepted, or refused by the rule. The seed and the number of the line reproduce a fault."""
    faults = []
    for number in range(LINES):
        arguments = bad_line(random.Random(f"{SEED} {number}"))
        try:
            outcome = program(*arguments)
        except Exception as error:
            faults.append(f"line {number}: {arguments}: {type(error).__name__}: {error}"[:600])
            continue
        if not outcome.refuses() and (outcome.code != 0 or outcome.errors or outcome.left):
            faults.append(f"line {number}: {arguments}: {outcome}"[:900])
    print(f"ABLATE_FUZZ_SEED={SEED} ABLATE_FUZZ_LINES={LINES}: {len(faults)} faults")
    assert not faults, f"ABLATE_FUZZ_SEED={SEED}\n" + "\n".join(faults)
