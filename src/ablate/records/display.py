"""The progress of a run in the terminal: a live table, or regular lines. All times come from `Progress`."""

from __future__ import annotations

import io
import os
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import NamedTuple, Self

from rich.console import RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ablate.config.choices import Display
from ablate.records.durations import clock
from ablate.records.terminal import PlainConsole, discard_output

REFRESH_EVERY_S = 0.25
STEP_WINDOW_S = 10.0
EPISODE_WINDOW_S = 60.0  # an episode may take longer than STEP_WINDOW_S
UNKNOWN = "–"
WIDTH = 72  # of the live table, in columns
LEAST_WIDTH_OF_PAIRS = 64  # in a narrower terminal, two numbers in a row would be cut: one row per number


class Progress(NamedTuple):
    """How far a run has come."""

    episodes: int
    steps: int
    updates: int
    elapsed_s: float  # seconds of training, including those before a resume
    moving_average: float | None  # reward per step
    episodic_return: float | None  # mean of the last episodes
    evaluation: float | None  # mean episodic return of the last evaluation
    figure: tuple[str, float | None, str]  # the algorithm's own number: its name, value and format


class Rate:
    """The growth of a counter per second, over a sliding window."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._samples: deque[tuple[float, int]] = deque()  # (time_s, count); the first is older than the window

    def add(self, time_s: float, count: int) -> None:
        self._samples.append((time_s, count))
        while len(self._samples) > 1 and self._samples[1][0] <= time_s - self._window_s:
            self._samples.popleft()

    @property
    def per_second(self) -> float | None:
        """None until there are samples at two different times."""
        if not self._samples or self._samples[-1][0] <= self._samples[0][0]:
            return None
        (start_s, start), (end_s, end) = self._samples[0], self._samples[-1]
        return (end - start) / (end_s - start_s)


class _Console(PlainConsole):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would exit the program; ProgressDisplay handles it instead


class ProgressDisplay:
    """A context that shows a run's progress on stdout; `update` may be called often.

    mode: live, plain, off, or auto (live on a terminal, else plain). It prints nothing more once stdout is closed
    (`| head`)."""

    def __init__(
        self,
        mode: str,
        print_every_seconds: float,
        title: str,
        max_episodes: int | None,
        total_steps: int | None,
    ) -> None:
        self._mode = resolve_mode(Display(mode))
        self._print_every_s = print_every_seconds
        self._title = title
        self._max_episodes = max_episodes
        self._total_steps = total_steps
        self._step_rate = Rate(STEP_WINDOW_S)
        self._episode_rate = Rate(EPISODE_WINDOW_S)
        self._progress: Progress | None = None
        self._shown_s: float | None = None  # elapsed_s of what was last shown
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # "·" and "–" cannot be shown on an ASCII terminal
        if self._mode == Display.live:
            # `update` refreshes the table: without a thread, only this thread can meet a broken pipe.
            # If stderr goes to a file, it must not be redirected to the terminal.
            self._live = Live(console=_Console(), auto_refresh=False, redirect_stderr=sys.stderr.isatty())
            with self._quiet_if_stdout_is_gone():
                self._live.start()
        else:
            self.line(self._title)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._quiet_if_stdout_is_gone():
            if self._progress is not None and self._shown_s != self._progress.elapsed_s:
                self._show(self._progress)
        if self._live is not None:  # whatever happened, the cursor must be visible again
            with self._quiet_if_stdout_is_gone():
                self._live.stop()

    def update(self, progress: Progress) -> None:
        """Record the progress, and show it if enough time has passed since it was last shown."""
        first = self._progress is None
        self._progress = progress
        self._step_rate.add(progress.elapsed_s, progress.steps)
        self._episode_rate.add(progress.elapsed_s, progress.episodes)
        if first and self._mode == Display.plain:
            self._shown_s = progress.elapsed_s  # a line without a rate would be useless
        every_s = REFRESH_EVERY_S if self._mode == Display.live else self._print_every_s
        if self._shown_s is None or progress.elapsed_s - self._shown_s >= every_s:
            with self._quiet_if_stdout_is_gone():
                self._show(progress)

    def line(self, text: str) -> None:
        """Print a message above the live table or as a plain line; nothing if the display is off."""
        with self._quiet_if_stdout_is_gone():
            if self._mode == Display.live and self._live is not None:
                self._live.console.print(Text(text), soft_wrap=True)
            elif self._mode != Display.off:
                print(text, flush=True)

    @property
    def steps_per_second(self) -> float | None:
        return self._step_rate.per_second

    @property
    def eta_s(self) -> float | None:
        """Seconds until the nearer of the two limits at the current rates; None if there is no limit or no rate."""
        if self._progress is None:
            return None
        seconds = [
            max(0, limit - done) / rate.per_second
            for limit, done, rate in (
                (self._max_episodes, self._progress.episodes, self._episode_rate),
                (self._total_steps, self._progress.steps, self._step_rate),
            )
            if limit is not None and rate.per_second
        ]
        return min(seconds, default=None)

    @contextmanager
    def _quiet_if_stdout_is_gone(self) -> Iterator[None]:
        """Training continues without output if the reader (BrokenPipeError) or the terminal (EIO) is gone."""
        try:
            yield
        except OSError:
            self._mode = Display.off
            discard_output()

    def _show(self, progress: Progress) -> None:
        self._shown_s = progress.elapsed_s
        if self._mode == Display.live and self._live is not None:
            self._live.update(self._table(progress, self._live.console.width), refresh=True)
        elif self._mode == Display.plain:
            print(self._plain(progress), flush=True)

    def _plain(self, progress: Progress) -> str:
        parts = [
            clock(progress.elapsed_s),
            f"episodes {_of(progress.episodes, self._max_episodes)}",
            f"steps {_of(progress.steps, self._total_steps)}",
            f"steps/s {_number(self.steps_per_second, ',.0f')}",
            f"reward/step {_number(progress.moving_average)}",
            f"return {_number(progress.episodic_return)}",
            f"evaluation {_number(progress.evaluation)}",
            " ".join(_figure(progress)),
            f"ETA {self._eta()}",
        ]
        return "  ".join(parts)

    def _table(self, progress: Progress, columns: int) -> RenderableType:
        cells = (
            ("episodes", _of(progress.episodes, self._max_episodes)),
            ("reward/step", _number(progress.moving_average)),
            ("steps", _of(progress.steps, self._total_steps)),
            ("return", _number(progress.episodic_return)),
            ("updates", f"{progress.updates:,}"),
            ("evaluation", _number(progress.evaluation)),
            ("steps/s", _number(self.steps_per_second, ",.0f")),
            _figure(progress),
            ("elapsed", clock(progress.elapsed_s)),
            ("ETA", self._eta()),
        )
        per_row = 2 if columns >= LEAST_WIDTH_OF_PAIRS else 1
        numbers = Table.grid(padding=(0, 2), expand=True)
        for _ in range(per_row):
            numbers.add_column(style="dim", no_wrap=True)
            numbers.add_column(style="bold", justify="right", no_wrap=True)
        if per_row == 1:
            cells = cells[::2] + cells[1::2]
        for first in range(0, len(cells), per_row):
            numbers.add_row(*(text for cell in cells[first : first + per_row] for text in cell))
        table = Table.grid(expand=True)
        table.add_row(numbers)
        table.add_row(ProgressBar(total=1.0, completed=self._fraction(progress)))
        return Panel(table, title=Text(self._title), width=WIDTH, border_style="dim")

    def _eta(self) -> str:
        return UNKNOWN if self.eta_s is None else clock(self.eta_s)

    def _fraction(self, progress: Progress) -> float:
        """The fraction of the nearer limit that is done."""
        limits = ((progress.episodes, self._max_episodes), (progress.steps, self._total_steps))
        return max((min(1.0, done / limit) for done, limit in limits if limit), default=0.0)


def resolve_mode(mode: Display) -> Display:
    """The meaning of `auto`: live on a terminal that can move its cursor and outside of CI, else plain."""
    if mode != Display.auto:
        return mode
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    can_move = os.environ.get("TERM", "") not in ("dumb", "unknown")
    return Display.live if is_terminal and can_move and not os.environ.get("CI") else Display.plain


def _figure(progress: Progress) -> tuple[str, str]:
    name, value, form = progress.figure
    return name, _number(value, form)


def _of(done: int, limit: int | None) -> str:
    return f"{done:,}" if limit is None else f"{done:,} / {limit:,}"


def _number(value: float | None, form: str = ".4g") -> str:
    return UNKNOWN if value is None else format(value, form)
