"""Write manifest.json (what a run is, and its resumes) and status.json (how far it has come); lock a run's folder."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from ablate.config.schema import Config, ConfigError
from ablate.config.serial import config_hash, flat, flat_stored, to_dict
from ablate.parallel.machine import cpu_description, lock, usable_cpus, vector_features
from ablate.paths import CHECKOUT
from ablate.records.files import read_json, write_json
from ablate.records.schema import MANIFEST, SCHEMA_VERSION, STATUS, State
from ablate.types import Counters

_locked: set[int] = set()  # descriptors of folders that this process has locked
StillThere = Callable[[], bool]  # whether the path of a locked folder still is that folder
# Packages that can change a number, if they are installed.
PACKAGES = (
    "torch", "numpy", "scipy", "pandas", "numba", "llvmlite", "gymnasium", "ale-py", "opencv-python-headless",
    "opencv-python", "box2d", "box2d-py", "mujoco", "pygame", "safetensors", "hydra-core", "omegaconf", "pydantic",
)  # fmt: skip
LONGEST_DIFF = 20_000  # characters of a dirty tree's diff in each manifest


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
    path = Path(command[0]).absolute() if command else Path()
    if CHECKOUT and path.is_file() and path.is_relative_to(CHECKOUT):  # as it is typed there, on any machine
        command = [str(path.relative_to(CHECKOUT)), *command[1:]]
    return {
        "command": command,
        "git": _git(),
        "python": sys.version.split()[0],
        "versions": _versions(),
        "machine": {
            "platform": platform.platform(),
            "cpu": cpu_description(),
            "cpus": usable_cpus(),
            "cpu_features": " ".join(vector_features()),
        },
        "started": _now(),
    }


def differences(there: dict[str, Any], here: dict[str, Any]) -> Iterator[str]:
    """In what code, packages and machine two manifests differ, as far as the first one has them."""
    if (code := code_of(there)) != code_of(here):
        yield f"the code was {code}, here it is {code_of(here)}"
    versions, machine = (value if isinstance(value := there.get(k), dict) else {} for k in ("versions", "machine"))
    for name, version in {"python": there.get("python"), **versions}.items():
        now = here["versions"].get(name) if name != "python" else here["python"]
        if version != now:
            yield f"{name} was {version}, here it is {now}"
    for key in ("cpu", "cpu_features"):
        old, new = machine.get(key), here["machine"][key]
        if old is not None and old != new:
            yield f"the {key} was {old}, here it is {new}"


def code_of(manifest: dict[str, Any]) -> str:
    """The commit, and which uncommitted changes it had."""
    git = manifest.get("git")
    if not isinstance(git, dict):
        return "not in a git repository"
    changes = git.get("diff_hash", "unknown ones") if git.get("dirty") else ""
    return f"{str(git.get('commit'))[:10]}{f' with uncommitted changes ({changes})' if changes else ''}"


def note_resume(folder: Path, config: Config, command: list[str], counters: Counters) -> None:
    """Add a resume to the manifest: from which step, with which configuration, and what is different in it."""
    manifest = read_json(folder / MANIFEST)
    values = to_dict(config)
    before, after = flat_stored(manifest["config"]), flat(values)
    changed = {key: (before.get(key), value) for key, value in after.items() if before.get(key) != value}
    resume = {"command": command, "started": _now(), "from": counters._asdict(), "changed": changed}
    new = {"config": values, "config_hash": config_hash(config), "resumes": [*manifest.get("resumes", []), resume]}
    write_json(folder / MANIFEST, {**manifest, **new})


@contextlib.contextmanager
def lock_folder(folder: Path, reason: str) -> Iterator[StillThere]:
    """Lock the folder for this process, until the context ends or the process dies.

    The context gives a function: whether the path still is the locked folder, neither moved nor deleted.
    Raises ConfigError with `reason` if another process has locked it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ConfigError(f"{folder}: no such folder, or it cannot be opened ({error.strerror})") from error
    try:
        lock(descriptor, wait=False)
    except OSError as error:
        os.close(descriptor)
        if not isinstance(error, BlockingIOError):
            reason = f"its file system has no locks ({error.strerror}), which keep runs apart; use another one"
        raise ConfigError(f"{folder}: {reason}") from error
    _locked.add(descriptor)

    def still_there() -> bool:
        try:
            return os.path.samestat(os.stat(folder), os.fstat(descriptor))
        except OSError:
            return False

    try:
        yield still_there
    finally:
        if descriptor in _locked:  # not in a fork
            _locked.remove(descriptor)
            os.close(descriptor)


def _leave_locks() -> None:
    """In a fork: it must not hold the locks of its parent, which may end before it."""
    for descriptor in _locked:
        os.close(descriptor)
    _locked.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_locks)


def lock_run(folder: Path) -> contextlib.AbstractContextManager[StillThere]:
    """Lock a run's folder before anything in it is read or written, until the training ends."""
    return lock_folder(folder, "another process is training in this folder")


def write_status(
    folder: Path,
    state: State,
    reason: str,
    counters: Counters,
    evaluations: int = 0,
    tables: Mapping[str, str] | None = None,
) -> None:
    """Write the status. tables: the digests of the tables of a run that has completed.

    After kill -9 the state stays `running`, with an old heartbeat and the pid of a process that no longer exists."""
    totals = {**counters._asdict(), "evaluations": evaluations}
    status = {"state": state, "reason": reason, **totals, "heartbeat": _now(), "pid": os.getpid()}
    write_json(folder / STATUS, {**status, "tables": tables} if tables else status)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@cache  # also in forks: the code that runs is what this process imported
def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES if CHECKOUT else ("ablate", *PACKAGES):  # a checkout has its commit
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


@cache
def _git() -> dict[str, Any] | None:
    """The commit of the code, whether there are uncommitted changes, and which; None outside a checkout.

    The diff is cut after LONGEST_DIFF characters; diff_hash names all of it."""
    if CHECKOUT is None:  # a repository around the installed package is not that of its code
        return None
    try:
        lines = _of_git("status", "--porcelain=v2", "--branch", "--untracked-files=no").splitlines()
        commit = next((line.split()[-1] for line in lines if line.startswith("# branch.oid")), None)
        if all(line.startswith("#") for line in lines):
            return {"commit": commit, "dirty": False}
        diff = _of_git("diff", "HEAD")
    except (OSError, subprocess.SubprocessError):
        return None
    digest = hashlib.sha256(diff.encode(errors="replace")).hexdigest()[:8]
    return {"commit": commit, "dirty": True, "diff_hash": digest, "diff": diff[:LONGEST_DIFF]}


def _of_git(*arguments: str) -> str:
    command = ["git", "-C", str(CHECKOUT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=True, timeout=10).stdout
