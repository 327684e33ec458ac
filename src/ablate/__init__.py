"""Ablation sweeps of A3C and DQN. `ablate.Policy` is a saved policy as a plain object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ablate.policy import Policy

__all__ = ["Policy"]


def __getattr__(name: str) -> Any:
    """Policy on first use: it imports torch, which most of the package does without."""
    if name == "Policy":
        from ablate.policy import Policy

        return Policy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
