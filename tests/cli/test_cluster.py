"""The code that all cluster launchers share, and their errors if there is no cluster.

tests/distributed runs jobs on a cluster."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import ROOT
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.types import HydraContext, RunMode
from omegaconf import OmegaConf, open_dict

from ablate.algos.algorithm import algorithm_of, number_of_workers
from ablate.cli.arguments import complete_arguments
from ablate.cli.cluster import JOB_MB, Job, Launch
from ablate.cli.hydra_private import result_of
from ablate.cli.resolvers import register
from ablate.config.schema import Config, ConfigError
from ablate.config.validation import validate
from ablate.records.run_files import read_attempts
from ablate.sweeps.cell import NOT_STARTED, STOP, STOPPED, CellOutcome
from hydra_plugins.ablate_ray_launcher import _connected

SHORT = ("max_episodes=10", "evaluation.every_steps=1000")


@pytest.fixture
def launch() -> Iterator[Callable[..., Launch]]:
    """A function that returns the launch of a sweep with the given overrides."""
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None

        def launch(*overrides: str) -> Launch:
            arguments = complete_arguments(list(overrides))
            config = hydra.config_loader.load_configuration("config", arguments, RunMode.MULTIRUN)
            with open_dict(config):
                config.hydra.runtime.cwd = str(ROOT)
            return Launch.of(HydraContext(hydra.config_loader, Callbacks()), config)

        yield launch


def job(seed: int, *overrides: str) -> list[str]:
    return [*SHORT, *overrides, f"seed={seed}", f"hydra.sweep.subdir='arm/seed={seed}'"]


@pytest.mark.parametrize(
    ("overrides", "cpus", "gpus"),
    [
        (["schedule=async", "workers=3"], 3, 0),
        (["schedule=interleaved", "workers=3"], 1, 0),
        (["schedule=async", "workers=2", "backend=manual", "device=cuda"], 2, 1),
        (["schedule=interleaved", "backend=autograd", "device=cuda:1"], 1, 1),
    ],
)
def test_a_cell_requests_its_cores_and_gpus(
    overrides: list[str], cpus: int, gpus: int, launch: Callable[..., Launch]
) -> None:
    """The machine that submits the cell may lack these GPUs."""
    (sent,) = launch("hydra/launcher=ray").jobs([job(0, *overrides)], 0)
    assert (sent.needs.cpus, sent.needs.gpus) == (cpus, gpus)


def test_a_job_requests_memory_for_its_cell_and_the_watcher(launch: Callable[..., Launch]) -> None:
    sent = launch("hydra/launcher=ray").jobs([job(0, "schedule=async", f"workers={n}") for n in (2, 8)], 0)
    two, eight = (one.needs for one in sent)
    composed = launch(*SHORT, "schedule=async", "workers=2", "backend=compiled")
    config = validate(composed.config)
    assert number_of_workers(config) == 2
    assert two.memory_mb == algorithm_of(config).memory_mb(config) + JOB_MB < eight.memory_mb


def test_an_arm_is_composed_once(launch: Callable[..., Launch], monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells of one arm differ only in the seed, so they need the same resources: 1000 cells, 2 compositions."""
    sweep = launch("hydra/launcher=ray", "sweep.cells_per_job=1")
    loader = sweep.context.config_loader
    compose, composed = loader.load_sweep_config, []

    def counted(config: object, overrides: list[str]) -> object:
        composed.append(overrides)
        return compose(config, overrides)

    monkeypatch.setattr(loader, "load_sweep_config", counted)
    sent = sweep.jobs([job(seed, "schedule=async", f"workers={n}") for n in (2, 4) for seed in range(500)], 0)
    assert [one.needs.cpus for one in sent] == [2] * 500 + [4] * 500
    assert len(composed) == 2


FAILING = 2


@pytest.fixture
def packed(launch: Callable[..., Launch], tmp_path: Path) -> tuple[Launch, Job]:
    """A launch with one job of five cells of a tenth of a second."""
    ours = launch(
        "hydra/launcher=ray", "sweep.cells_per_job=5", f"hydra.sweep.dir={tmp_path / 'sweep'}", "sweep.fork=false"
    )
    (sent,) = ours.jobs([job(seed) for seed in range(5)], 0)
    assert [cell.number for cell in sent.cells] == list(range(5))
    return ours, sent


def stub(monkeypatch: pytest.MonkeyPatch, outcome: Callable[[int], CellOutcome]) -> list[int]:
    """Cells that end at once, with the outcome of their seed. Returns the seeds in the order in which they ran."""
    ran: list[int] = []

    def supervised(config: Config, *others: object) -> tuple[CellOutcome, float, float]:
        ran.append(config.seed)
        return outcome(config.seed), 0.0, 0.0

    monkeypatch.setattr("ablate.sweeps.cell._supervised", supervised)
    monkeypatch.setattr("ablate.sweeps.cell.objective", lambda folder: 1.0)
    monkeypatch.setattr("ablate.cli.cluster.objective", lambda folder: 1.0)
    return ran


def completes(seed: int) -> CellOutcome:
    return CellOutcome("completed", "")


def outcomes(ours: Launch, sent: Job) -> list[str | None]:
    """What the cells' files say."""
    ends = [read_attempts(ours.folder / f"arm/seed={cell.number}") for cell in sent.cells]
    return [attempts[-1].outcome if attempts else "none" for attempts in ends]


def test_a_failed_cell_does_not_end_its_job(packed: tuple[Launch, Job], monkeypatch: pytest.MonkeyPatch) -> None:
    ours, sent = packed
    ran = stub(monkeypatch, lambda seed: CellOutcome("failed", "it exploded") if seed == FAILING else completes(seed))
    results = list(ours.run(sent.cells, "42"))
    assert ran == [0, 1, 2, 3, 4]
    assert [str(result_of(result)) for result in results] == ["1.0", "1.0", "it exploded", "1.0", "1.0"]
    assert outcomes(ours, sent) == ["completed", "completed", "failed", "completed", "completed"]
    returns, rest = ours.after(sent, results)
    assert (sorted(returns), rest) == ([0, 1, 2, 3, 4], [])
    described = OmegaConf.load(ours.folder / "arm/seed=3/.hydra/hydra.yaml").hydra.job
    assert (described.id, described.num) == ("42", 3)


def test_a_job_that_is_run_again_skips_what_has_ended(
    packed: tuple[Launch, Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its machine died while the fourth cell ran."""
    ours, sent = packed

    def dies(seed: int) -> CellOutcome:
        if seed == 3:
            raise KeyboardInterrupt
        return CellOutcome("failed", "it exploded") if seed == FAILING else completes(seed)

    stub(monkeypatch, dies)
    with pytest.raises(KeyboardInterrupt):
        list(ours.run(sent.cells, "42"))
    assert outcomes(ours, sent) == ["completed", "completed", "failed", None, "none"]
    ran = stub(monkeypatch, completes)
    results = [str(result_of(result)) for result in ours.run(sent.cells, "42")]
    assert ran == [3, 4]
    assert results == ["1.0", "1.0", "it exploded", "1.0", "1.0"]


def test_only_the_cell_that_ran_is_lost_with_its_job(
    packed: tuple[Launch, Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, sent = packed

    def dies(seed: int) -> CellOutcome:
        if seed == 1:
            raise KeyboardInterrupt
        return completes(seed)

    stub(monkeypatch, dies)
    with pytest.raises(KeyboardInterrupt):
        list(ours.run(sent.cells, "42"))
    returns, (rest,) = ours.after_loss(sent, "out of memory")
    assert {number: str(result_of(result)) for number, result in returns.items()} == {0: "1.0", 1: "out of memory"}
    assert [cell.number for cell in rest.cells] == [2, 3, 4]
    returns, none = ours.after_loss(rest, "cancelled")  # before it started a cell: so it is not sent for ever
    assert {str(result_of(result)) for result in returns.values()} == {"cancelled"}
    assert (sorted(returns), none) == ([2, 3, 4], [])


def test_a_stopped_sweep_starts_no_further_cell(packed: tuple[Launch, Job], monkeypatch: pytest.MonkeyPatch) -> None:
    ours, sent = packed

    def stops(seed: int) -> CellOutcome:
        if seed == 1:
            (ours.folder / STOP).touch()
            return CellOutcome("interrupted", STOPPED)
        return completes(seed)

    ran = stub(monkeypatch, stops)
    results = [str(result_of(result)) for result in ours.run(sent.cells, "42")]
    assert ran == [0, 1]
    assert results == ["1.0", STOPPED, *[NOT_STARTED.reason] * 3]
    returns, none = ours.after_loss(sent, "cancelled")
    assert {str(result_of(returns[number])) for number in (2, 3, 4)} == {NOT_STARTED.reason}
    assert none == []


def test_a_signal_to_a_cell_ends_its_job(packed: tuple[Launch, Job], monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm sends SIGTERM to all processes of a job that is cancelled: the next cell must not start in it."""
    ours, sent = packed
    ran = stub(monkeypatch, lambda seed: CellOutcome("interrupted", "SIGTERM") if seed == 1 else completes(seed))
    returns, (rest,) = ours.after(sent, list(ours.run(sent.cells, "42")))
    assert ran == [0, 1]
    assert sorted(returns) == [0, 1]
    assert [cell.number for cell in rest.cells] == [2, 3, 4]


def sweep(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    settings = ("workers=1", *SHORT, f"hydra.sweep.dir={folder / 'sweep'}", *arguments)
    command = [sys.executable, "src/run.py", "-m", *settings]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **env}, timeout=120)


@pytest.mark.parametrize(("launcher", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_a_launcher_without_its_package_names_the_extra_to_install(launcher: str, package: str, tmp_path: Path) -> None:
    (tmp_path / f"{package}.py").write_text("raise ImportError('not installed')")  # hides an installed package
    result = sweep(tmp_path, f"hydra/launcher={launcher}", PYTHONPATH=str(tmp_path))
    assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr
    assert result.stderr.startswith(f"hydra/launcher={launcher}: needs ")
    assert f"pip install -e '.[{launcher}]'" in result.stderr


def test_a_ray_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray raises a bare Exception if its own processes take too long to start."""

    def init(**options: object) -> None:
        raise Exception("The current node timed out during startup.\nSecond line")

    ray = types.SimpleNamespace(init=init, exceptions=types.SimpleNamespace(RayError=RuntimeError))
    monkeypatch.setitem(sys.modules, "ray", ray)
    with pytest.raises(ConfigError) as refusal, _connected(None):
        pass
    assert str(refusal.value) == (
        "hydra.launcher.address=None: Ray: Exception: The current node timed out during startup."
    )


def test_a_cluster_may_have_a_device_that_this_machine_lacks(tmp_path: Path) -> None:
    arguments = ("backend=manual", "device=cuda:7", "sweep.dry_run=true")
    elsewhere = sweep(tmp_path, "hydra/launcher=slurm", *arguments)
    assert elsewhere.returncode == 0, elsewhere.stderr
    here = sweep(tmp_path, "hydra/launcher=local", *arguments)
    assert here.returncode == 2
    assert "device=cuda:7" in here.stderr
