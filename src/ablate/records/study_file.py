"""study.json of a sweep's folder: what the sweep compares, how it is judged, and where it came from.

The only module that reads or writes it. Everything else works with `StudyFile`."""

from __future__ import annotations

import difflib
import re
from dataclasses import asdict, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import from_json

from ablate.config.choices import DesignKind, Sampler, ScoreUnit, Statistic, Until
from ablate.config.derived import default_score_unit
from ablate.config.schema import ClaimConfig, ConfigError, FiguresConfig, MetricConfig
from ablate.paths import OUTPUTS, shown
from ablate.records.files import LONGEST_VALUE, misfit, read_file, write_json
from ablate.records.schema import SCHEMA_VERSION, STUDY

NAME = r"\w[\w.-]*"  # of an arm or a metric: part of the name of a folder or a file


@dataclass(frozen=True)
class StudyArm:
    """One setting under comparison."""

    label: str  # if empty, the arm's name is shown
    overrides: list[str]
    identity: str  # names the resolved configuration without its seed
    config: dict[str, Any]  # resolved, as in a manifest
    levels: dict[str, str] = field(default_factory=dict)  # its value of each factor, by key
    seeds: list[int] | None = None  # its own seeds, if they are not those of the study (runs of other programs)
    # In a study with sweep.environments: the arm's name and the environment, of which this one's name is made.
    arm: str = ""
    environment: str = ""


@dataclass(frozen=True)
class Reference:
    """The scores of an environment that count as 0 and 1, in the study's unit."""

    low: float | None  # None: of a random policy, which has not been played yet
    high: float
    source: str


@dataclass(frozen=True)
class StudyChange:
    """A later change of a study that already had completed cells."""

    when: str
    completed: int  # cells at that time
    what: list[str]
    seeds: list[int] = field(default_factory=list)  # of a verdict that had been seen when seeds were added


@dataclass(frozen=True)
class SearchRecord:
    """The search that a study's sweep is part of: it trains the trials, or compares the best one with the default."""

    space: dict[str, str]  # by key: its range
    sampler: Sampler
    seed: int  # of the sampler
    batch: int
    seeds: list[int]  # the tuning seeds, which all trials share; none of them is a test seed
    trials: int = 0  # how many there were; 0 while they are trained
    best: str = ""  # the trial that was chosen
    objective: float | None = None  # of the best trial, over the tuning seeds


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The command, code, packages and machine of a sweep's last start, and when it was first started."""

    command: list[str]
    git: dict[str, Any] | None = None
    python: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any]
    started: str

    @property
    def cpus(self) -> int:
        return int(self.machine["cpus"])


@dataclass(frozen=True)
class StudyFile:
    """The content of a study.json."""

    name: str
    question: str
    baseline: str  # name of an arm
    metric: str  # name of the primary metric
    metrics: dict[str, MetricConfig]
    smallest_effect: float | None  # in the primary metric's unit
    claims: list[ClaimConfig]
    arms: dict[str, StudyArm]
    seeds: list[int]
    provenance: Provenance
    changes: list[StudyChange] = field(default_factory=list)
    floor: float | None = None  # score of a failed seed, in the primary metric's unit
    until: Until = Until.seeds
    block: int = 5  # until=decided: seeds per arm between two looks; `seeds` has as many as may be run
    score_units: dict[str, ScoreUnit] = field(default_factory=dict)  # by env.id; empty in files from before 2026-11-28
    design: DesignKind | None = None  # how the arms were made of the factors; None: by hand, or all values of -m
    factors: dict[str, str] = field(default_factory=dict)  # what the arms combine: the label of each key
    # By env.id: return and length of each episode of a random policy; nothing if it was not or could not be played.
    random_scores: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    figures: FiguresConfig = field(default_factory=FiguresConfig)
    search: SearchRecord | None = None
    # By env.id, of a study with sweep.environments; none: scores are normalised by their ranks among all runs.
    references: dict[str, Reference] = field(default_factory=dict)

    @property
    def has_trials(self) -> bool:
        """Whether its arms are the trials of a search."""
        return self.search is not None and not self.search.best

    @property
    def labels(self) -> dict[str, str]:
        """What is shown of each arm, by name."""
        return {
            name: ", ".join(filter(None, (arm.label or arm.arm or name, arm.environment)))
            for name, arm in self.arms.items()
        }

    @property
    def crossed(self) -> dict[str, dict[str, str]]:
        """The names in `arms` by arm and environment, of a study with sweep.environments; empty in others."""
        names: dict[str, dict[str, str]] = {}
        for name, arm in self.arms.items():
            if arm.environment:
                names.setdefault(arm.arm, {})[arm.environment] = name
        return names

    @property
    def environments(self) -> dict[str, str]:
        """env.id of each of sweep.environments."""
        return {arm.environment: arm.config["env"]["id"] for arm in self.arms.values() if arm.environment}

    def score_unit(self, env_id: str) -> ScoreUnit:
        """The unit of a score in this environment."""
        return self.score_units.get(env_id) or default_score_unit(env_id)

    def seeds_of(self, arm: str, among: list[int]) -> list[int]:
        """Those of these seeds that the arm has."""
        own = self.arms[arm].seeds
        return among if own is None else [seed for seed in among if seed in own]

    def metric_config(self, name: str) -> MetricConfig:
        """The metric of this name. Raises ConfigError if there is none, or if it cannot be computed."""
        if name not in self.metrics:
            raise ConfigError(f"metric={name}: the study has no such metric, only {', '.join(self.metrics)}")
        metric = self.metrics[name]
        low, high = metric.window
        if low > high:
            raise ConfigError(f"sweep.metrics.{name}.window=[{low}, {high}]: its end comes before its start")
        if metric.statistic is Statistic.first_reach and metric.score is None:
            raise ConfigError(f"sweep.metrics.{name}.score=null: first_reach needs the score to be reached")
        return metric


def _similar(folder: Path) -> str:
    """`; did you mean outputs/sweeps/X?` for the sweep of the same or a similar name, or nothing."""
    sweeps = OUTPUTS / "sweeps"
    known = sorted(path.parent.name for path in sweeps.glob(f"*/{STUDY}"))
    name = (
        folder.name if folder.name in known else next(iter(difflib.get_close_matches(folder.name, known, 1, 0.5)), "")
    )
    return f"; did you mean {shown(sweeps / name)}?" if name else ""


def read_study(folder: Path) -> StudyFile:
    """Read the study of a sweep's folder. Raises ConfigError in one line if there is none or it is damaged."""
    path = folder / STUDY
    if (content := read_file(path)) is None:
        raise ConfigError(f"{folder}: not a sweep's folder; it has no {STUDY}{_similar(folder)}")
    try:
        return _parsed(from_json(content))
    except ValueError as error:
        raise ConfigError(
            f"{path}: cannot be read ({_reason(error)}); move it away: the sweep's command writes it again, and "
            "finds completed cells by their own manifests"
        ) from error


def write_study(folder: Path, study: StudyFile) -> None:
    """Write the study to a sweep's folder. Raises OSError if it cannot be written."""
    values = asdict(study)
    changes, provenance = values.pop("changes"), values.pop("provenance")
    write_json(folder / STUDY, {"schema_version": SCHEMA_VERSION, **values, **provenance, "changes": changes})


def _parsed(values: Any) -> StudyFile:
    """Raises ValueError, of which pydantic's ValidationError is a subclass."""
    if not isinstance(values, dict):
        raise ValueError(f"a JSON object is needed, not a {type(values).__name__}")
    if (version := values.get("schema_version")) != SCHEMA_VERSION:
        raise ValueError(f"schema_version={version}; {SCHEMA_VERSION} is needed")
    study = TypeAdapter(StudyFile).validate_python({**values, "provenance": values})
    for kind, names in (("arm", study.arms), ("metric", study.metrics)):
        for name in names:
            if not re.fullmatch(NAME, name):
                raise ValueError(
                    f"the {kind} {name!r}: it is part of a file's name; letters, digits, dots and dashes are allowed"
                )
    parts = {f"metrics.{name}": asdict(metric) for name, metric in study.metrics.items()}
    parts |= {f"claims.{i}": asdict(claim) for i, claim in enumerate(study.claims)}
    for key, part in parts.items():
        if absent := [name for name, value in part.items() if value == MISSING]:
            raise ValueError(f"it has no {key}.{absent[0]}")
    if study.baseline not in study.arms:
        raise ValueError(f"baseline={study.baseline[:LONGEST_VALUE]}: not one of the arms")
    if study.metric not in study.metrics:
        raise ValueError(f"metric={study.metric[:LONGEST_VALUE]}: not one of the metrics")
    if not study.seeds:
        raise ValueError("seeds=[]: at least one is needed")
    if len(set(study.seeds)) < len(study.seeds) or min(study.seeds) < 0:
        raise ValueError(f"seeds={str(study.seeds)[:LONGEST_VALUE]}: each is at least 0 and given once")
    if not isinstance(cpus := study.provenance.machine.get("cpus"), int):
        raise ValueError(f"machine.cpus={cpus}: a number is needed")
    for name, arm in study.arms.items():
        TypeAdapter(dict[str, _Settings]).validate_python({f"arms.{name}.config": arm.config})
    return study


@dataclass
class _Algorithm:
    name: str


@dataclass
class _Environment:
    id: str
    kwargs: dict[str, Any]
    max_ep_step: int | None


@dataclass
class _Settings:
    """The keys of an arm's configuration that figures, tables and verdicts read."""

    algo: _Algorithm
    env: _Environment
    workers: int | None
    schedule: str
    max_episodes: int | None
    total_steps: int | None


def _reason(error: Exception) -> str:
    """The error in one line."""
    return (
        misfit(error).replace("provenance.", "") if isinstance(error, ValidationError) else " ".join(str(error).split())
    )
