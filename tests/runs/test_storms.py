"""Storms: faults at random, with printed seeds. Nothing is lost, nothing is loaded that does not fit, and what is said
is one line. Random kills are in test_resume.py and in tests/sweeps/test_sweep_faults.py."""

from __future__ import annotations

import errno
import os
import random
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import here
import numpy as np
import pandas as pd
import pytest
from helpers import config_of

from ablate.analysis.load import load_run
from ablate.config.schema import ConfigError
from ablate.config.serial import flat, to_dict
from ablate.records.schema import (
    BEST_CHECKPOINT,
    EPISODES,
    EVALUATIONS,
    LAST_CHECKPOINT,
    MANIFEST,
    STATUS,
    UPDATES,
)
from ablate.runs import plan as planning
from ablate.runs.plan import plan
from ablate.runs.run import RunFailed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
FAULTS = 40  # failing disks
FLIPS = int(os.environ.get("ABLATE_FLIPS", "400"))  # flipped bits
ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS)


class Disk:
    """Makes calls fail that write below a folder: call number `first`, or all from it on."""

    def __init__(self) -> None:
        self.folder, self.calls, self.first, self.lasting, self.code = "", 0, -1, False, 0
        self._fsync = os.fsync
        sys.addaudithook(self._hook)  # hooks stay for ever: outside of `failing`, it does nothing

    def failing(self, folder: Path, first: int, lasting: bool, code: int) -> None:
        self.folder, self.calls, self.first, self.lasting, self.code = str(folder), 0, first, lasting, code

    def sound(self) -> None:
        self.folder = ""

    def fsync(self, descriptor: int) -> None:
        if self.folder and os.readlink(f"/proc/self/fd/{descriptor}").startswith(self.folder):
            self._call("a file")
        self._fsync(descriptor)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.folder or event not in ("open", "os.rename", "os.mkdir"):
            return
        path = str(arguments[0])
        writes = event != "open" or bool(set(str(arguments[1] or "r")) & set("wax+"))
        if writes and path.startswith(self.folder):
            self._call(path)

    def _call(self, path: str) -> None:
        self.calls += 1
        if self.calls == self.first or (self.lasting and self.calls > self.first > 0):
            raise OSError(self.code, os.strerror(self.code), path)


@pytest.fixture(scope="module")
def disk() -> Disk:
    return Disk()


@pytest.fixture(autouse=True)
def in_threads(monkeypatch: pytest.MonkeyPatch, disk: Disk) -> Iterator[None]:
    monkeypatch.setattr("ablate.runs.training.Supervisor", here.Threads)
    monkeypatch.setattr("os.fsync", disk.fsync)
    yield
    disk.sound()


def assert_whole(folder: Path) -> None:
    run = load_run(folder)
    assert run.status is not None
    assert (run.status.state, run.torn) == ("completed", 0)
    assert run.episodes["episode"].tolist() == list(range(1, 31))
    assert run.updates["update"].tolist() == list(range(2, run.status.updates + 1, 2))
    evaluations = np.repeat(np.arange(1, (run.status.evaluations or 0) + 1), 2)
    assert run.evaluations["evaluation"].tolist() == evaluations.tolist()
    assert list(folder.rglob("*.tmp")) == []


def test_whatever_call_to_the_disk_fails_no_row_is_lost(tmp_path: Path, disk: Disk) -> None:
    often = "checkpoint_every_seconds=0.02"
    disk.failing(tmp_path / "sound", -1, False, 0)
    here.train(tmp_path / "sound", often)
    calls = disk.calls
    assert_whole(tmp_path / "sound")
    seed = random.randrange(10**6)
    print(f"seed {seed}, {calls} calls")
    rng = random.Random(seed)
    failed = 0
    for number in range(FAULTS):
        folder = tmp_path / str(number)
        first, lasting, code = rng.randint(1, calls), rng.random() < 0.5, rng.choice(ERRORS)
        disk.failing(folder, first, lasting, code)
        said = ""
        try:
            here.train(folder, often)
        except (RunFailed, ConfigError) as error:
            said = str(error)
        disk.sound()
        failed += bool(said)
        assert "Traceback" not in said, number
        assert not said or os.strerror(code) in said, number
        if (folder / MANIFEST).exists():
            here.resume(folder)
        else:
            here.train(folder)
        assert_whole(folder)
        shutil.rmtree(folder)
    assert failed > FAULTS / 2


def test_a_flipped_bit_is_refused_or_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A word of the manifest or of the status may change unseen; no file tells how it was."""
    sound = tmp_path / "run"
    here.train(sound)
    names = (MANIFEST, STATUS, EPISODES, UPDATES, EVALUATIONS, LAST_CHECKPOINT, BEST_CHECKPOINT)
    contents = {name: (sound / name).read_bytes() for name in names}
    given = replace(config_of(), resume=str(sound))
    expected = plan(given, [])
    tables = load_run(sound)
    monkeypatch.setattr(planning, "spec_of", lambda env: expected.spec)  # the same every time
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    rng = random.Random(seed)
    refused = 0
    for number in range(FLIPS):
        name = rng.choice(names)
        content = bytearray(contents[name])
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        (sound / name).write_bytes(content)
        said = ""
        try:
            resolved, run = plan(given, []), load_run(sound)
        except ConfigError as error:
            said = str(error)
        (sound / name).write_bytes(contents[name])
        if said:
            refused += 1
            assert name in said, (number, said)
            assert "\n" not in said, (number, said)
            continue
        assert resolved.resumed is not None
        assert expected.resumed is not None
        for key, tensor in expected.resumed.tensors.items():
            np.testing.assert_array_equal(resolved.resumed.tensors[key], tensor)
        assert resolved.resumed.state == expected.resumed.state
        ours, theirs = flat(to_dict(resolved.config)), flat(to_dict(expected.config))
        changed = [key for key in theirs if ours.get(key) != theirs[key]]
        assert not [key for key in changed if {key, key.split(".")[0]}.isdisjoint(planning.CHANGEABLE_ON_RESUME)]
        for table in ("episodes", "updates", "evaluations"):
            pd.testing.assert_frame_equal(getattr(run, table), getattr(tables, table))
    assert refused > FLIPS / 4
