"""The way into the programs in this folder: one line, not a traceback, if their environment is not installed."""

import sys
from importlib import import_module


def enter(place: str) -> int:
    """Run the program at <module>:<function> and return its exit code."""
    module, _, function = place.partition(":")
    try:
        program = getattr(import_module(module), function)
    except ImportError as error:
        if (error.name or "").startswith(("ablate", "benchmarks")) and sys.version_info >= (3, 11):
            raise
        python = f"{sys.executable}, Python {sys.version.split()[0]}"
        message = f"{error}, for {python}: `make run` creates .venv with everything; then source .venv/bin/activate"
        print(message, file=sys.stderr)
        return 2
    code: int = program()
    return code
