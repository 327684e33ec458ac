"""sweeps/reproduce.py: signals reach its sweep, and its panels are those of the sweep that it has just run."""

import runpy
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT

# It says that it runs, gets a signal and ends in its own way, as a sweep does.
SWEEP = """
import signal, sys, time
signal.signal(signal.{0}, lambda number, frame: (time.sleep(1), sys.exit(128 + number)))
open(sys.argv[1], "w").close()
time.sleep(60)
"""


@pytest.fixture
def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "sweeps/reproduce.py"))


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_lets_the_sweep_write_its_checkpoints(
    name: str, script: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time that the sweep takes is longer than the 0.25 s after which subprocess kills it."""
    number, flag = getattr(signal, name), tmp_path / "flag"
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(command: list[str]) -> subprocess.Popen[bytes]:
        started.append(popen(command))
        return started[0]

    def signals() -> None:
        while not flag.exists():
            threading.Event().wait(0.05)
        if number == signal.SIGINT:  # Ctrl-C reaches both
            started[0].send_signal(number)
        signal.pthread_kill(threading.main_thread().ident or 0, number)

    monkeypatch.setattr(subprocess, "Popen", start)
    thread = threading.Thread(target=signals)
    thread.start()
    assert script["run"]([sys.executable, "-c", SWEEP.format(name), str(flag)]) == 128 + number
    thread.join()


def test_panels_of_an_earlier_sweep_are_not_drawn(
    script: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Overrides that change the arms give the sweep another folder."""
    drawn: list[Any] = []
    main: Any = script["main"]
    folder = tmp_path / "outputs/sweeps/max_ep_step"
    folder.mkdir(parents=True)
    (folder / "study.json").write_text("{}")
    monkeypatch.setitem(main.__globals__, "ROOT", tmp_path)
    monkeypatch.setitem(main.__globals__, "run", lambda command: 0)
    monkeypatch.setitem(main.__globals__, "draw", drawn.append)
    monkeypatch.setattr(sys, "argv", ["sweeps/reproduce.py", "algo.gamma=0.5"])
    assert main() == 2
    assert capsys.readouterr().err == f"no panels: with these overrides the sweep has another folder than {folder}\n"
    assert not drawn
