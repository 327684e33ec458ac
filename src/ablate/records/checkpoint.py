"""Checkpoints: safetensors files with all other state as JSON in the header, and a checksum over both.

No pickle, and torch is not needed. Without the checksum, a flipped bit in the tensors would load silently."""

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
    """Tensors by name, and JSON values: `config`, `env_spec`, `counters` and the algorithm's own state."""

    tensors: dict[str, np.ndarray]
    state: dict[str, Any]


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically: the previous one is kept until the new one is on the disk.

    Raises OSError if it cannot be written."""
    tensors = {name: np.ascontiguousarray(array) for name, array in checkpoint.tensors.items()}
    state = json.dumps({**checkpoint.state, "version": CHECKPOINT_VERSION})
    content = save(tensors, metadata={"state": state, "sha256": _checksum(tensors, state)})
    path.parent.mkdir(exist_ok=True)  # without its parents: a run whose folder is gone must not make it again
    replace_atomically(path, content)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read and check a checkpoint. Raises ConfigError in one line if it is missing, damaged or of another version."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such checkpoint") from error
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{path}: not a whole checkpoint ({error})") from error
    if "state" not in metadata or _checksum(tensors, metadata["state"]) != metadata.get("sha256"):
        raise ConfigError(f"{path}: damaged: its checksum does not match its content")
    state = json.loads(metadata["state"])
    if state["version"] != CHECKPOINT_VERSION:
        raise ConfigError(
            f"{path}: checkpoint version {state['version']}, but this program reads version {CHECKPOINT_VERSION}; "
            "use the release that wrote it, or train again"
        )
    return Checkpoint(tensors, state)


def find_checkpoint(path: Path) -> Path:
    """The path of a checkpoint, given the file or a run's folder (then its last checkpoint)."""
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
    """`; did you mean X?` for the most similar run or checkpoint in the same folder, or run in outputs/."""
    folders = [path.parent.glob("*"), *(ROOT.glob(f"outputs/{at}") for at in ("runs/*/*", "sweeps/*/*/*"))]
    runs = (folder for folder in chain(*folders) if (folder / MANIFEST).exists())
    candidates = [*path.parent.glob("*.safetensors"), *runs]
    names = [str(p.relative_to(ROOT) if p.is_relative_to(ROOT) else p) for p in (path, *candidates)]
    nearest = get_close_matches(names[0], names[1:], n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _checksum(tensors: dict[str, np.ndarray], state: str) -> str:
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode())
        digest.update(np.ascontiguousarray(tensors[name]).data)  # without a copy: a replay may take half of the memory
    return digest.hexdigest()
