"""The command `ablate` of an installed package:  ablate run algo=a3c env=pendulum workers=4"""

from __future__ import annotations

import os
import sys
from importlib import import_module

OF_SWEEPS = ("status", "watch", "collect", "stop")
# Spawned processes import this module too, so the programs are imported when they are called.
PROGRAMS = {
    "run": "ablate.cli.train:program",
    "sweep": "ablate.cli.train:program",
    **dict.fromkeys(OF_SWEEPS, "ablate.cli.sweep:program"),
    "evaluate": "ablate.cli.evaluate:program",
    "plot": "ablate.cli.plot:main",
    "judge": "ablate.cli.judge:main",
    "reproduce": "ablate.cli.train:program",
}
HELP = """Ablation sweeps of A3C and DQN.

  ablate run [key=value ...]                 train one run; --help lists all groups and keys
  ablate sweep <study> [key=value ...]       run a study, such as ./sweeps/sweep/<study>.yaml
  ablate sweep workers=1,2 "seed=range(5)"   a sweep without a file
  ablate status <sweep>                      the state of a sweep, during or after it
  ablate watch|collect|stop <sweep>          follow a detached sweep (sweep.detach=true), judge it, end it
  ablate evaluate run=<run> [key=value ...]  play a saved run; --help lists the keys
  ablate plot <folder> ...                   draw the figures of runs and sweeps again
  ablate judge <study.yaml> --runs <folder>  judge runs of other programs
  ablate reproduce <run>                     train a run again from its manifest, and compare the rows

Runs and sweeps are written to ./outputs. Options of your own: ./conf/<group>/<name>.yaml
Shell completion: eval "$(ablate -sc install=bash)"      (or install=fish)
"""


def main() -> int:
    """Run one of PROGRAMS. Returns the exit code."""
    arguments = sys.argv[1:]
    if arguments[:1] in (["-sc"], ["--shell-completion"]):
        return _complete(arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    name, *own = arguments
    if name not in PROGRAMS:
        from ablate.config.validation import suggest

        print(
            f"{name}: no such command{suggest(name, list(PROGRAMS))} (there are: {', '.join(PROGRAMS)})",
            file=sys.stderr,
        )
        return 2
    sys.argv = [f"ablate {name}", *own]
    if name in OF_SWEEPS and "-h" not in own and "--help" not in own:
        sys.argv = ["ablate", name, *own]
    elif name == "sweep":
        if own and "=" not in own[0] and not own[0].startswith("-"):
            own[0] = f"sweep={own[0]}"
        sys.argv = ["ablate run", "-m", *own]
    elif name == "reproduce":
        given = any(argument.startswith("reproduce=") for argument in own)
        if own and not given and not own[0].startswith(("plugins=", "-")):  # a cell's folder is called seed=<n>
            own[0] = f"reproduce={own[0]}"
        sys.argv = ["ablate run", *(own or ["reproduce="])]
    return _run(name)


def _run(name: str) -> int:
    module, _, function = PROGRAMS[name].partition(":")
    code: int = getattr(import_module(module), function)()
    return code


def _complete(arguments: list[str]) -> int:
    """Answer the shell: the names of the programs, and for `run` and `sweep` what Hydra offers for their arguments."""
    sys.argv = ["ablate", *arguments]
    if any(argument.startswith("query=") for argument in arguments):
        first, *words = f"{os.environ.get('COMP_LINE', '')}|".split()  # | marks the place of the cursor
        if len(words) < 2:
            print(*PROGRAMS)
            return 0
        name, *own = words
        if name == "sweep" and len(own) == 1 and "=" not in own[0]:
            from ablate.cli.folders import STUDIES, option_folders

            paths = (path for folder in option_folders() for path in (folder / STUDIES).glob("*.yaml"))
            print(*sorted({path.stem for path in paths}))
            return 0
        if name not in ("run", "sweep"):
            return 0  # the shell completes names of files
        os.environ["COMP_LINE"] = " ".join([first, *own]).removesuffix("|")
    return _run("run")


if __name__ == "__main__":
    sys.exit(main())
