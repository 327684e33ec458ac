"""The schema of a study of runs that other programs made (docs/judging.md)."""

from __future__ import annotations

from dataclasses import asdict, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from yaml import YAMLError

from ablate.config.choices import RunFormat, Source, Statistic
from ablate.config.schema import ClaimConfig, ConfigError, Count, FiguresConfig, Finite, MetricConfig, Positive
from ablate.config.validation import suggest

COUNTED = "counted"  # runs.seed: the runs of an arm are numbered in the order of their names
Text = Annotated[str, Field(min_length=1)]


@dataclass(kw_only=True)
class ColumnsConfig:
    """Names of the columns of a CSV file with a row per score."""

    step: Text
    score: Text
    arm: Text | None = None  # which arm a row is of; None: a file has one arm
    seed: Text | None = None  # None: a file has one run
    time: Text | None = None  # seconds since the run's start


@dataclass(kw_only=True)
class RunsConfig:
    """What the runs' files hold."""

    format: RunFormat | None = None  # None: by the names of the files
    columns: ColumnsConfig | None = None
    tag: Text | None = None  # of event files; None: the first of TAGS that there is
    seed: Text | None = None  # regular expression with one group, of a run's path; COUNTED; None: see docs/judging.md
    source: Source | None = None  # what one row is; None: an evaluation if the tag begins with eval/, else an episode
    score: Text = "episodic return"  # the name of the score in tables and figures


@dataclass(kw_only=True)
class JudgedArmConfig:
    label: str = ""
    runs: Text | list[Text] | None = None  # patterns of paths; with columns.arm: the arm's value. None: the arm's name


@dataclass(kw_only=True)
class JudgedConfig:
    arms: dict[str, JudgedArmConfig]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,79}$")] | None = None  # None: that of the study's file
    question: str = ""
    env: str = ""
    runs: RunsConfig = field(default_factory=RunsConfig)
    seeds: Any = None  # as in a sweep; None: those that there are
    total_steps: Count | None = None
    baseline: str | None = None
    metric: str = "final_score"
    metrics: dict[str, MetricConfig] = field(default_factory=dict)
    smallest_effect: Positive | None = None
    floor: Finite | None = None
    claims: list[ClaimConfig] = field(default_factory=list)
    figures: FiguresConfig = field(default_factory=FiguresConfig)


def read_judged(path: Path) -> JudgedConfig:
    """Read the study's file. Raises ConfigError in one line, which names the key and what would be right."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give the study's YAML file")
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OmegaConfBaseException, YAMLError, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: no YAML that can be read ({' '.join(str(error).split())})") from error
    study = content.get("sweep") if isinstance(content, dict) else None
    if not isinstance(study, dict) or not study:
        raise ConfigError(f"{path}: it describes no study; write sweep: with question, arms, runs and claims")
    try:
        return _checked({str(key): value for key, value in study.items()})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _checked(values: dict[str, Any]) -> JudgedConfig:
    _refuse_unknown(values, JudgedConfig, "sweep.")
    runs = values.get("runs") or {}
    tag = str(runs.get("tag") or "")
    source = runs.get("source") or (Source.evaluations if tag.startswith("eval/") else Source.episodes)
    metrics = {**default_metrics(source), **(values.get("metrics") or {})}
    for name, metric in metrics.items():
        if not isinstance(metric, dict):
            raise ConfigError(f"sweep.metrics.{name}={metric}: a metric has keys, such as statistic: mean")
        metrics[name] = {"label": name, "source": source, **metric}
        if str(metrics[name]["source"]) != str(source):
            raise ConfigError(
                f"sweep.metrics.{name}.source={metric['source']}: a row of these runs is one of {source} "
                "(sweep.runs.source); leave it out"
            )
    if not values.get("arms"):
        raise ConfigError("sweep.arms: it is missing: <name>: {label: ..., runs: <pattern>} for each arm")
    try:
        study = TypeAdapter(JudgedConfig).validate_python({**values, "metrics": metrics})
    except ValidationError as error:
        raise ConfigError(_misfit(error)) from error
    study.runs.source = Source(source)
    for i, claim in enumerate(study.claims):
        if absent := [item.name for item in fields(claim) if getattr(claim, item.name) == MISSING]:
            raise ConfigError(f"sweep.claims[{i}]: it has no {absent[0]}")
        if claim.environment is not None:
            raise ConfigError(f"sweep.claims[{i}].environment={claim.environment}: judged runs are of one environment")
    named: dict[str, str] = {}
    for role, column in asdict(study.runs.columns).items() if study.runs.columns else ():
        if column and (other := named.setdefault(column, role)) != role:
            raise ConfigError(f"sweep.runs.columns.{role}={column}: it is also the column of {other}")
    for name, metric in study.metrics.items():
        if metric.statistic == MISSING:
            raise ConfigError(f"sweep.metrics.{name}: it has no statistic; one of {', '.join(Statistic)}")
    return study


def default_metrics(source: str) -> dict[str, Any]:
    """The metrics that every judged study has. All arms are read up to the same step."""
    what = "training" if source == Source.episodes else "the evaluations"
    return {
        "final_score": {"label": f"last tenth of {what}", "statistic": "mean", "window": [0.9, 1.0]},
        "auc": {"label": "mean over equal steps", "statistic": "auc"},
    }


def _misfit(error: ValidationError) -> str:
    first = error.errors()[0]
    of_types = ("str", "constrained-str")  # pydantic's, between the keys
    parts = [str(part) for part in first["loc"] if not (isinstance(part, str) and ("[" in part or part in of_types))]
    key = ".".join(["sweep", *parts])
    if first["type"] in ("missing", "missing_keyword_only_argument"):
        return f"{key}: it is missing"
    value = " ".join(str(first["input"]).split())[:60]
    return f"{key}={value}: {first['msg'][0].lower()}{first['msg'][1:]}"


def _refuse_unknown(values: dict[str, Any], kind: Any, prefix: str) -> None:
    """Raise ConfigError for a key that the dataclass does not have, at any depth."""
    hints = get_type_hints(kind)
    for key, value in values.items():
        if key not in hints:
            raise ConfigError(f"{prefix}{key}: no such key{suggest(str(key), list(hints))}")
        inner = next((part for part in _parts(hints[key]) if is_dataclass(part)), None)
        if inner is None or value is None:
            continue
        nested = {f"{prefix}{key}": value}
        if get_origin(hints[key]) is dict and isinstance(value, dict):
            nested = {f"{prefix}{key}.{name}": part for name, part in value.items()}
        elif get_origin(hints[key]) is list and isinstance(value, list):
            nested = {f"{prefix}{key}[{place}]": part for place, part in enumerate(value)}
        for where, part in nested.items():
            if not isinstance(part, dict):
                raise ConfigError(f"{where}={part}: keys are needed: {', '.join(get_type_hints(inner))}")
            _refuse_unknown(part, inner, f"{where}.")


def _parts(hint: Any) -> list[Any]:
    """The type and all types inside of it."""
    return [hint, *(part for inner in get_args(hint) for part in _parts(inner))]
