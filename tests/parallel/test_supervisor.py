"""What the supervisor makes of somebody else's exceptions."""

import json
import time
from typing import Any

import pytest

from ablate.parallel.shared import SharedState
from ablate.parallel.supervisor import Child, ChildFailed, Supervisor, shortened


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\nlines\tand ü", "two\nlines\tand ü"),
        ("\x1b[31mred\x00\u202e", "\\x1b[31mred\\x00\\u202e"),  # a terminal would obey
        ("half of a letter: \ud800", "half of a letter: \\ud800"),  # no file can hold it
    ],
)
def test_a_message_has_only_letters_that_can_be_shown_and_stored(text: str, shown: str) -> None:
    assert shortened(text, 100) == shown
    assert json.loads(json.dumps(shown).encode()) == shown


class Unspeakable(ValueError):
    def __str__(self) -> str:
        raise RuntimeError


class Base(BaseException):
    pass


RAISED = {
    "unspeakable": (Unspeakable(), "Unspeakable: its text cannot be made (RuntimeError)"),
    "base": (Base("text"), "Base: text"),
    "generator": (GeneratorExit("text"), "GeneratorExit: text"),
    "interrupt": (KeyboardInterrupt("text"), "KeyboardInterrupt: text"),
}


def raises(send: Any, name: str) -> None:
    raise RAISED[name][0]


@pytest.mark.parametrize("name", RAISED)
def test_an_exception_of_any_kind_is_told(name: str) -> None:
    shared = SharedState(1, 0, 1)
    child = Child("it", __name__, "raises", (name,))
    with pytest.raises(ChildFailed) as failure, Supervisor([child], shared, 60.0) as running:
        assert [*running.messages(60.0)] == []
    assert str(failure.value).splitlines()[0] == f"it raised {RAISED[name][1]}"


def waits(send: Any) -> None:
    time.sleep(1.0)


@pytest.mark.parametrize(("timeout_s", "limit"), [(60.0, 120), (300.0, 300)])
def test_a_start_that_takes_too_long_names_the_limit_and_its_key(timeout_s: float, limit: int) -> None:
    shared = SharedState(1, 0, 1)
    shared.started -= 1000.0
    with Supervisor([Child("it", __name__, "waits", ())], shared, timeout_s) as running:
        running._awake_since -= 1000.0
        line = f"it hangs: no first step after {limit} s; hang_timeout_s={2 * limit} waits longer"
        with pytest.raises(ChildFailed, match=f"^{line}$"):
            list(running.messages(0.1))


def test_a_start_that_ctrl_z_interrupted_is_not_a_hang() -> None:
    shared = SharedState(1, 0, 1)
    shared.started -= 1000.0
    with Supervisor([Child("it", __name__, "waits", ())], shared, 60.0) as running:
        while running.running:
            running._watched -= 100.0  # this process did not run for so long
            assert [*running.messages(0.1)] == []
