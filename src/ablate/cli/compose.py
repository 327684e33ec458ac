"""Compose configurations with Hydra and plan their runs: a single run, a job of a sweep, a study's arms."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from ablate.algos.algorithm import algorithm_named
from ablate.cli.arguments import check_overrides, complete_arguments, import_named
from ablate.cli.hydra_private import apply_overrides, is_group, typed_overrides
from ablate.cli.messages import REFUSALS, explain
from ablate.cli.resolvers import register
from ablate.config.schema import Config, ConfigError
from ablate.config.validation import validate
from ablate.paths import CONF, OUTPUTS, portable
from ablate.records.study_file import StudyFile
from ablate.runs.plan import Resolved, plan
from ablate.sweeps.cell import run_as_job
from ablate.sweeps.plan import stored_study
from ablate.sweeps.search import TRIALS
from ablate.sweeps.study import Arm, Study

WORTH_SHARING = 4  # sharing saves time for at least this many arms with the same options
# What an arm is composed with in place of a cell's own seed, folder and number: texts that occur nowhere else.
SEED, SUBFOLDER, NUMBER = "4611686018427387847", "ablate-folder-of-a-cell", "4611686018427387839"
OF_A_CELL = re.compile(r"(seed|hydra\.sweep\.subdir)=(?:(\d+)|'([^'\\]+)')")


def compose_config(overrides: Sequence[str]) -> Config:
    """The configuration of `python src/run.py <overrides>`, for programs outside Hydra. Raises ConfigError."""
    import_named(overrides)
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return validate(compose("config", complete_arguments(list(overrides))))


def compose_and_plan(overrides: Sequence[str]) -> Resolved:
    """The plan of `python src/run.py <overrides>`, for programs outside Hydra. Raises ConfigError."""
    return plan(compose_config(overrides), list(overrides))


def plan_job(composed: DictConfig, overrides: Sequence[str], here: bool = True, folder: Path = OUTPUTS) -> Resolved:
    """The plan of a sweep's job that Hydra composed from these overrides.

    here: whether the job will run on this machine. folder: the sweep's. Raises ConfigError, also for resume=."""
    config = validate(composed)
    if config.resume:
        raise ConfigError(f"resume={config.resume}: a sweep starts new runs; resume one run at a time")
    return plan(config, list(overrides), here, folder)


def plan_arms(
    study: Study, loader: Any, master: DictConfig, here: bool, folder: Path
) -> tuple[Study, dict[str, Config], list[str]]:
    """The study with all that its arms need to be the same on any machine, the resolved configuration of each arm by
    its name, and notes on them.

    loader: Hydra's configuration loader. master: the sweep's configuration. here: whether the cells will run on this
    machine. folder: the sweep's. Raises ConfigError."""
    configs, arms = {}, list[Arm]()
    composer = _Composer(loader, master, [list(arm.overrides) for arm in study.arms])
    notes: dict[str, None] = {}
    any_has_workers = False
    for arm in study.arms:
        with _naming(study, arm):
            check_overrides(arm.overrides)
            any_has_workers |= _has_workers(composer.compose(list(arm.overrides)))
    stored = stored_study(folder) or stored_study(folder / TRIALS)
    for arm in study.arms:
        with _naming(study, arm):
            composed = composer.compose(list(arm.overrides))
            if not _has_workers(composed) and any_has_workers and (shared := _shared_workers(study, arm)):
                notes[f"{shared[0]}: {arm.name} has no workers, so it holds for the other arms"] = None
                arm = arm._replace(overrides=tuple(o for o in arm.overrides if o not in shared))
                composed = composer.compose(list(arm.overrides))
            elif _has_workers(composed) and composed.workers is None:
                known = _stored_value(stored, arm.name, composed.algo.name, "workers")
                composed.workers = known or algorithm_named(composed.algo.name).default_workers()
                where = "as in its study.json" if known else "the number of CPUs here; study.json keeps it"
                notes[f"workers={composed.workers}: {where}, so that the sweep is the same on any machine"] = None
                arm = arm._replace(overrides=(*arm.overrides, f"workers={composed.workers}"))
            planned = plan_job(composed, arm.overrides, here, folder)
            known = _stored_value(stored, arm.name, composed.algo.name, "precision")
            if composed.precision == "auto" and known not in (None, "auto", planned.config.precision):
                composed.precision = known
                notes[f"precision={known}: as in its study.json, so that the sweep is the same on any machine"] = None
                arm = arm._replace(overrides=(*arm.overrides, f"precision={known}"))
                planned = plan_job(composed, arm.overrides, here, folder)
            configs[arm.name] = planned.config
            arms.append(arm)
            notes[planned.limit_note] = None
    return replace(study, arms=tuple(arms)), configs, list(filter(None, notes))


@contextmanager
def _naming(study: Study, arm: Arm) -> Iterator[None]:
    """Raise a refusal of the arm as one that names it."""
    try:
        yield
    except REFUSALS as error:
        text = explain(error, arm.overrides)
        if any(text.startswith(f"{override}:") for override in study.command):
            raise ConfigError(f"{text} (arm {arm.name})") from error
        key = text.partition("=")[0]
        if text.startswith(f"{key}=") and key in (space := study.settings.search.space):
            needs_int = "could not be converted to Integer" in text  # omegaconf's words
            why = f"the key takes whole numbers; give int({space[key]})" if needs_int else f"a trial has {text}"
            raise ConfigError(f"sweep.search.space.{key}={space[key]}: {why}") from error
        given = f"sweep.arms.{arm.name}: " if study.settings.arms else ""
        prefix = "sweep.factors: " if study.settings.factors else given
        raise ConfigError(prefix + text) from error


def _stored_value(stored: StudyFile | None, name: str, algorithm: str, key: str) -> Any:
    """The key's value for this arm, or that of all arms of its algorithm; None if there is no such value."""
    if stored is None:
        return None
    if name in stored.arms:
        return stored.arms[name].config.get(key)
    values = {arm.config.get(key) for arm in stored.arms.values() if arm.config["algo"]["name"] == algorithm}
    return values.pop() if len(values) == 1 else None


def _has_workers(composed: DictConfig) -> bool:
    return algorithm_named(composed.algo.name).has_workers


def _shared_workers(study: Study, arm: Arm) -> list[str]:
    """The override `workers=` that an arm shares with all others, if it has one."""
    name = study.crossed.get(arm.name, (arm.name, ""))[0]
    own = study.settings.arms[name].overrides if name in study.settings.arms else []
    return [override for override in arm.overrides if override.startswith("workers=") and override not in own]


class _Composer:
    """Compose many arms faster than with one call of `load_sweep_config` per arm.

    A call takes 0.2 s, mostly to read the files of the chosen options. Arms with the same options share one call; then
    a function of Hydra sets the values of each arm. As a check, the first of these arms is also composed by
    `load_sweep_config`. If the two results differ, all arms with these options are composed by `load_sweep_config`."""

    def __init__(self, loader: Any, master: DictConfig, arms: list[list[str]]) -> None:
        self._loader, self._master = loader, master
        self._times = Counter(self._parts(arm)[0] for arm in arms)
        self._shared: dict[tuple[str, ...], DictConfig | None] = {}

    def compose(self, overrides: list[str]) -> DictConfig:
        """The arm's configuration, possibly without Hydra's own node."""
        choices, values = self._parts(overrides)
        if self._times[choices] < WORTH_SHARING:
            return self._loader.load_sweep_config(self._master, overrides)
        if choices not in self._shared:
            whole = _without_hydra(self._loader.load_sweep_config(self._master, overrides))
            shared = _without_hydra(self._loader.load_sweep_config(self._master, list(choices)))
            same = OmegaConf.to_container(_with(shared, values)) == OmegaConf.to_container(whole)
            self._shared[choices] = shared if same else None
        if (shared_part := self._shared[choices]) is None:
            return self._loader.load_sweep_config(self._master, overrides)
        return _with(shared_part, values)

    def _parts(self, overrides: list[str]) -> tuple[tuple[str, ...], list[Override]]:
        """Split the overrides into those that may choose an option of a group, and those that only set a value."""
        parsed = OverridesParser.create().parse_overrides(overrides)
        keys = [key for key in self._master if not is_group(self._master, str(key))]
        values = [o for o in parsed if o.package is None and ("." in o.key_or_group or o.key_or_group in keys)]
        return tuple(o.input_line or "" for o in parsed if o not in values), values


def _without_hydra(composed: DictConfig) -> DictConfig:
    with open_dict(composed):
        del composed["hydra"]
    return composed


def _with(composed: DictConfig, values: list[Override]) -> DictConfig:
    arm = copy.deepcopy(composed)
    apply_overrides(values, arm)
    return arm


def folder_of_cell(overrides: Sequence[str]) -> str:
    """The folder of a cell in its sweep's; empty if the overrides are of another sweeper and do not name it."""
    matches = filter(None, map(OF_A_CELL.fullmatch, overrides))
    return next((match[3] for match in matches if match[3]), "")


class CellJob(NamedTuple):
    """A cell as Hydra's run_job would make it: its configuration, its folder, and the files that describe it."""

    config: Config
    overrides: list[str]  # without those of Hydra's own node
    folder: Path
    files: dict[Path, str]  # the YAML files in the folder's .hydra

    def run(self, sweep: Path) -> float:
        """Write the files and run the cell. sweep: the sweep's folder. Returns and raises what `run_as_job` does."""
        for path, text in self.files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return run_as_job(self.config, self.overrides, self.folder, sweep)


class CellComposer:
    """Compose and plan the jobs of a sweep. Those that differ only in seed and folder are composed and planned once.

    Composing, planning and writing one job as YAML takes 0.2 s. The cells of an arm have the same texts, apart from
    their seed, folder and number; so these are put in place of the three markers above."""

    def __init__(self, loader: Any, master: DictConfig, job_id: str | None = None) -> None:
        """job_id: the cluster's name for the job in which the cells run; None: each is a job, named by its number."""
        self._loader, self._master, self._job_id = loader, master, job_id
        self._arms: dict[tuple[str, ...], CellJob] = {}

    def compose(self, overrides: Sequence[str], number: int) -> CellJob:
        """The job with these overrides, the sweep's `number`-th. Raises ConfigError."""
        own = {match[1]: match[2] or match[3] for o in overrides if (match := OF_A_CELL.fullmatch(o))}
        if len(own) < 2:  # of another sweeper
            return self._composed(list(overrides), number)
        marked = {"seed": f"seed={SEED}", "hydra.sweep.subdir": f"hydra.sweep.subdir='{SUBFOLDER}'"}
        arm = tuple(marked.get(o.partition("=")[0], o) for o in overrides)
        if arm not in self._arms:
            self._arms[arm] = self._composed(list(arm), int(NUMBER))
        shared, values = self._arms[arm], {SEED: own["seed"], SUBFOLDER: own["hydra.sweep.subdir"], NUMBER: str(number)}

        def filled(text: str) -> str:
            return re.sub("|".join(values), lambda marker: values[marker[0]], text)

        return CellJob(
            replace(shared.config, seed=int(own["seed"])),
            [filled(override) for override in shared.overrides],
            Path(filled(str(shared.folder))),
            {Path(filled(str(path))): filled(text) for path, text in shared.files.items()},
        )

    def _composed(self, overrides: list[str], number: int) -> CellJob:
        composed = self._loader.load_sweep_config(self._master, overrides)
        with open_dict(composed):
            composed.hydra.job.id, composed.hydra.job.num = self._job_id or number, number
            folder = Path(composed.hydra.sweep.dir, str(composed.hydra.sweep.subdir)).absolute()
            composed.hydra.runtime.output_dir = str(folder)
        hydra, sweep = composed.hydra, Path(composed.hydra.sweep.dir)
        config = plan_job(composed, typed_overrides(hydra), folder=sweep).config
        described = OmegaConf.masked_copy(composed, "hydra")
        parts = {"config": _without_hydra(composed.copy()), "hydra": described, "overrides": hydra.overrides.task}
        where = None if hydra.output_subdir is None else folder / hydra.output_subdir
        files = (
            {where / f"{name}.yaml": portable(OmegaConf.to_yaml(part)) for name, part in parts.items()} if where else {}
        )
        return CellJob(config, typed_overrides(hydra), folder, files)
