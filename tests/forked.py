"""`python src/run.py ...` many times, each in a fork of one process that has imported it.

A fork takes milliseconds, the imports take seconds.

`Forks(root)` starts that process for the program in this folder. Its children differ from a new interpreter only in
what is imported already; nothing else of the program has run before."""

from __future__ import annotations

import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

PROGRAM = "src/run.py"


class Forks:
    """The process that forks. Its children run one after the other."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._process = subprocess.Popen(
            [sys.executable, "-B", __file__], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip

    def run(
        self, arguments: tuple[str, ...], environment: Mapping[str, str], timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        """The program's exit code and output. Raises TimeoutExpired, and ends all, after timeout_s."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            outputs = [f"{folder}/out", f"{folder}/err"]
            request = {"arguments": arguments, "environment": dict(environment), "outputs": outputs}
            print(json.dumps(request), file=self._process.stdin, flush=True)
            if not select.select([self._process.stdout], [], [], timeout_s)[0]:
                self.end()
                raise subprocess.TimeoutExpired([PROGRAM, *arguments], timeout_s)
            code = int(self._process.stdout.readline())
            output, errors = (Path(path).read_text() for path in outputs)
        return subprocess.CompletedProcess([PROGRAM, *arguments], code, output, errors)

    def end(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def serve() -> None:
    """Import the program without running it, then run it in a fork for each request on standard input."""
    sys.path[0] = str(Path("src").resolve())
    import ablate.cli.train  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            for descriptor, path in enumerate((os.devnull, *request["outputs"])):
                opened = os.open(path, os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(opened, descriptor)
                os.close(opened)
            os.environ.clear()
            os.environ.update(request["environment"])
            sys.argv = [PROGRAM, *request["arguments"]]
            runpy.run_path(PROGRAM, run_name="__main__")
            sys.exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
