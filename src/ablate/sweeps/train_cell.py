"""The process of one cell: train one arm with one seed, and say with the exit code how it ended.

It is started as `python -m ablate.sweeps.train_cell <folder>`, or forked from the server in preload.py."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ablate.config.plugins import import_plugins, named_modules
from ablate.config.schema import Config, ConfigError
from ablate.config.serial import from_dict, to_dict
from ablate.envs.make import known_spec, remember_spec
from ablate.parallel.machine import die_with_parent
from ablate.parallel.signals import Interrupted
from ablate.records.manifest import lock_run
from ablate.records.schema import CHECKPOINTS, COLUMNS, MANIFEST, STATUS
from ablate.runs.plan import NotResumable, plan
from ablate.runs.run import RunFailed, run
from ablate.types import EnvSpec


class CellRequest(NamedTuple):
    """What the process of a cell is given."""

    config: dict[str, Any]
    overrides: list[str]
    modules: list[str]  # that the user has named, and that it imports
    folder: str
    spec: dict[str, Any] | None  # of the environment; None: the cell looks at it, for its code may be in a module

    @classmethod
    def of(cls, config: Config, overrides: list[str], folder: Path) -> bytes:
        modules, spec = named_modules(), known_spec(config.env)
        known = asdict(spec) if spec is not None and not modules else None
        return json.dumps(cls(to_dict(config), overrides, modules, str(folder), known)._asdict()).encode()

    @classmethod
    def read(cls, request: bytes) -> CellRequest:
        return cls(**json.loads(request))

    def arm(self) -> str:
        """The same text for all cells of an arm."""
        return json.dumps({**self.config, "seed": 0})

    def known_spec(self) -> EnvSpec | None:
        return None if self.spec is None else replace(EnvSpec.from_dict(self.spec), notes=tuple(self.spec["notes"]))


@cache  # a cell that is forked from a server has it already
def config_of(arm: str) -> Config:
    """The configuration of an arm. Raises ConfigError."""
    return from_dict(json.loads(arm))


def work(request: bytes) -> int:
    """Train the cell. Returns the exit code of its process."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # Slurm warns all processes of a job with it; the parent handles it
    cell = CellRequest.read(request)
    sys.argv = ["src/run.py", *cell.overrides]  # for the manifest: the command that trains only this cell
    try:
        import_plugins(cell.modules)
        config = replace(config_of(cell.arm()), seed=cell.config["seed"])
        if (spec := cell.known_spec()) is not None:
            remember_spec(config.env, spec)
        _train(config, cell.overrides, Path(cell.folder))
    except ConfigError as error:
        print(error)
        return 2
    except (RunFailed, OSError) as failure:
        print(f"failed: {failure}")
        return 1
    except Interrupted as interrupt:
        return 128 + interrupt.signal
    return 0


def _train(config: Config, overrides: list[str], folder: Path) -> None:
    """Resume the run in the folder, or start again if its files are such that it cannot go on.

    What has another reason, such as too little memory, costs no file: a later attempt may resume the run."""
    with lock_run(folder) as still_there:  # raises if an earlier attempt still runs on another machine
        if (folder / MANIFEST).exists():
            try:
                resumed = plan(replace(config, resume=str(folder)), [])
            except NotResumable as error:
                print(f"starting again: {error}")
            else:
                return run(resumed, folder, overrides, still_there)
        for name in (MANIFEST, STATUS, *COLUMNS, CHECKPOINTS):
            _remove(folder / name)
        run(plan(config, [], folder=folder), folder, overrides, still_there)


def _remove(path: Path) -> None:
    """Remove what is at this path, of whatever kind."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    die_with_parent(int(sys.argv[-1]))
    sys.exit(work(sys.stdin.buffer.read()))
