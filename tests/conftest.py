"""What every test needs."""

from collections.abc import Iterator

import pytest

from ablate.parallel import heartbeat


@pytest.fixture(autouse=True)
def _heartbeat_of_nobody() -> Iterator[None]:
    """A sign of life that a test installs in this process ends with it."""
    heartbeat.install(lambda: None)
    yield
    heartbeat.install(lambda: None)
