"""manifest.json describes a run and lists its resumes; status.json records how far it has come."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from ablate.config.schema import Config, ConfigError
from ablate.config.serial import config_hash, to_dict
from ablate.parallel.machine import cpu_description, lock, usable_cpus
from ablate.paths import ROOT
from ablate.records.files import read_json, write_json
from ablate.records.schema import MANIFEST, SCHEMA_VERSION, STATES, STATUS
from ablate.types import Counters

PACKAGES = ("torch", "numpy", "gymnasium", "hydra-core", "omegaconf", "pandas")


def write_manifest(folder: Path, config: Config, command: list[str], overrides: list[str]) -> None:
    """Write the manifest: everything needed to know what was run, on which machine, and to run it again."""
    write_json(
        folder / MANIFEST,
        {
            "schema_version": SCHEMA_VERSION,
            "overrides": overrides,
            "config": to_dict(config),
            "config_hash": config_hash(config),
            **provenance(command),
        },
    )


def provenance(command: list[str]) -> dict[str, Any]:
    """The command, the code's commit, the versions of packages, the machine, and the time."""
    return {
        "command": command,
        "git": _git(),
        "python": sys.version.split()[0],
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "machine": {"platform": platform.platform(), "cpu": cpu_description(), "cpus": usable_cpus()},
        "started": _now(),
    }


def note_resume(folder: Path, config: Config, command: list[str], counters: Counters) -> None:
    """Add a resume to the manifest: from which step, and with which configuration."""
    manifest = read_manifest(folder)
    resumes = [*manifest.get("resumes", []), {"command": command, "started": _now(), "from": counters._asdict()}]
    changed = {"config": to_dict(config), "config_hash": config_hash(config), "resumes": resumes}
    write_json(folder / MANIFEST, {**manifest, **changed})


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a run's manifest. Raises ConfigError if the folder is not a run's folder."""
    try:
        return read_json(folder / MANIFEST)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder}: not a run's folder (no readable {MANIFEST})") from error


@contextlib.contextmanager
def lock_folder(folder: Path, reason: str) -> Iterator[Callable[[], bool]]:
    """Lock the folder for this process, until the context ends or the process dies.

    The context gives a function: whether the path still is the locked folder, neither moved nor deleted.
    Raises ConfigError with `reason` if another process has locked it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        lock(descriptor, wait=False)
    except OSError as error:
        os.close(descriptor)
        raise ConfigError(f"{folder}: {reason}") from error

    def still_there() -> bool:
        try:
            return os.path.samestat(os.stat(folder), os.fstat(descriptor))
        except OSError:
            return False

    try:
        yield still_there
    finally:
        os.close(descriptor)


def lock_run(folder: Path) -> contextlib.AbstractContextManager[Callable[[], bool]]:
    """Lock a run's folder while training in it."""
    return lock_folder(folder, "another process is training in this folder")


def write_status(folder: Path, state: str, reason: str, counters: Counters) -> None:
    """Write the status. state: running, completed, interrupted or failed.

    After kill -9 the state stays `running`, with an old heartbeat and the pid of a process that no longer exists."""
    assert state in STATES, state
    write_json(
        folder / STATUS,
        {"state": state, "reason": reason, **counters._asdict(), "heartbeat": _now(), "pid": os.getpid()},
    )


def read_status(folder: Path) -> dict[str, Any]:
    """The status of a run; empty if it has no readable status.json."""
    try:
        status = read_json(folder / STATUS)
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _git() -> dict[str, Any] | None:
    """The commit of the code, and whether there are uncommitted changes; None outside a repository."""
    command = ["git", "-C", str(ROOT), "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    commit = next((line.split()[-1] for line in lines if line.startswith("# branch.oid")), None)
    return {"commit": commit, "dirty": any(not line.startswith("#") for line in lines)}
