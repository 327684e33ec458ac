"""Set-up for every test."""

import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from ablate.parallel import heartbeat

settings.register_profile("ablate", deadline=None)  # no test is about time: the machine may be busy
settings.load_profile("ablate")

# Under nohup it is ignored, and the runs that tests start would inherit that.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _without_heartbeat() -> Iterator[None]:
    """Remove the heartbeat that a test may have installed in this process."""
    heartbeat.install(lambda: None)
    yield
    heartbeat.install(lambda: None)
