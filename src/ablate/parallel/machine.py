"""The CPUs and the memory of this machine. Only Linux is supported; support for other systems belongs here."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def usable_cpus() -> int:
    """Number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def available_bytes() -> int:
    """Memory that a new program may use without swapping."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])


def cpu_description() -> str:
    """The CPU's model, as the operating system names it; empty if it is not known."""
    return _cpuinfo("model name") or platform.processor()


def cpu_flags() -> set[str]:
    """Names of the CPU's features, such as avx512_bf16; empty if they are not known."""
    return set(_cpuinfo("flags").split())


def _cpuinfo(name: str) -> str:
    """A value of the first CPU in /proc/cpuinfo; empty if there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), "")
