"""Runs and studies from Python, in a script or a notebook: `train`, `study`, `judge`, `Run` and `Study` of `ablate`.

The program runs in a process of its own, as from a terminal. So the caller's process never trains, forks or imports
torch, and its `__main__` is never imported again. This module starts the program, shows its output, reads its files."""

from __future__ import annotations

import contextlib
import io
import os
import re
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from functools import cached_property
from numbers import Number
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ablate.config.serial import quoted
from ablate.config.validation import plain_errors, suggest
from ablate.paths import locate, python_path
from ablate.records.caller import CALLER

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from ablate.analysis import load
    from ablate.analysis.tables import Summary

POLL_S = 0.1
GRACE_S = 60.0  # time for a run that must stop to write its checkpoint
PLAIN = re.compile(r"[\w./:+-]+", re.ASCII)  # a key's text that needs no quotes; inside of a list, "1e-4" needs them
NOT_A_RUN = ("reproduce", "sweep", "hydra.mode")


def train(*overrides: str, **keys: Any) -> Run:
    """Train one run, as `python src/run.py <overrides>` does, and show its progress. Returns the completed run.

    overrides: "key=value", as in a terminal. keys: values in Python; {"gamma": 0.9} for algo= sets algo.gamma.
    Raises ValueError with one line if the program refuses them, RuntimeError if the run fails, and KeyboardInterrupt
    after Ctrl-C, when the run has written a checkpoint: train(resume=folder) continues it."""
    arguments = _arguments(overrides, keys)
    for argument in arguments:
        if re.split(r"[=.]", argument)[0] in NOT_A_RUN or argument.startswith("hydra.mode"):
            raise ValueError(f"{argument}: ablate.train trains one run; ablate.study runs studies and sweeps")
    return Run(_run_program(arguments))


def study(*overrides: str, **keys: Any) -> Study:
    """Run a study or a sweep, as `python src/run.py -m <overrides>` does; completed cells are not trained again.

    A study's file is named by "sweep=<name>". A study in Python is a dictionary: sweep={"question": ..., "arms":
    {<name>: {"overrides": [...]}}, "seeds": "0-9", ...}. A sweep has several values: "workers=1,2", "seed=range(5)".
    Raises as `train` does. If cells fail, the others are complete, and ablate.Study(folder) shows them."""
    return Study(_run_program(["hydra.mode=MULTIRUN", *_arguments(overrides, keys)]))


def judge(study: str | Path, runs: str | Path) -> Study:
    """Judge runs of other programs, as `python src/judge.py <study> --runs <runs>` does; writes nothing.

    study: the study's YAML file. runs: the folder of the runs, or a CSV file (docs/judging.md).
    Raises ValueError with one line if they cannot be judged."""
    from ablate.cli import judge as program

    with plain_errors():
        return Study._of(program.read(locate(str(study)), locate(str(runs))))


class Run:
    """The folder of a run. Its tables are read once: make another Run to see what has been written since."""

    def __init__(self, folder: str | Path) -> None:
        """Raises ValueError if it is not a run's folder, or if a file in it is damaged."""
        from ablate.analysis.load import load_run

        self.folder = locate(str(folder))
        with plain_errors():
            self._run: load.Run = load_run(self.folder)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, {self.state}, {len(self.episodes)} episodes)"

    @property
    def state(self) -> str:
        """running, completed, interrupted or failed."""
        return self._run.status.state if self._run.status else "running"

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        return self._run.manifest.config

    @property
    def episodes(self) -> pd.DataFrame:
        """episodes.csv: a row per training episode."""
        return self._run.episodes

    @property
    def updates(self) -> pd.DataFrame:
        """updates.csv: a row every `log_interval` updates."""
        return self._run.updates

    @property
    def evaluations(self) -> pd.DataFrame:
        """evaluations.csv: a row per evaluation episode."""
        return self._run.evaluations

    def plot(self) -> Figure:
        """The learning curve, as in figures/learning_curve.png."""
        from ablate.analysis.figures import draw_learning_curve

        with plain_errors():
            return _in_notebooks(draw_learning_curve(self._run))


class Study:
    """The folder of a sweep, which may be unfinished. It is read once, like a `Run`."""

    def __init__(self, folder: str | Path) -> None:
        """Raises ValueError if it is not a sweep's folder."""
        from ablate.analysis.load import load_sweep

        self.folder = locate(str(folder))
        with plain_errors():
            self._sweep: load.Sweep = load_sweep(self.folder)

    @classmethod
    def _of(cls, sweep: load.Sweep) -> Study:
        made = cls.__new__(cls)
        made.folder, made._sweep = sweep.folder, sweep
        return made

    def __repr__(self) -> str:
        completed = (self.cells["state"] == "completed").sum()
        return f"Study({str(self.folder)!r}, {completed} of {len(self.cells)} cells completed)"

    @property
    def cells(self) -> pd.DataFrame:
        """A row per arm and seed: its state, the reason, attempts and seconds."""
        return self._sweep.cells

    @property
    def episodes(self) -> pd.DataFrame:
        """The training episodes of all completed cells, with arm and seed."""
        return self._sweep.episodes

    @property
    def updates(self) -> pd.DataFrame:
        """The updates of all completed cells, with arm and seed."""
        with plain_errors():
            return self._sweep.updates

    @property
    def evaluations(self) -> pd.DataFrame:
        """The evaluation episodes of all completed cells, with arm and seed."""
        return self._sweep.evaluations

    @cached_property
    def _judged(self) -> Summary:
        from ablate.analysis.summary import summarise

        with plain_errors():
            return summarise(self._sweep)

    @property
    def summary(self) -> pd.DataFrame:
        """A row per metric and arm: seeds, mean, median, interquartile mean, each with its 95 % interval."""
        return self._judged.arms

    @property
    def comparisons(self) -> pd.DataFrame:
        """A row per metric and arm, compared with the baseline."""
        return self._judged.comparisons

    @property
    def speed_ups(self) -> pd.DataFrame:
        """A row per metric that is a time and per arm, compared with the baseline."""
        return self._judged.speed_ups

    @property
    def verdicts(self) -> pd.DataFrame:
        """A row per claim: verdict, effect, interval and reason."""
        import pandas as pd

        return pd.DataFrame(self._judged.verdicts)

    @property
    def caveats(self) -> list[str]:
        """What limits every verdict, a sentence each."""
        return self._judged.caveats

    @property
    def figures(self) -> dict[str, str]:
        """The names that `plot` takes, and what each figure shows."""
        from ablate.analysis.sweep_figures import drawings

        return {drawing.name: f"{drawing.group}: {drawing.tab}" for drawing in drawings(self._judged)}

    def plot(self, name: str = "arms_training") -> Figure:
        """A figure of the report. name: one of `figures`. Raises ValueError if it cannot be drawn, with the reason."""
        from ablate.analysis.sweep_figures import drawings

        by_name = {drawing.name: drawing for drawing in drawings(self._judged)}
        if name not in by_name:
            raise ValueError(f"{name}: no such figure{suggest(name, list(by_name))} (there are: {', '.join(by_name)})")
        with plain_errors():
            return _in_notebooks(by_name[name].draw())

    def run(self, arm: str, seed: int) -> Run:
        """The run of one cell."""
        from ablate.records.schema import cell_folder

        if arm not in self._sweep.arms:
            raise ValueError(f"{arm}: no such arm{suggest(arm, list(self._sweep.arms))}")
        return Run(cell_folder(self.folder, arm, seed))


def _in_notebooks(figure: Figure) -> Figure:
    """The figure, which a notebook shows as a picture also without %matplotlib inline."""

    def picture() -> bytes:
        figure.savefig(stream := io.BytesIO(), format="png")
        return stream.getvalue()

    figure._repr_png_ = picture  # type: ignore[attr-defined]  # IPython looks for this name
    return figure


def _arguments(overrides: Iterable[str], keys: Mapping[str, Any]) -> list[str]:
    """The arguments of the command line. A dictionary sets the keys of a group. Raises ValueError."""
    for override in overrides:
        if not isinstance(override, str) or "=" not in override or override.startswith("-"):
            raise ValueError(f"{override}: an override has the form key=value")
    arguments = list(overrides)
    for key, value in keys.items():
        parts = {f"{key}.{name}": part for name, part in value.items()} if isinstance(value, Mapping) else {key: value}
        for name, part in parts.items():
            of_env = name.startswith("env.kwargs.")  # an argument, whose text is no number
            may_be_new = "++" if isinstance(part, Mapping) or of_env else ""  # its keys, such as the names of arms
            plain = isinstance(part, str | Path) and PLAIN.fullmatch(str(part)) and not of_env
            arguments.append(f"{may_be_new}{name}={part if plain else _literal(name, part)}")
    return arguments


def _literal(key: str, value: Any) -> str:
    """The value in Hydra's override grammar. Raises ValueError, which names the key."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:  # a number of numpy
        value = value.item()
    if isinstance(value, str | Path):
        return quoted(str(value))
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, Mapping):
        if strange := [name for name in value if not str(name).isascii()]:
            raise ValueError(f"{key}: {strange[0]}: only ASCII letters in names of keys; others need a study's file")
        return "{" + ",".join(f"{name}:{_literal(f'{key}.{name}', part)}" for name, part in value.items()) + "}"
    if isinstance(value, Iterable):
        return "[" + ",".join(_literal(key, part) for part in value) + "]"
    raise ValueError(f"{key}={value!r}: the value must be a number, a text, a list, a dictionary or None")


def _run_program(arguments: list[str]) -> Path:
    """Run `python src/run.py <arguments>` in its own session to its end, and show its output. Returns its folder.

    Ctrl-C is passed on: the program writes a checkpoint and ends; a second one ends it at once."""
    read, write = os.pipe()
    environment = {**os.environ, "PYTHONPATH": python_path(), CALLER: f"{os.getpid()}:{write}", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "ablate.cli.called", *arguments], env=environment, pass_fds=[write],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    os.close(write)
    interrupted = False

    def pass_on(number: int, frame: object) -> None:
        nonlocal interrupted
        interrupted = True
        process.send_signal(number)

    in_main = threading.current_thread() is threading.main_thread()  # only there can signals be handled
    before = signal.signal(signal.SIGINT, pass_on) if in_main else None
    try:
        reason = _shown(process)
    finally:
        if process.poll() is None:  # the output cannot be shown
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
            process.kill()
        if in_main:
            signal.signal(signal.SIGINT, before or signal.SIG_DFL)
        with os.fdopen(read, "rb") as pipe:
            os.set_blocking(read, False)  # a program that the environment started may still hold the other end
            folder = Path(os.fsdecode(pipe.read() or b""))
    if process.returncode:
        _raise(process.returncode, reason, folder, interrupted)
    if not folder.name:
        raise ValueError(f"{' '.join(arguments)}: nothing was trained, so there is no folder")
    return folder


def _raise(code: int, reason: str, folder: Path, interrupted: bool) -> NoReturn:
    """Raise what a program with this exit code means."""
    if code == 2:
        raise ValueError(reason)
    if interrupted:
        raise KeyboardInterrupt(f"stopped; what is done is in {folder}" if folder.name else "stopped")
    number = code - 128 if code > 128 else -code
    raise RuntimeError(reason or (f"ended by {signal.Signals(number).name}" if number > 0 else f"exit code {code}"))


def _shown(process: subprocess.Popen[bytes]) -> str:
    """Show the output of a program until it ends. Returns its last words on stderr if it fails, which are not shown."""
    assert process.stdout is not None
    assert process.stderr is not None
    held = ""  # the last line of stderr, and everything from "failed: " on
    with selectors.DefaultSelector() as selector, process.stdout as output, process.stderr as errors:
        rest = {output: b"", errors: b""}
        for stream in rest:
            os.set_blocking(stream.fileno(), False)
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            ready = [key.fileobj for key, _ in selector.select(POLL_S)]
            if not ready and process.poll() is not None:
                break  # a program that the environment started may hold the streams open
            for stream in (stream for stream in rest if stream in ready):
                if not (chunk := os.read(stream.fileno(), 1 << 16)):
                    selector.unregister(stream)
                lines, newline, rest[stream] = (rest[stream] + chunk).rpartition(b"\n")
                text = (lines + newline).decode(errors="replace")
                if stream is output:
                    sys.stdout.write(text)
                    sys.stdout.flush()
                    continue
                for line in text.splitlines(keepends=True):
                    if not held.startswith("failed: "):
                        sys.stderr.write(held)
                        held = ""
                    held += line
        process.wait()
        sys.stdout.write(rest[output].decode(errors="replace"))
        held += rest[errors].decode(errors="replace")
    if process.returncode == 0:
        sys.stderr.write(held)
    return held.strip().removeprefix("failed: ")
