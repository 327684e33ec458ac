"""The keys of a configuration that have a fixed set of values. A comment explains a value if its name does not."""

from __future__ import annotations

from enum import StrEnum


class Backend(StrEnum):
    """Who computes gradients."""

    auto = "auto"
    autograd = "autograd"
    manual = "manual"
    compiled = "compiled"


# Who runs when: real processes that race, or workers that take turns in one process.
# OmegaConf reads an enum by the names of its members, and `async` is a Python keyword: hence the functional form.
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
    normalised_84 = "normalised_84"


class DqnLoss(StrEnum):
    smooth_l1 = "smooth_l1"
    squared = "squared"


class Precision(StrEnum):
    """The precision of a network's forward and backward pass. Parameters and their updates are float32."""

    auto = "auto"
    float32 = "float32"
    bf16 = "bf16"


class Storage(StrEnum):
    """Where the frames of a replay are stored."""

    memory = "memory"
    memmap = "memmap"  # a file in the run's folder


class DrawKind(StrEnum):
    """How a batch of B transitions is drawn from the distribution of the priorities."""

    stratified = "stratified"  # one from each of B parts of equal probability
    independent = "independent"  # each from the whole distribution


class ScheduleKind(StrEnum):
    """How the learning rate changes as training goes on."""

    constant = "constant"
    linear = "linear"


class WeightNorm(StrEnum):
    """What importance weights are divided by."""

    max = "max"
    mean = "mean"
    none = "none"


class NewPriority(StrEnum):
    """The priority of a transition from which no update has learned yet."""

    max = "max"
    td_error = "td_error"


class ActionChoice(StrEnum):
    """How an evaluated policy acts."""

    mode = "mode"  # its most likely action
    sample = "sample"  # a draw from its distribution (DQN: ε-greedy)


class Display(StrEnum):
    auto = "auto"
    live = "live"
    plain = "plain"
    off = "off"


class ScoreUnit(StrEnum):
    """The unit of an episode's score in a study."""

    reward_per_step = "reward_per_step"  # the return divided by the episode's length
    episodic_return = "episodic_return"

    @property
    def words(self) -> str:
        """For axes and headings."""
        return "average reward per step" if self is ScoreUnit.reward_per_step else "episodic return"


class Source(StrEnum):
    """Which of a cell's tables a metric is taken from."""

    evaluations = "evaluations"  # the frozen policy, on the horizon and protocol that all arms share
    episodes = "episodes"  # training, whose returns depend on the arm


class Statistic(StrEnum):
    """How a cell's curve becomes one number."""

    mean = "mean"  # over the window
    median = "median"  # over the window
    min = "min"  # over the window
    max = "max"  # over the window; noise makes it higher, so it favours arms that fluctuate
    last = "last"  # of the window
    std = "std"  # over the window: how much it fluctuates
    auc = "auc"  # the curve's mean height over the window
    first_reach = "first_reach"  # where on x the curve first reaches `score`; censored if it never does
    duration = "duration"  # x at the window's end: how long it took


class Axis(StrEnum):
    """The x-axis of a curve: a column of the tables."""

    global_step = "global_step"
    update = "update"
    episode = "episode"
    wall_time_s = "wall_time_s"


class Budget(StrEnum):
    """The end of the range of x in which the curves of several arms are compared."""

    equal = "equal"  # for all arms, where the plan ends the shortest one
    own = "own"  # each cell's own end


class Until(StrEnum):
    """When a sweep has enough seeds."""

    seeds = "seeds"  # when all of sweep.seeds have run
    decided = "decided"  # when every claim is settled, or will hardly be


class Normalisation(StrEnum):
    """How scores of different environments become comparable."""

    references = "references"  # 0: a random policy; 1: a fixed score of the environment
    cdf = "cdf"  # the share of all runs in the environment that score less


class DesignKind(StrEnum):
    """How the arms of a study follow from its factors. The reference is the first arm."""

    leave_one_out = "leave_one_out"  # all factors at their alternative, then each one back at its baseline
    add_one_in = "add_one_in"  # all factors at their baseline, then each one at its alternative
    one_at_a_time = "one_at_a_time"  # all factors at their baseline, then each alternative of each one
    factorial = "factorial"  # all combinations of all values
    path = "path"  # from all baselines to all alternatives, one more factor at each step
    random = "random"  # all factors at their baseline, then sweep.draws combinations drawn from the factors' ranges


class WandbMode(StrEnum):
    """Where Weights & Biases keeps a run."""

    offline = "offline"  # in the run's folder
    online = "online"  # on its server


class RunFormat(StrEnum):
    """The files of runs that other programs made."""

    monitor = "monitor"  # monitor.csv of stable-baselines3: a row per training episode
    tensorboard = "tensorboard"  # event files, such as CleanRL's
    csv = "csv"  # a row per score, with the columns that the study names


class Sampler(StrEnum):
    """Who proposes the next trials of a search."""

    random = "random"  # independent draws from the space
    tpe = "tpe"  # Optuna's tree-structured Parzen estimator (Bergstra et al. 2011), which learns from earlier trials
