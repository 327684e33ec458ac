"""How a program that Python code has started (`ablate.api`) says which folder it uses."""

from __future__ import annotations

import os
from pathlib import Path

CALLER = "ABLATE_CALLER"  # in the environment: the caller's process id, and the descriptor of its pipe


def tell_caller(folder: Path) -> None:
    """Send the folder to the Python code that started this program, if there is such code."""
    if caller := os.environ.pop(CALLER, ""):
        with open(int(caller.partition(":")[2]), "wb") as pipe:
            pipe.write(os.fsencode(folder))
