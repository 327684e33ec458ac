"""The schema of the whole configuration: names, types, ranges, and what must not be combined.

OmegaConf checks names and types while Hydra composes; pydantic checks the ranges; `validate` walks the result for
keys that the schema does not know (stock Hydra accepts `+wokers=8`) and for settings that contradict each other.
Values live in `conf/`; the few defaults here are "nothing" (None, empty).
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, field, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import Field, ValidationError
from pydantic.dataclasses import dataclass

from ablate.types import Counters

ROOT = Path(__file__).resolve().parents[2]


class ConfigError(Exception):
    """A configuration that cannot run. The message is one line: key, value, and what would be right."""


class Backend(StrEnum):
    """Who computes gradients."""

    auto = "auto"
    autograd = "autograd"
    manual = "manual"
    compiled = "compiled"


# Who runs when: real processes that race, or workers taking turns in one process.
# OmegaConf reads an enum by its members' names, and `async` is a keyword: hence the functional form.
Schedule = StrEnum("Schedule", {"async": "async", "interleaved": "interleaved"})


class LossReduction(StrEnum):
    mean = "mean"
    sum = "sum"


class Activation(StrEnum):
    relu = "relu"
    relu6 = "relu6"
    tanh = "tanh"
    elu = "elu"


class Preprocessing(StrEnum):
    """How an Atari screen becomes an observation."""

    report_42 = "report_42"
    report_80 = "report_80"
    report_180 = "report_180"
    nature_84 = "nature_84"


class DqnLoss(StrEnum):
    smooth_l1 = "smooth_l1"
    squared = "squared"


class Precision(StrEnum):
    """Of the arithmetic of a network's forward and backward pass; parameters and their updates are float32."""

    auto = "auto"
    float32 = "float32"
    bf16 = "bf16"


class Storage(StrEnum):
    """Where a replay's frames lie."""

    memory = "memory"
    memmap = "memmap"  # a file beside the run's records


class Draws(StrEnum):
    """How a batch is drawn from the priorities' distribution: one from each of B equal parts, or each from all."""

    stratified = "stratified"
    independent = "independent"


class WeightNorm(StrEnum):
    """What importance weights are divided by."""

    max = "max"
    mean = "mean"
    none = "none"


class NewPriority(StrEnum):
    """The priority of a transition that was not learned from yet."""

    max = "max"
    td_error = "td_error"


class ActionChoice(StrEnum):
    """How an evaluated policy acts: its most likely action, or a draw from its distribution (DQN: ε-greedily)."""

    mode = "mode"
    sample = "sample"


class Display(StrEnum):
    auto = "auto"
    live = "live"
    plain = "plain"
    off = "off"


class Source(StrEnum):
    """Which of a cell's tables a metric is taken from."""

    evaluations = "evaluations"  # the frozen policy, on the horizon and protocol that all arms share
    episodes = "episodes"  # training, whose returns depend on the arm


class Statistic(StrEnum):
    """How a cell's curve becomes one number."""

    mean = "mean"  # over the window
    std = "std"  # over the window: how much it fluctuates
    auc = "auc"  # the curve's mean height over the window
    first_reach = "first_reach"  # where on x the curve first reaches `score`; censored if it never does
    duration = "duration"  # x at the window's end: how long it took


class Axis(StrEnum):
    """What a curve is drawn against; columns of the tables."""

    global_step = "global_step"
    update = "update"
    episode = "episode"
    wall_time_s = "wall_time_s"


class Budget(StrEnum):
    """Up to where the curves of several arms are compared."""

    equal = "equal"  # the shortest arm's end, for all
    own = "own"  # each arm's own end


Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
CountOrNone = Annotated[int, Field(ge=0)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]


@dataclass
class EnvConfig:
    name: str = MISSING
    id: str = MISSING
    max_ep_step: Count | None = None
    reward_shift: Finite = MISSING
    reward_scale: Positive = MISSING
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass
class GymnasiumConfig(EnvConfig):
    name: Annotated[str, Field(pattern="^gymnasium$")] = "gymnasium"


@dataclass
class AtariConfig(EnvConfig):
    name: Annotated[str, Field(pattern="^atari$")] = "atari"
    preprocessing: Preprocessing | None = None
    protocol: str = MISSING
    frame_skip: tuple[Count, Count] = MISSING  # fewest and most frames a step
    sticky_actions: Fraction = MISSING
    noop_max: Annotated[int, Field(ge=0, le=600)] = MISSING  # left alone, no game ends sooner (Assault: 642 frames)
    fire_on_reset: bool = MISSING
    fill_steps: CountOrNone = 0
    fire_action: bool = True
    life_loss_terminates: bool = MISSING
    clip_rewards: bool = MISSING
    full_action_space: bool = MISSING
    mode: CountOrNone | None = None
    difficulty: CountOrNone | None = None
    threads: CountOrNone = 0


@dataclass
class AlgoConfig:
    name: str = MISSING


@dataclass
class A3CConfig(AlgoConfig):
    name: Annotated[str, Field(pattern="^a3c$")] = "a3c"
    t_max: Count = MISSING
    gamma: Fraction = MISSING
    gae_lambda: Fraction = MISSING
    entropy_coef: NonNegative = MISSING
    value_loss_coef: NonNegative = MISSING
    loss_reduction: LossReduction = MISSING
    max_grad_norm: Positive | None = None
    bootstrap_truncated: bool = MISSING
    lock_updates: bool = MISSING


@dataclass
class DQNConfig(AlgoConfig):
    name: Annotated[str, Field(pattern="^dqn$")] = "dqn"
    gamma: Fraction = MISSING
    warmup_steps: CountOrNone = MISSING
    policy_update: Count = MISSING
    target_update: Count = MISSING
    target_tau: PositiveFraction = MISSING
    batch_size: Count = MISSING
    n_step: Count = MISSING
    double: bool = MISSING
    loss: DqnLoss = MISSING
    max_grad_value: Positive | None = None
    epsilon_start: Fraction = MISSING
    epsilon_end: Fraction = MISSING
    epsilon_decay_steps: Count = MISSING
    evaluation_epsilon: Fraction = MISSING
    noisy_start: CountOrNone = MISSING
    bootstrap_truncated: bool = MISSING
    reset_after_evaluation: bool = MISSING
    cuda_graph: bool = MISSING


@dataclass
class ReplayConfig:
    name: Annotated[str, Field(pattern="^(uniform|prioritized)$")] = MISSING
    capacity: Count = MISSING
    storage: Storage = MISSING


@dataclass
class UniformConfig(ReplayConfig):
    name: Annotated[str, Field(pattern="^uniform$")] = "uniform"


@dataclass
class PrioritizedConfig(ReplayConfig):
    name: Annotated[str, Field(pattern="^prioritized$")] = "prioritized"
    alpha: NonNegative = MISSING
    beta_start: Fraction = MISSING
    beta_end: Fraction = MISSING
    beta_steps: Count = MISSING
    draws: Draws = MISSING
    weights: WeightNorm = MISSING
    new_priority: NewPriority = MISSING
    priority_eps: Positive = MISSING
    first_half_only: bool = MISSING


@dataclass
class ModelConfig:
    name: str = MISSING


@dataclass
class MlpConfig(ModelConfig):
    name: Annotated[str, Field(pattern="^mlp$")] = "mlp"
    torso_hidden: list[Count] = MISSING
    actor_hidden: list[Count] = MISSING
    critic_hidden: list[Count] = MISSING
    activation: Activation = MISSING
    mu_scale: Positive | None = None
    sigma_min: Positive = MISSING
    init_std: NonNegative = MISSING


@dataclass
class ConvolutionConfig:
    channels: Count
    kernel: Count
    stride: Count = 1
    padding: Annotated[int, Field(ge=0)] = 0
    pool: bool = False  # 2 × 2 max-pooling after the activation


@dataclass
class ConvConfig(ModelConfig):
    name: Annotated[str, Field(pattern="^conv$")] = "conv"
    input: tuple[Count, Count, Count] = MISSING  # channels, height, width
    convolutions: list[ConvolutionConfig] = MISSING
    activation: Activation = MISSING
    hidden: Count = MISSING
    recurrent: bool = MISSING
    init_gain: Positive = MISSING


@dataclass
class QConfig(ModelConfig):
    name: Annotated[str, Field(pattern="^q$")] = "q"
    input: tuple[Count, Count, Count] | None = None  # channels, height, width; None: a vector of numbers
    convolutions: list[ConvolutionConfig] = MISSING
    conv_bias: bool = MISSING
    hidden: list[Count] = MISSING
    activation: Activation = MISSING
    dueling: bool = MISSING
    init_gain: Positive = 2**0.5


@dataclass
class OptimizerConfig:
    name: str = MISSING
    lr: Positive = MISSING
    eps: Positive = MISSING
    weight_decay: NonNegative = MISSING

    @property
    def statistics(self) -> tuple[str, ...]:
        """Names of the vectors that the optimizer keeps, each as long as the parameters."""
        return ()


@dataclass
class AdamConfig(OptimizerConfig):
    name: Annotated[str, Field(pattern="^adam$")] = "adam"
    betas: tuple[BelowOne, BelowOne] = MISSING
    amsgrad: bool = MISSING

    @property
    def statistics(self) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if self.amsgrad else ()))


@dataclass
class RMSpropConfig(OptimizerConfig):
    name: Annotated[str, Field(pattern="^rmsprop$")] = "rmsprop"
    alpha: BelowOne = MISSING

    @property
    def statistics(self) -> tuple[str, ...]:
        return ("square_avg",)


@dataclass
class EvaluationConfig:
    every_seconds: Positive | None = None
    every_steps: Count | None = None
    at_start: bool = False
    episodes: Count = MISSING
    horizon: Count | None = None
    action: ActionChoice = MISSING


@dataclass
class LoggerConfig:
    tensorboard: bool = MISSING
    display: Display = MISSING
    print_every_seconds: Positive = MISSING


@dataclass
class ArmConfig:
    overrides: list[str] = MISSING
    label: str = ""


@dataclass
class MetricConfig:
    label: str = MISSING
    source: Source = MISSING
    statistic: Statistic = MISSING
    x: Axis = Axis.global_step
    window: tuple[Fraction, Fraction] = (0.0, 1.0)
    budget: Budget = Budget.equal
    score: Finite | None = None
    smaller_is_better: bool = False


@dataclass
class ClaimConfig:
    id: str = MISSING
    words: str = MISSING
    metric: str = MISSING
    inequality: str = MISSING  # <arm> < <arm>, with <, > or ~
    real_time: bool = False


@dataclass
class SweepConfig:
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,79}$")] | None = None
    question: str = ""
    base: list[str] = field(default_factory=list)
    arms: dict[str, ArmConfig] = field(default_factory=dict)
    seeds: Any = None  # 0-29, or a list
    baseline: str | None = None
    metric: str = ""
    metrics: dict[str, MetricConfig] = field(default_factory=dict)
    smallest_effect: Positive | None = None
    claims: list[ClaimConfig] = field(default_factory=list)
    parallel: Count | None = None
    time_limit_s: Positive | None = None
    max_retries: Annotated[int, Field(ge=0)] = 0
    fail_fast: bool = False
    dry_run: bool = False


@dataclass
class Config:
    seed: Annotated[int, Field(ge=0)] = MISSING
    workers: Count | None = None
    envs_per_worker: Count = MISSING
    device: Any = MISSING  # a name, or a list of them
    backend: Backend = MISSING
    precision: Precision = Precision.auto
    schedule: Schedule = MISSING
    max_episodes: Count | None = None
    total_steps: Count | None = None
    log_interval: Count = MISSING
    checkpoint_every_seconds: Positive = MISSING
    hang_timeout_s: Positive = MISSING
    save_replay: bool = False
    figures: bool = MISSING
    resume: str | None = None
    load: str | None = None
    algo: AlgoConfig = MISSING
    env: EnvConfig = MISSING
    model: ModelConfig = MISSING
    optimizer: OptimizerConfig = MISSING
    replay: ReplayConfig | None = None
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig, compare=False)  # of many such runs; no part of one


# The schema of each option of a group, by the option's `name`; groups not listed have one schema.
SCHEMAS: dict[str, dict[str, type]] = {
    "algo": {"a3c": A3CConfig, "dqn": DQNConfig},
    "env": {"gymnasium": GymnasiumConfig, "atari": AtariConfig},
    "model": {"conv": ConvConfig, "mlp": MlpConfig, "q": QConfig},
    "optimizer": {"adam": AdamConfig, "rmsprop": RMSpropConfig},
    "replay": {"uniform": UniformConfig, "prioritized": PrioritizedConfig},
}
# What may be given beside resume=: how long to train and what to show, not what is trained.
CHANGEABLE_ON_RESUME = (
    "resume", "max_episodes", "total_steps", "log_interval", "checkpoint_every_seconds", "hang_timeout_s",
    "save_replay", "figures", "logger",
)  # fmt: skip


def validate(composed: DictConfig) -> Config:
    """Turn a composed configuration into checked dataclasses.

    Raises ConfigError for unknown keys, missing values, types, ranges and contradictions."""
    _refuse_unknown(composed)
    config: Config = _build(composed, "")
    refuse_contradictions(config)
    return config


def sweep_settings(composed: DictConfig) -> SweepConfig:
    """The checked `sweep` node of a composed configuration, whose other values may be swept over and not be there.

    Raises ConfigError, also for any unknown key."""
    _refuse_unknown(composed)
    settings: SweepConfig = _build(composed.sweep, "sweep.")
    return settings


def from_dict(values: dict[str, Any]) -> Config:
    """Rebuild a checked configuration from what `to_dict` gave (a manifest's, a checkpoint's)."""
    schema = OmegaConf.structured(Config)
    for group, options in SCHEMAS.items():
        if group == "replay" and values.get(group) is None:
            continue
        name = values.get(group, {}).get("name")
        if name not in options:
            raise ConfigError(f"{group}.name={name}: not one of {', '.join(options)}")
        schema[group] = OmegaConf.structured(options[name])
    try:
        return validate(OmegaConf.merge(schema, values))  # type: ignore[arg-type]
    except OmegaConfBaseException as error:
        raise ConfigError(f"stored configuration: {str(error).splitlines()[0]}") from error


def to_dict(config: Config) -> dict[str, Any]:
    """A run's configuration as plain JSON values."""
    values = json.loads(json.dumps(asdict(config)))
    del values["sweep"]
    return values


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """What `to_dict` gave by dotted keys: {"env": {"id": 1}} as {"env.id": 1}; an empty dictionary is a value."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, dict) and value
        found |= flat(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return found


def config_hash(config: Config) -> str:
    """Eight hexadecimal digits that name the configuration: the same for the same experiment."""
    return hashlib.sha256(json.dumps(to_dict(config), sort_keys=True).encode()).hexdigest()[:8]


def locate(path: str) -> Path:
    """A user's path: from the current folder, or else from the repository's root, where runs are written."""
    given = Path(path).expanduser()
    return ROOT / given if not given.exists() and (ROOT / given).exists() else given.absolute()


def number_of_workers(config: Config) -> int:
    """`workers`, or the number of CPUs that this process may use; DQN has one learner."""
    return config.workers or (1 if config.algo.name == "dqn" else len(os.sched_getaffinity(0)))


def limit_reached(config: Config, counters: Counters) -> str:
    """Which limit the counters have reached, in words; empty if none."""
    for limit, count in (("max_episodes", counters.episodes), ("total_steps", counters.steps)):
        value = getattr(config, limit)
        if value is not None and count >= value:
            return f"{limit}={value} reached"
    return ""


def devices(config: Config) -> list[str]:
    """The devices that the workers' networks are spread over, in turn."""
    return list(config.device) if isinstance(config.device, list | tuple) else [config.device]


def device_of(config: Config, worker: int) -> str:
    """The device of a worker's network."""
    return devices(config)[worker % len(devices(config))]


def evaluation_horizon(config: Config) -> int | None:
    """Steps after which an evaluation episode is cut."""
    return config.evaluation.horizon or config.env.max_ep_step


def suggest(word: str, known: list[str]) -> str:
    """`; did you mean X?` for the nearest known word, or nothing."""
    group = word.rpartition(".")[0]
    neighbours = [name for name in known if name.rpartition(".")[0] == group]
    namesakes = [name for name in known if name.rpartition(".")[2] == word.rpartition(".")[2]]
    if namesakes and not (group and difflib.get_close_matches(word, neighbours, n=1, cutoff=0.9)):
        return f"; did you mean {namesakes[0]}?"  # a right name in the wrong place: gamma for algo.gamma
    nearest = difflib.get_close_matches(word, neighbours, n=1, cutoff=0.6)
    nearest = nearest or difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def known_keys(composed: DictConfig) -> list[str]:
    """Every dotted key that the schema of this composition knows."""
    return [key for key, known in _walk(composed, "") if known]


def _walk(node: DictConfig, prefix: str) -> Iterator[tuple[str, bool]]:
    """Yield (dotted key, whether the schema knows it) for all keys; free-form dictionaries are not entered."""
    object_type = OmegaConf.get_type(node)
    if not is_dataclass(object_type):
        return
    known = {f.name for f in fields(object_type)}
    for key in map(str, node):
        yield f"{prefix}{key}", key in known
        if key in known and not OmegaConf.is_missing(node, key):
            child = node._get_node(key)
            if isinstance(child, DictConfig) and not child._is_none():
                yield from _walk(child, f"{prefix}{key}.")


def _refuse_unknown(composed: DictConfig) -> None:
    for key, known in _walk(composed, ""):
        if not known:
            value = OmegaConf.select(composed, key)
            raise ConfigError(f"{key}={value}: no such key{suggest(key, known_keys(composed))}")


def _build(node: DictConfig, prefix: str) -> Any:
    """The checked dataclass of one structured node, children first, so that an error can name the whole key."""
    object_type: Any = OmegaConf.get_type(node)
    values: dict[str, Any] = {}
    for item in fields(object_type):
        key = f"{prefix}{item.name}"
        if OmegaConf.is_missing(node, item.name):
            raise ConfigError(f"{key}: no value; give {key}=<value>")
        child = node[item.name]
        if isinstance(child, DictConfig) and is_dataclass(OmegaConf.get_type(child)):
            values[item.name] = _build(child, f"{key}.")
        elif isinstance(child, DictConfig | ListConfig):
            try:
                values[item.name] = OmegaConf.to_container(child, resolve=True, throw_on_missing=True)
            except MissingMandatoryValue as error:
                raise ConfigError(f"{error.full_key}: no value; it is needed") from error
        else:
            values[item.name] = child
    try:
        return object_type(**values)
    except ValidationError as error:
        first = error.errors()[0]
        at = [str(part) for part in first["loc"] if not (isinstance(part, str) and "[" in part)]
        name = at[0] if at else ""
        message = first["msg"][0].lower() + first["msg"][1:]
        if len(at) > 1 and first["type"] == "missing":
            message = f"too few values: the first is element 0, and element {at[1]} is missing"
        elif len(at) > 1:
            message = f"element {at[1]}: {message}"
        raise ConfigError(f"{prefix}{name}={values.get(name)}: {message}") from error


def refuse_contradictions(config: Config) -> None:
    """Raise ConfigError for settings that do not go together."""
    if config.resume and config.load:
        raise ConfigError(
            f"load={config.load}: resume= goes on with a run, load= starts a new one from its parameters; give one"
        )
    if config.max_episodes is None and config.total_steps is None:
        raise ConfigError("max_episodes=null total_steps=null: the run would never end; give at least one of them")
    (_refuse_of_dqn if isinstance(config.algo, DQNConfig) else _refuse_of_a3c)(config)
    given = devices(config)
    if not given or not all(re.fullmatch(r"cpu|cuda(:\d+)?", str(device)) for device in given):
        raise ConfigError(f"device={config.device}: not a device; use cpu, cuda, cuda:<index>, or a list of them")
    if "max_episode_steps" in config.env.kwargs:
        limit = config.env.kwargs["max_episode_steps"]
        raise ConfigError(f"env.kwargs.max_episode_steps={limit}: the time limit's home is env.max_ep_step")


def _refuse_of_a3c(config: Config) -> None:
    """Raise ConfigError for what A3C does not have, or cannot do."""
    assert isinstance(config.algo, A3CConfig)
    if config.algo.lock_updates and config.schedule == "interleaved":
        raise ConfigError(
            "algo.lock_updates=true: nothing races under schedule=interleaved; drop it or use schedule=async"
        )
    if isinstance(config.model, QConfig):
        raise ConfigError("model.name=q: A3C needs an actor and a critic; use model=mlp or model=conv_lstm_42")
    if config.model.name == "conv" and config.env.name != "atari":
        raise ConfigError(f"env.id={config.env.id}: no images; this network needs them (env=atari), use model=mlp")
    if config.model.name != "conv" and config.env.name == "atari":
        raise ConfigError(
            f"env.id={config.env.id}: its observations are images; use model=conv_lstm_42 or another conv_*"
        )
    if config.envs_per_worker > 1 and config.model.name != "conv":
        raise ConfigError(
            f"envs_per_worker={config.envs_per_worker}: only networks of images step several at once; "
            "use 1, and more workers"
        )
    if isinstance(config.env, AtariConfig) and config.env.threads:
        raise ConfigError(f"env.threads={config.env.threads}: of DQN's games; A3C plays on more cores with workers=")
    if config.replay is not None:
        raise ConfigError(f"replay={config.replay.name}: A3C learns from each step once; a replay is DQN's (algo=dqn)")
    if config.save_replay:
        raise ConfigError("save_replay=true: A3C has no replay; drop it, or use algo=dqn")
    if config.precision == Precision.bf16:
        raise ConfigError("precision=bf16: A3C computes in float32; drop it, or use algo=dqn")


def _refuse_of_dqn(config: Config) -> None:
    """Raise ConfigError for what DQN does not have, or cannot do."""
    assert isinstance(config.algo, DQNConfig)
    algo, replay, envs = config.algo, config.replay, config.envs_per_worker
    if config.workers not in (None, 1):
        raise ConfigError(f"workers={config.workers}: DQN has one learner; use 1, and envs_per_worker for more games")
    if not isinstance(config.model, QConfig):
        raise ConfigError(
            f"model.name={config.model.name}: a network of actor and critic; DQN needs one of action values: "
            "model=dqn_mlp, model=dqn_84 or model=dqn_early"
        )
    images = bool(config.model.convolutions)
    if images != (config.env.name == "atari"):
        right = "model=dqn_mlp" if images else "model=dqn_84"
        kind = "no images" if images else "images"
        raise ConfigError(f"env.id={config.env.id}: its observations are {kind}; use {right}")
    if replay is None:
        raise ConfigError("replay=null: DQN learns from a replay; use replay=uniform or replay=prioritized")
    if config.backend == Backend.compiled:
        raise ConfigError("backend=compiled: DQN has no such kernels; use backend=manual or autograd")
    if len(devices(config)) > 1:
        raise ConfigError(f"device={config.device}: DQN has one learner; give one device")
    if algo.cuda_graph and devices(config) == ["cpu"]:
        raise ConfigError(
            f"algo.cuda_graph=true: of updates on a GPU; drop it, or use device=cuda (device={config.device})"
        )
    if algo.warmup_steps < algo.batch_size:
        raise ConfigError(
            f"algo.warmup_steps={algo.warmup_steps}: the first batch of algo.batch_size={algo.batch_size} is drawn "
            "from what the warm-up left; use at least as many steps"
        )
    if algo.warmup_steps < algo.n_step * envs:
        raise ConfigError(
            f"algo.warmup_steps={algo.warmup_steps}: {envs} environments have not taken the algo.n_step={algo.n_step} "
            f"steps of a transition by then; use {algo.n_step * envs} or more"
        )
    if config.precision == Precision.bf16 and not images:
        raise ConfigError("precision=bf16: of layers of images, and this network has none; use auto or float32")
    if max(envs, algo.policy_update) % min(envs, algo.policy_update):
        raise ConfigError(
            f"envs_per_worker={envs}: {envs} environments give {envs} steps at once, and an update follows every "
            f"algo.policy_update={algo.policy_update}; one must be a multiple of the other"
        )
    if isinstance(replay, PrioritizedConfig) and replay.beta_end < replay.beta_start:
        raise ConfigError(f"replay.beta_end={replay.beta_end}: below replay.beta_start={replay.beta_start}")
