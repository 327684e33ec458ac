"""A cell's curve as one number, and many cells' curves on one grid."""

from __future__ import annotations

import pandas as pd

from ablate.analysis.load import Sweep
from ablate.config import Axis, Budget, Source


def environments(sweep: Sweep) -> dict[str, Sweep]:
    """The sweep's arms by environment: scores of different environments have different units."""
    raise NotImplementedError


def refuse_mixed(sweep: Sweep) -> None:
    """Raise ConfigError where arms were evaluated differently: environment, its settings, horizon, protocol."""
    raise NotImplementedError


def budget(sweep: Sweep, source: Source, x: Axis) -> dict[str, float]:
    """Where on x each arm's shortest completed cell ends; the equal budget is the smallest of them."""
    raise NotImplementedError


def score_cells(sweep: Sweep, metric: str) -> pd.DataFrame:
    """A row a completed cell: arm, seed, value, censored.

    value: -inf (+inf where smaller is better) for a cell that diverged, NaN for one without a row in the window."""
    raise NotImplementedError


def curves(sweep: Sweep, source: Source, x: Axis, budget: Budget = Budget.equal) -> pd.DataFrame:
    """arm, seed, x, score on a grid that all cells (own: of an arm) share, up to the equal (own: the arm's) budget."""
    raise NotImplementedError
