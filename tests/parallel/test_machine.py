"""What a container allows counts, not only what the machine has; and what happens on a system that is not Linux."""

import ctypes
import errno
import os
import re
from pathlib import Path

import pandas as pd
import pytest
from processes import Run

from ablate.config.schema import ConfigError
from ablate.parallel import machine
from ablate.paths import ROOT
from ablate.records.manifest import lock_run
from ablate.records.schema import EPISODES

GB = 1_000_000_000
HUGE = str(2**63 - 4096)  # version 1 without a limit


def write(root: Path, membership: str, files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "membership").write_text(membership)
    for name, content in files.items():
        (root / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "cgroup" / name).write_text(content)
    monkeypatch.setattr(machine, "CGROUPS", root / "cgroup")
    monkeypatch.setattr(machine, "MEMBERSHIP", root / "membership")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))


CPUS = [
    pytest.param("0::/\n", {"cpu.max": "200000 100000\n"}, 2, id="version 2, in a container"),
    pytest.param("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "350000 100000\n"}, 4, id="of the parent"),
    pytest.param("0::/\n", {"cpu.max": "max 100000\n"}, 16, id="version 2, no limit"),
    pytest.param("0::/\n", {"cpu.max": "10000 100000\n"}, 1, id="a tenth of a CPU"),
    pytest.param("0::/\n", {"cpu.max": "9900000 100000\n"}, 16, id="more than the affinity"),
    pytest.param(
        "3:cpu,cpuacct:/docker/x\n",
        {"cpu,cpuacct/cpu.cfs_quota_us": "300000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 3,
        id="version 1, its own path not visible",
    ),
    pytest.param(
        "3:cpu:/x\n", {"cpu/x/cpu.cfs_quota_us": "-1\n", "cpu/x/cpu.cfs_period_us": "100000\n"}, 16,
        id="version 1, no limit",
    ),
    pytest.param("", {}, 16, id="no control groups"),
    pytest.param("0::/\n", {"cpu.max": "\n"}, 16, id="an empty file"),
]  # fmt: skip


@pytest.mark.parametrize(("membership", "files", "cpus"), CPUS)
def test_the_quota_of_a_container_limits_the_cpus(
    membership: str, files: dict[str, str], cpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, membership, files, monkeypatch)
    assert machine.usable_cpus() == cpus


MEMORY = [
    pytest.param(
        "0::/\n",
        {"memory.max": "4000000000\n", "memory.current": "3000000000\n",
         "memory.stat": "anon 1000000000\ninactive_file 500000000\n"},
        3 * GB // 2, id="version 2",
    ),
    pytest.param("0::/\n", {"memory.max": "max\n", "memory.current": "3000000000\n"}, 8 * GB, id="version 2, no limit"),
    pytest.param(
        "4:memory:/x\n",
        {"memory/x/memory.limit_in_bytes": "2000000000\n", "memory/x/memory.usage_in_bytes": "500000000\n",
         "memory/x/memory.stat": "cache 1\ntotal_inactive_file 100000000\n"},
        8 * GB // 5, id="version 1",
    ),
    pytest.param(
        "4:memory:/x\n", {"memory/x/memory.limit_in_bytes": HUGE, "memory/x/memory.usage_in_bytes": "5\n"}, 8 * GB,
        id="version 1, no limit",
    ),
    pytest.param("0::/\n", {"memory.max": "10\n", "memory.current": "30\n"}, 0, id="over the limit"),
]  # fmt: skip


@pytest.mark.parametrize(("membership", "files", "free"), MEMORY)
def test_the_limit_of_a_container_limits_the_memory(
    membership: str, files: dict[str, str], free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, membership, files, monkeypatch)
    read_text = Path.read_text
    meminfo = f"MemTotal: 9 kB\nMemAvailable:  {8 * GB // 1024} kB\n"
    monkeypatch.setattr(Path, "read_text", lambda p, *a: meminfo if str(p) == "/proc/meminfo" else read_text(p, *a))
    assert machine.available_bytes() == pytest.approx(free, abs=1024)


# Other systems. sitecustomize is imported by each Python process of a run before anything else.

ELSEWHERE = """
import builtins, ctypes, io, os, sys
del os.sched_getaffinity, os.posix_fallocate
sys.modules["fcntl"] = None
opened, symbol = io.open, ctypes.CDLL.__getattr__
def without_proc(file, *arguments, **options):
    if str(file).startswith(("/proc", "/sys")):
        raise FileNotFoundError(2, "No such file or directory", file)
    return opened(file, *arguments, **options)
def without_prctl(library, name):
    if name == "prctl":
        raise AttributeError(name)
    return symbol(library, name)
io.open = builtins.open = without_proc
ctypes.CDLL.__getattr__ = without_prctl
"""


@pytest.mark.slow
def test_a_system_without_linuxs_own_calls_trains_and_plots(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/sitecustomize.py").write_text(ELSEWHERE)
    settings = ("algo=dqn", "env=cartpole", "schedule=async", "replay.storage=memmap", "total_steps=1500",
                "evaluation.every_seconds=null", "logger.display=plain")  # fmt: skip
    run = Run(tmp_path / "run", *settings, f"hydra.run.dir={tmp_path / 'run'}", PYTHONPATH=str(tmp_path / "elsewhere"))
    assert run.exit_code() == 0, run.errors
    assert len(pd.read_csv(tmp_path / "run" / EPISODES)) > 5
    assert (tmp_path / "run/figures").is_dir()
    assert "Traceback" not in run.errors


def test_a_system_that_does_not_say_has_all_cpus_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(machine, "_lines", lambda path: [])
    assert machine.usable_cpus() == os.cpu_count()
    assert machine.available_bytes() == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert machine.cpu_flags() == set()


def test_a_system_without_locks_and_reserved_space_goes_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "fcntl", None)
    monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    with (tmp_path / "one").open("wb") as one, (tmp_path / "one").open("rb") as same:
        machine.lock(one.fileno(), wait=False)
        machine.lock(same.fileno(), wait=False)
        machine.reserve(one.fileno(), 4096)
    machine.die_with_parent(os.getppid())
    assert (tmp_path / "one").stat().st_size == 4096


def test_a_file_system_without_locks_is_not_taken_for_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(machine.fcntl, "flock", flock)
    with (
        pytest.raises(ConfigError, match=r"its file system has no locks \(Function not implemented\)"),
        lock_run(tmp_path),
    ):
        pass
    assert not machine.is_locked(tmp_path)


def test_only_one_module_calls_what_only_linux_has() -> None:
    """And descendants.py, which is also a program that must start without the package."""
    calls = re.compile(r"sched_getaffinity|\bfcntl\b|/proc/|prctl|posix_fallocate|ru_maxrss|sys\.platform")
    own = {str(path.relative_to(ROOT)) for path in (ROOT / "src").rglob("*.py") if calls.search(path.read_text())}
    assert own == {"src/ablate/parallel/machine.py", "src/ablate/parallel/descendants.py"}
