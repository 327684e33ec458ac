"""Where the machine code of kernels is stored, and that kernels also run if it cannot be stored."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

from ablate.compiled import jit, kernel_cache
from ablate.compiled.loop import clip

COMPILED = Path(jit.__file__).parent
PROGRAM = """
import numpy as np
from ablate.compiled import dynamics, jit, kernel_cache
from ablate.compiled.envs.pendulum import Parameters

@jit.kernel
def play(env, state, action):
    return dynamics.step(env, state, action)

play(Parameters(), np.zeros(2), np.ones(1))
print(kernel_cache.CACHE is not None, sum(play.stats.cache_hits.values()))
"""


def run_program(folder: Path, cache: str, checkout: Path = COMPILED.parents[1]) -> str:
    """What PROGRAM prints in a process of its own: whether there is a cache, and how many kernels came from it."""
    script = folder / "program.py"
    if not script.exists():
        script.write_text(PROGRAM)
    env = {**os.environ, "PYTHONPATH": str(checkout), "NUMBA_CACHE_DIR": cache}
    return subprocess.check_output([sys.executable, script], env=env, timeout=60, text=True)


def test_the_cache_is_in_the_folder_that_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "asked"))
    folder = kernel_cache.cache_folder()
    assert folder is not None
    assert folder.parent == tmp_path / "asked"
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "HOME"])
def test_the_cache_is_in_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    folder = kernel_cache.cache_folder()
    assert folder is not None
    assert folder.parent == tmp_path / {"XDG_CACHE_HOME": "ablate", "HOME": ".cache/ablate"}[variable]


def test_there_is_no_cache_if_none_can_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file/below"))
    assert kernel_cache.cache_folder() is None


def test_there_is_no_cache_for_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 5)
    assert kernel_cache.cache_folder() is None


@pytest.mark.parametrize("source", ["compiled/envs/pendulum.py", "replay/fenwick.py"])
def test_a_changed_source_has_another_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    original = kernel_cache.cache_folder()
    for room in ("compiled", "replay"):
        shutil.copytree(COMPILED.parent / room, tmp_path / room)
    monkeypatch.setattr(kernel_cache, "PACKAGE", tmp_path)
    assert kernel_cache.cache_folder() == original
    with (tmp_path / source).open("a") as file:
        file.write("\n")
    assert kernel_cache.cache_folder() not in (original, None)


def test_a_kernel_is_compiled_once(tmp_path: Path) -> None:
    assert [run_program(tmp_path, str(tmp_path / "cache")) for _ in range(2)] == ["True 0\n", "True 1\n"]


def test_a_checkout_elsewhere_finds_the_kernels(tmp_path: Path) -> None:
    shutil.copytree(COMPILED.parent, tmp_path / "src/ablate")
    (tmp_path / "program.py").write_text(
        "import numpy as np\n"
        "from ablate.replay import fenwick\n"
        "fenwick.FenwickTree(4).update(np.arange(4), np.ones(4))\n"
        "print(fenwick.__file__, sum(fenwick._update.stats.cache_hits.values()))\n"
    )
    for checkout, hits in ((COMPILED.parents[1], 0), (tmp_path / "src", 1)):
        printed = run_program(tmp_path, str(tmp_path / "cache"), checkout)
        assert printed == f"{checkout / 'ablate/replay/fenwick.py'} {hits}\n"


def damage_data(cache: Path) -> None:
    for path in cache.rglob("*.nbc"):
        path.write_bytes(path.read_bytes()[:1000])


def damage_index(cache: Path) -> None:
    for path in cache.rglob("*.nbi"):
        path.write_bytes(b"")


@pytest.mark.parametrize("damage", [damage_data, pytest.param(damage_index, marks=pytest.mark.slow)])
def test_a_damaged_kernel_is_compiled_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """The files are damaged as after a power failure."""
    cache = tmp_path / "cache"
    run_program(tmp_path, str(cache))
    damage(cache)
    assert [run_program(tmp_path, str(cache)) for _ in range(2)] == ["True 0\n", "True 1\n"]


def test_a_kernel_runs_if_the_disk_is_full(tmp_path: Path) -> None:
    """The disk is full: files can be created, but not filled."""
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
    (tmp_path / "program.py").write_text(limited + PROGRAM)
    assert [run_program(tmp_path, str(tmp_path / "cache")) for _ in range(2)] == ["True 0\n", "True 0\n"]


def test_a_kernel_runs_without_locks(tmp_path: Path) -> None:
    """The lock cannot be opened, as if it belonged to another user."""
    run_program(tmp_path, str(tmp_path / "cache"))
    (kernels,) = (tmp_path / "cache").iterdir()
    for path in kernels.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (kernels / "play.lock").symlink_to(tmp_path / "nowhere/lock")
    assert [run_program(tmp_path, str(tmp_path / "cache")) for _ in range(2)] == ["True 0\n", "True 1\n"]


def test_only_one_of_two_programs_compiles(tmp_path: Path) -> None:
    """The second program loads what the first has saved."""
    with ThreadPoolExecutor() as executor:
        both = list(executor.map(lambda _: run_program(tmp_path, str(tmp_path / "cache")), range(2)))
    assert sorted(both) == ["True 0\n", "True 1\n"]


def test_a_compilation_is_announced(tmp_path: Path) -> None:
    program = PROGRAM.replace("\nplay(", "\nwith jit.announcing(lambda: print('compiling')):\n    play(")
    assert program != PROGRAM
    (tmp_path / "program.py").write_text(program)
    first, second = (run_program(tmp_path, str(tmp_path / "cache")) for _ in range(2))
    assert "compiling" in first
    assert second == "True 1\n"


def test_a_kernel_calls_only_code_of_its_own() -> None:
    """The linker resolves a weak symbol to code that the process compiled before. That code rounds differently from the
    code in the cache, so the run that compiles would give other results than later runs."""

    def norms(x: np.ndarray) -> float:
        return clip(x, 3.0) + clip(x, 2.0) + clip(x, 1.0)

    compiled = [jit.kernel(norms), numba.njit(**jit.OPTIONS)(norms)]
    assert [function(np.ones(9, np.float32)) for function in compiled] == pytest.approx([3.0 + 3.0 + 2.0] * 2)
    ours, numbas = (next(iter(function.inspect_asm().values())) for function in compiled)
    assert ".weak" not in ours
    assert ".weak" in numbas, "if Numba does this itself, the library in jit.py can go"


def test_a_kernel_runs_without_a_cache(tmp_path: Path) -> None:
    assert run_program(tmp_path, "/dev/null/x") == "False 0\n"


@pytest.mark.parametrize("decorator", [jit.kernel, jit.helper, jit.leaf, jit.inlined])
def test_code_whose_changes_would_go_unnoticed_is_refused(decorator: Callable[..., Any]) -> None:
    names: dict[str, Any] = {}
    exec(compile("def twice(x): return 2 * x", str(kernel_cache.PACKAGE / "nn/kernels.py"), "exec"), names)
    with pytest.raises(AssertionError, match=r"nn/kernels\.py: twice .* move it to one of compiled, replay"):
        decorator(names["twice"])
