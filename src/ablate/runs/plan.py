"""Plan a run: check its configuration against the environment, the machine and the checkpoint that it names."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from ablate.algos.algorithm import Algorithm, algorithm_of, number_of_workers
from ablate.compiled.support import check_arguments
from ablate.config.choices import Backend, ScheduleKind
from ablate.config.derived import cuda_index, devices, limit_reached
from ablate.config.schema import LARGEST, Config, ConfigError
from ablate.config.serial import differing_key, flat, read_config, to_dict
from ablate.config.validation import refusal, refuse_contradictions
from ablate.envs.make import kind_of, remember_spec, spec_of
from ablate.nn.architecture import Architecture, architecture_of, initial_parameters
from ablate.parallel.machine import available_bytes
from ablate.paths import OUTPUTS, locate
from ablate.records.checkpoint import (
    BestState,
    Checkpoint,
    LastState,
    find_checkpoint,
    read_checkpoint,
    refuse_other_shapes,
)
from ablate.records.csv_writer import read_rows
from ablate.records.files import is_file
from ablate.records.logs import refuse_missing_packages
from ablate.records.run_files import Manifest, Rows, needed_rows, read_manifest, read_status, refuse_changed_tables
from ablate.records.schema import (
    BEST_CHECKPOINT,
    CELL,
    COLUMNS,
    EPISODES,
    LAST_CHECKPOINT,
    MANIFEST,
    STATUS,
    UPDATES,
)
from ablate.seeding import Role, generator
from ablate.types import Counters, EnvSpec


class NotResumable(ConfigError):
    """The files of a run are such that it cannot go on."""


@dataclass
class Resolved:
    """A run that can start: its configuration was checked, and everything that it needs is known."""

    config: Config
    spec: EnvSpec
    algorithm: Algorithm
    architecture: Architecture
    parameters: np.ndarray  # (P,) float32, at the start
    resumed: Checkpoint | None  # None also if the resumed run has no checkpoint yet: it starts again
    normalisation: np.ndarray | None  # (2,) initial mean and std of observations; None: learned from the start
    new: bool  # not resumed: the folder must not hold a run
    backend_note: str  # which backend was chosen and why, if the configuration left it open
    memory_note: str  # how much memory the run needs, if it is a lot
    limit_note: str  # at which step the run ends, if not at the one that was given


def plan(config: Config, overrides: list[str], here: bool = True, folder: Path = OUTPUTS) -> Resolved:
    """Check the configuration against the environment, the device and the checkpoint that it names. Writes no file.

    overrides: the arguments of the command line, which show the keys that were given with resume=. here: whether the
    run is for this machine; another machine may have other devices. folder: where the files of a new run will be. The
    caller has locked the folder of a run that is resumed. Raises ConfigError: NotResumable if it is about the files of
    that run."""
    resumed, new, own = None, True, config
    if config.resume:
        folder = locate(config.resume)
        try:
            manifest = read_manifest(folder)
            own = read_config(folder / MANIFEST, manifest.config)
            resumed = _last_checkpoint(folder, manifest, own)
        except ConfigError as error:
            raise NotResumable(f"resume={config.resume}: {error}") from error
        done = Counters(**resumed.state["counters"]) if resumed else Counters()
        new, config = False, _resumed_config(config, own, overrides, done)
        if (folder / CELL).exists():
            _refuse_other_cell(folder, config, own)
    algorithm = algorithm_of(config)
    _refuse_without_meaning(config, algorithm)
    config = replace(config, workers=number_of_workers(config))
    if here:
        refuse_missing_packages(config.logger)
        for device in devices(config):
            _check_device(device)
    config = replace(config, env=kind_of(config.env).fitted(config.env, config.model.image_shape))
    spec = spec_of(config.env)
    check_arguments(config.env)
    # Without a limit in the configuration, the limit of the environment's registration is part of the resolved one.
    config = replace(config, env=replace(config.env, max_ep_step=spec.time_limit))
    remember_spec(config.env, spec)
    architecture = architecture_of(config.model, spec)
    config, backend_note = _resolve_backend(config, algorithm, architecture)
    config = algorithm.resolve(config, here, new or config.precision != own.precision)
    config, limit_note = _with_reachable_limit(config, algorithm)
    _refuse_huge(config, architecture)
    parameters = initial_parameters(architecture, generator(config.seed, Role.parameters))
    source, normalisation = resumed, None
    if config.load and resumed is None:
        try:
            path = find_checkpoint(locate(config.load))
            source = read_checkpoint(path)
        except ConfigError as error:
            raise ConfigError(f"load={config.load}: {error}") from error
        _refuse_other_network(config.load, source, architecture)
        refuse_other_shapes(path, source.tensors, {"parameters": parameters.shape})
    if resumed is not None:
        try:
            # Raises for parameters that an older version trained for another range of actions.
            architecture_of(config.model, EnvSpec.from_dict(resumed.state["env_spec"]))
            _refuse_other_columns(folder / UPDATES, algorithm)
            _refuse_other_state(folder / LAST_CHECKPOINT, resumed, config, algorithm, spec, parameters.size)
        except ConfigError as error:
            raise NotResumable(str(error)) from error
    if source is not None:
        parameters = source.tensors["parameters"]
        normalisation = source.tensors.get("normalisation")
    memory_note = algorithm.memory_note(config, spec, folder) if here else ""
    return Resolved(
        config, spec, algorithm, architecture, parameters, resumed, normalisation, new, backend_note, memory_note,
        limit_note,
    )  # fmt: skip


# Keys that may be given with resume=: how long to train, how to compute and what to show, not what is trained.
CHANGEABLE_ON_RESUME = (
    "resume", "max_episodes", "total_steps", "optimizer.decay_steps", "optimizer.decay_episodes", "precision",
    "log_interval", "checkpoint_every_seconds", "hang_timeout_s", "save_replay", "figures", "logger",
)  # fmt: skip


OLD_CHECKPOINT = "the last checkpoint stays"  # of an interrupted run: it is older than the status, or there is none


def _changeable(key: str) -> bool:
    return not {key, key.split(".")[0]}.isdisjoint(CHANGEABLE_ON_RESUME)


def _last_checkpoint(folder: Path, manifest: Manifest, own: Config) -> Checkpoint | None:
    """The checkpoint to go on from; None if the run was stopped before its first one.

    Raises ConfigError unless manifest, status, checkpoint and tables belong together and are whole."""
    path, status = folder / LAST_CHECKPOINT, read_status(folder)
    ended = status is not None and status.state in ("completed", "interrupted") and OLD_CHECKPOINT not in status.reason
    if not is_file(path):
        if status is not None and ended and status.steps:
            raise ConfigError(
                f"{folder}: its status says {status.state} after {status.steps} steps, but {LAST_CHECKPOINT} is "
                "missing; start a new run"
            )
        return None
    checkpoint = read_checkpoint(path, LastState)
    _refuse_other_run(path, checkpoint, own)
    counters = Counters(**checkpoint.state["counters"])
    if status is not None and ended and status.steps != counters.steps:
        raise ConfigError(
            f"{folder / STATUS} says {status.state} after {status.steps} steps, but {LAST_CHECKPOINT} is of step "
            f"{counters.steps}; put the right checkpoint back, or remove {STATUS} to go on from that step"
        )
    _refuse_lost_replay(checkpoint, path.parent)
    _refuse_lost_rows(folder, needed_rows(folder, manifest, counters, checkpoint.state["evaluations_done"]))
    _refuse_other_rows(folder, checkpoint)
    if status is not None and status.state == "completed":
        refuse_changed_tables(folder, manifest, status)
    best = folder / BEST_CHECKPOINT
    try:
        if is_file(best):
            _refuse_other_run(best, read_checkpoint(best, BestState), own)
    except ConfigError as error:
        raise ConfigError(f"{error}; the run can go on without {BEST_CHECKPOINT}") from error
    return checkpoint


def _refuse_other_run(path: Path, checkpoint: Checkpoint, own: Config) -> None:
    """Raise ConfigError if the checkpoint is of a run with another configuration than `own`, the manifest's."""
    ours, theirs = (flat(to_dict(config)) for config in (own, read_config(path, checkpoint.state["config"])))
    first = ("algo.name", "env.id", "model.name", "seed")  # these say most
    for key in sorted({*ours, *theirs}, key=lambda key: (key not in first, key)):
        there, here = theirs.get(key, "not set"), ours.get(key, "not set")
        if there != here and not _changeable(key):
            raise ConfigError(
                f"{path} is of another run than {MANIFEST}: {key} is {there} there, {here} here; put the run's own "
                "file back, or start a new run with load="
            )


def _refuse_lost_rows(folder: Path, needed: dict[str, Rows]) -> None:
    """Raise ConfigError if a table lacks rows: a resumed one would have a gap."""
    hint = "load= starts a new run from the parameters"
    for name, (numbers, each) in needed.items():
        try:
            present = Counter(int(row[0]) for row in read_rows(folder / name).rows)
        except ValueError as error:
            raise ConfigError(f"{folder / name} is damaged: {error}; {hint}") from error
        if lost := {number: each - present[number] for number in numbers if present[number] < each}:
            missing = f"{sum(lost.values())} rows are missing, the first is of {min(lost)}"
            raise ConfigError(f"{folder / name} is damaged: {missing}; {hint}")


def _refuse_other_rows(folder: Path, checkpoint: Checkpoint) -> None:
    """Raise ConfigError if the checkpoint's moving average of the score is not that of its last episode's row."""
    episodes = checkpoint.state["counters"]["episodes"]
    column = COLUMNS[EPISODES].index("moving_average")
    row = next((row for row in read_rows(folder / EPISODES).rows if row[0] == str(episodes)), None)
    ours = str(checkpoint.state["moving_average"])
    if row is not None and row[column] != ours:
        raise ConfigError(
            f"{folder / EPISODES} is of another run than {LAST_CHECKPOINT}: the moving average of episode {episodes} "
            f"is {row[column]}, and the checkpoint's is {ours}; put the run's own file back"
        )


def _refuse_other_columns(path: Path, algorithm: Algorithm) -> None:
    """Raise ConfigError if the algorithm's updates no longer have the columns of the run's table."""
    header, needed = read_rows(path).header, ",".join(algorithm.update_record._fields)
    if header not in ("", needed):
        raise ConfigError(
            f"{path} has the columns {header}; this version of {algorithm.name} writes {needed}; load= starts a new "
            "run from the parameters"
        )


def _refuse_other_state(
    path: Path, checkpoint: Checkpoint, config: Config, algorithm: Algorithm, spec: EnvSpec, size: int
) -> None:
    """Raise ConfigError if the checkpoint does not fit the environment, the network or the processes of its run."""
    theirs = EnvSpec.from_dict(checkpoint.state["env_spec"])
    if replace(theirs, time_limit=None) != replace(spec, time_limit=None):
        raise ConfigError(
            f"{path}: {config.env.id} has changed: it was {theirs.observation_shape}, {theirs.action}, and is "
            f"{spec.observation_shape}, {spec.action}"
        )
    refuse_other_shapes(path, checkpoint.tensors, dict.fromkeys(("parameters", *config.optimizer.statistics), (size,)))
    if "normalisations" in checkpoint.tensors:
        refuse_other_shapes(path, checkpoint.tensors, {"normalisations": (config.workers or 1, 3)})
    processes = algorithm.processes(config)
    members = {str(member) for process in processes for member in process.members}
    workers, turns = checkpoint.state["workers"], checkpoint.state["turns"]
    if workers.keys() != members or len(turns) != len(processes):
        raise ConfigError(
            f"{path}: damaged: it has the states of {len(workers)} workers in {len(turns)} processes; "
            f"{len(members)} in {len(processes)} are needed"
        )


def _refuse_lost_replay(checkpoint: Checkpoint, folder: Path) -> None:
    """Raise ConfigError if the replay that was saved with the checkpoint is missing."""
    for worker in checkpoint.state["workers"].values():
        if (name := worker.get("replay")) and not is_file(folder / str(name)):
            raise ConfigError(
                f"{folder / name}: no such file; it holds the replay that goes with {LAST_CHECKPOINT}; "
                "load= starts a new run from the parameters"
            )


def _refuse_without_meaning(config: Config, algorithm: Algorithm) -> None:
    """Raise ConfigError for a key that the algorithm does not read: a sweep over it would compare equal arms."""
    name, has_replay = algorithm.name, algorithm.default_replay() != "none"
    if not algorithm.has_workers and config.workers not in (None, 1):
        raise ConfigError(f"workers={config.workers}: algo={name} has one process that trains; use 1")
    if not algorithm.has_envs_per_worker and config.envs_per_worker != 1:
        raise ConfigError(f"envs_per_worker={config.envs_per_worker}: algo={name} steps one environment; use 1")
    if config.replay is not None and not has_replay:
        raise ConfigError(f"replay={config.replay.name}: algo={name} has no replay; drop it")
    if config.save_replay and not has_replay:
        raise ConfigError(f"save_replay=true: algo={name} has no replay; drop it")


def _resumed_config(given: Config, own: Config, overrides: list[str], done: Counters) -> Config:
    """The run's own configuration, with those keys of the command line that may change. Raises ConfigError.

    done: by the last checkpoint. max_episodes=+1000 means 1000 more than these."""
    stored, changed = to_dict(own), dict[str, Any]()
    so_far = {
        "max_episodes": done.episodes,
        "total_steps": done.steps,
        "optimizer.decay_episodes": done.episodes,
        "optimizer.decay_steps": done.steps,
    }
    for override in overrides:
        key, _, text = override.lstrip("+~").partition("=")
        name, _, inner = key.partition(".")
        if _changeable(key):
            value = getattr(given, name)
            value = getattr(value, inner) if inner else value
            if key in so_far and text.startswith("+"):
                value += so_far[key]
            if inner:  # logger.display=off does not change the other keys of logger
                value = replace(changed.get(name, getattr(own, name)), **{inner: value})
            changed[name] = value
        elif key == "plugins":  # not a change: it says which code the user trusts
            continue
        elif _at(stored, key) is None or _at(stored, key) != _at(to_dict(given), key):
            raise ConfigError(
                f"{override}: a resumed run keeps its configuration, but for the keys that docs/runs.md lists; load= "
                "starts a new run from its parameters"
            )
    try:
        config = replace(own, **{**changed, "resume": None})
    except ValidationError as error:
        raise refusal(error, "", changed) from error
    refuse_contradictions(config)
    if (reached := limit_reached(config, done)) and not limit_reached(own, done):
        raise ConfigError(
            f"{reached.removesuffix(' reached')}: the run is at step {done.steps}, episode {done.episodes} already; "
            "give a larger limit"
        )
    _refuse_no_step_size(config, own)
    return config


def _refuse_other_cell(folder: Path, config: Config, own: Config) -> None:
    """Raise ConfigError if its sweep would take the cell with this configuration for another one."""
    changed = "precision" if config.precision != own.precision else differing_key(to_dict(own), to_dict(config))
    if changed:
        raise ConfigError(
            f"resume={folder}: a cell of a sweep keeps its {changed}, so that arms are comparable; use load="
        )


def _refuse_no_step_size(config: Config, own: Config) -> None:
    """Raise ConfigError if the run would train on after its step size has become 0."""
    optimizer = config.optimizer
    unit, key, end = "steps", "total_steps", optimizer.decay_steps
    if end is None:
        unit, key, end = "episodes", "max_episodes", optimizer.decay_episodes
    limit = getattr(config, key)
    if limit == getattr(own, key) or optimizer.schedule != ScheduleKind.linear or optimizer.lr_end > 0:
        return
    assert end is not None  # refuse_contradictions has seen to it
    if limit is None or limit > end:
        given, needed = ("null", "<a larger number>") if limit is None else (limit, limit)
        raise ConfigError(
            f"{key}={given}: the run's step size is 0 from {unit[:-1]} {end} on, and it would learn nothing more; give "
            f"optimizer.decay_{unit}={needed} as well"
        )


def _refuse_other_network(load: str, source: Checkpoint, ours: Architecture) -> None:
    """Raise ConfigError if the checkpoint is of another network. Its number of parameters may be the same by chance."""
    model = read_config(f"load={load}", source.state["config"]).model
    theirs = architecture_of(model, EnvSpec.from_dict(source.state["env_spec"]))
    if type(theirs) is not type(ours):
        raise ConfigError(
            f"load={load}: it has another kind of network, model.name={model.name}; use its algo, model and env"
        )
    for key in (field.name for field in fields(ours) if field.compare):
        there, here = getattr(theirs, key), getattr(ours, key)
        if there != here:
            raise ConfigError(
                f"load={load}: it has another network, {key} {there} there, {here} here; use its model and env"
            )


def _at(config: dict[str, Any], key: str) -> Any:
    """The value of a dotted key, or None."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _resolve_backend(config: Config, algorithm: Algorithm, architecture: Architecture) -> tuple[Config, str]:
    """The configuration with its backend, and the reason for this backend if the configuration has backend=auto."""
    backends = [b for b in algorithm.backends if b != Backend.manual or architecture.has_manual_network]
    obstacle = (
        algorithm.refuse_backend(config) if Backend.compiled in backends else f"algo={algorithm.name} has no kernel"
    )
    if config.backend == Backend.compiled and obstacle:
        raise ConfigError(f"backend=compiled: {obstacle}; use backend=auto, manual or autograd")
    if config.backend not in (Backend.auto, *backends):
        names = f"algo={algorithm.name} with model.name={config.model.name}"
        raise ConfigError(f"backend={config.backend}: {names} has {' and '.join(backends)}")
    if config.backend != Backend.auto:
        return config, ""
    backend = next(backend for backend in backends if not (backend == Backend.compiled and obstacle))
    return replace(config, backend=backend), f"{backend}: {obstacle or 'the fastest, with all needed kernels'}"


def _with_reachable_limit(config: Config, algorithm: Algorithm) -> tuple[Config, str]:
    """The configuration with a total_steps at which the run can end, and a note if it is not the given one."""
    total, at_once = config.total_steps, algorithm.steps_at_once(config)
    if total is None or total % at_once == 0:
        return config, ""
    reachable = total + -total % at_once
    if reachable > LARGEST:
        reachable -= at_once
    note = f"total_steps={total}: {at_once} steps are made at once, so the run ends at {reachable}"
    return replace(config, total_steps=reachable), note


def _refuse_huge(config: Config, architecture: Architecture) -> None:
    """Raise ConfigError for a network whose parameters alone are larger than the memory."""
    size, free = 4 * architecture.layout().size, available_bytes()
    if size > free:
        raise ConfigError(
            f"model.name={config.model.name}: the parameters of this network take {size / 1e9:.3g} GB, and "
            f"{free / 1e9:.2f} GB are free; use smaller layers"
        )


def _check_device(device: str) -> None:
    if device == "cpu":
        return
    import torch  # slow to import, and the parent process needs it only here

    if cuda_index(device) >= torch.cuda.device_count():
        raise ConfigError(f"device={device}: there are {torch.cuda.device_count()} CUDA devices here; use device=cpu")
