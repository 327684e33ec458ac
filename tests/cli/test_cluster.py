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

from ablate.algos.algorithm import algorithm_of, number_of_workers
from ablate.cli.cluster import JOB_MB, Jobs
from ablate.cli.resolvers import register
from ablate.config.schema import ConfigError
from ablate.config.validation import validate
from hydra_plugins.ablate_ray_launcher import _connected

SHORT = ("max_episodes=10", "evaluation.every_steps=1000")


@pytest.fixture
def jobs() -> Iterator[Callable[..., Jobs]]:
    """A function that returns the jobs of a sweep with the given overrides."""
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None

        def jobs(*overrides: str) -> Jobs:
            config = hydra.config_loader.load_configuration("config", list(overrides), RunMode.MULTIRUN)
            return Jobs.of(HydraContext(hydra.config_loader, Callbacks()), lambda cfg: None, config)

        yield jobs


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
    overrides: list[str], cpus: int, gpus: int, jobs: Callable[..., Jobs]
) -> None:
    """The machine that submits the cell may lack these GPUs."""
    (needs,) = jobs().needs([job(0, *overrides)])
    assert (needs.cpus, needs.gpus) == (cpus, gpus)


def test_a_job_requests_memory_for_its_cell_and_the_watcher(jobs: Callable[..., Jobs]) -> None:
    two, eight = jobs().needs([job(0, "schedule=async", f"workers={n}") for n in (2, 8)])
    composed = jobs(*SHORT, "schedule=async", "workers=2", "backend=compiled")
    config = validate(composed.config)
    assert number_of_workers(config) == 2
    assert two.memory_mb == algorithm_of(config).memory_mb(config) + JOB_MB < eight.memory_mb


def test_an_arm_is_composed_once(jobs: Callable[..., Jobs], monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells of one arm differ only in the seed, so they need the same resources: 1000 cells, 2 compositions."""
    sweep = jobs()
    loader = sweep.context.config_loader
    compose, composed = loader.load_sweep_config, []

    def counted(config: object, overrides: list[str]) -> object:
        composed.append(overrides)
        return compose(config, overrides)

    monkeypatch.setattr(loader, "load_sweep_config", counted)
    needs = sweep.needs([job(seed, "schedule=async", f"workers={n}") for n in (2, 4) for seed in range(500)])
    assert [need.cpus for need in needs] == [2] * 500 + [4] * 500
    assert len(composed) == 2


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
