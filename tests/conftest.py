"""Set-up for every test."""

from collections.abc import Iterator

import pytest

from ablate.parallel import heartbeat


@pytest.fixture(autouse=True)
def _without_heartbeat() -> Iterator[None]:
    """Remove the heartbeat that a test may have installed in this process."""
    heartbeat.install(lambda: None)
    yield
    heartbeat.install(lambda: None)
