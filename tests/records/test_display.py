"""What the display prints, and when. Its errors never stop a run."""

import io
import os
import pty
import re
import subprocess
import sys
from contextlib import suppress

import pytest

from ablate.config.choices import Display
from ablate.records.display import Progress, ProgressDisplay, Rate, resolve_mode
from ablate.records.durations import approximate, clock


def progress(elapsed_s: float, episodes: int = 0, steps: int = 0) -> Progress:
    return Progress(episodes, steps, steps // 10, elapsed_s, None, None, None, ("staleness", None, ".1f"))


def display(
    mode: str = "off",
    every_s: float = 5.0,
    max_episodes: int | None = None,
    total_steps: int | None = 1_000_000,
) -> ProgressDisplay:
    return ProgressDisplay(mode, every_s, "A3C · Pendulum-v1", max_episodes, total_steps)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def make_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Replace stdout by a recorded terminal. (pytest's capturing would undo this in a fixture.)"""
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("CI", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return stream


def test_plain_prints_a_line_every_few_seconds_and_one_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with display("plain", every_s=5.0) as shown:
        for tenth in range(1, 123):
            shown.update(progress(tenth / 10, steps=100 * tenth))
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == "A3C · Pendulum-v1"
    assert [line.split()[0] for line in lines] == ["0:00:05", "0:00:10", "0:00:12"]
    assert "steps 12,200 / 1,000,000" in lines[-1]
    assert "steps/s 1,000" in lines[-1]


def test_plain_does_not_print_the_last_line_twice(capsys: pytest.CaptureFixture[str]) -> None:
    with display("plain", every_s=1.0) as shown:
        shown.update(progress(1.0, steps=1))
        shown.update(progress(2.0, steps=2))
    assert len(capsys.readouterr().out.splitlines()) == 2  # the title and 0:00:02


def test_plain_prints_how_far_a_failed_run_came(capsys: pytest.CaptureFixture[str]) -> None:
    with suppress(KeyboardInterrupt), display("plain") as shown:
        shown.update(progress(1.0))
        shown.update(progress(2.0, steps=77))
        raise KeyboardInterrupt
    assert "steps 77 / " in capsys.readouterr().out.splitlines()[-1]


def test_dqn_shows_epsilon_instead_of_staleness(capsys: pytest.CaptureFixture[str]) -> None:
    with display("plain", every_s=1.0) as shown:
        shown.update(progress(0.0))
        shown.update(progress(10.0)._replace(figure=("epsilon", 0.5, ".3f")))
    assert "epsilon 0.500" in (line := capsys.readouterr().out.splitlines()[-1])
    assert "staleness" not in line


def test_plain_shows_every_value_and_a_dash_for_what_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    with display("plain", every_s=1.0, max_episodes=2000, total_steps=None) as shown:
        shown.update(progress(0.0))
        shown.update(Progress(10, 2000, 200, 10.0, -5.43219, -1086.4, -1234.56, ("staleness", 2.25, ".1f")))
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == (
        "0:00:10  episodes 10 / 2,000  steps 2,000  steps/s 200  reward/step -5.432  return -1086  evaluation -1235"
        "  staleness 2.2  ETA 0:33:10"
    )
    with display("plain") as shown:
        shown.update(progress(1.0))
    shown_once = capsys.readouterr().out
    assert shown_once == "A3C · Pendulum-v1\n"  # after a single update there is no rate, so no line


@pytest.mark.parametrize("columns", [120, 80, 64, 63, 45, 40])
def test_the_live_table_cuts_no_number(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = make_terminal(monkeypatch)
    monkeypatch.setenv("COLUMNS", str(columns))
    full = Progress(6999, 12_000_000, 1_200_000, 7200.0, -3.134, -1611.0, -1617.0, ("staleness", 1.0, ".1f"))
    with display("live", max_episodes=20_000, total_steps=20_000_000) as shown:
        shown.update(full)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    for part in ("6,999 / 20,000", "12,000,000 / 20,000,000", "1,200,000", "2:00:00", "-3.134", "-1611", "-1617"):
        assert part in text
    for name in ("episodes", "reward/step", "evaluation", "staleness", "elapsed", "ETA"):
        assert name in text


def test_messages_are_lines_unless_the_display_is_off(capsys: pytest.CaptureFixture[str]) -> None:
    with display("plain") as shown:
        shown.line("[saved] in /a/b=c")
    assert capsys.readouterr().out.splitlines()[-1] == "[saved] in /a/b=c"
    with display("off") as shown:
        shown.line("nothing")
        shown.update(progress(100.0))
        shown.update(progress(200.0))
    assert capsys.readouterr() == ("", "")


def test_the_rate_forgets_what_is_older_than_its_window() -> None:
    rate = Rate(10.0)
    assert rate.per_second is None
    rate.add(100.0, 5000)  # a resumed run starts anywhere
    assert rate.per_second is None
    for second in range(1, 11):
        rate.add(100.0 + second, 5000 + 10 * second)
    assert rate.per_second == pytest.approx(10.0)
    for second in range(11, 16):
        rate.add(100.0 + second, 5100 + 50 * (second - 10))
    assert rate.per_second == pytest.approx((5 * 10 + 5 * 50) / 10)
    for second in range(16, 40):
        rate.add(100.0 + second, 5350)
    assert rate.per_second == 0.0  # it hangs


def test_a_rate_is_not_divided_by_no_time() -> None:
    rate = Rate(10.0)
    rate.add(1.0, 1)
    rate.add(1.0, 2)
    assert rate.per_second is None


@pytest.mark.parametrize(
    ("max_episodes", "total_steps", "eta_s"),
    [
        (None, None, None),
        (100, None, 180.0),  # 90 episodes at 0.5 per second
        (None, 10_000, 80.0),  # 8000 steps at 100 per second
        (100, 10_000, 80.0),
        (20, 10_000, 20.0),
        (10, 10_000, 0.0),
    ],
)
def test_the_eta_is_that_of_the_nearer_limit(
    max_episodes: int | None, total_steps: int | None, eta_s: float | None
) -> None:
    shown = display(max_episodes=max_episodes, total_steps=total_steps)
    assert shown.eta_s is None
    shown.update(progress(50.0, episodes=0, steps=0))
    shown.update(progress(70.0, episodes=10, steps=2000))
    assert shown.steps_per_second == 100.0
    assert shown.eta_s == (None if eta_s is None else pytest.approx(eta_s))


def test_there_is_no_eta_while_nothing_moves() -> None:
    shown = display(max_episodes=10)
    shown.update(progress(1.0, 1, 100))
    shown.update(progress(20.0, 1, 100))
    assert shown.steps_per_second == 0.0
    assert shown.eta_s is None


@pytest.mark.parametrize(
    ("seconds", "exact", "rounded"),
    [
        (0, "0:00:00", "0 s"),
        (59.6, "0:01:00", "60 s"),
        (3725, "1:02:05", "62 min"),
        (360_000, "100:00:00", "100.0 h"),
    ],
)
def test_durations_are_short_texts(seconds: float, exact: str, rounded: str) -> None:
    assert (clock(seconds), approximate(seconds)) == (exact, rounded)


def test_auto_is_live_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    make_terminal(monkeypatch)
    assert resolve_mode(Display.auto) == "live"
    monkeypatch.setenv("TERM", "dumb")
    assert resolve_mode(Display.auto) == "plain"
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("CI", "true")
    assert resolve_mode(Display.auto) == "plain"
    assert resolve_mode(Display.live) == "live"
    monkeypatch.delenv("CI")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert resolve_mode(Display.auto) == "plain"
    monkeypatch.setattr(sys, "stdout", None)  # python run.py >&-
    assert resolve_mode(Display.auto) == "plain"


HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


def visible(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_live_shows_the_table_and_messages_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = make_terminal(monkeypatch)
    with display("auto", max_episodes=10, total_steps=None) as shown:
        shown.update(progress(1.0, 2, 400))
        shown.line("[saved] " + "x" * 200)
        shown.update(Progress(5, 123_456, 200, 11.0, -5.43219, -1086.4, -1234.56, ("staleness", 2.25, ".1f")))
    text = visible(terminal.getvalue())
    assert "[saved] " + "x" * 200 + "\n" in text  # neither markup nor broken over lines
    last = text[text.rindex("A3C · Pendulum-v1") :]
    for value in ("5 / 10", "123,456", "-5.432", "-1235", "2.2", "0:00:11", "0:00:17", "12,306"):
        assert value in last
    assert last.count("━") >= 60  # the bar


def test_live_is_not_drawn_more_often_than_an_eye_can_see(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = make_terminal(monkeypatch)
    with display("live") as shown:
        for hundredth in range(1000):
            shown.update(progress(hundredth / 100))
    assert 30 <= visible(terminal.getvalue()).count("A3C · Pendulum-v1") <= 42  # 10 s, 4 per second


def test_live_restores_the_terminal_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = make_terminal(monkeypatch)
    with suppress(RuntimeError), display("live") as shown:
        shown.update(progress(1.0))
        raise RuntimeError
    text = terminal.getvalue()
    assert HIDE_CURSOR in text
    assert text.rindex(SHOW_CURSOR) > text.rindex(HIDE_CURSOR)
    assert sys.stdout is terminal


# A run that continues after its reader has left: 2000 lines do not fit into a pipe's buffer.
TRAINING = """
import sys
from ablate.records.display import Progress, ProgressDisplay
with ProgressDisplay({mode!r}, 1.0, "title · –", None, 1000) as display:
    for second in range(2000):
        display.update(Progress(second, second, second, float(second), None, None, None, ("staleness", None, ".1f")))
        display.line("message")
print("and on")
print("trained", file=sys.stderr)
"""


def test_a_reader_that_leaves_does_not_stop_the_run() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        [sys.executable, "-c", TRAINING.format(mode="plain")],
        stdout=write_end, stderr=subprocess.PIPE, text=True, timeout=120,
    )  # fmt: skip
    os.close(write_end)
    assert (done.returncode, done.stderr) == (0, "trained\n")


def test_a_terminal_that_is_closed_does_not_stop_the_run() -> None:
    """Writing to a terminal after its window was closed gives EIO."""
    window, terminal = pty.openpty()
    os.close(window)
    done = subprocess.run(
        [sys.executable, "-c", TRAINING.format(mode="live")],
        stdout=terminal, stderr=subprocess.PIPE, text=True, timeout=120,
        env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(terminal)
    assert (done.returncode, done.stderr) == (0, "trained\n")


def test_a_terminal_without_unicode_gets_question_marks() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRAINING.format(mode="plain")],
        capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "trained\n")
    assert done.stdout.splitlines()[0] == "title ? ?"
