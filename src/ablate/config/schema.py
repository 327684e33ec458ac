"""The schema of the whole configuration: names, types and ranges. `validation` checks what Hydra composed by it.

Values live in `conf/`; the few defaults here are "nothing" (None, empty)."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, ClassVar

from omegaconf import MISSING
from pydantic import Field
from pydantic.dataclasses import dataclass

from ablate.config.choices import (
    ActionChoice,
    Activation,
    Axis,
    Backend,
    Budget,
    DesignKind,
    Display,
    DrawKind,
    NewPriority,
    Normalisation,
    Precision,
    Preprocessing,
    Sampler,
    Schedule,
    ScheduleKind,
    ScoreUnit,
    Source,
    Statistic,
    Storage,
    Until,
    WandbMode,
    WeightNorm,
)
from ablate.schedules import linear
from ablate.types import Counters


class ConfigError(Exception):
    """A configuration that cannot run. The message is one line: key, value, and what would be right."""


Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
LARGEST = 10**15  # of what is counted: a float holds all whole numbers up to it, and 64 bits hold its multiples
Count = Annotated[int, Field(ge=1, le=LARGEST)]
CountFromZero = Annotated[int, Field(ge=0, le=LARGEST)]
Size = Annotated[int, Field(ge=1, le=1_000_000)]  # of an array
Processes = Annotated[int, Field(ge=1, le=4096)]  # more than any machine has cores
PositiveFraction = Annotated[float, Field(gt=0, le=1)]


LARGEST_SEED = 2**63 - 1  # what a YAML or JSON file and numpy's int64 can hold


@dataclass
class EnvConfig:
    name: str = MISSING
    id: str = MISSING
    max_ep_step: Count | None = None
    reward_shift: Finite = MISSING
    reward_scale: Positive = MISSING
    kwargs: dict[str, Any] = field(default_factory=dict)
    has_images: ClassVar[bool] = False  # whether observations are images


@dataclass
class GymnasiumConfig(EnvConfig):
    name: Annotated[str, Field(pattern="^gymnasium$")] = "gymnasium"


@dataclass
class ImagesConfig(EnvConfig):
    name: Annotated[str, Field(pattern="^images$")] = "images"
    image: tuple[Size, Size, Size] | None = None  # frames, height, width
    has_images: ClassVar[bool] = True


@dataclass
class AtariConfig(EnvConfig):
    name: Annotated[str, Field(pattern="^atari$")] = "atari"
    preprocessing: Preprocessing | None = None
    protocol: str = MISSING
    frame_skip: tuple[Size, Size] = MISSING  # fewest and most frames per step
    sticky_actions: Fraction = MISSING
    noop_max: Annotated[int, Field(ge=0, le=600)] = MISSING  # left alone, no game ends sooner (Assault: 642 frames)
    fire_on_reset: bool = MISSING
    fill_steps: CountFromZero = 0
    fire_action: bool = True
    life_loss_terminates: bool = MISSING
    clip_rewards: bool = MISSING
    full_action_space: bool = MISSING
    mode: CountFromZero | None = None
    difficulty: CountFromZero | None = None
    threads: CountFromZero = 0
    has_images: ClassVar[bool] = True


@dataclass
class AlgoConfig:
    """The keys of one algorithm. Each algorithm's own class is in its `spec.py`."""

    name: str = MISSING

    @property
    def evaluation_epsilon(self) -> float:
        """How often an evaluated policy that samples acts at random, besides what its distribution says."""
        return 0.0

    def refuse(self, config: Config) -> None:
        """Raise ConfigError for settings that this algorithm lacks, or that contradict each other."""


@dataclass
class ReplayConfig:
    name: Annotated[str, Field(pattern="^(uniform|prioritized)$")] = MISSING
    capacity: Count = MISSING
    storage: Storage = MISSING

    @property
    def wants_td_errors(self) -> bool:
        """Whether a new transition needs its TD error when it is stored."""
        return False

    def refuse(self) -> None:
        """Raise ConfigError for keys that contradict each other."""


@dataclass
class UniformConfig(ReplayConfig):
    name: Annotated[str, Field(pattern="^uniform$")] = "uniform"


@dataclass
class PrioritizedConfig(ReplayConfig):
    name: Annotated[str, Field(pattern="^prioritized$")] = "prioritized"
    alpha: Annotated[float, Field(ge=0, le=7)] = MISSING  # a float32 to this power is finite in float64
    beta_start: Fraction = MISSING
    beta_end: Fraction = MISSING
    beta_steps: Count = MISSING
    draws: DrawKind = MISSING
    weights: WeightNorm = MISSING
    new_priority: NewPriority = MISSING
    priority_eps: Positive = MISSING
    first_half_only: bool = MISSING

    @property
    def wants_td_errors(self) -> bool:
        return self.new_priority == NewPriority.td_error

    def refuse(self) -> None:
        if self.beta_end < self.beta_start:
            raise ConfigError(f"replay.beta_end={self.beta_end}: below replay.beta_start={self.beta_start}")


@dataclass
class ModelConfig:
    name: str = MISSING

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(channels, height, width) of the images that the network takes; None for a network of vectors."""
        return None

    @property
    def takes_images(self) -> bool:
        return self.image_shape is not None

    @property
    def gives_action_values(self) -> bool:
        """Whether the network gives Q(s, a); else a policy and V(s)."""
        return False


@dataclass
class MlpConfig(ModelConfig):
    name: Annotated[str, Field(pattern="^mlp$")] = "mlp"
    hidden: list[Size] | None = None
    torso_hidden: list[Size] = MISSING
    actor_hidden: list[Size] = MISSING
    critic_hidden: list[Size] = MISSING
    activation: Activation = MISSING
    mu_scale: Positive | None = None
    sigma_min: Positive = MISSING
    init_std: NonNegative = MISSING

    def __post_init__(self) -> None:
        """`hidden` is short for equal `actor_hidden` and `critic_hidden`, which are what is stored."""
        if self.hidden is not None:
            self.actor_hidden, self.critic_hidden, self.hidden = self.hidden, list(self.hidden), None


@dataclass
class ConvolutionConfig:
    channels: Size
    kernel: Size
    stride: Size = 1
    padding: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    pool: bool = False  # 2 × 2 max-pooling after the activation


@dataclass
class ConvConfig(ModelConfig):
    name: Annotated[str, Field(pattern="^conv$")] = "conv"
    input: tuple[Size, Size, Size] = MISSING  # channels, height, width
    convolutions: list[ConvolutionConfig] = MISSING
    activation: Activation = MISSING
    hidden: Size = MISSING
    recurrent: bool = MISSING
    layer_norm: bool = False
    init_gain: Positive = MISSING

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.input


@dataclass
class QConfig(ModelConfig):
    name: Annotated[str, Field(pattern="^q$")] = "q"
    input: tuple[Size, Size, Size] | None = None  # channels, height, width; None: a vector of numbers
    convolutions: list[ConvolutionConfig] = MISSING
    conv_bias: bool = MISSING
    hidden: list[Size] = MISSING
    activation: Activation = MISSING
    dueling: bool = MISSING
    init_gain: Positive = 2**0.5

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        return self.input

    @property
    def takes_images(self) -> bool:
        return bool(self.convolutions)

    @property
    def gives_action_values(self) -> bool:
        return True


@dataclass
class OptimizerConfig:
    name: str = MISSING
    lr: Positive = MISSING
    eps: Positive = MISSING
    weight_decay: NonNegative = MISSING
    schedule: ScheduleKind = ScheduleKind.constant
    lr_end: NonNegative = 0.0
    decay_steps: Annotated[int, Field(ge=1)] | None = None  # its upper bound is that of total_steps
    decay_episodes: Annotated[int, Field(ge=1)] | None = None

    def learning_rate(self, counters: Counters) -> float:
        """The step size when all workers have made these steps and episodes.

        schedule=linear goes from lr to lr_end over decay_steps, or over decay_episodes if there are no decay_steps."""
        if self.schedule == ScheduleKind.constant:
            return self.lr
        if self.decay_steps is not None:
            return linear(self.lr, self.lr_end, self.decay_steps, counters.steps)
        assert self.decay_episodes is not None
        return linear(self.lr, self.lr_end, self.decay_episodes, counters.episodes)

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
    eps_inside_root: bool = False

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
    mlflow: str | None = None
    wandb: WandbMode | None = None
    display: Display = MISSING
    print_every_seconds: Positive = MISSING


@dataclass
class ArmConfig:
    overrides: list[str] = MISSING
    label: str = ""


@dataclass
class FactorConfig:
    """A key whose values a design compares; its name in the study is the key itself."""

    baseline: Any = MISSING
    alternatives: list[Any] = field(default_factory=list)
    label: str = ""  # if empty, the last part of the key
    range: str | None = None  # of design=random, in place of alternatives


@dataclass
class MetricConfig:
    label: str = MISSING
    source: Source = MISSING
    statistic: Statistic = MISSING
    x: Axis = Axis.global_step
    window: tuple[Fraction, Fraction] = (0.0, 1.0)
    budget: Budget = Budget.equal
    score: Finite | None = None
    smaller_is_better: bool | None = None  # None: as the statistic says

    def __post_init__(self) -> None:
        """A time and a fluctuation are better if smaller, a score if larger. To reach one sooner is always better."""
        if self.statistic == Statistic.first_reach:
            self.smaller_is_better = True
        elif self.smaller_is_better is None:
            self.smaller_is_better = self.statistic in (Statistic.duration, Statistic.std)


@dataclass
class ClaimConfig:
    id: str = MISSING
    words: str = MISSING
    metric: str = MISSING
    inequality: str = MISSING  # see `config.inequality`
    real_time: bool = False
    environment: str | None = None  # one of sweep.environments, or `each`; None: all of them together


@dataclass
class TaskConfig:
    """One of sweep.environments."""

    overrides: list[str] = field(default_factory=list)  # of all arms in this environment
    reference: tuple[Finite, Finite] | None = None  # scores that count as 0 and 1; None: those that are known


@dataclass
class FiguresConfig:
    """Figures of a sweep for a paper, next to those of its report."""

    width_mm: Annotated[float, Field(ge=20, le=1000)] | None = None  # None: none are drawn
    font_size: Annotated[float, Field(ge=1, le=100)] = 8.0


@dataclass
class SearchConfig:
    """A search for values of some keys, whose best trial is then compared with the default."""

    trials: Annotated[int, Field(ge=1, le=10_000)] | None = None  # None: no search
    space: dict[str, str] = field(default_factory=dict)  # by key: its range
    sampler: Sampler = Sampler.tpe
    seeds: Annotated[int, Field(ge=1, le=1000)] = 5
    batch: Annotated[int, Field(ge=1, le=1000)] = 4
    seed: CountFromZero = 0


@dataclass
class SweepConfig:
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,79}$")] | None = None
    question: str = ""
    base: list[str] = field(default_factory=list)
    arms: dict[str, ArmConfig] = field(default_factory=dict)
    only: list[str] = field(default_factory=list)
    design: DesignKind | None = None
    factors: dict[str, FactorConfig] = field(default_factory=dict)  # by key
    draws: Annotated[int, Field(ge=1, le=127)] = 16  # with the baseline, 128 arms
    search: SearchConfig = field(default_factory=SearchConfig)
    environments: Any = None  # options of env, or a `TaskConfig` for each
    normalisation: Normalisation | None = None  # None: references if all environments have one, else cdf
    seeds: Any = None  # 0-29, or a list
    baseline: str | None = None
    metric: str = ""
    metrics: dict[str, MetricConfig] = field(default_factory=dict)
    smallest_effect: Positive | None = None
    score: ScoreUnit | None = None  # None: by environment
    floor: Finite | None = None
    until: Until = Until.seeds
    max_seeds: Annotated[int, Field(ge=1, le=100_000)] | None = None
    block: Annotated[int, Field(ge=5, le=LARGEST)] = 5  # no interval has fewer seeds
    claims: list[ClaimConfig] = field(default_factory=list)
    figures: FiguresConfig = field(default_factory=FiguresConfig)
    parallel: Count | None = None
    cells_per_job: Count | None = None
    time_limit_s: Positive | None = None
    fork: bool | None = None
    max_retries: CountFromZero = 0
    fail_fast: bool = False
    dry_run: bool = False
    detach: bool = False


@dataclass
class Config:
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED)] = MISSING
    workers: Processes | None = None
    envs_per_worker: Size = MISSING
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
    plugins: list[str] = field(default_factory=list)  # modules of the user's own, imported first
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
    "algo": {},  # filled by ablate.algos.algorithm.register
    "env": {"gymnasium": GymnasiumConfig, "images": ImagesConfig, "atari": AtariConfig},
    "model": {"conv": ConvConfig, "mlp": MlpConfig, "q": QConfig},
    "optimizer": {"adam": AdamConfig, "rmsprop": RMSpropConfig},
    "replay": {"uniform": UniformConfig, "prioritized": PrioritizedConfig},
}
