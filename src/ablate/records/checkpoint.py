"""Checkpoints: safetensors, with everything else that resuming needs as JSON in the header, and a checksum over both.

No pickle, and no torch to write or read one. A bit flipped in the tensors would otherwise load silently."""

from __future__ import annotations

import hashlib
import json
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ablate.config.schema import ConfigError
from ablate.paths import ROOT
from ablate.records.files import replace_atomically
from ablate.records.schema import LAST_CHECKPOINT, MANIFEST

CHECKPOINT_VERSION = 3


class Checkpoint(NamedTuple):
    """Tensors by name, and JSON values: `config`, `env_spec`, `counters` and what the algorithm adds."""

    tensors: dict[str, np.ndarray]
    state: dict[str, Any]


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write it whole or not at all: the previous one stays until the new one is on the disk.

    Raises OSError if it cannot be written."""
    tensors = {name: np.ascontiguousarray(array) for name, array in checkpoint.tensors.items()}
    state = json.dumps({**checkpoint.state, "version": CHECKPOINT_VERSION})
    content = save(tensors, metadata={"state": state, "sha256": _checksum(tensors, state)})
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_atomically(path, content)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read and check one. Raises ConfigError in one line if it is missing, damaged or of another version."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such checkpoint") from error
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{path}: not a whole checkpoint ({error})") from error
    if "state" not in metadata or _checksum(tensors, metadata["state"]) != metadata.get("sha256"):
        raise ConfigError(f"{path}: damaged, its checksum does not fit its content")
    state = json.loads(metadata["state"])
    if state["version"] != CHECKPOINT_VERSION:
        raise ConfigError(
            f"{path}: checkpoint version {state['version']}, and this program reads version {CHECKPOINT_VERSION}; "
            "use the release that wrote it, or train anew"
        )
    return Checkpoint(tensors, state)


def find_checkpoint(path: Path) -> Path:
    """A checkpoint's path from what a user gives: the file, or a run's folder (its last checkpoint)."""
    path = path.expanduser().resolve()
    if not path.exists():
        hint = _nearest(path) or "; give a run's folder or a .safetensors file"
        raise ConfigError(f"{path}: no such run or checkpoint{hint}")
    if path.is_dir():
        path = path / LAST_CHECKPOINT
    if not path.is_file():
        raise ConfigError(f"{path}: no such checkpoint; give a run's folder or a .safetensors file")
    return path


def _nearest(path: Path) -> str:
    """`; did you mean X?` for the run beside the path or under outputs/, or the checkpoint beside it, most like it."""
    folders = [path.parent.glob("*"), *(ROOT.glob(f"outputs/{at}") for at in ("runs/*/*", "sweeps/*/*/*"))]
    runs = (folder for folder in chain(*folders) if (folder / MANIFEST).exists())
    found = [*path.parent.glob("*.safetensors"), *runs]
    names = [str(p.relative_to(ROOT) if p.is_relative_to(ROOT) else p) for p in (path, *found)]
    nearest = get_close_matches(names[0], names[1:], n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _checksum(tensors: dict[str, np.ndarray], state: str) -> str:
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode())
        digest.update(np.ascontiguousarray(tensors[name]).data)  # no copy: a replay may take half of the memory
    return digest.hexdigest()
