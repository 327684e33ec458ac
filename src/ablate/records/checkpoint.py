"""Checkpoints: safetensors files with all other state as JSON in the header, and a checksum over both.

No pickle, and torch is not needed. Without the checksum, a flipped bit in the tensors would load silently."""

from __future__ import annotations

import hashlib
import json
from dataclasses import field
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ablate.config.schema import ConfigError
from ablate.paths import ROOT
from ablate.records.files import is_file, misfit, replace_atomically
from ablate.records.run_files import Totals
from ablate.records.schema import LAST_CHECKPOINT, MANIFEST
from ablate.types import EnvSpec, EpisodeRecord

CHECKPOINT_VERSION = 3


class Checkpoint(NamedTuple):
    """Tensors by name, and JSON values: those of `PolicyState`, `BestState` or `LastState`, or a replay's own."""

    tensors: dict[str, np.ndarray]
    state: dict[str, Any]


@dataclass
class PolicyState:
    """What every checkpoint of a policy holds. config: as in a manifest."""

    config: dict[str, Any]
    env_spec: EnvSpec


@dataclass
class BestState(PolicyState):
    """The best policy of the evaluations so far."""

    counters: Totals
    evaluation: int
    mean_return: float


@dataclass
class LastState(PolicyState):
    """The last checkpoint of a run, from which it is resumed. workers: the own state of each member, by its number.
    beyond: the episodes that ended after the `max_episodes`-th; older checkpoints lack them."""

    counters: Totals
    wall_time_s: float
    moving_average: float | None
    evaluations_done: int
    starts: int
    turns: list[int]
    workers: dict[str, dict[str, Any]]
    beyond: list[EpisodeRecord] = field(default_factory=list)


KINDS = {PolicyState: "a policy", BestState: "the best policy", LastState: "the last state of a run"}


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically: the previous one is kept until the new one is on the disk.

    Raises OSError if it cannot be written."""
    tensors = {name: np.ascontiguousarray(array) for name, array in checkpoint.tensors.items()}
    state = json.dumps({**checkpoint.state, "version": CHECKPOINT_VERSION})
    content = save(tensors, metadata={"state": state, "sha256": _checksum(tensors, state)})
    path.parent.mkdir(exist_ok=True)  # without its parents: a run whose folder is gone must not make it again
    replace_atomically(path, content)


def read_checkpoint(path: Path, kind: type[PolicyState] | None = PolicyState) -> Checkpoint:
    """Read and check a checkpoint. kind: what its state must hold; None for a replay, whose store checks it.

    Raises ConfigError in one line if it is missing, damaged, of another version or of another kind."""
    if not is_file(path):
        raise ConfigError(f"{path}: no such checkpoint")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:  # also a type that numpy lacks
        raise ConfigError(f"{path}: not a whole checkpoint ({' '.join(str(error).split())})") from error
    if "state" not in metadata or _checksum(tensors, metadata["state"]) != metadata.get("sha256"):
        raise ConfigError(f"{path}: damaged: its checksum does not match its content")
    try:
        state = json.loads(metadata["state"])
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: damaged: its state is no JSON ({error})") from error
    if (version := state.get("version") if isinstance(state, dict) else None) != CHECKPOINT_VERSION:
        raise ConfigError(
            f"{path}: checkpoint version {version}, but this program reads version {CHECKPOINT_VERSION}; "
            "use the release that wrote it, or train again"
        )
    if kind is not None:
        try:
            TypeAdapter(kind).validate_python(state)
        except ValidationError as error:
            raise ConfigError(f"{path}: it does not hold {KINDS[kind]}: {misfit(error)}") from error
        refuse_other_shapes(path, tensors, {"parameters": None})
        if "normalisation" in tensors:
            refuse_other_shapes(path, tensors, {"normalisation": (2,)})
    return Checkpoint(tensors, state)


def refuse_other_shapes(path: Path, tensors: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...] | None]) -> None:
    """Raise ConfigError if a tensor is missing, has another shape, or numbers that are not finite.

    shapes: None for a vector of any length."""
    for name, shape in shapes.items():
        tensor = tensors.get(name)
        if tensor is None:
            raise ConfigError(f"{path}: damaged: it has no {name}")
        if (tensor.ndim != 1) if shape is None else (tensor.shape != shape):
            needed = "a vector" if shape is None else f"the shape {shape}"
            raise ConfigError(f"{path}: damaged: {name} has the shape {tensor.shape}; {needed} is needed")
        if tensor.dtype.kind != "f" or not np.isfinite(tensor).all():
            raise ConfigError(f"{path}: damaged: {name} has values that are no finite numbers")


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
