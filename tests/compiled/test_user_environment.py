"""A kernel environment in a user's own folder is found, cached, compiled again if its file changes, and trained."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

EXAMPLE = Path(__file__).parent / "user_environment"
PROGRAM = """
import json
import numpy as np
from ablate.compiled import dynamics
from ablate.compiled.arguments import environment_of
from ablate.compiled.jit import kernel
from ablate.config.plugins import import_plugins
from ablate.config.schema import GymnasiumConfig
from ablate.envs.make import kind_of, make_env

import_plugins(["my_walk"])

@kernel
def play(env, state, action):
    return dynamics.step(env, state, action)

config = GymnasiumConfig(id="my_walk:Walk-v0", reward_shift=0.0, reward_scale=1.0, kwargs={"pace": 0.25})
_, env = environment_of(config)
reward, _ = play(env, np.zeros(1), np.ones(1))
original, other, kind = make_env(config), make_env(config), kind_of(config)
original.reset(seed=3)
original.step(1)
kind.restore(other, json.loads(json.dumps(kind.save(original))))
print(sum(play.stats.cache_hits.values()), reward, original.step(0)[0] == other.step(0)[0])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(EXAMPLE, tmp_path / "user")
    return tmp_path / "user"


def run(folder: Path, *command: str | Path) -> str:
    """What the command prints, in the user's folder, with a cache of its own."""
    path = os.pathsep.join(map(str, (folder, ROOT / "src")))
    env = {**os.environ, "PYTHONPATH": path, "NUMBA_CACHE_DIR": str(folder / "cache")}
    return subprocess.check_output([sys.executable, *command], cwd=folder, env=env, text=True, timeout=300)


def change_reward(folder: Path) -> None:
    module = folder / "my_walk.py"
    source = module.read_text()
    assert "return -1.0," in source
    module.write_text(source.replace("return -1.0,", "return -2.0,"))


def test_a_users_kernel_is_cached_until_its_file_changes(folder: Path) -> None:
    (folder / "program.py").write_text(PROGRAM)
    assert [run(folder, "program.py") for _ in range(2)] == ["0 -1.0 [ True]\n", "1 -1.0 [ True]\n"]
    change_reward(folder)
    assert [run(folder, "program.py") for _ in range(2)] == ["0 -2.0 [ True]\n", "1 -2.0 [ True]\n"]


def returns_of(folder: Path, name: str) -> list[float]:
    command = (
        ROOT / "src/run.py", "plugins=[my_walk]", "env=walk", "algo=a3c", "schedule=interleaved", "workers=2",
        "total_steps=600", "backend=compiled", "figures=false", "logger.display=off", "evaluation.every_seconds=null",
        f"hydra.run.dir={folder / name}",
    )  # fmt: skip
    run(folder, *command)
    with (folder / name / "episodes.csv").open() as file:
        return [float(row["episodic_return"]) / float(row["episodic_length"]) for row in csv.DictReader(file)]


@pytest.mark.slow
def test_a_users_kernel_environment_is_trained(folder: Path) -> None:
    def kernels() -> set[str]:
        return {path.name for path in folder.rglob("loop.advance-*.nbc")}

    assert set(returns_of(folder, "first")) == {-1.0}
    first = kernels()
    assert len(first) == 1
    returns_of(folder, "second")
    assert kernels() == first
    change_reward(folder)
    assert set(returns_of(folder, "third")) == {-2.0}
    assert len(kernels()) == 2
