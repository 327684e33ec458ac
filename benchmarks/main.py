"""Measure speed with one command:  python src/benchmark.py [a3c|compiled|arms|atari|dqn|dqn_classic|learning|decisions]

a3c       A3C's torch backends on Pendulum, compared with a plain loop, and the parts of a step
compiled  backend=compiled, its kernels compared with one written for the Pendulum report alone, and the parts of a step
arms      all runs of that report's two ablations, with --repeats seeds each
atari     A3C-LSTM on Breakout, compared with the emulator alone, and the parts of a step
dqn       DQN on Breakout, compared with stable-baselines3 (extra [bench]), and the parts of an update
dqn_classic  DQN on CartPole with kernels, compared with stable-baselines3 (extra [bench]), and the parts of a step
learning  A3C's score on Breakout after --seconds of training, for --repeats seeds
decisions errors, power and coverage of the verdicts on --repeats simulated studies per number (no training)

Ratios are between runs that took turns on the same machine, so that its drift affects all of them equally.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from typing import NamedTuple

from rich.console import Console

from ablate.records.terminal import PlainConsole
from benchmarks.a3c import benchmark_a3c
from benchmarks.atari import benchmark_atari
from benchmarks.common import Options, header
from benchmarks.compiled import benchmark_arms, benchmark_compiled
from benchmarks.decisions import benchmark_decisions
from benchmarks.dqn import benchmark_dqn
from benchmarks.dqn_classic import benchmark_dqn_classic
from benchmarks.learning import benchmark_learning

FILE_WIDTH = 200  # the longest rows have five numbers with their intervals; a narrower table would cut them off


class Benchmark(NamedTuple):
    """A benchmark and its default options."""

    function: Callable[[Console, Options], None]
    seconds: float = 8.0
    repeats: int = 3
    workers: str = "1,2,4"


BENCHMARKS = {
    "a3c": Benchmark(benchmark_a3c),
    "arms": Benchmark(benchmark_arms),
    "atari": Benchmark(benchmark_atari, workers="1,2,8"),
    "compiled": Benchmark(benchmark_compiled),
    "decisions": Benchmark(benchmark_decisions, repeats=4000),
    "dqn": Benchmark(benchmark_dqn, seconds=15.0, workers="1"),
    "dqn_classic": Benchmark(benchmark_dqn_classic, workers="1"),
    "learning": Benchmark(benchmark_learning, seconds=600.0, repeats=1, workers="2"),
}


def main() -> int:
    name, options = parse_arguments()
    for number in (signal.SIGINT, signal.SIGTERM):  # a kill cleans up like Ctrl-C
        signal.signal(number, signal.default_int_handler)
    try:
        header()
        console = PlainConsole(width=None if sys.stdout.isatty() else FILE_WIDTH)
        BENCHMARKS[name].function(console, options)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    seconds, repeats, workers = options
    limits = f"--seconds {seconds:g} --repeats {repeats} --workers {','.join(map(str, workers))}"
    print(f"again: python src/benchmark.py {name} {limits}")
    return 0


def parse_arguments() -> tuple[str, Options]:
    """The benchmark's name and its options. Options that are not given have the benchmark's defaults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="a3c", choices=sorted(BENCHMARKS), help="what to measure")
    parser.add_argument("--seconds", type=float, help="of training per measurement; default 8, dqn 15, learning 600")
    parser.add_argument(
        "--repeats", type=int, help="measurements per row, or seeds; default 3, learning 1, decisions 4000"
    )
    parser.add_argument("--workers", help="numbers of workers; default 1,2,4, atari 1,2,8, dqn 1, learning 2")
    given = parser.parse_args()
    defaults = BENCHMARKS[given.what]
    seconds = defaults.seconds if given.seconds is None else given.seconds
    repeats = defaults.repeats if given.repeats is None else given.repeats
    items = (defaults.workers if given.workers is None else given.workers).split(",")
    workers = sorted({int(item) if item.isdecimal() else 0 for item in items})
    if not (0 < seconds < float("inf") and repeats > 0 and workers[0] > 0):
        parser.error("--seconds, --repeats and each of --workers must be positive numbers")
    return given.what, Options(seconds, repeats, workers)
