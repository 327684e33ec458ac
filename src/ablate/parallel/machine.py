"""What this machine has. One place, so that what only Linux says can be replaced elsewhere."""

from __future__ import annotations

import os
from pathlib import Path


def usable_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def available_bytes() -> int:
    """Memory of this machine that a new program may take."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])


def cpu_description() -> str:
    """The model of the CPU, in the words of the operating system; empty if it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
