"""Hand-written optimizers over flat vectors, in place.

The parameters and the optimizer's statistics live in shared memory that somebody else owns: they are handed
in, written to in place and never re-bound, so that every process that maps them sees each step. Scratch
buffers are private and allocated once. Nothing here takes a lock: whether steps may race (Hogwild) is the
caller's affair.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ablate.config import AdamConfig, OptimizerConfig, RMSpropConfig
from ablate.nn.bounds import adam_bound, rmsprop_bound

BLOCK = 1 << 18  # parameters: a megabyte a vector, so that the passes over a block find it in the cache


class Optimizer(Protocol):
    """What a learner needs of an optimizer."""

    def step(self, gradient: Tensor, update: int) -> None:
        """Apply gradient (P,), which is only read, as update number `update`, counted from 1."""
        ...


class Adam:
    """Adam (Kingma & Ba 2015), and AMSGrad (Reddi et al. 2018) iff max_exp_avg_sq is given, as in torch.

    g ← g + weight_decay · θ
    m ← β₁ m + (1 - β₁) g,   v ← β₂ v + (1 - β₂) g²,   AMSGrad: v̂ ← max(v̂, v), else v̂ = v
    θ ← θ - lr · (m / (1 - β₁ᵗ)) / (√v̂ / √(1 - β₂ᵗ) + ε)

    parameters θ, exp_avg m, exp_avg_sq v, max_exp_avg_sq v̂: (P,), the moments all zero before the first step.
    The number t of the update is handed to each step, because the processes that share the moments share the
    count too.
    """

    def __init__(
        self,
        parameters: Tensor,
        exp_avg: Tensor,
        exp_avg_sq: Tensor,
        max_exp_avg_sq: Tensor | None,
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        _check_alike(parameters, exp_avg, exp_avg_sq, max_exp_avg_sq)
        self._parameters = parameters
        self._exp_avg = exp_avg
        self._exp_avg_sq = exp_avg_sq
        self._max_exp_avg_sq = max_exp_avg_sq
        self._lr = lr
        self._beta1, self._beta2 = betas
        self._eps = eps
        self._weight_decay = weight_decay
        self._largest = adam_bound(*betas)
        self._quotient = torch.empty_like(parameters)  # (P,)
        self._decayed = torch.empty_like(parameters) if weight_decay else None  # (P,) g + weight_decay · θ

    def step(self, gradient: Tensor, update: int) -> None:
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
        step_size = self._lr * correction / (1.0 - self._beta1**update)
        denominator = torch.sqrt(second_moment, out=self._quotient).add_(self._eps * correction)
        torch.div(self._exp_avg, denominator, out=self._quotient).clamp_(-self._largest, self._largest)
        self._parameters.add_(self._quotient, alpha=-step_size)


class RMSprop:
    """RMSprop, not centred and without momentum; as torch.optim.RMSprop.

    g ← g + weight_decay · θ,   v ← α v + (1 - α) g²,   θ ← θ - lr · g / (√v + ε)

    parameters θ, square_avg v: (P,), v all zero before the first step. The A3C paper (Mnih et al. 2016, eq.
    S2-S3) names v "g", and shares it among the threads, updated without locks; a square_avg in shared memory
    does the same. The paper's ε stands inside the root, √(v + ε); torch and this class add it outside.
    """

    def __init__(
        self,
        parameters: Tensor,
        square_avg: Tensor,
        *,
        lr: float,
        alpha: float,
        eps: float,
        weight_decay: float,
    ) -> None:
        _check_alike(parameters, square_avg)
        self._parameters = parameters
        self._square_avg = square_avg
        self._lr = lr
        self._alpha = alpha
        self._eps = eps
        self._weight_decay = weight_decay
        self._largest = rmsprop_bound(alpha)
        self._quotient = torch.empty_like(parameters)  # (P,)
        self._decayed = torch.empty_like(parameters) if weight_decay else None  # (P,) g + weight_decay · θ

    def step(self, gradient: Tensor, update: int) -> None:
        """Apply gradient (P,); nothing here depends on the number of the update."""
        if self._decayed is not None:
            gradient = torch.add(gradient, self._parameters, alpha=self._weight_decay, out=self._decayed)
        self._square_avg.mul_(self._alpha).addcmul_(gradient, gradient, value=1.0 - self._alpha)
        denominator = torch.sqrt(self._square_avg, out=self._quotient).add_(self._eps)
        torch.div(gradient, denominator, out=self._quotient).clamp_(-self._largest, self._largest)
        self._parameters.add_(self._quotient, alpha=-self._lr)


class InBlocks:
    """Optimizers of consecutive blocks of one vector, one after the other: their scratch is a block's."""

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self._optimizers = optimizers

    def step(self, gradient: Tensor, update: int) -> None:
        """Apply gradient (P,) as update number `update`, counted from 1."""
        for optimizer, block in zip(self._optimizers, gradient.split(BLOCK), strict=True):
            optimizer.step(block, update)


def make_optimizer(config: OptimizerConfig, parameters: Tensor, statistics: Sequence[Tensor]) -> Optimizer:
    """The optimizer of the configuration over `parameters`, with its statistics in the order of config.statistics."""
    if len(parameters) > BLOCK and parameters.device.type == "cpu":
        _check_alike(parameters, *statistics)
        blocks = zip(*(vector.split(BLOCK) for vector in (parameters, *statistics)), strict=True)
        return InBlocks([make_optimizer(config, block[0], block[1:]) for block in blocks])
    if isinstance(config, AdamConfig):
        exp_avg, exp_avg_sq, *rest = statistics
        return Adam(
            parameters,
            exp_avg,
            exp_avg_sq,
            rest[0] if config.amsgrad else None,
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
        )
    assert isinstance(config, RMSpropConfig)
    return RMSprop(
        parameters,
        statistics[0],
        lr=config.lr,
        alpha=config.alpha,
        eps=config.eps,
        weight_decay=config.weight_decay,
    )


def _check_alike(parameters: Tensor, *statistics: Tensor | None) -> None:
    """Refuse statistics of another shape or dtype: torch would broadcast or convert them without a word."""
    for statistic in statistics:
        if statistic is None:
            continue
        if statistic.shape != parameters.shape or statistic.dtype != parameters.dtype:
            raise ValueError(
                f"a statistic of shape {tuple(statistic.shape)} and {statistic.dtype} does not fit "
                f"parameters of shape {tuple(parameters.shape)} and {parameters.dtype}"
            )
