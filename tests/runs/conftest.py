"""What the tests of whole runs share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import Run


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Start programs for the run in tmp_path/run. All are killed at the end of the test."""
    runs: list[Run] = []

    def started(*arguments: str, **options: Any) -> Run:
        runs.append(Run(tmp_path / "run", *arguments, **options))
        return runs[-1]

    yield started
    for run in runs:
        run.kill()
