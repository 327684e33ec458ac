"""Start the command of a sweep again in the background (sweep.detach=true), and the program that runs there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from ablate.paths import CHECKOUT, python_path, shown
from ablate.records.caller import CALLER, tell_caller
from ablate.records.schema import SWEEP_LOG
from ablate.sweeps.detached import WAITING


def start() -> None:
    """Start this command in a session of its own, and wait until its cells have been handed to the launcher.

    Raises SystemExit with its exit code if it ends before that."""
    read, write = os.pipe()
    environment = {**os.environ, "PYTHONPATH": python_path(), WAITING: f"{write}:{sys.argv[0]}"}
    for name in ("HYDRA_FULL_ERROR", CALLER):  # set by `main`, and for this process
        environment.pop(name, None)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "ablate.cli.detached", *sys.argv[1:]], env=environment, pass_fds=[write],
        stdin=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        try:
            folder = Path(os.fsdecode(pipe.read()))
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
    if not folder.name:
        code = process.wait()
        raise SystemExit(code if code >= 0 else 128 - code)
    tell_caller(folder)
    name = shown(folder)
    print(f"detached  it runs on without this terminal; its output is in {shown(folder / SWEEP_LOG)}")
    for command, what in (
        ("watch", "follow it to its end"),
        ("collect", "the verdict, or what is missing"),
        ("stop", "end it with checkpoints; the same command as before continues it"),
    ):
        print(f"          {called(command)} {name}   # {what}")


def called(command: str) -> str:
    """How a command about a sweep is called."""
    return f"python src/sweep.py {command}" if CHECKOUT else f"ablate {command}"


def _run() -> int:
    """The whole program, in the background. Returns its exit code."""
    from ablate.cli.train import program
    from ablate.sweeps import detached

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    sys.argv[0] = detached.begin()
    code = 1
    try:
        code = program()
    except SystemExit as leaving:  # a refusal by Hydra's callbacks
        code = leaving.code if isinstance(leaving.code, int) else 1
    finally:
        detached.end(code)
    return code


if __name__ == "__main__":  # spawned processes import this file too
    sys.exit(_run())
