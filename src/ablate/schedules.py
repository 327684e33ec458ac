"""Values that change as training goes on."""

from __future__ import annotations

from ablate.config.schema import DQNConfig


def linear(start: float, end: float, steps: int, at: int) -> float:
    """From start, at step 0, to end, at `steps` and ever after."""
    return start + (end - start) * min(1.0, max(0, at) / steps)


def epsilon(algo: DQNConfig, step: int) -> float:
    """The probability of a random action: 1 in the warm-up, then the linear decay (Mnih et al. 2015)."""
    if step < algo.warmup_steps:
        return 1.0
    return linear(algo.epsilon_start, algo.epsilon_end, algo.epsilon_decay_steps, step - algo.warmup_steps)
