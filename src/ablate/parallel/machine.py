"""The CPUs and the memory of this machine. Only Linux is supported; support for other systems belongs here."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from math import ceil
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def usable_cpus() -> int:
    """Number of CPUs that this process may use: its affinity, or the quota of its container if that is smaller."""
    return max(1, min([len(os.sched_getaffinity(0)), *map(ceil, _cpu_quotas())]))


def available_bytes() -> int:
    """Memory that a new program may use without swapping, and without reaching the limit of its container."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    return max(0, min([free, *_free_in_cgroups()]))


def _cpu_quotas() -> Iterator[float]:
    """CPUs per second of wall time that each control group of this process allows."""
    for folder in _cgroups("cpu"):
        version_1 = [*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us")]
        words = _words(folder / "cpu.max") or version_1
        if len(words) == 2 and words[0].isdigit() and int(words[1]):  # unlimited: max, or -1
            yield int(words[0]) / int(words[1])


def _free_in_cgroups() -> Iterator[int]:
    """Bytes below the limit of each control group of this process. Cached files count as free."""
    names = (("memory.max", "memory.current", "inactive_file"),
             ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"))  # fmt: skip
    for folder in _cgroups("memory"):
        for limit_name, used_name, cached_name in names:
            limit, used = _words(folder / limit_name), _words(folder / used_name)
            if limit and used and limit[0].isdigit():
                statistics = _words(folder / "memory.stat")
                cached = dict(zip(statistics[::2], statistics[1::2], strict=False)).get(cached_name, "0")
                yield int(limit[0]) - int(used[0]) + int(cached)


def _cgroups(controller: str) -> Iterator[Path]:
    """The control groups that hold this process, of both versions, each from its own up to the root."""
    for line in _lines(MEMBERSHIP):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            bases = [CGROUPS, CGROUPS / "unified"]
        elif controller in controllers.split(","):
            bases = [CGROUPS / controllers, CGROUPS / controller]
        else:
            continue
        for base in dict.fromkeys(bases):
            own = base / path.strip("/")  # in a container it may not be visible, but its parents are
            yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(base) and folder.is_dir())


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def cpu_description() -> str:
    """The CPU's model, as the operating system names it; empty if it is not known."""
    return _cpuinfo("model name") or platform.processor()


def cpu_flags() -> set[str]:
    """Names of the CPU's features, such as avx512_bf16; empty if they are not known."""
    return set(_cpuinfo("flags").split())


def _cpuinfo(name: str) -> str:
    """A value of the first CPU in /proc/cpuinfo; empty if there is none."""
    lines = _lines(Path("/proc/cpuinfo"))
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), "")
