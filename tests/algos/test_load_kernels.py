"""The server from which cells are forked loads their kernels without torch, threads or files: else no fork is safe."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ablate.paths import ROOT

PROGRAM = """
import sys
from ablate.algos.algorithm import algorithm_of
from ablate.cli.compose import compose_and_plan
from ablate.parallel.machine import number_of_threads

resolved = compose_and_plan(sys.argv[1:])
algorithm_of(resolved.config).preload(resolved.config, resolved.spec)
module = sys.modules[f"ablate.algos.{resolved.config.algo.name}.compiled"]
assert module.load_kernels
print(number_of_threads(), "torch" in sys.modules)
"""


@pytest.mark.parametrize("algo", ["a3c", "dqn"])
def test_kernels_are_loaded_without_torch_threads_or_files(algo: str, tmp_path: Path) -> None:
    given = [f"algo={algo}", "env=cartpole", "schedule=interleaved", "workers=1", "backend=compiled"]
    given += ["replay.storage=memmap"] * (algo == "dqn")
    command = [sys.executable, "-c", PROGRAM, *given]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.stderr) == ("1 False\n", "")
    assert list(tmp_path.iterdir()) == []
