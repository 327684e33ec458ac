"""The command line: an error is one line that names key and value. The exit code is 2, and no file is written.

Each case runs in its own process, in a private copy of src/ and conf/, so that only it can write files there.
These processes are forks (`forked.py`), because each new interpreter would import for a second. Two cases run at a
time. The first test queues all selected cases; each test then waits for its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import pytest
import yaml
from forked import Forks
from hydra.errors import HydraException

from ablate.cli.messages import explain
from ablate.config.schema import ConfigError
from ablate.records.manifest import lock_run
from ablate.records.schema import LAST_CHECKPOINT
from ablate.sweeps.study import refuse_empty

ROOT = Path(__file__).resolve().parents[2]
AT_ONCE = 2
TIMEOUT_S = 120.0
TINY = (
    "workers=1", "schedule=interleaved", "backend=manual", "max_episodes=1", "env.max_ep_step=20",
    "evaluation.every_steps=null", "figures=false", "logger.display=off",
)  # fmt: skip


class Program:
    """A private copy of the program, with its own outputs/. Python options need an interpreter of their own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._forks: Forks | None = None
        self._environment = dict(os.environ)  # pytest changes its own between tests, while threads run the program
        for name in ("src", "conf", "sweeps"):
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "results")
            shutil.copytree(ROOT / name, root / name, ignore=ignored)
        (root / "outputs").mkdir()

    def __call__(self, *arguments: str, python: tuple[str, ...] = (), **env: str) -> subprocess.CompletedProcess[str]:
        if not python:
            self._forks = self._forks or Forks(self.root)
            return self._forks.run(arguments, {**self._environment, **env}, TIMEOUT_S)
        return subprocess.run(
            [sys.executable, "-B", *python, "src/run.py", *arguments],
            cwd=self.root,
            env={**self._environment, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )

    def end(self) -> None:
        if self._forks is not None:
            self._forks.end()

    def files(self) -> set[Path]:
        return set(self.root.rglob("*"))


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    made = Program(tmp_path_factory.mktemp("program"))
    yield made
    made.end()


# The folders that the cases name. All are made from one tiny run.


@pytest.fixture(scope="session")
def folders(program: Program, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """run: a completed run. damaged: one bit of its checkpoint is flipped. cut: the end of its checkpoint is missing.

    empty: a folder without a run. missing: no such folder."""
    base = tmp_path_factory.mktemp("runs")
    folders = {name: base / name for name in ("run", "damaged", "cut", "empty", "missing")}
    made = program(*TINY, f"hydra.run.dir={folders['run']}")
    assert made.returncode == 0, made.stderr
    folders["empty"].mkdir()
    for name in ("damaged", "cut"):
        shutil.copytree(folders["run"], folders[name])
    path = folders["damaged"] / LAST_CHECKPOINT
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    path = folders["cut"] / LAST_CHECKPOINT
    path.write_bytes(path.read_bytes()[:-1000])
    return folders


@dataclass(frozen=True)
class Case:
    """arguments: separated by blanks; {run} stands for a folder of `folders`. named: texts in the line on stderr."""

    arguments: str
    named: tuple[str, ...]


def case(arguments: str, *named: str) -> Case:
    return Case(arguments, named or tuple(arguments.lstrip("+").split("=")))


ERRORS = (
    # A typo in a key.
    case("wokers=8", "wokers=8", "did you mean workers?"),
    case("+wokers=8", "wokers=8", "did you mean workers?"),
    case("++wokers=8", "wokers=8", "did you mean workers?"),
    case("algo.gama=0.5", "algo.gama=0.5", "did you mean algo.gamma?"),
    case("+algo.gama=0.5", "algo.gama=0.5", "did you mean algo.gamma?"),
    case("++evaluation.every_second=3", "evaluation.every_second=3", "did you mean evaluation.every_seconds?"),
    case("+optimizer.bets=[0.9,0.99]", "optimizer.bets", "0.9", "did you mean optimizer.betas?"),
    case("+optimizer.schedule.warmup=3", "optimizer.schedule"),
    case("gamma=0.5", "gamma=0.5", "did you mean algo.gamma?"),
    case("model.width=64", "model.width=64", "did you mean model.hidden?"),
    case("algo=dqn env=cartpole model.actor_hidden=[64]", "only model.name=mlp", "did you mean model.hidden?"),
    case("total_timesteps=1000", "did you mean total_steps?"),
    case("max_episodes=+1000", "max_episodes=+1000", "resume=<run>"),
    case("env.max_step=100", "env.max_step=100", "did you mean env.max_ep_step?"),
    case("~wokers", "wokers", "did you mean workers?"),
    # An unknown option of a group.
    case("algo=a2c", "algo=a2c", "did you mean a3c?"),
    case("env=pendulm", "env=pendulm", "did you mean pendulum?"),
    case("optimizer=adan", "optimizer=adan", "did you mean adam?"),
    case("experiment=pendulum_reprot", "experiment=pendulum_reprot", "did you mean pendulum_report?"),
    case("group=x", "group=x"),
    # A wrong type.
    case("workers=four", "workers=four"),
    case("workers=2.5", "workers=2.5"),
    case("algo.gamma=high", "algo.gamma=high"),
    case("total_steps=5e6", "total_steps=5e6", "write total_steps=5000000"),
    case("algo.lock_updates=maybe", "algo.lock_updates=maybe"),
    case("schedule=asynch", "schedule=asynch", "async, interleaved"),
    case("optimizer.betas=0.9", "optimizer.betas=0.9"),
    case("model.actor_hidden=200", "model.actor_hidden=200"),
    case("env.id=null", "env.id=null"),
    case("algo=dqn env=cartpole replay=priorised", "replay=priorised", "did you mean prioritized?"),
    case("algo=dqn env=cartpole replay=null", "replay=null", "prioritized, uniform"),
    case("algo=null", "algo=null", "a3c, dqn"),
    # Out of range.
    case("workers=0", "workers=0"),
    case("algo.gamma=1.5", "algo.gamma=1.5"),
    case("algo.gamma=nan", "algo.gamma=nan"),
    case("algo.t_max=0", "algo.t_max=0"),
    case("algo=dqn algo.train_freq=1000000000000", "algo.train_freq=1000000000000"),
    case("algo=dqn replay=prioritized replay.alpha=400", "replay.alpha=400"),
    case("optimizer.lr=0", "optimizer.lr=0"),
    case("optimizer.lr=inf", "optimizer.lr=inf"),
    case("optimizer.betas=[0.9,1.5]", "optimizer.betas=[0.9, 1.5]", "element 1"),
    case("optimizer.betas=[0.9]", "optimizer.betas=[0.9]: too few values", "element 1 is missing"),
    case("optimizer.betas=[0.9,0.99,0.999]", "optimizer.betas=[0.9, 0.99, 0.999]"),
    case("model.actor_hidden=[64,0]", "model.actor_hidden=[64, 0]", "element 1"),
    case("seed=-1", "seed=-1"),
    case("device=tpu", "device=tpu"),
    case("device=cuda:99", "device=cuda:99"),
    case("device=cuda:x", "device=cuda:x"),
    # Settings that contradict each other.
    case("max_episodes=null total_steps=null", "max_episodes=null total_steps=null"),
    case("schedule=interleaved algo.lock_updates=true", "algo.lock_updates=true", "schedule=interleaved"),
    case("+env.kwargs.max_episode_steps=3", "env.kwargs.max_episode_steps", "3", "env.max_ep_step"),
    case("resume={run} load={run}", "load={run}", "resume="),
    # Code chosen by its import path.
    case("_target_=os.system", "_target_=os.system"),
    case("+algo._target_=os.system", "+algo._target_=os.system"),
    case("++env.kwargs._target_=os.system", "++env.kwargs._target_=os.system"),
    case("env.id=_target_", "env.id=_target_"),
    case("hydra.launcher._target_=os.system", "hydra.launcher._target_=os.system"),
    case("+hydra.callbacks.x._target_=os.system", "+hydra.callbacks.x._target_=os.system"),
    # Environments.
    case("env.id=Pendulm-v1", "env.id=Pendulm-v1", "did you mean Pendulum-v1?"),
    case("env.id=Pendulum-v9", "env.id=Pendulum-v9", "did you mean Pendulum-v1?"),
    # A game.
    case("env.id=ALE/Brekout-v5", "env.id=ALE/Brekout-v5", "did you mean ALE/Breakout-v5?"),
    case("env.id=Pong", "env.id=Pong: no such game", "did you mean Pong-v"),
    case("env.id=Breakout-v5", "env.id=Breakout-v5: no such game", "did you mean ALE/Breakout-v5?"),
    case("env=pong", "env=pong", "env.id=ALE/Pong-v5"),
    case("env=atari env.id=Pong-v7", "env.id=Pong-v7", "did you mean Pong-v"),
    case("env=atari", "env.id", "no value"),
    case("env=breakout env.frame_skip=4", "env.frame_skip=4: a list is needed", "env.frame_skip=[4,4]"),
    case("env=breakout env.frame_skip=[4,2]", "env.frame_skip=[4,2]", "use [2,4]"),
    case("env=breakout env.mode=3", "env.mode=3: breakout has no such mode (there are: 0, 4, 8,"),
    case("env=riverraid env.difficulty=2", "env.difficulty=2: riverraid has no such difficulty (there are: 0, 1)"),
    case("env=breakout env.noop_max=700", "env.noop_max=700", "less than or equal to 600"),
    case(
        "env=breakout preprocessing=nature_84 model=conv_lstm_42",
        "preprocessing=nature_84: it gives [4, 84, 84]",
        "use preprocessing=report_42",
    ),
    case("env=breakout protocol=machado", "protocol=machado", "did you mean machado2018?"),
    case("protocol=machado2018", "protocol=machado2018", "this setting is only for games"),
    case("env.noop_max=3", "env.noop_max=3", "only env.name=atari has this key"),
    case("env.id=no_module_of_this_name:Env-v0", "env.id=no_module_of_this_name:Env-v0"),
    case("env.id=CartPole-v1 +env.kwargs.colour=1", "env.id=CartPole-v1", "colour"),
    case("env.id=FrozenLake-v1", "env.id=FrozenLake-v1", "Discrete(16)", "Box"),
    case("env.id=Blackjack-v1", "env.id=Blackjack-v1", "Tuple", "Box"),
    # Folders and checkpoints.
    case("resume={empty}", "{empty}"),
    case("resume={missing}", "{missing}"),
    case("resume={damaged}", "{damaged}", "damaged"),
    case("resume={cut}", "{cut}"),
    case("resume={run} algo.gamma=0.5", "algo.gamma=0.5"),
    case("resume={run} env.frame_skip=[2,4]", "env.frame_skip=[2,4]: a resumed run keeps its configuration"),
    case("resume={run} protocol=machado2018", "protocol=machado2018: a resumed run keeps its configuration"),
    case("env=cartpole sweep.dry_run=true", "sweep.dry_run=true", "add -m"),
    case("resume={run} wokers=2", "wokers=2", "did you mean workers?"),
    case("load={missing}", "{missing}"),
    case("load={damaged}", "{damaged}", "damaged"),
    case("load={run} model.actor_hidden=[32]", "load={run}", "actor_sizes (3, 200, 2) there, (3, 32, 2) here"),
    case("load={run} model.activation=tanh", "load={run}", "activation relu6 there, tanh here"),
    case("load={run} env=cartpole", "load={run}", "torso_sizes (3,) there, (4,) here"),
    case("load={run} env=breakout", "load={run}", "another kind of network, model.name=mlp"),
    # Sweeps: one wrong job prevents all training, even if the first job is valid.
    case("-m workers=1 max_episodes=1 algo.gamma=0.9,1.5", "algo.gamma=1.5"),
    case("-m workers=1 max_episodes=1 seed=1,two", "seed=two"),
    case("-m workers=1 max_episodes=1 env=pendulum,pendulm", "env=pendulm", "did you mean pendulum?"),
    case("-m workers=1 max_episodes=1 env.id=CartPole-v1,CartPool-v1", "env.id=CartPool-v1"),
    case("-m workers=1 max_episodes=1 +wokers=1,2", "wokers=1", "did you mean workers?"),
    case("-m max_episodes=1 resume={run}", "resume"),
    # Arguments that do not have the form key=value.
    case("pendulum", "pendulum"),
    case("=3", "=3"),
    case("workers=[1", "workers=[1"),
    case("workers=1,2", "workers=1,2"),
)


@dataclass(frozen=True)
class Outcome:
    code: int
    errors: str
    made: list[str]


@pytest.fixture(scope="session")
def outcomes(
    request: pytest.FixtureRequest, folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Case, Future[Outcome]]]:
    """The outcomes of the selected cases. Each case has a copy of the program to itself while it runs."""
    free: SimpleQueue[Program] = SimpleQueue()
    programs = [Program(tmp_path_factory.mktemp("copy")) for _ in range(AT_ONCE)]
    for one in programs:
        free.put(one)

    def outcome(case: Case) -> Outcome:
        program = free.get()
        try:
            before = program.files()
            done = program(*case.arguments.format(**folders).split())
            made = sorted(str(path.relative_to(program.root)) for path in program.files() - before)
            return Outcome(done.returncode, done.stderr, made)
        finally:
            free.put(program)

    callspecs = [getattr(item, "callspec", None) for item in request.session.items]
    selected = [spec.params["error"] for spec in callspecs if spec is not None and "error" in spec.params]
    before = written(*folders.values())
    with ThreadPoolExecutor(AT_ONCE) as executor:
        yield {case: executor.submit(outcome, case) for case in selected}
        executor.shutdown(cancel_futures=True)
    for one in programs:
        one.end()
    assert written(*folders.values()) == before, "a case changed one of the folders"


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.arguments)
def test_an_error_is_one_line_and_writes_no_file(
    error: Case, outcomes: dict[Case, Future[Outcome]], folders: dict[str, Path]
) -> None:
    outcome = outcomes[error].result()
    assert outcome.made == []
    assert outcome.code == 2, outcome.errors
    lines = [line for line in outcome.errors.splitlines() if line.strip()]
    assert len(lines) == 1, outcome.errors
    for part in error.named:
        assert part.format(**folders) in lines[0]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "{path}: it describes no study; write sweep: with question, arms, seeds and claims"),
        ("sweep:\n  question:\n", "{path}: sweep.question: it has no value; give one, or leave it out"),
        (
            "sweep: {arms: {a: , b: {overrides: []}}}\n",
            "{path}: sweep.arms.a: it has no value; give one, or leave it out",
        ),
    ],
)
def test_a_study_without_its_parts_is_one_line(text: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"# @package _global_\n{text}")
    with pytest.raises(ConfigError) as refusal:
        refuse_empty(path)
    assert str(refusal.value) == line.format(path=path)


def test_an_error_in_a_study_names_the_file_that_was_read(tmp_path: Path) -> None:
    """It may be in any folder of the search path."""
    path = tmp_path / "sweep/mine.yaml"
    path.parent.mkdir()
    path.touch()
    error = HydraException(
        "In 'sweep/mine': ValidationError raised while composing config:\nKey 'x' not in 'SweepConfig'"
    )
    assert explain(error, [f"hydra.searchpath=[file://{tmp_path}]"]) == f"{path}: Key 'x' not in 'SweepConfig'"
    assert explain(error) == "sweep/mine.yaml: Key 'x' not in 'SweepConfig'"


def written(*folders: Path) -> dict[Path, int]:
    """The files in the folders, with the times at which they were written."""
    return {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*") if path.is_file()}


def test_a_run_makes_one_folder_without_a_number(program: Program) -> None:
    done = program(*TINY)
    assert done.returncode == 0, done.stderr
    (folder,) = (program.root / "outputs/runs").glob("*/*")
    assert re.fullmatch(r"[\d_-]+_[0-9a-f]{8}", folder.name)
    shutil.rmtree(program.root / "outputs/runs")


@pytest.fixture
def run(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the completed run, which a test may change."""
    return shutil.copytree(folders["run"], tmp_path / "run")


def assert_refused(done: subprocess.CompletedProcess[str], *named: str) -> None:
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for part in named:
        assert part in done.stderr


def test_a_new_run_does_not_overwrite_the_run_in_its_folder(program: Program, run: Path) -> None:
    before = written(run)
    assert_refused(program(*TINY, "seed=2", f"hydra.run.dir={run}"), str(run), "resume=")
    assert written(run) == before


def test_a_run_that_still_trains_is_not_resumed(program: Program, run: Path) -> None:
    before = written(run)
    with lock_run(run):  # a run's parent process holds this lock while it trains
        assert_refused(program(f"resume={run}", "max_episodes=2"), str(run))
    assert written(run) == before


# Valid command lines.


def test_cfg_prints_the_composed_configuration(program: Program) -> None:
    done = program("--cfg", "job", "algo.gamma=0.5", "seed=7")
    assert (done.returncode, done.stderr) == (0, "")
    composed = yaml.safe_load(done.stdout)
    assert (composed["algo"]["gamma"], composed["seed"], composed["env"]["id"]) == (0.5, 7, "Pendulum-v1")


@pytest.mark.parametrize("before", [True, False], ids=["--cfg first", "--cfg last"])
def test_env_id_alone_gets_no_settings_of_pendulum(program: Program, before: bool) -> None:
    """env.id= without env= uses the file for any environment, without Pendulum's time limit and reward scaling."""
    flags, keys = ("--cfg", "job"), ("env.id=MountainCar-v0", "seed=2")
    done = program(*(flags + keys if before else keys + flags))
    assert (done.returncode, done.stderr) == (0, "")
    env = yaml.safe_load(done.stdout)["env"]
    assert env == {
        "name": "gymnasium", "id": "MountainCar-v0", "max_ep_step": None, "reward_shift": 0.0, "reward_scale": 1.0,
        "kwargs": {},
    }  # fmt: skip


def test_env_id_with_env_keeps_the_settings_of_the_environment_file(program: Program) -> None:
    done = program("--cfg", "job", "env=cartpole", "env.id=CartPole-v0")
    assert yaml.safe_load(done.stdout)["env"]["max_ep_step"] == 500


def test_help_does_not_import_torch(program: Program) -> None:
    done = program("--help", python=("-X", "importtime"))
    assert done.returncode == 0
    assert "algo.gamma=0.9 " in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "hydra" in imported
    assert not {"torch", "pandas", "matplotlib", "scipy"} & imported


def test_help_shows_each_key_of_the_command_with_its_meaning(program: Program) -> None:
    given = ("algo=dqn", "env=cartpole", "replay=prioritized")
    shown = " ".join(program(*given, "--help").stdout.split())  # without the line breaks
    config = yaml.safe_load(program(*given, "--cfg", "job").stdout)
    for group in ("algo", "env", "model", "replay", "optimizer", "evaluation", "logger"):
        assert all(f" {group}.{key}=" in shown for key in config.pop(group) if key != "name"), group
    config.pop("sweep")
    assert all(f" {key}=" in shown for key in config)
    assert " algo.train_freq=2 steps per update, an exact ratio" in shown  # the value of CartPole, the file's comment
    assert " replay=prioritized the experience replay of DQN" in shown
    assert not re.search(r"schema/|algo_env|\?\?\?", shown)


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("algo=", "algo=a3c"),
        ("env=cart", "env=cartpole"),
        ("algo.ga", "algo.gamma="),
        ("experiment=", "experiment=pendulum_report"),
    ],
)
def test_the_shell_completes_keys_and_options(program: Program, line: str, offered: str) -> None:
    """Query the program in the same way as the shell function that `-sc install=bash` prints."""
    line = f"python src/run.py {line}"
    done = program("-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)))
    assert (done.returncode, done.stderr) == (0, "")
    assert offered in done.stdout.split()
