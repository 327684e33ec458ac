"""A sweep that grows until its claims are decided: which cells it runs, and that a repeated command goes on alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import config_of

from ablate.analysis.load import load_sweep
from ablate.analysis.summary import judged
from ablate.config.choices import Source, Statistic, Until
from ablate.config.schema import ArmConfig, ClaimConfig, ConfigError, MetricConfig, SweepConfig
from ablate.config.serial import to_dict
from ablate.records.files import write_json
from ablate.records.manifest import write_status
from ablate.records.schema import CELL, COLUMNS, EVALUATIONS, MANIFEST
from ablate.records.study_file import read_study
from ablate.runs.run import RunFailed
from ablate.sweeps import run as sweeps
from ablate.sweeps.plan import Cell, SweepPlan, make_plan
from ablate.sweeps.study import Arm, Study, expand
from ablate.types import Counters

# Mean scores: `low` is far below the others, which are alike. The margin is too small to show that.
LEVELS = {"low": -3.0, "one": -1.0, "two": -1.0}
CLAIMS = [("C1", "low < one"), ("C2", "one < two")]
ARMS = {arm: ArmConfig(overrides=[f"workers={k}"]) for k, arm in enumerate(LEVELS, 1)}
METRIC = MetricConfig(label="final", source=Source.evaluations, statistic=Statistic.mean, window=(1.0, 1.0))
SETTINGS = SweepConfig(
    metric="final",
    metrics={"final": METRIC},
    claims=[ClaimConfig(id=id, words="w", metric="final", inequality=text) for id, text in CLAIMS],
    smallest_effect=0.05,
    until=Until.decided,
    max_seeds=20,
)


@pytest.fixture(scope="module")
def configs() -> dict[str, Any]:
    base = ("schedule=interleaved", "total_steps=1000", "max_episodes=null", "evaluation.every_steps=500")
    return {arm: config_of(*base, "evaluation.every_seconds=null", f"workers={k}") for k, arm in enumerate(LEVELS, 1)}


class Launcher:
    """Completes cells at once with invented scores. stop_after: cells after which it is killed."""

    def __init__(self, plan: SweepPlan, stop_after: int = 10**9, failing: frozenset[str] = frozenset()) -> None:
        self._plan, self._left, self._failing = plan, stop_after, failing
        self.blocks: list[list[str]] = []

    def overrides(self, cell: Cell) -> list[str]:
        return [cell.arm, str(cell.seed)]

    def __call__(self, jobs: Any) -> list[Any]:
        self.blocks.append([f"{arm} {seed}" for arm, seed in jobs])
        for arm, seed in jobs:
            if not self._left:
                raise KeyboardInterrupt
            self._left -= 1
            cell = next(cell for cell in self._plan.cells if (cell.arm, str(cell.seed)) == (arm, seed))
            complete(self._plan, cell, f"{arm} {seed}" in self._failing)
        return []


def complete(plan: SweepPlan, cell: Cell, fails: bool) -> None:
    cell.folder.mkdir(parents=True, exist_ok=True)
    config = replace(plan.configs[cell.arm], seed=cell.seed)
    write_json(cell.folder / MANIFEST, {"config": to_dict(config)})
    write_status(cell.folder, "failed" if fails else "completed", "", Counters(0, 1000, 0))
    for name in ("episodes.csv", "updates.csv", EVALUATIONS):
        (cell.folder / name).write_text(",".join(COLUMNS[name]) + "\n")
    score = LEVELS[cell.arm] + 0.3 * np.random.default_rng([len(cell.arm) + cell.seed, ord(cell.arm[0])]).normal()
    with (cell.folder / EVALUATIONS).open("a") as file:
        for number, step in enumerate((500, 1000), 1):
            file.write(f"{number},{step},{step // 10},{step / 1000},1,{200 * score},200,200,mode\n")
    outcome = {"outcome": "failed", "reason": "exited with code 3"} if fails else {"outcome": "completed", "reason": ""}
    write_json(cell.folder / CELL, {"attempts": [{**outcome, "seconds": 1.0}]})


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures of the report take seconds; the verdicts are what matters here. Its last file says it was seen."""
    monkeypatch.setattr(sweeps, "judge", lambda folder: (folder / "verdict.md").write_text("seen"))


def study(settings: SweepConfig = SETTINGS, seeds: int = 20) -> Study:
    return Study("grown", settings, tuple(Arm(arm, arm, ()) for arm in LEVELS), tuple(range(seeds)))


def cells_of(blocks: list[list[str]]) -> list[set[str]]:
    return [{cell.split()[0] for cell in block} for block in blocks]


def test_a_claim_about_an_arm_that_is_not_run_gets_no_seeds(configs: dict[str, Any], tmp_path: Path) -> None:
    """The other claim is settled by the first block."""
    plan = make_plan(study(replace(SETTINGS, only=["low", "one"])), configs, tmp_path / "grown")
    launcher = Launcher(plan)
    sweeps.run(plan, launcher, launcher.overrides)
    assert cells_of(launcher.blocks) == [{"low", "one"}]


def test_only_arms_of_open_claims_get_more_seeds(configs: dict[str, Any], tmp_path: Path) -> None:
    plan = make_plan(study(), configs, tmp_path / "grown")
    launcher = Launcher(plan)
    sweeps.run(plan, launcher, launcher.overrides)
    assert cells_of(launcher.blocks) == [{"low", "one", "two"}, *[{"one", "two"}] * (len(launcher.blocks) - 1)]
    assert 2 <= len(launcher.blocks) <= 4
    assert {len(block) for block in launcher.blocks[1:]} == {10}
    settled, open_ = judged(load_sweep(plan.folder))
    assert (settled.verdict, settled.n) == ("supported", "5, 5")
    assert not open_.wants_seeds
    assert not open_.preliminary
    assert open_.verdict == "undecided"


@pytest.mark.parametrize("stop_after", [1, 14, 15, 19])
def test_a_killed_sweep_goes_on_with_the_same_plan(configs: dict[str, Any], tmp_path: Path, stop_after: int) -> None:
    whole = make_plan(study(), configs, tmp_path / "whole")
    expected = Launcher(whole)
    sweeps.run(whole, expected, expected.overrides)
    plan = make_plan(study(), configs, tmp_path / "killed")
    killed = Launcher(plan, stop_after)
    with pytest.raises(KeyboardInterrupt):
        sweeps.run(plan, killed, killed.overrides)
    again = make_plan(study(), configs, tmp_path / "killed")
    launcher = Launcher(again)
    sweeps.run(again, launcher, launcher.overrides)
    folders = [
        {path.relative_to(plan.folder) for plan in [p] for path in p.folder.glob("*/seed=*")} for p in (whole, plan)
    ]
    assert folders[0] == folders[1]
    assert judged(load_sweep(whole.folder)) == judged(load_sweep(plan.folder))
    idle = make_plan(study(), configs, tmp_path / "killed")
    nothing = Launcher(idle)
    sweeps.run(idle, nothing, nothing.overrides)
    assert nothing.blocks == []


def test_a_contrast_is_settled_like_every_claim(configs: dict[str, Any], tmp_path: Path) -> None:
    contrast = ClaimConfig(id="C0", words="w", metric="final", inequality="(one + two) / 2 > low")
    settings = replace(SETTINGS, claims=[contrast, *SETTINGS.claims])
    plan = make_plan(study(settings), configs, tmp_path / "grown")
    launcher = Launcher(plan)
    sweeps.run(plan, launcher, launcher.overrides)
    assert cells_of(launcher.blocks) == [{"low", "one", "two"}, *[{"one", "two"}] * (len(launcher.blocks) - 1)]
    first, _, last = judged(load_sweep(plan.folder))
    assert (first.verdict, first.n) == ("supported", "5 in each of 3 arms")
    assert (first.low, first.high) == pytest.approx((2.0, 2.0), abs=1.0)
    assert "contrast of the means" in first.reason
    assert last.verdict == "undecided"


def test_an_open_contrast_gives_all_its_arms_more_seeds(configs: dict[str, Any], tmp_path: Path) -> None:
    """Its true value is 4, and the interval of five seeds is too wide to be within ± 5."""
    claim = ClaimConfig(id="C1", words="w", metric="final", inequality="(one - low) ~ (low - two)")
    plan = make_plan(study(replace(SETTINGS, claims=[claim], smallest_effect=5.0), 10), configs, tmp_path / "grown")
    launcher = Launcher(plan)
    sweeps.run(plan, launcher, launcher.overrides)
    assert cells_of(launcher.blocks) == [{"low", "one", "two"}] * 2
    (verdict,) = judged(load_sweep(plan.folder))
    assert (verdict.verdict, verdict.n) == ("supported", "10 in each of 3 arms")


def test_failed_cells_count_and_do_not_stop_the_growth(configs: dict[str, Any], tmp_path: Path) -> None:
    plan = make_plan(study(), configs, tmp_path / "grown")
    launcher = Launcher(plan, failing=frozenset({"low 1"}))
    with pytest.raises(RunFailed, match="1 of "):
        sweeps.run(plan, launcher, launcher.overrides)
    assert len(launcher.blocks) >= 2
    # The first block had too few seeds for an interval, so it went on.
    assert judged(load_sweep(plan.folder))[0].n == "9 of 10 (1 crashed), 10"
    again = make_plan(study(), configs, tmp_path / "grown")
    nothing = Launcher(again)
    with pytest.raises(RunFailed, match=r"^1 of .* they count in the claims; to run them again, remove their folders"):
        sweeps.run(again, nothing, nothing.overrides)
    assert nothing.blocks == []


def test_seeds_added_after_a_report_are_noted_as_a_second_look(configs: dict[str, Any], tmp_path: Path) -> None:
    fixed = replace(SETTINGS, until=Until.seeds, max_seeds=None)
    for seeds in (6, 12):
        plan = make_plan(study(fixed, seeds), configs, tmp_path / "grown")
        launcher = Launcher(plan)
        sweeps.run(plan, launcher, launcher.overrides)
    (change,) = read_study(tmp_path / "grown").changes
    assert change.seeds == list(range(6))
    verdict = judged(load_sweep(tmp_path / "grown"))[1]
    assert "seeds were added after a verdict had been seen" in verdict.reason


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"claims": []}, r"sweep.until=decided: the study makes no claim"),
        (
            {"max_seeds": 3},
            r"sweep.max_seeds=3: sweep.until=decided needs at least one block \(sweep.block=5\)",
        ),
        ({"until": Until.seeds}, r"sweep.max_seeds=20: it needs sweep.until=decided"),
    ],
)
def test_settings_that_cannot_decide_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        expand([], replace(SETTINGS, arms=ARMS, **changes), 1)


def test_the_given_seeds_come_first() -> None:
    settings = replace(SETTINGS, seeds="3-4,7", max_seeds=6, arms=ARMS)
    assert expand([], settings, 1).seeds == (3, 4, 7, 8, 9, 10)
    assert expand([], replace(settings, seeds="0-29", max_seeds=8), 1).seeds == tuple(range(8))
    assert expand([], replace(settings, seeds="0-29", max_seeds=None), 1).seeds == tuple(range(30))
