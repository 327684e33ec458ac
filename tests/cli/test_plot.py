"""src/plot.py: one line and an exit code per error, whoever reads the output."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ablate.cli import plot


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`python src/plot.py good bad other`, where redrawing `bad` raises an error."""

    def call(error: BaseException) -> int:
        def redraw(folder: Path) -> list[Path]:
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


def test_ctrl_c_ends_it_without_a_traceback(program: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert program(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == ""


def test_a_reader_that_has_gone_costs_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python src/plot.py a b | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    redrawn: list[str] = []

    def redraw(folder: Path) -> list[Path]:
        redrawn.append(folder.name)
        return [folder / "figure.png"]

    monkeypatch.setattr(plot, "redraw", redraw)
    monkeypatch.setattr(sys, "argv", ["src/plot.py", "a", "b"])
    with os.fdopen(writer, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert plot.main() == 0
    assert redrawn == ["a", "b"]
