"""Hand-written optimizers over flat vectors, in place.

The caller owns the parameters and the optimizer's statistics, usually in shared memory. They are written in place and
never re-bound, so that every process that maps them sees each step. Scratch buffers are private and allocated once.
Nothing here takes a lock; whether steps may race (Hogwild) is the caller's decision.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ablate.config.schema import AdamConfig, OptimizerConfig, RMSpropConfig
from ablate.nn.optimizer_bounds import adam_bound, rmsprop_bound


class Optimizer(Protocol):
    """An update rule over one flat parameter vector."""

    def step(self, gradient: Tensor, update: int, lr: float) -> None:
        """Apply gradient (P,) as update number `update`, counted from 1, with step size `lr`. The gradient stays."""
        ...


class Adam:
    """Adam (Kingma & Ba 2015), or AMSGrad (Reddi et al. 2018) with config.amsgrad; as torch.optim.Adam.

    g ← g + weight_decay · θ
    m ← β₁ m + (1 - β₁) g,   v ← β₂ v + (1 - β₂) g²,   AMSGrad: v̂ ← max(v̂, v), else v̂ = v
    θ ← θ - lr · (m / (1 - β₁ᵗ)) / (√v̂ / √(1 - β₂ᵗ) + ε)

    parameters θ: (P,). statistics m, v, and with AMSGrad v̂: (P,) each, all zero before the first step.
    Each step is given the number t of its update, because processes that share the moments also share the count.
    Raises ValueError for statistics of another shape or dtype.
    """

    def __init__(self, config: AdamConfig, parameters: Tensor, statistics: Sequence[Tensor]) -> None:
        _check_alike(parameters, statistics)
        self._parameters = parameters
        self._exp_avg, self._exp_avg_sq = statistics[:2]
        self._max_exp_avg_sq = statistics[2] if config.amsgrad else None
        self._eps, self._weight_decay = config.eps, config.weight_decay
        self._beta1, self._beta2 = config.betas
        self._largest = adam_bound(*config.betas)
        self._quotient = torch.empty_like(parameters)  # (P,)
        self._decayed = torch.empty_like(parameters) if config.weight_decay else None  # (P,) g + weight_decay · θ

    def step(self, gradient: Tensor, update: int, lr: float) -> None:
        """Apply gradient (P,) as update number `update`, t in the equations, counted from 1."""
        if self._decayed is not None:
            gradient = torch.add(gradient, self._parameters, alpha=self._weight_decay, out=self._decayed)
        self._exp_avg.lerp_(gradient, 1.0 - self._beta1)
        self._exp_avg_sq.mul_(self._beta2).addcmul_(gradient, gradient, value=1.0 - self._beta2)
        second_moment = self._exp_avg_sq
        if self._max_exp_avg_sq is not None:
            second_moment = torch.maximum(self._max_exp_avg_sq, second_moment, out=self._max_exp_avg_sq)

        # Numerator and denominator are both multiplied by √(1 - β₂ᵗ), which saves a pass over the vector.
        correction = math.sqrt(1.0 - self._beta2**update)
        step_size = lr * correction / (1.0 - self._beta1**update)
        denominator = torch.sqrt(second_moment, out=self._quotient).add_(self._eps * correction)
        torch.div(self._exp_avg, denominator, out=self._quotient).clamp_(-self._largest, self._largest)
        self._parameters.add_(self._quotient, alpha=-step_size)


class FusedAdam:
    """The same equations by torch's fused kernel, in one pass over memory; only for a process that steps alone.

    The kernel does not bound the quotient. Without the bound, racing steps would ruin a network (optimizer_bounds.py).
    It is called here without torch.optim.Adam, whose first step imports torch's compiler: two seconds and 100 MB.
    """

    def __init__(self, config: AdamConfig, parameters: Tensor, statistics: Sequence[Tensor]) -> None:
        _check_alike(parameters, statistics)
        self._config, self._parameters = config, parameters
        self._update = torch.zeros((), device=parameters.device)
        named = dict(zip(config.statistics, statistics, strict=True))
        self._exp_avg, self._exp_avg_sq = [named["exp_avg"]], [named["exp_avg_sq"]]
        self._max_exp_avg_sq = [named["max_exp_avg_sq"]] if config.amsgrad else []

    @torch.no_grad()
    def step(self, gradient: Tensor, update: int, lr: float) -> None:
        """Apply gradient (P,) as update number `update`, t in the equations, counted from 1."""
        self._update.fill_(update)
        beta1, beta2 = self._config.betas
        torch._fused_adam_(
            [self._parameters], [gradient], self._exp_avg, self._exp_avg_sq, self._max_exp_avg_sq, [self._update],
            lr=lr, beta1=beta1, beta2=beta2, weight_decay=self._config.weight_decay, eps=self._config.eps,
            amsgrad=self._config.amsgrad, maximize=False,
        )  # fmt: skip


class RMSprop:
    """RMSprop, not centred, without momentum; as torch.optim.RMSprop.

    g ← g + weight_decay · θ,   v ← α v + (1 - α) g²,   θ ← θ - lr · g / (√v + ε), or / √(v + ε) with eps_inside_root

    parameters θ: (P,). statistics: v alone, (P,), all zero before the first step. The A3C paper (Mnih et al. 2016, eq.
    S2-S3) calls v "g" and shares it among threads, updated without locks; a square_avg in shared memory does the same.
    The paper has ε inside the root, as TensorFlow; torch adds it outside.
    Raises ValueError for statistics of another shape or dtype.
    """

    def __init__(self, config: RMSpropConfig, parameters: Tensor, statistics: Sequence[Tensor]) -> None:
        _check_alike(parameters, statistics)
        self._parameters = parameters
        (self._square_avg,) = statistics
        self._alpha, self._eps, self._eps_inside_root = config.alpha, config.eps, config.eps_inside_root
        self._weight_decay = config.weight_decay
        self._largest = rmsprop_bound(config.alpha)
        self._quotient = torch.empty_like(parameters)  # (P,)
        self._decayed = torch.empty_like(parameters) if config.weight_decay else None  # (P,) g + weight_decay · θ

    def step(self, gradient: Tensor, update: int, lr: float) -> None:
        """Apply gradient (P,). The number of the update makes no difference."""
        if self._decayed is not None:
            gradient = torch.add(gradient, self._parameters, alpha=self._weight_decay, out=self._decayed)
        self._square_avg.mul_(self._alpha).addcmul_(gradient, gradient, value=1.0 - self._alpha)
        if self._eps_inside_root:
            denominator = torch.add(self._square_avg, self._eps, out=self._quotient).sqrt_()
        else:
            denominator = torch.sqrt(self._square_avg, out=self._quotient).add_(self._eps)
        torch.div(gradient, denominator, out=self._quotient).clamp_(-self._largest, self._largest)
        self._parameters.add_(self._quotient, alpha=-lr)


# From the configuration of its class, parameters and statistics, by `optimizer.name`.
Make = Callable[[Any, Tensor, Sequence[Tensor]], Optimizer]
OPTIMIZERS: dict[str, Make] = {"adam": Adam, "rmsprop": RMSprop}
LONE_OPTIMIZERS: dict[str, Make] = {**OPTIMIZERS, "adam": FusedAdam}  # for a process that steps alone


def make_optimizer(
    config: OptimizerConfig, parameters: Tensor, statistics: Sequence[Tensor], alone: bool = False
) -> Optimizer:
    """The optimizer of the configuration over `parameters`, with its statistics in the order of config.statistics.

    alone: no other process steps the same parameters."""
    make = (LONE_OPTIMIZERS if alone else OPTIMIZERS)[config.name]
    return make(config, parameters, statistics)


def _check_alike(parameters: Tensor, statistics: Sequence[Tensor]) -> None:
    """Raise ValueError for statistics of another shape or dtype, which torch would silently broadcast or convert."""
    for statistic in statistics:
        if statistic.shape != parameters.shape or statistic.dtype != parameters.dtype:
            raise ValueError(
                f"a statistic of shape {tuple(statistic.shape)} and {statistic.dtype} does not fit "
                f"parameters of shape {tuple(parameters.shape)} and {parameters.dtype}"
            )
