"""Random streams: one seed gives one stream per role and index, so that one more worker changes no other stream."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from enum import IntEnum
from typing import Any

import numpy as np


class Role(IntEnum):
    """Who draws. The numbers are part of what a seed means: never renumber."""

    parameters = 0
    environment = 1
    action = 2
    evaluation = 3
    replay = 4
    later_evaluation = 5  # by src/evaluate.py: other games than those by which the best parameters were chosen
    random_policy = 6


def generator(seed: int, role: Role, *index: int) -> np.random.Generator:
    """The stream of a role: generator(seed, Role.action, worker)."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(int(role), *index))))


def seed_libraries(seed: int) -> None:
    """Seed the generators behind `random` and numpy's functions, which some environments use."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002


@contextlib.contextmanager
def keeping_libraries() -> Iterator[None]:
    """Give those generators their present states back at the end of this context."""
    ours, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(ours)
        np.random.set_state(numpys)  # noqa: NPY002


def environment_stream(seed: int) -> np.random.Generator:
    """The stream that gymnasium gives an environment with this seed (its np_random)."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))


def draw_seed(rng: np.random.Generator) -> int:
    """A seed for a library that wants an integer."""
    return int(rng.integers(2**31))


def state_of(rng: np.random.Generator) -> dict[str, Any]:
    """The generator's state as JSON values."""
    return dict(rng.bit_generator.state)


def restore(rng: np.random.Generator, state: dict[str, Any]) -> None:
    rng.bit_generator.state = state
