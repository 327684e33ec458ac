"""What a container allows counts, not only what the machine has: files of control groups, versions 1 and 2."""

import os
from pathlib import Path

import pytest

from ablate.parallel import machine

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
