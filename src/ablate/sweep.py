"""A sweep: cells planned, the missing ones handed to a Hydra launcher, what becomes of each told at once, judged.

Repeating the command is the resume: completed cells are skipped, others go on from their checkpoints."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from ablate.cell import STOP, Outcome, attempts_of, last_lines, run_cell
from ablate.config import Config, ConfigError
from ablate.experiment import RunFailed
from ablate.records.files import read_json, write_json
from ablate.records.manifest import lock_folder, provenance, read_manifest, read_status
from ablate.records.schema import CELL, CELL_LOG, EPISODES, MANIFEST, SCHEMA_VERSION, STATES, STUDY, UPDATES
from ablate.resources import cores, memory_mb
from ablate.study import Study, identity, identity_of, refuse_incomparable
from ablate.training import Interrupted, Signals, shown

POLL_S = 0.25
PROBE_STEPS = {"compiled": 300_000, "manual": 10_000, "autograd": 10_000}
PROBE = "ablate-probe-"  # <process>-<random>, a temporary folder
PROBE_S = 30.0  # a probe is stopped then, and tells what it has
LONGEST_PROBES = 4  # kinds of arms that are probed


@dataclass(frozen=True)
class Cell:
    """An arm with a seed."""

    arm: str
    seed: int
    folder: Path
    state: str  # missing, or a state of `records.schema.STATES`

    @property
    def name(self) -> str:
        return f"{self.arm} seed={self.seed}"


class SweepPlan(NamedTuple):
    """A sweep that can start."""

    study: Study
    folder: Path
    configs: dict[str, Config]  # the arms', resolved
    cells: list[Cell]

    @property
    def to_run(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.state != "completed"]


def make_plan(study: Study, configs: dict[str, Config], folder: Path) -> SweepPlan:
    """Which cells there are and how they stand; makes nothing.

    configs: each arm's resolved configuration. folder: where the study's cells should be; where it holds others under
    the same names, the sweep's folder is <folder>-<hash>. Raises ConfigError."""
    refuse_incomparable(configs)
    identities = {arm: identity(config) for arm, config in configs.items()}
    held = {name: arm["identity"] for name, arm in _held(folder)["arms"].items()}
    if any(held.get(arm, own) != own for arm, own in identities.items()):
        digest = hashlib.sha256(json.dumps(identities, sort_keys=True).encode()).hexdigest()[:8]
        folder = folder.with_name(f"{folder.name}-{digest}")
    cells = [
        Cell(arm, seed, cell, _state(cell, identities[arm], seed))
        for seed in study.seeds  # the arms side by side: half a sweep has as many seeds of each
        for arm in configs
        for cell in [folder / arm / f"seed={seed}"]
    ]
    return SweepPlan(study, folder, configs, cells)


def _held(folder: Path) -> dict[str, Any]:
    """The arms and seeds that a sweep's folder holds."""
    try:
        if not (folder / STUDY).exists():
            return {"arms": {}, "seeds": []}
        study = read_json(folder / STUDY)
        arms = {name: {**arm, "identity": arm["identity"]} for name, arm in study["arms"].items()}
        return {"arms": arms, "seeds": [int(seed) for seed in study["seeds"]]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{folder / STUDY}: cannot be read ({type(error).__name__}: {error}); move it away: completed cells are "
            "found by their own manifests"
        ) from error


def _state(folder: Path, expected: str, seed: int) -> str:
    """How a cell stands. Raises ConfigError if the folder holds another run."""
    state = read_status(folder).get("state")
    try:
        config = read_manifest(folder)["config"]
        same = identity_of(config) == expected and config["seed"] == seed
    except (ConfigError, KeyError, TypeError, AttributeError) as error:
        if state == "completed":
            raise ConfigError(f"{folder}: it holds a completed run and no readable {MANIFEST}; move it away") from error
        return "interrupted" if (folder / MANIFEST).exists() else "missing"
    if not same:
        raise ConfigError(f"{folder}: it holds a run of another configuration; give another hydra.sweep.dir=")
    return state if state in STATES else "interrupted"  # killed before it wrote its first status


def describe(plan: SweepPlan, launcher: str, parallel: int | None, estimate: Estimate | None) -> str:
    """The plan in words."""
    states = Counter(cell.state for cell in plan.cells)
    study, todo = plan.study, plan.to_run
    baseline = study.settings.baseline or study.arms[0].name
    before = ", ".join(f"{states[s]} {s} before" for s in ("failed", "interrupted", "running") if states[s])
    lines = [f"sweep     {shown(plan.folder)}"]
    if study.settings.question:
        lines.append(f"question  {study.settings.question}")
    arms = ", ".join(arm.name + (" (baseline)" if arm.name == baseline else "") for arm in study.arms)
    lines += [
        f"arms      {arms}",
        f"cells     {len(plan.cells)} = {len(study.arms)} arms x {len(study.seeds)} seeds; "
        f"{states['completed']} completed, {len(todo)} to run{f' ({before})' if before else ''}",
    ]
    if todo:
        largest = max((plan.configs[cell.arm] for cell in todo), key=cores)
        need = _range([cores(plan.configs[cell.arm]) for cell in todo])
        need = f"a cell takes {need} and {memory_mb(largest) / 1000:.1f} GB of memory"
        at_once = f"{parallel} at once" if parallel else "as many at once as it has room for"
        lines.append(f"launcher  {launcher}, {at_once}; {need}")
        lines.append(f"expected  {estimate.words(plan, parallel) if estimate else 'known when the first cell is done'}")
    return "\n".join(lines)


def _range(counts: list[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low if low == high else f'{low} to {high}'} core{'s' * (high > 1)}"


class Estimate(NamedTuple):
    """What a cell takes, by arm."""

    seconds: dict[str, float]
    bytes: dict[str, float]
    source: str

    def words(self, plan: SweepPlan, parallel: int | None) -> str:
        todo = plan.to_run
        work = sum(self.seconds[cell.arm] for cell in todo)
        size = sum(self.bytes[cell.arm] for cell in todo)
        existing = next(path for path in (plan.folder, *plan.folder.parents) if path.exists())
        free = shutil.disk_usage(existing).free
        short = "; THE DISK WILL BE FULL" if size > free else ""
        how_long = (
            f"about {duration(work / parallel)}"
            if parallel
            else f"about {duration(work)} of cells, one after the other"
        )
        return f"{how_long}, {_bytes(size)} of disk ({_bytes(free)} free){short}; from {self.source}"


def estimate(plan: SweepPlan) -> Estimate | None:
    """What the cells to run will take, from completed ones or else from a short probe of each kind of arm.

    None if a probe comes to nothing: what is wrong with one arm keeps no other from running."""
    seconds: dict[str, list[float]] = {}
    sizes: dict[str, list[float]] = {}
    for cell in plan.cells:
        if cell.state == "completed":
            took = sum(attempt.get("seconds", 0.0) for attempt in attempts_of(cell.folder))
            if not took:  # the sweep was killed before it could note it
                continue
            seconds.setdefault(cell.arm, []).append(took)
            sizes.setdefault(cell.arm, []).append(_size(cell.folder))
    arms = {cell.arm for cell in plan.to_run}
    if arms <= set(seconds):
        done = sum(map(len, seconds.values()))
        return Estimate(_means(seconds), _means(sizes), f"{done} completed cell{'s' * (done > 1)}")
    probes: dict[tuple[Any, ...], tuple[float, float, float, float]] = {}
    found_s, found_b = _means(seconds), _means(sizes)
    for arm in sorted(arms - set(seconds)):
        config = plan.configs[arm]
        kind = (config.backend, config.schedule, config.workers, config.env.id)
        if kind not in probes and len(probes) < LONGEST_PROBES:
            if (probe := _probe(config)) is None:
                return None
            probes[kind] = probe
        start_s, per_step_s, fixed, per_step_bytes = probes.get(kind) or next(iter(probes.values()))
        found_s[arm] = start_s + per_step_s * most_steps(config)
        found_b[arm] = fixed + per_step_bytes * most_steps(config)
    return Estimate(found_s, found_b, f"{len(probes)} short probe{'s' * (len(probes) > 1)}")


def most_steps(config: Config) -> int:
    """Steps after which a run ends at the latest; where episodes may end early, it is fewer."""
    by_episodes = config.max_episodes * (config.env.max_ep_step or 1000) if config.max_episodes else None
    return min(limit for limit in (config.total_steps, by_episodes) if limit is not None)


def _probe(config: Config) -> tuple[float, float, float, float] | None:
    """(seconds to start, seconds a step, bytes, bytes a step) of a short run; None if it fails, as cells will tell."""
    most = min(PROBE_STEPS[config.backend], most_steps(config))
    _remove_stale_probes()
    with tempfile.TemporaryDirectory(prefix=f"{PROBE}{os.getpid()}-") as temporary:
        folder = Path(temporary)
        limited = replace(config.sweep, time_limit_s=PROBE_S)
        short = replace(config, total_steps=most, max_episodes=None, seed=0, sweep=limited)
        began = time.monotonic()
        with Signals() as signals:
            run_cell(short, [], folder, lambda: signals.received is not None)
        took = time.monotonic() - began
        if signals.received is not None:
            raise Interrupted(signals.received)
        status = read_status(folder)
        if status.get("state") not in ("completed", "interrupted") or not status["steps"]:
            return None
        training, steps = _last_wall_time(folder), status["steps"]
        tables = sum((folder / name).stat().st_size for name in (EPISODES, UPDATES))
        return took - training, training / steps, _size(folder) - tables, tables / steps


def _remove_stale_probes() -> None:
    """Those of sweeps that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PROBE}*-*"):
        if not Path("/proc", folder.name.removeprefix(PROBE).partition("-")[0]).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _last_wall_time(folder: Path) -> float:
    """The latest wall_time_s in the run's tables: how long it trained."""
    latest = 0.0
    for name in (EPISODES, UPDATES):
        header, *rows = (folder / name).read_text().splitlines()
        if rows:
            latest = max(latest, float(rows[-1].split(",")[header.split(",").index("wall_time_s")]))
    return latest


def run(
    plan: SweepPlan,
    launch: Callable[[Sequence[Sequence[str]]], Sequence[Any]],
    job_overrides: Callable[[Cell], list[str]],
) -> None:
    """Run the missing cells and judge the study. launch: a Hydra launcher's, in the folder of the plan.

    Raises RunFailed if cells failed, Interrupted after a signal."""
    new = not plan.folder.exists()
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"hydra.sweep.dir={plan.folder}: {error.strerror}") from error
    with lock_folder(plan.folder, "another sweep runs in this folder"):
        now = make_plan(plan.study, plan.configs, plan.folder)
        if now.folder != plan.folder:
            raise ConfigError(f"{plan.folder}: another sweep has just used it; repeat the command")
        plan = now  # that one may have completed cells
        _tidy(plan)
        (plan.folder / STOP).unlink(missing_ok=True)
        try:
            _write_study(plan)
        except OSError as error:
            raise RunFailed(f"the study could not be written: {error}") from error
        with Signals() as signals:
            watch = _Watch(plan, signals)
            try:
                _rounds(plan, watch, launch, job_overrides)
            except ConfigError:  # of the launcher, before anything ran
                if new and not any(cell.folder.exists() for cell in plan.cells):
                    shutil.rmtree(plan.folder)
                raise
            except Interrupted:
                print("stopped at once; what running cells did since their last checkpoints is lost")
                raise
        (plan.folder / STOP).unlink(missing_ok=True)
        _report(plan, watch, signals)


def _tidy(plan: SweepPlan) -> None:
    """Remove what a sweep that was killed left half-written, where no cell will."""
    for folder in (plan.folder, *(cell.folder for cell in plan.cells if cell.state == "completed")):
        for path in folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)


def _rounds(
    plan: SweepPlan,
    watch: _Watch,
    launch: Callable[[Sequence[Sequence[str]]], Sequence[Any]],
    job_overrides: Callable[[Cell], list[str]],
) -> None:
    """All cells that are not completed, and then again those that failed, as often as sweep.max_retries says."""
    todo = plan.to_run
    for attempt in range(plan.study.settings.max_retries + 1):
        if not todo or watch.stopping:
            return
        if attempt:
            print(f"again     {len(todo)} failed cells (sweep.max_retries)")
        with watch.over(todo):
            returns = launch([job_overrides(cell) for cell in todo])
        watch.settle(todo, returns)
        todo = [cell for cell in todo if watch.outcomes[cell].outcome != "completed"]


class _Watch:
    """Sees cells end, on whatever machine, by their cell.json; tells of each at once; stops the sweep where it must."""

    def __init__(self, plan: SweepPlan, signals: Signals) -> None:
        self._plan, self._signals = plan, signals
        self.outcomes: dict[Cell, Outcome] = {}
        self.stopping = ""
        self._error: Exception | None = None
        self._ended = threading.Event()
        self._began = time.monotonic()
        self._steps = {arm: most_steps(config) for arm, config in plan.configs.items()}

    @contextmanager
    def over(self, cells: list[Cell]) -> Iterator[None]:
        """Watch the cells while a launcher runs them."""
        self._pending = {cell: len(attempts_of(cell.folder)) for cell in cells}
        self._all = len(self._plan.cells)
        self._ended.clear()
        thread = threading.Thread(target=self._look_on, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()
        if self._error:
            raise self._error
        self._look()

    def _look_on(self) -> None:
        try:
            while not self._ended.wait(POLL_S):
                self._look()
                if self._signals.received is not None and not self.stopping:
                    self._stop("stopping: running cells write their checkpoints (a second signal stops at once)")
        except Exception as error:  # `| head`: nobody reads what is printed. Cells shall not run unwatched
            self._error = error
            (self._plan.folder / STOP).touch()

    def _look(self) -> None:
        for cell, before in list(self._pending.items()):
            attempts = attempts_of(cell.folder)
            if len(attempts) > before and "outcome" in attempts[-1]:
                del self._pending[cell]
                self._tell(cell, Outcome(attempts[-1]["outcome"], attempts[-1]["reason"]), attempts[-1]["seconds"])

    def _tell(self, cell: Cell, outcome: Outcome, seconds: float | None = None) -> None:
        self.outcomes[cell] = outcome
        completed = sum(cell.state == "completed" for cell in self._plan.cells) + sum(
            outcome.outcome == "completed" for outcome in self.outcomes.values()
        )
        took = f" in {seconds:.1f} s" if seconds is not None else ""
        print(f"{completed:4}/{self._all} {cell.name} {outcome.outcome}{took}{self._left()}", flush=True)
        if outcome.outcome == "failed":
            tail = "".join(f"\n        | {line}" for line in last_lines(cell.folder))
            print(f"      {outcome.reason}{tail}\n      {shown(cell.folder / CELL_LOG)}", flush=True)
            if self._plan.study.settings.fail_fast and not self.stopping:
                self._stop("stopping: a cell failed (sweep.fail_fast)")

    def _left(self) -> str:
        done = sum(self._steps[cell.arm] for cell in self.outcomes)
        left = sum(self._steps[cell.arm] for cell in self._pending)
        if not left or self.stopping:
            return ""
        return f"; about {duration((time.monotonic() - self._began) * left / max(done, 1))} left"

    def _stop(self, why: str) -> None:
        self.stopping = why
        print(why, flush=True)
        (self._plan.folder / STOP).touch()  # seen by the cells, wherever they run

    def settle(self, cells: list[Cell], returns: Sequence[Any]) -> None:
        """What became of the cells that said nothing: never started, or lost with their machine."""
        for cell, job in itertools.zip_longest(cells, returns[: len(cells)]):
            if cell in self._pending:
                if self.stopping:
                    self.outcomes[cell] = Outcome("interrupted", "not started: the sweep was stopped")
                    continue
                told = str(getattr(job, "_return_value", "")).splitlines()
                outcome = Outcome("failed", f"lost: {told[0] if told else 'its process left no word'}")
                _note_lost(cell, outcome)
                self._tell(cell, outcome)
        self._pending = {}


def _note_lost(cell: Cell, outcome: Outcome) -> None:
    """In the place of the process that should have."""
    attempts = attempts_of(cell.folder)
    open_one = attempts.pop() if attempts and "outcome" not in attempts[-1] else {}
    try:
        cell.folder.mkdir(parents=True, exist_ok=True)
        write_json(cell.folder / CELL, {"attempts": [*attempts, {**open_one, **outcome._asdict()}]})
    except OSError as error:
        print(f"{cell.folder / CELL} could not be written: {error}", file=sys.stderr)


def _write_study(plan: SweepPlan) -> None:
    """study.json: this study, with the arms and seeds that its folder held before."""
    study, settings = plan.study, asdict(plan.study.settings)
    held = _held(plan.folder)
    arms = {
        arm.name: {
            "label": arm.label,
            "overrides": list(arm.overrides),
            "identity": identity(plan.configs[arm.name]),
            "config": asdict(plan.configs[arm.name]),
        }
        for arm in study.arms
    }
    for arm in arms.values():
        del arm["config"]["sweep"]  # type: ignore[attr-defined]
    judged = {key: settings[key] for key in ("question", "baseline", "metric", "metrics", "smallest_effect", "claims")}
    content = {
        "schema_version": SCHEMA_VERSION,
        "name": plan.folder.name,
        **judged,
        "baseline": settings["baseline"] or study.arms[0].name,
        "arms": {**held["arms"], **arms},
        "seeds": sorted({*held["seeds"], *study.seeds}),
        **provenance(sys.argv),
    }
    write_json(plan.folder / STUDY, json.loads(json.dumps(content)))


def _report(plan: SweepPlan, watch: _Watch, signals: Signals) -> None:
    """Print how the sweep ended, and draw what it has."""
    states = Counter(outcome.outcome for outcome in watch.outcomes.values())
    skipped = sum(cell.state == "completed" for cell in plan.cells)
    failed = [cell for cell, outcome in watch.outcomes.items() if outcome.outcome == "failed"]
    ended = [cell for cell, outcome in watch.outcomes.items() if outcome.outcome == "interrupted"]  # from outside
    counts = [f"{skipped + states['completed']} of {len(plan.cells)} cells completed"]
    counts += [f"{states[state]} {state}" for state in ("failed", "interrupted") if states[state]]
    print(f"sweep     {', '.join(counts)}")
    for cell in failed:
        print(f"failed    {cell.name}: {watch.outcomes[cell].reason}")
    if signals.received is not None:
        print("go on with the same command")
        raise Interrupted(signals.received)
    if skipped + states["completed"]:
        from ablate.analysis.report import write_report

        for path in write_report(plan.folder):
            print(f"  {shown(path)}")
    if failed:
        raise RunFailed(f"{len(failed)} of {len(plan.cells)} cells; the same command runs them again")
    if watch.stopping:
        raise RunFailed(watch.stopping)
    if ended:
        raise RunFailed(f"{len(ended)} of {len(plan.cells)} cells were interrupted; the same command goes on with them")


def _means(values: dict[str, list[float]]) -> dict[str, float]:
    return {key: sum(some) / len(some) for key, some in values.items()}


def _size(folder: Path) -> float:
    return float(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))


def _bytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def duration(seconds: float) -> str:
    """Seconds in words that can be taken in: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
