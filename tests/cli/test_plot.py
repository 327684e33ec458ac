"""src/plot.py: one line and an exit code per error, whoever reads the output."""

import errno
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import write_sweep

from ablate.analysis.load import load_sweep
from ablate.analysis.metrics import curves
from ablate.analysis.overlay import together
from ablate.cli import plot
from ablate.config.choices import Axis, Source


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`python src/plot.py good bad other`, where redrawing `bad` raises an error."""

    def call(error: BaseException) -> int:
        def redraw(folder: Path, options: object) -> list[Path]:
            if folder.name == "bad":
                raise error
            return [folder / "figure.png"]

        monkeypatch.setattr(plot, "redraw", redraw)
        monkeypatch.setattr(sys, "argv", ["src/plot.py", *(str(tmp_path / name) for name in ("good", "bad", "other"))])
        return plot.main()

    return call


@pytest.mark.parametrize(
    ("code", "error", "line"),
    [
        (1, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x.png"), "failed: [Errno 28] No space left on device"),
        (2, PermissionError(errno.EACCES, os.strerror(errno.EACCES), "x.png"), "x.png: Permission denied"),
    ],
)
def test_an_error_is_one_line_and_costs_no_other_folder(
    code: int, error: OSError, line: str, program: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert program(error) == code
    written = capsys.readouterr()
    assert [Path(path).parent.name for path in written.out.splitlines()] == ["good", "other"]
    assert written.err.startswith(line)
    assert written.err.count("\n") == 1


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("plot")
    arms = {"a": {"label": "first"}, "b": {"label": "second", "level": -1.0}}
    return [write_sweep(folder / name, arms, seeds=range(5), episodes=20) for name in ("one", "two")]


def drawn(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["src/plot.py", *map(str, arguments)])
    return plot.main()


def test_a_figure_for_a_paper_leaves_the_report_alone(sweeps: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    labels = ("--labels", "a=the first arm")
    assert drawn(monkeypatch, sweeps[0], "--width_mm", 86, "--font_size", 8, "--arms", "b,a", *labels) == 0
    pdf = (sweeps[0] / "paper/curves_evaluation_global_step.pdf").read_bytes()
    assert re.search(rb"/MediaBox \[ 0 0 243\.", pdf)  # points: 86 mm
    assert b"/Type3" not in pdf
    assert not (sweeps[0] / "figures").exists()
    assert not (sweeps[0] / "report.html").exists()


def test_arms_are_chosen_and_renamed(sweeps: list[Path]) -> None:
    sweep = plot.chosen(load_sweep(sweeps[0]), ["b"], ["b=beta"])
    assert sweep.arms == {"b": "beta"}
    assert set(sweep.cells["arm"]) == {"b"}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--arms", "c"), "--arms c: no such arm (there are: a, b)"),
        (("--labels", "firs=x"), "--labels firs: no such arm (there are: a, b)"),
        (("--labels", "a"), "--labels a: write ARM=TEXT"),
    ],
)
def test_an_unknown_arm_is_refused(
    options: tuple[str, ...], line: str, sweeps: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert drawn(monkeypatch, sweeps[0], *options) == 2
    assert capsys.readouterr().err.strip() == line


def test_two_sweeps_are_drawn_together(
    sweeps: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(plot, "OUTPUTS", tmp_path)
    monkeypatch.setattr(plot, "redraw", lambda *_: [])
    assert drawn(monkeypatch, *sweeps) == 0
    assert sorted(path.name for path in (tmp_path / "figures").glob("*.png")) == [
        "one+two_episodes.png", "one+two_evaluations.png",
    ]  # fmt: skip
    merged = together([load_sweep(folder) for folder in sweeps])
    assert list(merged.arms.values()) == ["one: first", "one: second", "two: first", "two: second"]
    for source in Source:
        own = [curves(load_sweep(folder), source, Axis.global_step) for folder in sweeps]
        both = curves(merged, source, Axis.global_step)
        np.testing.assert_allclose(both["score"], np.concatenate([part["score"] for part in own]))
    assert drawn(monkeypatch, sweeps[0], tmp_path) == 0
    assert "note     not drawn together: one+" in capsys.readouterr().err


def test_a_source_that_cannot_be_compared_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    arms = {"a": {"overrides": ["env.max_ep_step=100"]}, "b": {"overrides": ["env.max_ep_step=200"]}}
    folders = [
        write_sweep(tmp_path / name, arms, seeds=range(5), episodes=20, score_units={"Pendulum-v1": "episodic_return"})
        for name in ("one", "two")
    ]
    monkeypatch.setattr(plot, "OUTPUTS", tmp_path)
    monkeypatch.setattr(plot, "redraw", lambda *_: [])
    assert drawn(monkeypatch, *folders) == 0
    assert [path.name for path in (tmp_path / "figures").glob("*.png")] == ["one+two_evaluations.png"]
    assert "note     not drawn together: env.max_ep_step differs" in capsys.readouterr().err


def test_ctrl_c_ends_it_without_a_traceback(program: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert program(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == ""


def test_a_reader_that_has_gone_costs_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python src/plot.py a b | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    redrawn: list[str] = []

    def redraw(folder: Path, options: object) -> list[Path]:
        redrawn.append(folder.name)
        return [folder / "figure.png"]

    monkeypatch.setattr(plot, "redraw", redraw)
    monkeypatch.setattr(sys, "argv", ["src/plot.py", "a", "b"])
    with os.fdopen(writer, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert plot.main() == 0
    assert redrawn == ["a", "b"]
