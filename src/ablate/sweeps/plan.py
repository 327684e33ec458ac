"""Plan a sweep without running it: its cells, their states, and the time and disk that the missing cells need."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from ablate.algos.algorithm import algorithm_of
from ablate.config.choices import Until
from ablate.config.schema import Config, ConfigError
from ablate.config.serial import differing_key, differing_keys, digest, from_dict, to_dict
from ablate.parallel.machine import available_bytes
from ablate.parallel.signals import Interrupted, Signals
from ablate.paths import nearest_existing, shown
from ablate.records.csv_writer import read_rows
from ablate.records.durations import approximate
from ablate.records.manifest import lock_folder
from ablate.records.run_files import read_manifest, read_status, refuse_changed_tables
from ablate.records.schema import EPISODES, MANIFEST, STUDY, UPDATES, cell_folder
from ablate.records.study_file import StudyArm, StudyFile, read_study
from ablate.sweeps.cell import attempts_of, run_cell, status_of
from ablate.sweeps.cell_process import mend_server
from ablate.sweeps.comparable import refuse_incomparable, untestable
from ablate.sweeps.design import sizes
from ablate.sweeps.environments import references_of
from ablate.sweeps.study import Study, identity

PROBE_STEPS = {"compiled": 300_000, "manual": 10_000, "autograd": 10_000}
PROBE = "ablate-probe-"  # temporary folders of probes have this prefix
PROBE_S = 30.0  # a probe is stopped after this time, and its measurements so far are used
STATES_BEFORE = ("failed", "interrupted", "running", "damaged")  # of cells that are to run
MOST_PROBES = 4  # at most this many kinds of arms are probed; steps of further kinds count like those of one of these
COSTS = ("t_max", "batch_size", "train_freq", "n_step")  # keys of an algorithm on which the time of a step depends
MOST_NAMED = 3  # arms without a probe, or differing keys
UNLIMITED_EPISODE = 1000  # steps that an episode counts in an estimate if nothing limits it


@dataclass(frozen=True)
class Cell:
    """One arm with one seed."""

    arm: str
    seed: int
    folder: Path
    state: str  # missing, damaged, or the state of its run
    problem: str = ""  # what is damaged

    @property
    def name(self) -> str:
        return f"{self.arm} seed={self.seed}"


class SweepPlan(NamedTuple):
    """A sweep that can start."""

    study: Study
    folder: Path
    configs: dict[str, Config]  # by arm, resolved
    cells: list[Cell]
    moved: str = ""  # why the folder is not the requested one; empty if it is

    @property
    def to_run(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.state != "completed"]


def make_plan(study: Study, configs: dict[str, Config], folder: Path) -> SweepPlan:
    """List the cells and their states. Creates no file.

    configs: the resolved configuration of each arm. folder: the requested folder. If it has arms with the same names
    and other configurations, the sweep's folder is <folder>-<hash>. Raises ConfigError."""
    refuse_incomparable(configs, may_be_same=study.has_trials)  # a trial may be the default
    references_of(study.settings, study.crossed, configs)
    stored = stored_study(folder)
    stored_arms = stored.arms if stored else {}
    moved = ""
    known = (arm for arm in configs if arm in stored_arms)
    if changed := next(((arm, keys) for arm in known if (keys := _differing(stored_arms[arm], configs[arm]))), None):
        moved = f"{shown(folder)} has {changed[0]} with {changed[1]}"
    elif stored and bool(stored.crossed) != bool(study.crossed):
        moved = f"{shown(folder)} has a study with{'out' * (not stored.crossed)} sweep.environments"
    if moved:
        identities = {arm: identity(config) for arm, config in configs.items()}
        folder = folder.with_name(f"{folder.name}-{digest(identities)}")
    elif others := _others(stored_arms, configs):
        try:
            refuse_incomparable({**others, **configs}, may_be_same=True)
        except ConfigError as error:
            there = ", ".join(others)
            raise ConfigError(f"{error}; {shown(folder)} has {there} already: or give another sweep.name") from error
    cells = [
        Cell(arm, seed, cell, *_state(cell, {**to_dict(config), "seed": seed}))
        for seed in study.seeds  # seed by seed, so that an unfinished sweep has about the same number of seeds per arm
        for arm, config in configs.items()
        if arm in (study.settings.only or configs)
        for cell in [cell_folder(folder, arm, seed)]
    ]
    return SweepPlan(study, folder, configs, cells, moved)


def _others(stored: dict[str, StudyArm], configs: dict[str, Config]) -> dict[str, Config]:
    """The arms of earlier commands that this one leaves out; without those of a version with other keys."""
    others = {}
    for name, arm in stored.items():
        with contextlib.suppress(ConfigError):
            if name not in configs:
                others[name] = from_dict(arm.config)
    return others


def _differing(arm: StudyArm, config: Config) -> str:
    """The settings of a stored arm that differ from this configuration, in a few words; empty if none does."""
    keys = differing_keys({**arm.config, "seed": config.seed}, to_dict(config))
    more = f" and {len(keys) - MOST_NAMED} more" if len(keys) > MOST_NAMED else ""
    return ", ".join(f"{key}={old} (now {new})" for key, (old, new) in list(keys.items())[:MOST_NAMED]) + more


def stored_study(folder: Path) -> StudyFile | None:
    """The study in a sweep's folder; None if it has none yet. Raises ConfigError if it cannot be read."""
    return read_study(folder) if (folder / STUDY).exists() else None


def _state(folder: Path, config: dict[str, Any]) -> tuple[str, str]:
    """The state of the cell with this configuration, and what is damaged. Raises ConfigError for another run."""
    status = status_of(folder)
    try:
        manifest = read_manifest(folder)
        differing = differing_key(manifest.config, config)
    except ConfigError as error:
        if status is not None and status.state == "completed":
            raise ConfigError(
                f"{folder}: it contains a completed run but no readable {MANIFEST}; move the folder away"
            ) from error
        return "interrupted" if (folder / MANIFEST).exists() else "missing", ""
    if differing:
        raise ConfigError(
            f"{folder}: it contains a run with another {differing}; remove that folder to train the cell again, or "
            "give another hydra.sweep.dir="
        )
    if status is None:
        return "interrupted", ""  # the run was killed before it wrote its first status
    try:
        if status.state == "completed":
            refuse_changed_tables(folder, manifest, status)
    except ConfigError as error:
        return "damaged", str(error)
    return status.state, ""


def describe(
    plan: SweepPlan, launcher: str, parallel: int | None, estimate: Estimate | None, jobs: Sequence[int] = ()
) -> str:
    """The plan as text.

    parallel: how many cells run at once; None if unknown. estimate: None if there is none yet. jobs: how many cells
    each job of a cluster has."""
    states = Counter(cell.state for cell in plan.cells)
    study, todo = plan.study, plan.to_run
    baseline = study.settings.baseline or study.arms[0].name
    grows = study.settings.until is Until.decided
    before = ", ".join(f"{states[s]} {s} before" for s in STATES_BEFORE if states[s])
    lines = [f"sweep     {shown(plan.folder)}"]
    if plan.moved:
        lines.append(f"note      a new folder: {plan.moved}")
    lines += [f"note      {sentence}" for sentence in untestable(study, plan.configs)]
    if study.settings.question:
        lines.append(f"question  {study.settings.question}")
    arms = ", ".join(arm.name + (" (baseline)" if arm.name == baseline else "") for arm in study.arms)
    if study.crossed:
        names = list(dict.fromkeys(arm for arm, _ in study.crossed.values()))
        arms = ", ".join(arm + (" (baseline)" if study.crossed[baseline][0] == arm else "") for arm in names)
    if only := study.settings.only:
        arms += f"; only {', '.join(only)} (sweep.arms)"
    if study.settings.design:
        lines.append(f"design    {_design(study)}")
    lines += [
        *_trains(plan),
        f"arms      {arms}",
        *_environments(plan),
        f"cells     {grows * 'at most '}{len(plan.cells)} = {len(only or study.arms)} arms x {len(study.seeds)} seeds; "
        f"{states['completed']} completed, {len(todo)} to run{f' ({before})' if before else ''}",
        f"evaluated {_evaluations(list(plan.configs.values()))}",
    ]
    if grows:
        lines.append(f"until     every claim is settled; a look every {study.settings.block} seeds per arm")
    lines += [f"damaged   {cell.problem}; the cell is trained again" for cell in todo if cell.problem]
    if todo:
        largest = max((plan.configs[cell.arm] for cell in todo), key=_cores)
        need = _range([_cores(plan.configs[cell.arm]) for cell in todo])
        need = f"a cell needs {need} and {algorithm_of(largest).memory_mb(largest) / 1000:.1f} GB of memory"
        at_once = f"{parallel} at once" if parallel else "as many at once as fit"
        if max(jobs, default=1) > 1:
            at_once = f"{len(jobs)} job{'s' * (len(jobs) > 1)} of up to {max(jobs)} cells, {at_once}"
        lines.append(f"launcher  {launcher}, {at_once}; {need}")
        if launcher == "local" and parallel:
            lines += _too_much_memory(plan, parallel)
        lines.append(
            f"expected  {estimate.words(plan, parallel) if estimate else 'known when the first cell has completed'}"
        )
    return "\n".join(lines)


def _trains(plan: SweepPlan) -> Iterator[str]:
    """The algorithm and the environment, if all arms have the same; else the arms or `in each` say it."""
    pairs = {f"{config.algo.name} on {config.env.id}" for config in plan.configs.values()}
    if len(pairs) == 1:
        yield f"trains    {pairs.pop()}"


def _environments(plan: SweepPlan) -> Iterator[str]:
    """The environments that the arms are crossed with, and how their scores are put together."""
    if not (crossed := plan.study.crossed):
        return
    yield f"in each   {', '.join(dict.fromkeys(environment for _, environment in crossed.values()))}"
    references = references_of(plan.study.settings, crossed, plan.configs)
    ones = ", ".join(f"{env} {reference.high:g}" for env, reference in references.items())
    yield f"scores    {f'0 is a random policy, 1 is {ones}' if ones else 'normalised by their ranks among all runs'}"


def _too_much_memory(plan: SweepPlan, parallel: int) -> Iterator[str]:
    """A note if the cells that start at once need more memory than is free: sweep.parallel starts them anyway."""
    first = [plan.configs[cell.arm] for cell in plan.to_run[:parallel]]
    needed, free = sum(algorithm_of(config).memory_mb(config) for config in first), available_bytes() // 1_000_000
    if len(first) > 1 and needed > free:
        yield (
            f"note      {len(first)} cells at once need {needed / 1000:.0f} GB of memory, and {free / 1000:.0f} GB are "
            "free: the system may kill some; without sweep.parallel as many start as fit"
        )


def _design(study: Study) -> str:
    """What the design makes of its factors, and how many arms the other designs would have."""
    settings = study.settings
    others = ", ".join(f"{kind} {size}" for kind, size in sizes(settings).items() if kind is not settings.design)
    return (
        f"{settings.design} of {', '.join(study.factors.values())}: {len(study.arms)} arms, {len(settings.claims)} "
        f"claims (arms of other designs: {others})"
    )


def _evaluations(configs: list[Config]) -> str:
    """When the cells are evaluated: the same for all arms of an environment."""
    words = {
        config.env.id: f"every {evaluation.every_steps} steps{', and before the first' * evaluation.at_start}, "
        f"{evaluation.episodes} episodes each"
        for config in configs
        for evaluation in [config.evaluation]
    }
    if len(set(words.values())) == 1:
        return next(iter(words.values()))
    return "; ".join(f"{env} {text}" for env, text in words.items())


def _cores(config: Config) -> int:
    return algorithm_of(config).cores(config)


def _range(counts: list[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low if low == high else f'{low} to {high}'} core{'s' * (high > 1)}"


class Estimate(NamedTuple):
    """The seconds and bytes that one cell takes, by arm."""

    seconds: dict[str, float]
    bytes: dict[str, float]
    source: str  # what the numbers come from

    def words(self, plan: SweepPlan, parallel: int | None) -> str:
        todo = plan.to_run
        limits = {arm: (config.total_steps, config.max_episodes) for arm, config in plan.configs.items()}
        work = sum(self.seconds[cell.arm] * (1 - share_done(cell.folder, *limits[cell.arm])) for cell in todo)
        size = sum(self.bytes[cell.arm] for cell in todo)
        free = shutil.disk_usage(nearest_existing(plan.folder)).free
        short = "; THE DISK WILL BE FULL" if size > free else ""
        time_needed = (
            f"about {approximate(work / parallel)}"
            if parallel
            else f"about {approximate(work)}, if cells run one after another"
        )
        return f"{time_needed}, {_bytes(size)} of disk ({_bytes(free)} free){short}; from {self.source}"


def estimate(plan: SweepPlan) -> Estimate | None:
    """Estimate the cells to run from completed cells, or else from a short probe of each kind of arm.

    None if a probe fails: neither an error in one arm nor a full temporary folder must stop the sweep."""
    _remove_stale_probes()
    seconds: dict[str, list[float]] = {}
    sizes: dict[str, list[float]] = {}
    for cell in plan.cells:
        if cell.state == "completed":
            took = sum(attempt.seconds for attempt in attempts_of(cell.folder))
            if not took:  # the sweep was killed before it could record the time
                continue
            seconds.setdefault(cell.arm, []).append(took)
            sizes.setdefault(cell.arm, []).append(_size(cell.folder))
    arms = {cell.arm for cell in plan.to_run}
    if arms <= set(seconds):
        done = sum(map(len, seconds.values()))
        return Estimate(_means(seconds), _means(sizes), f"{done} completed cell{'s' * (done > 1)}")
    probes: dict[tuple[Any, ...], tuple[float, float, float, float]] = {}
    probed, guessed = dict[tuple[Any, ...], str](), dict[str, str]()  # arms by kind; the arm that another one is like
    mean_seconds, mean_bytes = _means(seconds), _means(sizes)
    for arm in sorted(arms - set(seconds)):
        config = plan.configs[arm]
        # the settings that determine the cost of a step
        kind = (
            config.algo.name,
            *(getattr(config.algo, name, None) for name in COSTS),
            config.backend,
            config.schedule,
            config.workers,
            config.env.id,
            config.envs_per_worker,
            str(config.model),
            config.precision,
            config.replay.name if config.replay else "",
        )
        if kind not in probes and len(probes) < MOST_PROBES:
            print(f"probing {arm}: a short run for the estimate", file=sys.stderr, flush=True)
            try:
                probe = _probe(config, plan.study.settings.fork)
            except (OSError, ConfigError, ValueError) as error:
                print(f"no estimate: the probe failed ({error})", file=sys.stderr, flush=True)
                return None
            if probe is None:
                return None
            probes[kind] = probe
            probed[kind] = arm
        if kind not in probes:
            kind = next((own for own in probes if own[0] == kind[0]), next(iter(probes)))  # of the same algorithm
            guessed[arm] = probed[kind]
        start_s, per_step_s, fixed, per_step_bytes = probes[kind]
        mean_seconds[arm] = start_s + per_step_s * most_steps(config)
        mean_bytes[arm] = fixed + per_step_bytes * most_steps(config)
    source = f"{len(probes)} short probe{'s' * (len(probes) > 1)} of training, without evaluations"
    if guessed:
        more = f" and {len(guessed) - MOST_NAMED} more" if len(guessed) > MOST_NAMED else ""
        like = " and ".join(dict.fromkeys(guessed.values()))
        source += f"; not probed, steps counted like those of {like}: {', '.join([*guessed][:MOST_NAMED])}{more}"
    return Estimate(mean_seconds, mean_bytes, source)


def most_steps(config: Config) -> int:
    """The most steps that a run takes; it may take fewer if episodes end early. See UNLIMITED_EPISODE."""
    by_episodes = config.max_episodes * (config.env.max_ep_step or UNLIMITED_EPISODE) if config.max_episodes else None
    return min(limit for limit in (config.total_steps, by_episodes) if limit is not None)


def share_done(folder: Path, total_steps: int | None, max_episodes: int | None) -> float:
    """The share of its training that a cell has done according to its status, from 0 to 1."""
    status = status_of(folder)
    limits = [(status.steps, total_steps), (status.episodes, max_episodes)] if status else []
    return max((min(1.0, count / limit) for count, limit in limits if limit), default=0.0)


def _probe(config: Config, fork: bool | None) -> tuple[float, float, float, float] | None:
    """(seconds to start, seconds per step, bytes, bytes per step) of a short run; None if it fails."""
    most = min(PROBE_STEPS[config.backend], most_steps(config))
    with _probe_folder() as temporary:
        folder = temporary / "cell"  # a folder inside the locked one: the cell locks its own
        folder.mkdir()
        limited = replace(config.sweep, time_limit_s=PROBE_S, fork=fork)
        unlogged = replace(config.logger, tensorboard=False, mlflow=None, wandb=None)
        short = replace(config, total_steps=most, max_episodes=None, seed=0, sweep=limited, logger=unlogged)
        short = algorithm_of(config).shortened(short)
        mend_server(short)
        with Signals() as signals:
            run_cell(short, [], folder, lambda: signals.received is not None)
        if signals.received is not None:
            raise Interrupted(signals.received)
        status = read_status(folder)
        if status is None or status.state not in ("completed", "interrupted") or not status.steps:
            return None
        training, steps = _last_wall_time(folder), status.steps
        tables = sum((folder / name).stat().st_size for name in (EPISODES, UPDATES))
        took = attempts_of(folder)[-1].seconds or training
        return took - training, training / steps, _size(folder) - tables, tables / steps


@contextlib.contextmanager
def _probe_folder() -> Iterator[Path]:
    """A temporary folder that is locked, so that no other sweep removes it."""
    while True:
        with contextlib.ExitStack() as stack:
            made = tempfile.TemporaryDirectory(prefix=PROBE, ignore_cleanup_errors=True)
            folder = Path(stack.enter_context(made))
            try:
                still_there = stack.enter_context(lock_folder(folder, "another probe's"))
            except ConfigError:
                continue  # another sweep took it for a stale one
            if still_there():
                yield folder
                return


def _remove_stale_probes() -> None:
    """Remove the folders of probes whose sweep was killed: those that nobody has locked."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PROBE}*"):
        # A lock says more than a process id, which another container numbers in its own way.
        with contextlib.suppress(ConfigError, OSError), lock_folder(folder, "a probe runs"):
            shutil.rmtree(folder, ignore_errors=True)


def _last_wall_time(folder: Path) -> float:
    """The latest wall_time_s in the run's tables, which is the duration of its training."""
    latest = 0.0
    for name in (EPISODES, UPDATES):
        header, rows, _ = read_rows(folder / name)
        if rows:
            latest = max(latest, float(rows[-1][header.split(",").index("wall_time_s")]))
    return latest


def _means(values: dict[str, list[float]]) -> dict[str, float]:
    return {key: sum(some) / len(some) for key, some in values.items()}


def _size(folder: Path) -> float:
    return float(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))


def _bytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
