"""What the supervisor makes of the texts of somebody else's exceptions."""

import json

import pytest

from ablate.parallel.supervisor import shortened


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
