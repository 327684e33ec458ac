"""All that only Linux has: its counts of CPUs and memory, locks, reserved disk space, the signal of a parent's death.

Other modules call these functions instead. Each docstring says what happens on another system, such as macOS."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import signal
import sys
from collections.abc import Iterator
from math import ceil
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resource import struct_rusage

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:
    fcntl = None

PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15  # linux/prctl.h
LONGEST_NAME = 15  # bytes that Linux keeps of a process's name

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
THREADS = Path("/proc/self/task")


def usable_cpus() -> int:
    """Number of CPUs that this process may use: its affinity, or the quota of its container if that is smaller.

    Elsewhere: all CPUs."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([affinity, *map(ceil, _cpu_quotas())]))


def available_bytes() -> int:
    """Memory that a new program may use without swapping, and without reaching the limit of its container.

    Elsewhere: all memory, because the system does not say how much is free."""
    lines = _lines(Path("/proc/meminfo"))
    available = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")]
    all_memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(0, min([*(available or [all_memory]), *_free_in_cgroups()]))


def peak_memory_mb(usage: struct_rusage) -> float:
    """The largest memory of a process that has ended. macOS counts in bytes."""
    return usage.ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)


def lock(descriptor: int, wait: bool) -> None:
    """Lock an open file or folder until its descriptor is closed.

    Raises BlockingIOError if another process has locked it, another OSError if its file system has no locks.
    Elsewhere (macOS has locks): nothing is locked."""
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def is_locked(path: Path) -> bool:
    """Whether a process has locked this file or folder. Elsewhere (macOS has locks): False."""
    if fcntl is None:
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two processes may ask at the same time
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(descriptor)
    return False


def reserve(descriptor: int, size: int) -> None:
    """Lengthen a file, and reserve the space on its disk. Elsewhere: no space is reserved."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)


def die_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Let the kernel send this signal to this process when its parent (or the parent's thread that started it) ends.

    parent: the parent's process id. If it has ended already, this process gets the signal at once. Elsewhere: nothing
    afterwards, so a process that holds the interpreter outlives a parent that is killed."""
    _prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def set_name(name: str) -> None:
    """Name this process, as `ps -o comm` shows it; its forks inherit the name. Elsewhere: nothing."""
    _prctl(PR_SET_NAME, name.encode()[:LONGEST_NAME])


def number_of_threads() -> int:
    """Threads of this process, also those that libraries have started. Elsewhere: 0, not known."""
    return len(os.listdir(THREADS)) if THREADS.is_dir() else 0


def _prctl(option: int, value: int | bytes) -> None:
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(option, value)


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


def vector_features() -> list[str]:
    """The CPU's features by which libraries choose their loops, and so how they round."""
    return sorted(flag for flag in cpu_flags() if re.match(r"avx|fma|f16c|amx|sse|asimd|sve|neon|bf16", flag))


def _cpuinfo(name: str) -> str:
    """A value of the first CPU in /proc/cpuinfo; empty if there is none."""
    lines = _lines(Path("/proc/cpuinfo"))
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), "")
